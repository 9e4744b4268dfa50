"""Ids of users and notes: which are allowed, and ids as Arrow arrays and as integer codes.

An id of a note is any text of 1 to ``MOST_CHARACTERS`` characters without control characters (U+0000 to
U+001F, U+007F). Stores and the service hold no other, since it could not be named in a URL or on a terminal.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.errors import DataError

Ids: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray

#: The longest id of a note, in characters.
MOST_CHARACTERS = 512
#: What an id of a note looks like besides its length, as a regular expression that JSON Schema knows.
ALLOWED = r"^[^\x00-\x1f\x7f]+$"
#: The rule in words, for documents and messages.
RULE = f"any text without control characters, of 1 to {MOST_CHARACTERS} characters"

_SHOWN = 60  # characters of an id that a message shows
_CONTROL = r"[\x00-\x1f\x7f]"


def check_id(note_id: str) -> None:
    """Refuse an id of a note that is not allowed.

    Raises:
        DataError: if it is empty, longer than ``MOST_CHARACTERS``, or has a control character.
    """
    check_ids(pa.array([note_id], pa.string()))


def check_ids(column: pa.ChunkedArray | pa.Array) -> None:
    """Refuse a column of ids with one that is not allowed.

    Raises:
        DataError: if there is one; the message names the first.
    """
    refused = np.flatnonzero(refused_ids(column))
    if len(refused):
        note_id = column[int(refused[0])].as_py()
        shown = note_id if len(note_id) <= _SHOWN else note_id[:_SHOWN] + "\u2026"
        first = "" if len(refused) == 1 else f", the first of {len(refused):,}"
        raise DataError(
            f"the note id {shown!r} ({len(note_id):,} characters{first}) cannot be used: an id is {RULE}; "
            "give the note another id, in the clicks as well"
        )


def refused_ids(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
    """Return which ids of a column are not allowed, (n,); a missing one (null) is not counted among them.

    Args:
        column: strings, in any of Arrow's types for them, dictionaries included.
    """
    column = column.cast(
        pa.large_string()
    )  # of which the functions below know, unlike dictionaries and views
    length = pc.utf8_length(column)
    outside = pc.or_(pc.equal(length, 0), pc.greater(length, MOST_CHARACTERS))
    refused = pc.or_(outside, pc.match_substring_regex(column, _CONTROL))
    result: npt.NDArray[np.bool_] = pc.fill_null(refused, False).to_numpy(zero_copy_only=False)
    return result


def as_array(ids: Ids) -> pa.Array:
    """Return ids as one Arrow array of strings."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    return ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.string())


def encoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column as dictionary codes, with one dictionary for all chunks."""
    chunked = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    # Encoding gives all chunks the same dictionary, and to unify that with itself takes most of the time.
    if len({_place(chunk.dictionary) for chunk in chunked.chunks}) > 1:
        chunked = chunked.unify_dictionaries()
    return chunked


def _place(array: pa.Array) -> tuple[int, ...]:
    """Return where the values of an array lie in memory."""
    addresses = (0 if buffer is None else buffer.address for buffer in array.buffers())
    return (*addresses, array.offset, len(array))


def codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Return an int32 code for each row, and the distinct ids that the codes index.

    Codes count the ids in the order in which they first appear.
    """
    chunks = encoded(column).chunks
    if not chunks:
        return np.empty(0, np.int32), pa.array([], column.type)
    indices: list[npt.NDArray[Any]] = [chunk.indices.to_numpy() for chunk in chunks]
    return np.concatenate(indices), chunks[0].dictionary
