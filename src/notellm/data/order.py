"""Logs whose order says nothing, and a random order for them.

Equal times mean that the order is unknown. A log is without order if its times keep only an order
(``data.convert.is_order_only``) and all rows of each user have one time. Whoever needs an order takes the
rows of each user by a random one. It depends on the ids and a seed alone, so it is the same for any order of
the rows and for any part of the log, and a small id is not an early one.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.data.ids import codes
from notellm.data.schema import CLICKS, TIME

_SECOND = 1_000_000  # microseconds


def is_unordered(clicks: pa.Table) -> bool:
    """Tell whether nothing is known about the order of a log's clicks, as defined at the top of this module.

    Args:
        clicks: table with the columns ``user_id`` and ``timestamp`` of ``CLICKS``.
    """
    if not is_order_only(clicks):
        return False
    time = clicks["timestamp"].cast(pa.int64()).to_numpy()
    if (time == time[0]).all():
        return True
    user, ids = codes(clicks["user_id"])
    any_time = np.zeros(len(ids), np.int64)
    any_time[user] = time
    return bool((any_time[user] == time).all())


def with_random_order(clicks: pa.Table, *, seed: int = 0) -> pa.Table:
    """Return a log without order in a random order of each user's notes; any other log as it is.

    The user's n-th note has the time 1970-01-01 plus n seconds, as in logs that keep only the order, and all
    rows of a user and a note have one time. Rows ascend by time, those of one time in a random order as well.

    Args:
        clicks: table with the schema CLICKS.
        seed: seed of the order.
    """
    if not is_unordered(clicks):
        return clicks
    user, user_ids = codes(clicks["user_id"])
    note, note_ids = codes(clicks["note_id"])
    pairs, pair = np.unique(user.astype(np.int64) * len(note_ids) + note, return_inverse=True)
    of_user, of_note = np.divmod(pairs, len(note_ids))
    key = _mixed(_numbers(user_ids, seed)[of_user] ^ _mixed(_numbers(note_ids, seed))[of_note])
    order = np.lexsort((key, of_user))
    starts = np.concatenate(([0], np.cumsum(np.bincount(of_user, minlength=len(user_ids)))))
    nth = np.empty(len(pairs), np.int64)
    nth[order] = np.arange(1, len(pairs) + 1) - starts[of_user[order]]
    time = pa.array(nth[pair] * _SECOND).cast(TIME)
    clicks = clicks.set_column(CLICKS.get_field_index("timestamp"), CLICKS.field("timestamp"), time)
    is_click = pc.equal(clicks["event"], "click").to_numpy()
    return clicks.take(pa.array(np.lexsort((is_click, key[pair], nth[pair]))))


def _numbers(ids: pa.Array, seed: int) -> npt.NDArray[np.uint64]:
    """Return a number that is random in 64 bits for each id: part of a keyed hash of its bytes."""
    key = str(seed).encode()[:64]
    digests = [hashlib.blake2b(each.encode(), digest_size=8, key=key).digest() for each in ids.to_pylist()]
    return np.frombuffer(b"".join(digests), np.uint64)


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return each number mixed, every bit depending on every bit: the finalizer of splitmix64."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
