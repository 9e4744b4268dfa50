"""Vectors of notes: exact search, and the way between Arrow columns and matrices.

Vectors have unit norm, so the inner product is the cosine; the search is a blocked matrix product and a
partial sort. Ties go to the note that stands first. For millions of notes use an index instead.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from notellm.errors import ConfigError, DataError
from notellm.files import read_parquet

_BLOCK_BYTES = 64 * 2**20


def search(
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best rows of ``vectors`` for each query.

    Args:
        vectors: (n, d) float32, unit norm.
        queries: (q, d) float32, unit norm.
        k: how many; fewer come back where there are fewer notes.
        exclude: (q,) a row that is not a result of each query (the query itself), -1 for none.
        allowed: bool (n,), the rows that may be results; all when None.

    Returns:
        Rows (q, k) int64, -1 where there are too few, and their cosines (q, k) float32, best first.

    Raises:
        ConfigError: k is not positive.
        DataError: vectors and queries have different dimensions.
    """
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 related note")
    if vectors.shape[1] != queries.shape[1]:
        raise DataError(
            f"the vectors have {vectors.shape[1]} dimensions and the queries {queries.shape[1]}; "
            "they must come from the same model"
        )
    found = np.full((len(queries), k), -1, dtype=np.int64)
    cosines = np.full((len(queries), k), -np.inf, dtype=np.float32)
    block = max(1, _BLOCK_BYTES // (4 * max(1, len(vectors))))
    for start in range(0, len(queries), block):
        scores = queries[start : start + block] @ vectors.T
        rows = np.arange(len(scores))
        if exclude is not None:
            barred = exclude[start : start + block]
            scores[rows[barred >= 0], barred[barred >= 0]] = -np.inf
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        width = min(k, scores.shape[1])
        if width < scores.shape[1]:
            # The k-th best score, then everything at or above it: ties must not depend on the partition.
            bound = -np.partition(-scores, width - 1, axis=1)[:, width - 1]
        else:
            bound = np.full(len(scores), -np.inf, dtype=np.float32)
        for row in rows:
            candidates = np.flatnonzero(scores[row] >= bound[row])
            best = candidates[np.argsort(-scores[row, candidates], kind="stable")[:width]]
            best = best[scores[row, best] > -np.inf]
            found[start + row, : len(best)] = best
            cosines[start + row, : len(best)] = scores[row, best]
    return found, cosines


def vector_table(ids: pa.Array | pa.ChunkedArray, vectors: np.ndarray) -> pa.Table:
    """Ids and vectors, (n, d) float32, as an Arrow table."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    return pa.table(
        {
            "note_id": ids,
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def read_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Ids and vectors, (n, d) float32, of a file that :func:`embed_to_parquet` wrote.

    Raises:
        StorageError: there is no such file.
        DataError: it holds no vectors.
    """
    table = read_parquet(path, ["note_id", "vector"])
    kind = table.schema.field("vector").type
    if not pa.types.is_fixed_size_list(kind):
        raise DataError(f"{path}: the column vector is {kind}; expected a fixed-size list of float32")
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    ids: list[str] = table.column("note_id").to_pylist()
    return ids, flat.astype(np.float32, copy=False).reshape(-1, kind.list_size)


def vector_matrix(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """A column of vectors as a matrix, (n, dim) float32.

    Raises:
        DataError: it has another dimension, or a number that is not finite.
    """
    kind = column.type
    if not pa.types.is_fixed_size_list(kind) or kind.list_size != dim:
        raise DataError(
            f"the vectors are {kind}; expected a fixed-size list of {dim} float32: vectors of another model "
            "do not mix with these"
        )
    pieces = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    matrix = np.ascontiguousarray(flat, dtype=np.float32).reshape(-1, dim)
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise DataError(f"vector {row} holds a number that is not finite; embed that note again")
    return matrix
