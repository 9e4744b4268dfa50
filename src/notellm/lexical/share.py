"""The score of hybrid search: a weighted mean of vectors and words.

score = (1 - share) cosine of vectors + share lexical score
"""

import numpy as np

from notellm.errors import ConfigError

#: The share of words where none was fitted (benchmarks/README.md).
DEFAULT_SHARE = 0.4


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
