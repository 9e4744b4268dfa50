"""Ids of users and notes as Arrow arrays and as integer codes."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ids: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


def as_array(ids: Ids) -> pa.Array:
    """Return ids as one Arrow array of strings."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    return ids.cast(pa.string()) if isinstance(ids, pa.Array) else pa.array(ids, pa.string())


def codes(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], pa.Array]:
    """Return an int32 code for each row, and the distinct ids that the codes index.

    Codes count the ids in the order in which they first appear.
    """
    encoded = column.dictionary_encode().unify_dictionaries()
    if encoded.num_chunks == 0:
        return np.empty(0, np.int32), pa.array([], column.type)
    indices: list[npt.NDArray[Any]] = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    return np.concatenate(indices), encoded.chunk(0).dictionary
