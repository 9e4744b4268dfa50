"""Sorting by integer keys, faster than ``np.argsort`` on long arrays."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

_BITS = 64  # of a number


def stable_order(keys: Keys) -> Ints:
    """Return the rows in ascending order of their keys; rows with equal keys stay in their order.

    numpy sorts numbers much faster than it finds their order. So key and row are sorted as one number, key
    first. Where the bits do not suffice, rows are sorted by the low bits of the keys, and then by the others.

    Args:
        keys: (n,) uint64.
    """
    if not len(keys):
        return np.empty(0, np.int64)
    row_bits = (len(keys) - 1).bit_length()
    room = _BITS - row_bits
    if int(keys.max()).bit_length() > room:
        order = stable_order(keys & np.uint64((1 << room) - 1))
        return order[stable_order(keys[order] >> np.uint64(room))]
    packed = keys << np.uint64(row_bits)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    packed &= np.uint64((1 << row_bits) - 1)
    return packed.view(np.int64)
