"""Recall's similarities and P(enjoy) as one score, by weights that are fitted to clicks.

A tuned LLM reads titles and codes, not how near a candidate is to what the user opened; each tells something
that the other does not. The score of a candidate c is

    w . (best, latest, mean similarity of c to the opened notes, log odds of P(enjoy))

and w maximises the likelihood of clicks that recall had among its candidates (conditional logit, McFadden
1974): the clicked candidate's share of exp(score) over its list.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize

from notellm.errors import DataError, ModelError

#: Weights are held small by this, in units of the features' spread: it settles what clicks leave open.
_RIDGE = 1e-3


@dataclass(frozen=True)
class Blend:
    """The weights.

    Attributes:
        best: of the best similarity to any opened note.
        latest: of the similarity to the note opened last.
        mean: of the mean similarity to the opened notes.
        log_odds: of P(enjoy).
    """

    best: float
    latest: float
    mean: float
    log_odds: float

    def scores(self, similarities: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Scores of candidates, float32 (n,): only their differences mean something.

        Args:
            similarities: float32 (opened, n), of the opened notes, the latest first, to the candidates.
            probabilities: float32 (n,), P(enjoy).
        """
        weights = np.array([self.best, self.latest, self.mean, self.log_odds])
        scores: np.ndarray = (blend_features(similarities, probabilities) @ weights).astype(np.float32)
        return scores

    def to_json(self) -> dict[str, float]:
        """The weights by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> Self:
        """What :meth:`to_json` gave.

        Raises:
            ModelError: it is something else.
        """
        try:
            return cls(**{name: float(value) for name, value in values.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise ModelError(f"these are no weights of a blend: {values!r}; fit the ranker again") from error


def blend_features(similarities: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """What the weights weigh, float64 (n, 4); arguments as for `Blend.scores`."""
    chances = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    near = similarities.astype(np.float64)
    return np.stack([near.max(0), near[0], near.mean(0), np.log(chances / (1 - chances))], axis=1)


def fit_blend(lists: Sequence[np.ndarray], clicked: Sequence[int]) -> Blend:
    """The weights under which the clicked candidates are likeliest.

    Args:
        lists: of every click the features of its candidates, (n, 4), from :func:`blend_features`.
        clicked: the row of the clicked one in each.

    Raises:
        DataError: there is no list.
    """
    if not lists:
        raise DataError("there is no list of candidates to fit a blend to; give clicks that recall finds")
    spread = np.concatenate(lists).std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    longest = max(map(len, lists))
    features = np.zeros((len(lists), longest, len(scale)))
    nothing = np.full((len(lists), longest), -np.inf)
    for row, own in enumerate(lists):
        features[row, : len(own)] = own / scale
        nothing[row, : len(own)] = 0
    chosen = features[np.arange(len(lists)), list(clicked)]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = features @ weights + nothing
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        total = shares.sum(axis=1, keepdims=True)
        shares /= total
        likelihood = scores[np.arange(len(lists)), list(clicked)] - np.log(total[:, 0])
        expected = np.einsum("lc,lcf->lf", shares, features)
        gradient = (expected - chosen).mean(axis=0) + 2 * _RIDGE * weights
        return float(_RIDGE * weights @ weights - likelihood.mean()), gradient

    found = minimize(loss, np.zeros(len(scale)), jac=True, method="L-BFGS-B")
    return Blend(*(found.x / scale).tolist())
