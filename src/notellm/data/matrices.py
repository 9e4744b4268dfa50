"""Sparse matrices of who clicked or liked which note."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from notellm.data.ids import Ids, as_array


def click_matrix(pool_ids: Ids, clicks: pa.Table) -> sparse.csr_array:
    """Return who clicked what: float32 (pool, users), 1 where the user clicked the note.

    The cosine of two rows is the co-occurrence of their notes: the number of users of both over the root of
    the product of the numbers of users of each.

    Args:
        pool_ids: ids of the pool's notes.
        clicks: table with the schema CLICKS; rows of other events or notes do not count.
    """
    return _notes_by_users(pool_ids, clicks.filter(pc.equal(clicks["event"], "click")))


def liked_notes(note_ids: Ids, impressions: pa.Table) -> sparse.csr_matrix:
    """Return who liked what: float32 (users, notes), 1 where the user liked the note.

    Args:
        note_ids: ids of the notes.
        impressions: table with the schema IMPRESSIONS; rows on other notes do not count.
    """
    return sparse.csr_matrix(_notes_by_users(note_ids, impressions.filter(impressions["label"])).T)


def _notes_by_users(note_ids: Ids, rows: pa.Table) -> sparse.csr_array:
    """Return a matrix of ones, float32 (notes, users), with users in the order of their first row.

    Args:
        note_ids: ids of the notes.
        rows: table with the columns ``user_id`` and ``note_id``; rows on other notes do not count.
    """
    note = pc.index_in(rows["note_id"], value_set=as_array(note_ids))
    known = note.is_valid()
    user_ids = rows["user_id"].filter(known)
    users = user_ids.unique()
    user = pc.index_in(user_ids, value_set=users).to_numpy()
    cells = note.drop_null().to_numpy(), user
    matrix = sparse.csr_array((np.ones(len(user), np.float32), cells), shape=(len(note_ids), len(users)))
    matrix.data[:] = 1.0  # several rows of one user and note count once
    return matrix
