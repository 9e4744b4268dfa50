"""Candidates for a user: the nearest neighbours of the notes that the user opened last.

A candidate's similarity is its highest cosine to any of those notes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from notellm.recommend.options import RecommendOptions
from notellm.store.index.base import Index
from notellm.store.index.filters import Filter


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


def near_any(
    index: Index,
    opened: Sequence[str],
    barred: Collection[str],
    options: RecommendOptions,
    where: Filter | None,
) -> tuple[list[str], np.ndarray, list[str | None]]:
    """Return the candidates near the opened notes, their highest similarities, and the note that has it.

    Args:
        index: index to search.
        opened: opened notes, latest first; of equally similar ones the latest is named.
        barred: notes that must not come back.
        options: how many candidates, in all and of each opened note.
        where: filter that candidates must pass.
    """
    limit = options.recall_k
    each = limit if options.per_note is None else options.per_note
    ids, scores = index.search(index.vectors(opened), each, where=where, exclude=[barred] * len(opened))
    candidates = list(dict.fromkeys(note_id for neighbours in ids for note_id in neighbours))
    row = {note_id: i for i, note_id in enumerate(candidates)}
    width = max(map(len, ids))
    rows = np.full((len(ids), width), -1, dtype=np.int64)
    cosines = np.full((len(ids), width), -np.inf, dtype=np.float32)
    for source, (neighbours, values) in enumerate(zip(ids, scores, strict=True)):
        rows[source, : len(neighbours)] = [row[note_id] for note_id in neighbours]
        cosines[source, : len(neighbours)] = values
    near = merge_near(rows, cosines, (), each=each, limit=limit)
    return [candidates[i] for i in near.rows], near.scores, [opened[i] for i in near.sources]
