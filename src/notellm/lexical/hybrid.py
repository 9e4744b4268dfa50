"""Hybrid search: notes by the cosine of their vectors and by the words of their texts at once.

    score = (1 - share) cosine of vectors + share lexical score

Vectors and words bring their best notes each. Every note that one of them brings has both scores, and the
weighted mean decides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from notellm.errors import ConfigError
from notellm.lexical.index import LexicalHits

#: The share of words where none was fitted (benchmarks/README.md).
DEFAULT_SHARE = 0.33


def check_share(share: float) -> None:
    """Refuse a lexical share that is not between 0 and 1.

    Raises:
        ConfigError: if it is not.
    """
    if not 0 <= share <= 1:
        raise ConfigError(
            f"the lexical share is {share}; it must be a number from 0 (vectors only) to 1 (words only)"
        )


def hybrid_scores(cosines: np.ndarray, lexical: np.ndarray, share: float) -> np.ndarray:
    """Return the weighted mean of cosines of vectors and lexical scores, of the same shape."""
    scores: np.ndarray = (1 - share) * cosines + share * lexical
    return scores


# -------------------------------------------------------------------- what both parts found

#: So many times k notes, and at least so many, are brought by vectors and by words.
_FACTOR, _AT_LEAST = 4, 100


def brought(k: int) -> int:
    """Return how many notes each part should bring for the k best of both."""
    return max(_FACTOR * k, _AT_LEAST)


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


def join(
    ids: Sequence[str],
    cosines: np.ndarray,
    words: LexicalHits,
    cosines_of: Callable[[list[str]], tuple[Sequence[str], np.ndarray]],
    k: int,
    share: float,
) -> Hits:
    """Return the k best of the notes that vectors and words brought for one query.

    Args:
        ids: the notes that the vectors brought, best first.
        cosines: (n,) float32, their cosines.
        words: what the words brought, with the lexical scores of ``ids`` as the others.
        cosines_of: returns those of some notes that may be shown, and their cosines to the query.
        k: number of notes.
        share: share of the words, 0 to 1.
    """
    by_words = dict(zip(words.ids, words.scores.tolist(), strict=True))
    for note_id in ids:
        by_words.pop(note_id, None)
    more, more_cosines = cosines_of(list(by_words)) if by_words else ([], np.zeros(0, dtype=np.float32))
    all_cosines = np.concatenate([cosines, more_cosines]).astype(np.float32)
    more_scores = np.array([by_words[note_id] for note_id in more], dtype=np.float32)
    lexical = np.concatenate([words.others, more_scores])
    scores = hybrid_scores(all_cosines, lexical, share)
    best = np.argsort(-scores, kind="stable")[:k]
    return Hits([*ids, *more], scores, all_cosines, lexical).take(best.tolist())
