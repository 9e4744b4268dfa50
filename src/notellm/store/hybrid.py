"""Hybrid search: notes by the cosine of their vectors and by the words of their texts at once.

Vectors and words bring their nearest notes, and each of these notes has both scores. The order is that of

    score = (1 - share) cosine + share lexical score        (notellm.lexical)

A filter holds for both parts, since the index checks it for the notes that the words bring.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from notellm.errors import ConfigError
from notellm.lexical.index import LexicalIndex
from notellm.lexical.share import check_share, hybrid_scores
from notellm.store.index.base import Index
from notellm.store.index.filters import Filter

#: So many times k notes, and at least so many, are brought by each part.
_FACTOR, _AT_LEAST = 4, 100


@dataclass(frozen=True)
class Hits:
    """The notes that a search found for one query, best first.

    Attributes:
        ids: the notes.
        scores: (n,) float32, what they are ordered by.
        cosines: (n,) float32, cosines of their vectors to the query.
        lexical: (n,) float32, their lexical scores; None if words had no share.
    """

    ids: list[str]
    scores: np.ndarray
    cosines: np.ndarray
    lexical: np.ndarray | None

    def take(self, places: Sequence[int]) -> "Hits":
        """Return some of the notes, in this order."""
        rows = np.array(places, dtype=np.int64)
        lexical = None if self.lexical is None else self.lexical[rows]
        return Hits([self.ids[row] for row in rows], self.scores[rows], self.cosines[rows], lexical)


def hybrid_search(
    index: Index,
    lexical: LexicalIndex,
    vectors: np.ndarray,
    texts: Sequence[str],
    k: int,
    *,
    share: float,
    where: Filter | None = None,
    exclude: Sequence[Collection[str]] | None = None,
) -> list[Hits]:
    """Return the k best visible notes of each query that pass the filter, fewer if there are fewer.

    Args:
        index: the vectors.
        lexical: the texts of the same notes.
        vectors: (q, dim) float32 array of unit norm, the vectors of the queries.
        texts: their texts, see ``lexical.note_text``.
        k: number of notes.
        share: share of the lexical score, 0 (vectors only) to 1.
        where: filter for all queries.
        exclude: for each query, ids that must not be returned.

    Raises:
        ConfigError: if k or the share is not allowed.
        DataError: if the queries have another dimension, or ``exclude`` has another length.
    """
    check_share(share)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 note")
    if share == 0:
        found = index.search(vectors, k, where=where, exclude=exclude)
        return [Hits(ids, scores, scores, None) for ids, scores in zip(*found, strict=True)]
    wanted = max(_FACTOR * k, _AT_LEAST)
    brought = max(k, min(wanted, index.most_results or wanted))  # a k beyond the limit is the index's error
    near, cosines = index.search(vectors, brought, where=where, exclude=exclude)
    worded = lexical.search(texts, brought, exclude=exclude, others=near)
    hits = []
    for query, (ids, values, words) in enumerate(zip(near, cosines, worded, strict=True)):
        more = dict(zip(words.ids, words.scores.tolist(), strict=True))
        for note_id in ids:
            more.pop(note_id, None)
        more_ids, more_cosines = _cosines(index, vectors[query], list(more), where)
        all_ids = [*ids, *more_ids]
        all_cosines = np.concatenate([values, more_cosines]).astype(np.float32)
        in_words = np.array([more[note_id] for note_id in more_ids], dtype=np.float32)
        lexical_scores = np.concatenate([words.others, in_words])
        scores = hybrid_scores(all_cosines, lexical_scores, share)
        best = np.argsort(-scores, kind="stable")[:k]
        hits.append(Hits(all_ids, scores, all_cosines, lexical_scores).take(best.tolist()))
    return hits


def _cosines(
    index: Index, vector: np.ndarray, note_ids: Sequence[str], where: Filter | None
) -> tuple[list[str], np.ndarray]:
    """Return those of some notes that are visible and pass the filter, with their cosines to a vector."""
    rule = where or Filter()
    allowed = frozenset(note_ids) if rule.allow is None else frozenset(note_ids) & frozenset(rule.allow)
    if not allowed:
        return [], np.zeros(0, dtype=np.float32)
    (found,), (cosines,) = index.search(vector[None], len(allowed), where=replace(rule, allow=allowed))
    return found, cosines
