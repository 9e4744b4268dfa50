"""Choose which results of a search to show: without near-duplicates, and with diversity if asked for.

near-duplicates   a note is left out if its cosine to the query, or to a note shown before it, is at least a
                  threshold, as for a repost or the same text with another ending
diversity         maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next note is
                  argmax (1 - diversity) * score - diversity * max cosine to the notes shown before it
"""

import numpy as np

from notellm.errors import ConfigError


def check_selection(near_duplicates: float | None, diversity: float) -> None:
    """Check the options of :func:`select`.

    Raises:
        ConfigError: if one is out of range.
    """
    if near_duplicates is not None and not 0 < near_duplicates <= 1:
        raise ConfigError(
            f"near_duplicates is {near_duplicates}; it must be a cosine above 0 and at most 1, or none"
        )
    if not 0 <= diversity < 1:
        raise ConfigError(f"diversity is {diversity}; allowed are numbers from 0 (no diversity) to below 1")


def select(
    query: np.ndarray,
    scores: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    near_duplicates: float | None = None,
    diversity: float = 0.0,
) -> list[int]:
    """Return which notes to show, in this order.

    Args:
        query: (d,) float32 array of unit norm.
        scores: (n,) float32 array, cosines of the notes to the query, best first.
        vectors: (n, d) float32 array of unit norm, vectors of the notes.
        k: largest number of notes.
        near_duplicates: least cosine of two notes that are duplicates; None keeps all notes.
        diversity: 0 keeps the order of the scores; the closer to 1, the more the notes must differ.

    Returns:
        Rows of the notes.

    Raises:
        ConfigError: if an option is out of range.
    """
    check_selection(near_duplicates, diversity)
    free = np.ones(len(scores), dtype=bool)
    if near_duplicates is not None:
        free &= vectors @ query < near_duplicates
    similarity = np.full(len(scores), -1.0, dtype=np.float32)  # cosine to the nearest note shown
    shown: list[int] = []
    while len(shown) < k and free.any():
        worth = scores if not shown else (1 - diversity) * scores - diversity * similarity
        best = int(np.where(free, worth, -np.inf).argmax())
        shown.append(best)
        free[best] = False
        cosines = vectors @ vectors[best]
        similarity = np.maximum(similarity, cosines)
        if near_duplicates is not None:
            free &= cosines < near_duplicates
    return shown
