"""Related notes: the nearest vectors, by exact search.

Vectors have unit norm, so the inner product is the cosine; the search is a blocked matrix product and a
partial sort. Ties go to the note that stands first. For millions of notes use an index instead.
"""

from collections.abc import Sequence

import numpy as np

from notellm.errors import ConfigError, DataError

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


def related_by_id(
    ids: Sequence[str], vectors: np.ndarray, note_ids: Sequence[str], *, k: int = 10
) -> list[list[tuple[str, float]]]:
    """Related notes of known notes: for each, up to k (note_id, cosine), best first, never itself.

    Raises:
        DataError: a note has no vector here, or there is no vector at all.
    """
    if not ids:
        raise DataError("there are no embedded notes to search among; embed the notes first")
    row = {note_id: i for i, note_id in enumerate(ids)}
    unknown = next((note_id for note_id in note_ids if note_id not in row), None)
    if unknown is not None:
        raise DataError(
            f"the note {unknown!r} is not among the {len(ids)} embedded notes (for example {ids[0]!r}); "
            "embed it first, or ask by its text"
        )
    rows = np.array([row[note_id] for note_id in note_ids], dtype=np.int64)
    found, cosines = search(vectors, vectors[rows], k, exclude=rows)
    return _named(ids, found, cosines)


def related_by_vector(
    ids: Sequence[str], vectors: np.ndarray, queries: np.ndarray, *, k: int = 10
) -> list[list[tuple[str, float]]]:
    """Related notes of notes never seen before, by their vectors (from ``NoteLLM.encode``)."""
    return _named(ids, *search(vectors, queries, k))


def _named(ids: Sequence[str], found: np.ndarray, cosines: np.ndarray) -> list[list[tuple[str, float]]]:
    return [
        [(ids[row], float(cosine)) for row, cosine in zip(rows, values, strict=True) if row >= 0]
        for rows, values in zip(found, cosines, strict=True)
    ]
