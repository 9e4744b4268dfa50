"""Related notes of known notes and of new vectors, by exact search; for millions of notes use an index."""

from collections.abc import Sequence

import numpy as np

from notellm.errors import DataError
from notellm.vectors import search


def related_by_id(
    ids: Sequence[str], vectors: np.ndarray, note_ids: Sequence[str], *, k: int = 10
) -> list[list[tuple[str, float]]]:
    """Return up to k (note_id, cosine) for each of some known notes, best first, never the note itself.

    Raises:
        DataError: if a note has no vector, or there are no vectors at all.
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
    """Return the related notes of new notes, given by their vectors from ``NoteLLM.encode``."""
    return _named(ids, *search(vectors, queries, k))


def _named(ids: Sequence[str], found: np.ndarray, cosines: np.ndarray) -> list[list[tuple[str, float]]]:
    return [
        [(ids[row], float(cosine)) for row, cosine in zip(rows, values, strict=True) if row >= 0]
        for rows, values in zip(found, cosines, strict=True)
    ]
