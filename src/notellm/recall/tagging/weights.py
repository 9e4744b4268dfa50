"""How much each voice counts for a task, fitted on notes whose answers are known but were hidden.

A voice gives every name a number (``voices.py``). Topics are scored alone, categories against each other:

    P(topic | note)    = sigmoid(bias + sum_v w_v f_v(topic))
    P(category | note) = softmax over names of sum_v w_v f_v(category)

The weights maximise the likelihood of the hidden answers, with a weak penalty on the distance from the
defaults. They are not negative, so a voice that does not help gets the weight 0. The probabilities are
calibrated as far as new notes resemble those.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from notellm.recall.prompt import Task

#: What gives evidence for a name, in the order of the features.
VOICES = ("model", "neighbours", "words", "mention")
#: Weight of the squared distance from the defaults: that of a normal prior with a standard deviation of 0.7.
_PENALTY = 1.0


@dataclass(frozen=True)
class Weights:
    """The weights of a task.

    Attributes:
        voices: weights in the order of VOICES, none negative.
        bias: log-odds of a topic for which nothing speaks; not used for categories.
        fitted_on: number of notes that the weights were fitted on; 0 for the defaults.
    """

    voices: tuple[float, ...]
    bias: float = 0.0
    fitted_on: int = 0

    def topic_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return P(topic | note), (..., names), of features (..., names, voices)."""
        probabilities: np.ndarray = expit(features @ np.array(self.voices, dtype=features.dtype) + self.bias)
        return probabilities

    def category_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Return P(category | note), (..., names), of features (..., names, voices)."""
        scores = features @ np.array(self.voices, dtype=features.dtype)
        probabilities: np.ndarray = np.exp(scores - logsumexp(scores, axis=-1, keepdims=True))
        return probabilities


#: For models whose notes are too few to fit weights on; between those of MIND and KuaiRec (draw 1).
DEFAULTS: dict[Task, Weights] = {
    "topics": Weights((0.3, 0.5, 0.6, 1.5), bias=0.5),
    "category": Weights((0.5, 0.5, 1.8, 0.5)),
}
#: For the language model alone.
MODEL_ALONE: dict[Task, Weights] = {
    "topics": Weights((1.0, 0.0, 0.0, 0.0), bias=1.0),
    "category": Weights((1.0, 0.0, 0.0, 0.0)),
}


def fit_topics(
    features: Sequence[np.ndarray], true: Sequence[np.ndarray], *, voices: Sequence[str] = VOICES
) -> Weights:
    """Fit the weights of topics by logistic regression.

    Args:
        features: for each note (candidates, voices), of some candidates.
        true: for each note (candidates,) bool, which of them it carries.
        voices: the voices that may count.
    """
    x = np.concatenate(features).astype(np.float64)
    y = np.concatenate(true).astype(np.float64)
    start = np.array([*DEFAULTS["topics"].voices, DEFAULTS["topics"].bias])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        scores = x @ w[:-1] + w[-1]
        away = w[:-1] - start[:-1]
        value = np.logaddexp(0, scores).sum() - y @ scores + _PENALTY * (away @ away)
        error = expit(scores) - y
        return value, np.append(x.T @ error + 2 * _PENALTY * away, error.sum())

    bounds = [*_bounds(voices), (None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Weights(tuple(map(float, found[:-1])), float(found[-1]), len(features))


def fit_category(
    features: Sequence[np.ndarray], true: Sequence[int], *, voices: Sequence[str] = VOICES
) -> Weights:
    """Fit the weights of categories by conditional logistic regression (McFadden 1974).

    Args:
        features: for each note (names, voices).
        true: for each note the row of its category.
        voices: the voices that may count.
    """
    x = np.stack(features).astype(np.float64)
    rows, y = np.arange(len(x)), np.array(true)
    start = np.array(DEFAULTS["category"].voices)

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        scores = x @ w
        logs = scores - logsumexp(scores, axis=1, keepdims=True)
        gradient = np.einsum("nc,ncv->v", np.exp(logs), x) - x[rows, y].sum(axis=0)
        away = w - start
        return -logs[rows, y].sum() + _PENALTY * (away @ away), gradient + 2 * _PENALTY * away

    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=_bounds(voices)).x
    return Weights(tuple(map(float, found)), 0.0, len(features))


def _bounds(voices: Sequence[str]) -> list[tuple[float, float | None]]:
    """Return the bounds of the weights: none is negative, and those of voices that may not count are 0."""
    return [(0.0, None if voice in voices else 0.0) for voice in VOICES]
