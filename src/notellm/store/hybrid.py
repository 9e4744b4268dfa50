"""Hybrid search of an index: the nearest vectors and the best words, joined by ``lexical/hybrid.py``.

A filter holds for both parts, since the index checks it for the notes that the words bring.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from notellm.errors import ConfigError
from notellm.lexical.hybrid import Hits, brought, check_share, join
from notellm.lexical.index import LexicalIndex
from notellm.store.index.base import Index
from notellm.store.index.filters import Filter


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
        texts: their texts, see ``lexical.terms.text_of``.
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
    wanted = max(k, min(brought(k), index.most_results or brought(k)))  # k beyond it is the index's error
    near, cosines = index.search(vectors, wanted, where=where, exclude=exclude)
    worded = lexical.search(texts, wanted, exclude=exclude, others=near)
    return [
        join(ids, values, words, partial(_cosines, index, vector, where), k, share)
        for vector, ids, values, words in zip(vectors, near, cosines, worded, strict=True)
    ]


def _cosines(
    index: Index, vector: np.ndarray, where: Filter | None, note_ids: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    """Return those of some notes that are visible and pass the filter, with their cosines to a vector."""
    rule = where or Filter()
    allowed = frozenset(note_ids) if rule.allow is None else frozenset(note_ids) & frozenset(rule.allow)
    if not allowed:
        return [], np.zeros(0, dtype=np.float32)
    (found,), (cosines,) = index.search(vector[None], len(allowed), where=replace(rule, allow=allowed))
    return found, cosines
