"""Who clicked what: clicks as sparse matrices, and ids as Arrow arrays."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp
from scipy import sparse

Ids: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


def as_array(ids: Ids) -> pa.Array:
    """Ids as one Arrow array of strings."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    return ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.string())


def click_matrix(pool_ids: Ids, clicks: pa.Table) -> sparse.csr_array:
    """Who clicked what: float32 (pool, users), 1 where the user clicked the note.

    The cosine of two rows is their co-occurrence, users of both over the root of the product of the
    users of each.

    Args:
        pool_ids: ids of the pool's notes.
        clicks: table with the schema CLICKS: the clicks of train.
    """
    opened, position = clicks_on(pool_ids, clicks)
    users = pc.unique(opened["user_id"])
    user = pc.index_in(opened["user_id"], value_set=users).to_numpy()
    matrix = sparse.csr_array(
        (np.ones(len(user), np.float32), (position, user)), shape=(len(pool_ids), len(users))
    )
    matrix.data[:] = 1.0  # a user who clicked a note twice is one user
    return matrix


def clicks_on(pool_ids: Ids, clicks: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """The "click" rows on notes of the pool, and those notes' positions in it."""
    pool = as_array(pool_ids)
    opened = clicks.filter(
        pc.and_(pc.equal(clicks["event"], "click"), pc.is_in(clicks["note_id"], value_set=pool))
    )
    return opened, pc.index_in(opened["note_id"], value_set=pool).to_numpy()


def liked_notes(note_ids: pa.ChunkedArray, impressions: pa.Table) -> sp.csr_matrix:
    """Who liked what in some impressions, float32 (users, notes) of ones."""
    liked = impressions.filter(impressions.column("label"))
    note = pc.index_in(liked.column("note_id"), value_set=note_ids.combine_chunks())
    known = note.is_valid()
    users = liked.column("user_id").filter(known)
    user = pc.index_in(users, value_set=users.unique()).to_numpy()
    rows = (user, note.drop_null().to_numpy())
    matrix = sp.csr_matrix((np.ones(len(user), np.float32), rows), shape=(len(users.unique()), len(note_ids)))
    matrix.data[:] = 1.0  # liked twice is liked
    return matrix
