"""Sorting by integer keys, several times as fast as ``np.argsort`` on long arrays."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_BITS = 63  # of a number that is not negative


def stable_order(keys: Ints) -> Ints:
    """Return the rows in ascending order of their keys; rows with equal keys stay in their order.

    numpy sorts numbers much faster than it finds their order. So key and row are sorted as one number, key
    first. Where the bits do not suffice, rows are sorted by the low bits of the keys, and then by the others.

    Args:
        keys: (n,), not negative.
    """
    if not len(keys):
        return np.empty(0, np.int64)
    row_bits = (len(keys) - 1).bit_length()
    room = _BITS - row_bits
    if int(keys.max()).bit_length() > room:
        order = stable_order(keys & ((1 << room) - 1))
        return order[stable_order(keys[order] >> room)]
    packed = keys << row_bits
    packed |= np.arange(len(keys))
    packed.sort()
    packed &= (1 << row_bits) - 1
    return packed
