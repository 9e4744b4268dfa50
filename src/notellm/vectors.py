"""Vectors of notes: exact search, and conversion between Arrow columns and matrices.

Vectors have unit norm, so the inner product is the cosine. The search is a blocked matrix product followed by
a sort of the few cosines above a bound. Among equal cosines the first row wins. For millions of notes use an
index instead.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from notellm.errors import ConfigError, DataError
from notellm.files import read_parquet

_BLOCK_BYTES = 128 * 2**20  # of cosines held at once
_TILE = 8_192  # vectors that are multiplied at once, so that they stay in the processor's cache
#: Pieces of a row for each cosine that is asked for, and at least: more give a closer bound, and take longer.
_PIECES, _LEAST_PIECES = 16, 2_000


def search(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows of ``vectors`` for each query.

    Args:
        vectors: (n, d) float32 array of unit norm.
        queries: (q, d) float32 array of unit norm.
        k: number of rows to return; fewer are returned if fewer are allowed.
        exclude: (q,) row that each query must not return, such as the query itself; -1 for none.
        allowed: (n,) bool, the rows that may be returned; None for all.

    Returns:
        Rows (q, k) int64, -1 where there are too few, and their cosines (q, k) float32, best first.

    Raises:
        ConfigError: if ``k`` is not positive.
        DataError: if vectors and queries have different dimensions.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 related note")
    if vectors.shape[1] != queries.shape[1]:
        raise DataError(
            f"the vectors have {vectors.shape[1]} dimensions and the queries {queries.shape[1]}; "
            "they must come from the same model"
        )
    nearest = np.full((len(queries), k), -1, dtype=np.int64)
    cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    if not len(vectors):
        return nearest, cosines
    most = _BLOCK_BYTES // (4 * len(vectors))
    block = max(1, min(len(queries), most))
    buffer = np.empty((block, len(vectors)), dtype=np.float32)
    for start in range(0, len(queries), block):
        some = queries[start : start + block]
        scores = buffer[: len(some)]
        for tile in range(0, len(vectors), _TILE):
            np.matmul(some, vectors[tile : tile + _TILE].T, out=scores[:, tile : tile + _TILE])
        rows = np.arange(len(scores))
        if exclude is not None:
            excluded = exclude[start : start + block]
            scores[rows[excluded >= 0], excluded[excluded >= 0]] = -np.inf
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        width = min(k, scores.shape[1])
        bound = _bounds(scores, width)
        for row in rows:
            candidates = np.flatnonzero(scores[row] >= bound[row])
            if len(candidates) > _PIECES * width:  # the best of a filtered search lie in few pieces
                kept = scores[row, candidates]
                candidates = candidates[kept >= np.partition(kept, -width)[-width]]
            best = candidates[np.argsort(-scores[row, candidates], kind="stable")[:width]]
            best = best[scores[row, best] > -np.inf]
            nearest[start + row, : len(best)] = best
            cosines[start + row, : len(best)] = scores[row, best]
    return nearest, cosines


def _bounds(scores: np.ndarray, k: int) -> np.ndarray:
    """Return for each row a bound that at least ``k`` of its scores reach, and few more.

    It is the k-th largest of the maxima of pieces of the row, which are found much faster than the k-th
    largest score. A piece is every ``count``-th score, so that whole stretches of a row are compared at once.
    """
    length = scores.shape[1] // max(_PIECES * k, _LEAST_PIECES)  # of a piece
    if length > 1:
        count = scores.shape[1] // length
        maxima = scores[:, :count].copy()
        for first in range(count, count * length, count):
            np.maximum(maxima, scores[:, first : first + count], out=maxima)
        scores = maxima
    bounds: np.ndarray = np.partition(scores, -k, axis=1)[:, -k]
    return bounds


def vector_table(ids: pa.Array | pa.ChunkedArray, vectors: np.ndarray) -> pa.Table:
    """Return note ids and their vectors, (n, d) float32, as an Arrow table."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    return pa.table(
        {
            "note_id": ids,
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def read_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Read note ids and their vectors, (n, d) float32, from a Parquet file with a ``vector_table``.

    Raises:
        StorageError: if there is no such file.
        DataError: if the file has no vectors, or one with a number that is not finite.
    """
    table = read_parquet(path, ["note_id", "vector"])
    column = table.column("vector")
    if not pa.types.is_fixed_size_list(column.type):
        raise DataError(
            f"{path}: the column vector is {column.type}; expected a fixed-size list of float32: give a file "
            "that notellm embed wrote"
        )
    try:
        vectors = vector_matrix(column, column.type.list_size)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    ids: list[str] = table.column("note_id").to_pylist()
    return ids, vectors


def vector_matrix(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """Return a column of vectors as a matrix, (n, dim) float32.

    Raises:
        DataError: if the vectors have another dimension, or one is null or has a number that is not finite.
    """
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != dim:
        raise DataError(
            f"the vectors are {kind}; expected a fixed-size list of {dim} float32: vectors of another model "
            "do not mix with these"
        )
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"vector {row} is missing; embed that note again")
    pieces = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    matrix = np.ascontiguousarray(flat, dtype=np.float32).reshape(-1, dim)
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise DataError(f"vector {row} holds a number that is not finite; embed that note again")
    return matrix
