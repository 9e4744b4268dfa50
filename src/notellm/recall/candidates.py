"""Candidates for a user: the notes nearest to any of the notes that the user opened lately.

A candidate's similarity is the best that any of the opened notes has to it. Exact search, as ``related``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from notellm.recall.related import search


@dataclass(frozen=True)
class Near:
    """Candidates, best first; of equal similarity the note that stands first among the vectors.

    Attributes:
        rows: int64 (n,), which vectors.
        scores: float32 (n,), the best similarity.
        sources: int64 (n,), the place of the opened note that has it; of several the first.
    """

    rows: np.ndarray
    scores: np.ndarray
    sources: np.ndarray


def near_any(
    vectors: np.ndarray, opened: Sequence[int], barred: Collection[int], *, each: int, limit: int
) -> Near:
    """The vectors nearest to any of the opened ones.

    Args:
        vectors: (n, d) float32, unit norm.
        opened: rows of the opened notes, each once, the latest first.
        barred: rows that shall not come back, the opened ones among them.
        each: candidates that one opened note may bring.
        limit: candidates in all.
    """
    found, cosines = search(vectors, vectors[list(opened)], each + len(barred))
    return merge_near(found, cosines, barred, each=each, limit=limit)


def merge_near(
    found: np.ndarray, cosines: np.ndarray, barred: Collection[int], *, each: int, limit: int
) -> Near:
    """What :func:`near_any` makes of the neighbours of each opened note.

    Args:
        found: int64 (opened, k), rows of the neighbours, best first, -1 for none; as many as are barred
            more than ``each``, so that what is left is the whole of it.
        cosines: float32 (opened, k), their similarities.
        barred: as there.
        each: as there.
        limit: as there.
    """
    free = (found >= 0) & ~np.isin(found, np.fromiter(barred, np.int64, len(barred)))
    source, place = np.nonzero(free & (free.cumsum(axis=1) <= each))
    rows, scores = found[source, place], cosines[source, place]
    order = np.lexsort((source, rows, -scores))  # of a row that several sources bring, the best comes first
    _, first = np.unique(rows[order], return_index=True)
    kept = order[np.sort(first)[:limit]]
    return Near(rows[kept], scores[kept], source[kept])
