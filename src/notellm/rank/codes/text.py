"""Text forms of codes.

A code is a row of booleans, True for +1. Its text is a string of 0 and 1, or a decimal number for every 8
bits, "172.16.254.1" (the paper's compressed form).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from notellm.errors import ConfigError, DataError

Bits = npt.NDArray[np.bool_]


def binary_text(codes: Bits) -> list[str]:
    """Return codes (n, bits) as strings of 0 and 1."""
    letters = np.where(codes, ord("1"), ord("0")).astype(np.uint8)
    return [row.tobytes().decode("ascii") for row in letters]


def decimal_text(codes: Bits) -> list[str]:
    """Return codes (n, bits) with every 8 bits as a decimal number, first bit highest: "172.16.254.1".

    Raises:
        ConfigError: if the number of bits is not a multiple of 8.
    """
    if codes.shape[1] % 8:
        raise ConfigError(f"a code has {codes.shape[1]} bits; the decimal form needs a multiple of 8")
    return [".".join(map(str, row)) for row in np.packbits(codes, axis=1).tolist()]


def parse_binary(texts: Sequence[str]) -> Bits:
    """Return the codes (n, bits) that `binary_text` wrote.

    Raises:
        DataError: if a text has another length than the first, or other characters than 0 and 1.
    """
    for text in texts:
        if len(text) != len(texts[0]) or text.strip("01"):
            raise DataError(
                f"{text!r} is not a code like {texts[0]!r}; give strings of 0 and 1 of one length"
            )
    if not texts:
        return np.empty((0, 0), np.bool_)
    letters = np.frombuffer("".join(texts).encode("ascii"), np.uint8)
    codes: Bits = (letters == ord("1")).reshape(len(texts), -1)
    return codes
