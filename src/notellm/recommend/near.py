"""Candidates for a user: the notes nearest to any of the notes that the user opened lately.

A candidate's similarity is the best that any of the opened notes has to it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


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


def merge_near(
    found: np.ndarray, cosines: np.ndarray, barred: Collection[int], *, each: int, limit: int
) -> Near:
    """The notes nearest to any of the opened ones, from the neighbours of each.

    Args:
        found: int64 (opened, k), rows of the neighbours, best first, -1 for none; as many as are barred
            more than ``each``, so that what is left is the whole of it.
        cosines: float32 (opened, k), their similarities.
        barred: rows that shall not come back, the opened ones among them.
        each: candidates that one opened note may bring.
        limit: candidates in all.
    """
    free = (found >= 0) & ~np.isin(found, np.fromiter(barred, np.int64, len(barred)))
    source, place = np.nonzero(free & (free.cumsum(axis=1) <= each))
    rows, scores = found[source, place], cosines[source, place]
    order = np.lexsort((source, rows, -scores))  # of a row that several sources bring, the best comes first
    _, first = np.unique(rows[order], return_index=True)
    kept = order[np.sort(first)[:limit]]
    return Near(rows[kept], scores[kept], source[kept])
