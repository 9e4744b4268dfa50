"""Related notes of stored notes and of texts, with near-duplicate removal and diversity."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from notellm.data.note import Note
from notellm.engine.live import Live, State
from notellm.engine.requests import Related, RelatedQuery
from notellm.errors import NotellmError
from notellm.lexical.hybrid import Hits
from notellm.lexical.terms import text_of
from notellm.store.hybrid import hybrid_search
from notellm.store.index.base import vectors_there
from notellm.store.index.select import check_selection, select

#: Where some neighbours may not be shown, so many times k are fetched, and again so many times that number.
_FACTOR = 4
_MOST_FETCHED = 16_384  # neighbours of one query that are fetched, unless the index allows fewer


def related(state: State, queries: Sequence[RelatedQuery]) -> list[Related | NotellmError]:
    """Answer queries for related notes together; see ``Engine.related``."""
    live = state.live
    answers: list[Related | NotellmError] = [Related([], [], [], None)] * len(queries)
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
        options = (query.k, query.where, query.near_duplicates, query.diversity, query.lexical)
        groups.setdefault(options, []).append(i)
    for rows in groups.values():
        try:
            group_answers: Sequence[Related | NotellmError] = _related(
                live, [queries[i] for i in rows], vectors[rows]
            )
        except NotellmError as error:
            group_answers = [error] * len(rows)
        for i, answer in zip(rows, group_answers, strict=True):
            answers[i] = answer
    return answers


def _related(live: Live, queries: Sequence[RelatedQuery], vectors: np.ndarray) -> list[Related]:
    """Answer queries whose options are all the same."""
    options = queries[0]
    check_selection(options.near_duplicates, options.diversity)
    if options.near_duplicates is None and not options.diversity:
        return [_answer(live, hits) for hits in _search(live, queries, vectors, options.k)]
    return [_selected(live, query, vector) for query, vector in zip(queries, vectors, strict=True)]


def _search(live: Live, queries: Sequence[RelatedQuery], vectors: np.ndarray, k: int) -> list[Hits]:
    """Return the k best notes of queries whose options are all the same."""
    share, where = queries[0].lexical, queries[0].where
    notes = [
        query.note if query.note_id is None else live.notes.get(query.note_id) for query in queries
    ]  # a note that was removed meanwhile has no text any more
    return hybrid_search(
        live.index,
        live.lexical,
        vectors,
        [text_of(note or Note()) for note in notes],
        k,
        share=live.model.lexical_share if share is None else share,
        where=where,
        exclude=[() if query.note_id is None else (query.note_id,) for query in queries],
    )


def _selected(live: Live, query: RelatedQuery, vector: np.ndarray) -> Related:
    """Answer a query for which some neighbours may not be shown: fetch more until enough are left."""
    most = min(_MOST_FETCHED, live.index.most_results or _MOST_FETCHED)
    fetched = max(query.k, min(_FACTOR * query.k, most))
    while True:
        (hits,) = _search(live, [query], vector[None], fetched)
        found = len(hits.ids)
        present, neighbour_vectors = vectors_there(live.index, hits.ids)
        hits = hits.take(np.flatnonzero(present).tolist())
        rows = select(
            vector,
            hits.scores,
            neighbour_vectors,
            query.k,
            near_duplicates=query.near_duplicates,
            diversity=query.diversity,
        )
        if len(rows) >= query.k or found < fetched or fetched >= most:
            return _answer(live, hits.take(rows))
        fetched = min(_FACTOR * fetched, most)


def _answer(live: Live, hits: Hits) -> Related:
    """Return the notes that were found, without those that were removed in the meantime."""
    notes = [live.notes.get(note_id) for note_id in hits.ids]
    there = [place for place, note in enumerate(notes) if note is not None]
    if len(there) < len(notes):
        hits = hits.take(there)
    lexical = None if hits.lexical is None else hits.lexical.tolist()
    kept = [note for note in notes if note is not None]
    return Related(kept, hits.scores.tolist(), hits.cosines.tolist(), lexical)
