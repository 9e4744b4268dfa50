"""What is shown of the notes that a search found: no near-duplicates, and more variety where it is asked for.

near-duplicates   a note is left out if its cosine to the query, or to a note shown before it, is at least a
                  threshold: a repost, or the same text with another end
diversity         maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next note is
                  argmax (1 - diversity) * score - diversity * max cosine to the notes shown before it
"""

import numpy as np

from notellm.errors import ConfigError


def check_selection(near_duplicates: float | None, diversity: float) -> None:
    """Whether the options are allowed.

    Raises:
        ConfigError: one is not.
    """
    if near_duplicates is not None and not 0 < near_duplicates <= 1:
        raise ConfigError(
            f"near_duplicates is {near_duplicates}; it is a cosine above 0 and at most 1, or none"
        )
    if not 0 <= diversity < 1:
        raise ConfigError(f"diversity is {diversity}; allowed are 0 (none) to below 1")


def select(
    query: np.ndarray,
    scores: np.ndarray,
    vectors: np.ndarray,
    k: int,
    *,
    near_duplicates: float | None = None,
    diversity: float = 0.0,
) -> list[int]:
    """Which of the found notes are shown, in this order.

    Args:
        query: (d,) float32, unit norm.
        scores: (n,) float32, cosines to the query, best first.
        vectors: (n, d) float32, unit norm, of the found notes.
        k: how many at most.
        near_duplicates: the cosine from which on two notes say the same; None keeps all.
        diversity: 0 is the order of the scores; the nearer to 1, the more a note must differ from the others.

    Returns:
        Rows of the found notes.

    Raises:
        ConfigError: an option is not allowed.
    """
    check_selection(near_duplicates, diversity)
    free = np.ones(len(scores), dtype=bool)
    if near_duplicates is not None:
        free &= vectors @ query < near_duplicates
    nearest = np.full(len(scores), -1.0, dtype=np.float32)  # cosine to the nearest note shown
    shown: list[int] = []
    while len(shown) < k and free.any():
        worth = scores if not shown else (1 - diversity) * scores - diversity * nearest
        best = int(np.where(free, worth, -np.inf).argmax())
        shown.append(best)
        free[best] = False
        cosines = vectors @ vectors[best]
        nearest = np.maximum(nearest, cosines)
        if near_duplicates is not None:
            free &= cosines < near_duplicates
    return shown
