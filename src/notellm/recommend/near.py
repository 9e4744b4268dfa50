"""Candidates for a user: the nearest neighbours of the notes that the user opened last.

A candidate's similarity is its highest cosine to any of those notes.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Near:
    """Candidates, most similar first; among equals the note with the lowest row comes first.

    Attributes:
        rows: int64 (n,), row of each candidate among the vectors.
        scores: float32 (n,), its highest similarity to an opened note.
        sources: int64 (n,), position of that opened note; the first one where several are equally similar.
    """

    rows: np.ndarray
    scores: np.ndarray
    sources: np.ndarray


def merge_near(
    neighbours: np.ndarray, cosines: np.ndarray, barred: Collection[int], *, each: int, limit: int
) -> Near:
    """Merge the neighbours of several opened notes into one list of candidates.

    Args:
        neighbours: int64 (opened, k), rows of each opened note's neighbours, nearest first, -1 for none. The
            list must hold ``each`` neighbours besides the barred ones, so k is ``each`` plus their number.
        cosines: float32 (opened, k), similarities of the neighbours.
        barred: rows that must not be candidates, including the opened notes.
        each: most candidates that one opened note may bring.
        limit: most candidates in all.
    """
    allowed = (neighbours >= 0) & ~np.isin(neighbours, np.fromiter(barred, np.int64, len(barred)))
    source, place = np.nonzero(allowed & (allowed.cumsum(axis=1) <= each))
    rows, scores = neighbours[source, place], cosines[source, place]
    # Best first, so that np.unique keeps the highest similarity of a row that several sources bring.
    order = np.lexsort((source, rows, -scores))
    _, first = np.unique(rows[order], return_index=True)
    kept = order[np.sort(first)[:limit]]
    return Near(rows[kept], scores[kept], source[kept])
