"""One score from recall's similarities and P(enjoy), by weights that are fitted to clicks.

A tuned language model reads titles and codes, but not how similar a candidate is to the opened notes, so both
scores carry information of their own. The score of a candidate c is

    w . (best, latest, mean similarity of c to the opened notes, log odds of P(enjoy))

where w maximizes the likelihood of clicks on candidates of recall (conditional logit, McFadden 1974): the
clicked candidate's share of exp(score) over its list.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from notellm.errors import DataError, ModelError

#: Strength of the ridge penalty on the weights of standardized features, for what the clicks leave
#: undetermined.
_RIDGE = 1e-3


@dataclass(frozen=True)
class Blend:
    """The weights.

    Attributes:
        best: weight of the highest similarity to any opened note.
        latest: weight of the similarity to the note opened last.
        mean: weight of the mean similarity to the opened notes.
        log_odds: weight of the log odds of P(enjoy).
    """

    best: float
    latest: float
    mean: float
    log_odds: float

    def scores(self, similarities: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Return the scores of n candidates, float32 (n,); only their differences have a meaning.

        Args:
            similarities: float32 (opened, n), cosines of the opened notes, latest first, to the candidates.
            probabilities: float32 (n,), P(enjoy).
        """
        weights = np.array([self.best, self.latest, self.mean, self.log_odds])
        scores: np.ndarray = (blend_features(similarities, probabilities) @ weights).astype(np.float32)
        return scores

    def to_json(self) -> dict[str, float]:
        """Return the weights by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """Build the weights from the values of :meth:`to_json`.

        Raises:
            ModelError: if they are something else.
        """
        try:
            return cls(**{name: float(value) for name, value in values.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(f"these are no weights of a blend: {values!r}; fit the ranker again") from error


def blend_features(similarities: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the features of n candidates, float64 (n, 4); arguments as for `Blend.scores`."""
    chances = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    near = similarities.astype(np.float64)
    return np.stack([near.max(0), near[0], near.mean(0), np.log(chances / (1 - chances))], axis=1)


def fit_blend(lists: Sequence[np.ndarray], clicked: Sequence[int]) -> Blend:
    """Fit the weights under which the clicked candidates are most likely.

    Args:
        lists: for every click the features of its candidates, (n, 4), from :func:`blend_features`.
        clicked: for every click the row of the clicked candidate.

    Raises:
        DataError: if there is no list.
    """
    if not lists:
        raise DataError("there is no list of candidates to fit a blend to; give clicks that recall finds")
    spread = np.concatenate(lists).std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    longest = max(map(len, lists))
    features = np.zeros((len(lists), longest, len(scale)))
    padding = np.full((len(lists), longest), -np.inf)
    for row, candidates in enumerate(lists):
        features[row, : len(candidates)] = candidates / scale
        padding[row, : len(candidates)] = 0
    chosen = features[np.arange(len(lists)), list(clicked)]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = features @ weights + padding
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        total = shares.sum(axis=1, keepdims=True)
        shares /= total
        likelihood = scores[np.arange(len(lists)), list(clicked)] - np.log(total[:, 0])
        expected = np.einsum("lc,lcf->lf", shares, features)
        gradient = (expected - chosen).mean(axis=0) + 2 * _RIDGE * weights
        return float(_RIDGE * weights @ weights - likelihood.mean()), gradient

    fitted = minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B")
    return Blend(*(fitted.x / scale).tolist())
