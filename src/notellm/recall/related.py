"""Related notes: the notes with the nearest vectors, by exact search (``notellm.vectors.search``).

For millions of notes use an index of ``notellm.store`` instead.
"""

from collections.abc import Sequence

import numpy as np

from notellm.errors import DataError
from notellm.vectors import search


def related_by_id(
    ids: Sequence[str], vectors: np.ndarray, note_ids: Sequence[str], *, k: int = 10
) -> list[list[tuple[str, float]]]:
    """Return the related notes of embedded notes.

    Args:
        ids: ids of all notes, in the order of the vectors.
        vectors: (n, d) float32 array of unit norm.
        note_ids: ids of the notes in question.
        k: largest number of related notes.

    Returns:
        For each note in question up to k pairs (note_id, cosine), best first; a note is never related to
        itself.

    Raises:
        DataError: if a note has no vector, or there are no vectors.
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
    related, cosines = search(vectors, vectors[rows], k, exclude=rows)
    return _named(ids, related, cosines)


def related_by_vector(
    ids: Sequence[str], vectors: np.ndarray, queries: np.ndarray, *, k: int = 10
) -> list[list[tuple[str, float]]]:
    """Return the related notes of new notes, as :func:`related_by_id` does.

    Args:
        ids: ids of all notes, in the order of the vectors.
        vectors: (n, d) float32 array of unit norm.
        queries: (q, d) float32 vectors of the new notes, from ``NoteLLM.encode``.
        k: largest number of related notes.
    """
    return _named(ids, *search(vectors, queries, k))


def _named(ids: Sequence[str], related: np.ndarray, cosines: np.ndarray) -> list[list[tuple[str, float]]]:
    return [
        [(ids[row], float(cosine)) for row, cosine in zip(rows, values, strict=True) if row >= 0]
        for rows, values in zip(related, cosines, strict=True)
    ]
