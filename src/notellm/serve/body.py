"""How much a body in JSON may hold, found before anything reads it as JSON.

The time that it takes to read and to check JSON depends on its fields and values, not on its bytes: 1 MiB of
text takes 2 ms, 1 MiB of 90,000 fields that are not allowed takes 0.8 s, and meanwhile no other request is
answered. So what would make a body expensive is counted first, in a few milliseconds at most.
"""

import numpy as np

from notellm.errors import DataError

#: What one body may hold. The largest that a route takes, 256 notes with 100 topics each, has 2,305 fields,
#: 514 lists and objects, and 27,648 values.
MOST_FIELDS, MOST_NESTED, MOST_VALUES = 4_096, 1_024, 32_768


class TooMuchError(DataError):
    """A body holds more fields, values, or lists and objects than are read."""


def check_amount(body: bytes) -> None:
    """Refuse a body that would take long to read, whatever is in it.

    Args:
        body: JSON, or what shall be refused as none later on.

    Raises:
        TooMuchError: it holds too much.
    """
    # Within texts these characters mean nothing, so what has few of them anywhere needs no closer look.
    if _is_little(body.count(b":"), body.count(b"[") + body.count(b"{"), body.count(b",")):
        return
    plain = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")  # so that every quote begins or ends a text
    characters = np.frombuffer(plain, dtype=np.uint8)
    outside = characters[np.cumsum(characters == ord('"'), dtype=np.int32) % 2 == 0]
    counts = np.bincount(outside, minlength=256)
    fields, values = int(counts[ord(":")]), int(counts[ord(",")])
    nested = int(counts[ord("[")] + counts[ord("{")])
    if not _is_little(fields, nested, values):
        raise TooMuchError(
            f"the body has {fields:,} fields, {nested:,} lists and objects and {values + 1:,} values; "
            f"allowed are {MOST_FIELDS:,}, {MOST_NESTED:,} and {MOST_VALUES:,}: send less at a time"
        )


def _is_little(fields: int, nested: int, values: int) -> bool:
    return fields <= MOST_FIELDS and nested <= MOST_NESTED and values < MOST_VALUES
