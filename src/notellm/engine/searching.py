"""Related notes of stored notes and of texts, with near-duplicate removal and diversity."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from notellm.data.note import Note
from notellm.engine.live import Live, State
from notellm.engine.requests import Related, RelatedQuery
from notellm.errors import NotellmError
from notellm.store.index.base import vectors_there
from notellm.store.index.select import check_selection, select

#: Where some neighbours may not be shown, so many times k are fetched, and again so many times that number.
_FACTOR = 4
_MOST_FETCHED = 16_384  # neighbours of one query that are fetched, unless the index allows fewer


def related(state: State, queries: Sequence[RelatedQuery]) -> list[Related | NotellmError]:
    """Answer queries for related notes together; see ``Engine.related``."""
    live = state.live
    answers: list[Related | NotellmError] = [Related([], [])] * len(queries)
    vectors = np.zeros((len(queries), live.index.dim), dtype=np.float32)
    by_text = [i for i, query in enumerate(queries) if query.note_id is None]
    if by_text:
        vectors[by_text] = state.encode(live.model, [queries[i].note or Note() for i in by_text])
    by_id = [i for i, query in enumerate(queries) if query.note_id is not None]
    present, known_vectors = vectors_there(live.index, [queries[i].note_id or "" for i in by_id])
    for i in (i for i, is_known in zip(by_id, present, strict=True) if not is_known):
        answers[i] = live.unknown_note(queries[i].note_id or "")
    known = [i for i, is_known in zip(by_id, present, strict=True) if is_known]
    vectors[known] = known_vectors
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i in (*by_text, *known):
        query = queries[i]
        options = (query.k, query.where, query.near_duplicates, query.diversity)
        groups.setdefault(options, []).append(i)
    for rows in groups.values():
        try:
            group_answers = _related(live, [queries[i] for i in rows], vectors[rows])
        except NotellmError as error:
            group_answers = [error] * len(rows)
        for i, answer in zip(rows, group_answers, strict=True):
            answers[i] = answer
    return answers


def _related(
    live: Live, queries: Sequence[RelatedQuery], vectors: np.ndarray
) -> list[Related | NotellmError]:
    """Answer queries whose options are all the same."""
    options = queries[0]
    check_selection(options.near_duplicates, options.diversity)
    exclude = [() if query.note_id is None else (query.note_id,) for query in queries]
    if options.near_duplicates is None and not options.diversity:
        ids, scores = live.index.search(vectors, options.k, where=options.where, exclude=exclude)
        return [_answer(live, *result) for result in zip(ids, scores, strict=True)]
    return [
        _selected(live, options, vector, excluded) for vector, excluded in zip(vectors, exclude, strict=True)
    ]


def _selected(live: Live, options: RelatedQuery, vector: np.ndarray, excluded: tuple[str, ...]) -> Related:
    """Answer a query for which some neighbours may not be shown: fetch more until enough are left."""
    most = min(_MOST_FETCHED, live.index.most_results or _MOST_FETCHED)
    fetched = max(options.k, min(_FACTOR * options.k, most))
    while True:
        (ids,), (cosines,) = live.index.search(vector[None], fetched, where=options.where, exclude=[excluded])
        present, neighbour_vectors = vectors_there(live.index, ids)
        neighbours = [note_id for note_id, is_present in zip(ids, present, strict=True) if is_present]
        cosines = cosines[present]
        rows = select(
            vector,
            cosines,
            neighbour_vectors,
            options.k,
            near_duplicates=options.near_duplicates,
            diversity=options.diversity,
        )
        if len(rows) >= options.k or len(ids) < fetched or fetched >= most:
            return _answer(live, [neighbours[row] for row in rows], cosines[rows])
        fetched = min(_FACTOR * fetched, most)


def _answer(live: Live, ids: Sequence[str], scores: np.ndarray) -> Related:
    """Return notes by their ids, without those that were removed in the meantime."""
    notes, kept_scores = [], []
    for note_id, score in zip(ids, scores.tolist(), strict=True):
        note = live.notes.get(note_id)
        if note is not None:
            notes.append(note)
            kept_scores.append(score)
    return Related(notes, kept_scores)
