"""Codes of users and items without training rows: average, folded from the history, or none.

- "average": the code of the mean vector of the known users (or items).
- "folded": a ridge regression, fitted on the known users, maps the mean code of the liked items (less the
  mean over all training rows, shrunk as if 5 average items had been liked, too) to the user's real-valued
  code. Users without a history, and items, are treated as "average".
- "none": the prompt holds no code (`Codes.has_user`, `Codes.has_item`); elsewhere as "average".

With a model that reads histories (SASRec) a user with a trained note in the history is never unknown. Random
weights of a user or item that was never trained are never turned into a code.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from notellm.rank.codes.text import Bits
from notellm.rank.collaborative.base import Floats
from notellm.rank.collaborative.rows import Histories, IdIndex, Ints

_AVERAGE_LIKES = 5  # average items that are added to every history, so that a short one says little
_RIDGE = 1.0


def is_known(rows: Ints, known: Bits) -> Bits:
    """Return which rows exist and were trained, bool (n,); -1 stands for an id that has no row."""
    return (rows >= 0) & known[rows]


def mean_likes(
    items: IdIndex, histories: Histories, item_codes: Bits, known: Bits, background: Floats
) -> Floats:
    """Return the mean code of each history's items less the background, shrunk towards 0: float32 (n, bits).

    Args:
        items: ids of the items.
        histories: liked notes of n users.
        item_codes: bool (I, bits).
        known: bool (I,), which items were trained; others are skipped.
        background: (bits,) mean code over the training rows, as +1 and -1.
    """
    rows, owner = items.flat(histories, known)
    shape = (len(histories), len(items))
    counts = sparse.csr_array((np.ones(len(rows), np.float32), (owner, rows)), shape=shape)
    sums: Floats = counts @ (_signs(item_codes) - background)
    means: Floats = sums / (counts.sum(1)[:, None] + np.float32(_AVERAGE_LIKES))
    return means


def folded_codes(
    maps: Mapping[str, npt.NDArray[Any]], items: IdIndex, histories: Histories, item_codes: Bits, known: Bits
) -> Bits:
    """Return codes computed from histories, bool (n, bits); ``maps`` is from :func:`fit_fold`."""
    likes = mean_likes(items, histories, item_codes, known, maps["background"])
    codes: Bits = likes @ maps["weight"] + maps["offset"] >= 0
    return codes


def fit_fold(
    items: IdIndex, users: IdIndex, train: pa.Table, real_users: Floats, item_codes: Bits, known_items: Bits
) -> dict[str, Floats]:
    """Fit the map from a history to a code: arrays "weight" (bits, bits), "offset" and "background" (bits,).

    Args:
        items: ids of the items.
        users: ids of the users.
        train: the training impressions.
        real_users: real-valued codes (U + 1, bits); the last row is the average user's.
        item_codes: bool (I, bits).
        known_items: bool (I,).
    """
    background = _signs(item_codes[items.rows(train["note_id"])]).mean(0)
    rows, histories = longest_histories(users.rows(train["user_id"]), train["history"])
    likes = mean_likes(items, histories, item_codes, known_items, background)
    offset = real_users[-1]
    weight = np.linalg.solve(
        likes.T @ likes + _RIDGE * np.eye(likes.shape[1], dtype=np.float32),
        likes.T @ (real_users[rows] - offset),
    )
    return {"weight": weight, "offset": offset, "background": background}


def longest_histories(users: Ints, histories: pa.ChunkedArray) -> tuple[Ints, pa.ChunkedArray]:
    """Return the distinct users of some rows and the longest history of each.

    Args:
        users: int64 (n,), the user of each row.
        histories: n lists of note ids.
    """
    order = np.lexsort((pc.list_value_length(histories).to_numpy(), users))
    last = np.zeros(len(users), np.bool_)
    last[order[np.append(np.diff(users[order]) > 0, np.True_)]] = True
    # `take` would join all chunks, which may be too long for one array.
    return users[last], histories.filter(pa.array(last))


def _signs(codes: Bits) -> Floats:
    """Return codes as +1 and -1."""
    return np.where(codes, np.float32(1), np.float32(-1))
