"""The fitted weights find out which voice can be trusted, and how far."""

import numpy as np
import pytest
from scipy.special import expit

from notellm.recall.tagging.weights import (
    DEFAULTS,
    MODEL_ALONE,
    VOICES,
    Weights,
    fit_category,
    fit_topics,
)

TRUE = np.array([0.8, 0.0, 1.5, 0.4])
BIAS = -2.0


def simulated_topics(seed=0, notes=600, candidates=40):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(notes, candidates, len(VOICES))).astype(np.float32)
    true = rng.random((notes, candidates)) < expit(features @ TRUE + BIAS)
    return features, true


def simulated_categories(seed=0, notes=4_000, names=12):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(notes, names, len(VOICES))).astype(np.float32)
    scores = features @ TRUE + rng.gumbel(size=(notes, names))
    return features, scores.argmax(axis=1).tolist()


def test_topics_get_back_the_weights_that_made_them():
    features, true = simulated_topics()
    fitted = fit_topics(list(features), list(true))
    np.testing.assert_allclose(fitted.voices, TRUE, atol=0.08)
    assert fitted.bias == pytest.approx(BIAS, abs=0.1)
    assert fitted.fitted_on == len(features)


def test_categories_get_back_the_weights_that_made_them():
    features, true = simulated_categories()
    fitted = fit_category(list(features), true)
    np.testing.assert_allclose(fitted.voices, TRUE, atol=0.1)
    assert (fitted.bias, fitted.fitted_on) == (0.0, len(features))


@pytest.mark.parametrize("useful", range(len(VOICES)))
def test_a_useless_voice_hardly_counts(useful):
    rng = np.random.default_rng(useful)
    features = rng.normal(size=(500, 10, len(VOICES)))
    true = features[:, :, useful].argmax(axis=1)
    fitted = fit_category(list(features), true.tolist())
    others = [weight for number, weight in enumerate(fitted.voices) if number != useful]
    assert fitted.voices[useful] > 5
    assert max(others) < 0.1 * fitted.voices[useful]
    wanted = [np.arange(10) == label for label in true]
    topics = fit_topics(list(features), wanted)
    others = [weight for number, weight in enumerate(topics.voices) if number != useful]
    assert max(others) < 0.1 * topics.voices[useful]


def test_no_weight_is_negative():
    """A voice that speaks against the truth is not listened to."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 8, len(VOICES)))
    true = (-features[:, :, 1] + features[:, :, 2]).argmax(axis=1)
    for fitted in (
        fit_category(list(features), true.tolist()),
        fit_topics(list(features), [np.arange(8) == label for label in true]),
    ):
        assert min(fitted.voices) >= 0
        assert fitted.voices[1] == pytest.approx(0, abs=1e-6)
        assert fitted.voices[2] > 0.5


def test_only_the_allowed_voices_count():
    features, true = simulated_topics(notes=100)
    assert fit_topics(list(features), list(true), voices=("model",)).voices[1:] == (0, 0, 0)
    features, labels = simulated_categories(notes=100)
    assert fit_category(list(features), labels, voices=("words",)).voices[:2] == (0, 0)


def test_probabilities_are_calibrated_on_other_notes():
    """Of what is said to have the probability p, the share p is true."""
    fitted = fit_topics(*map(list, simulated_topics(0)))
    features, true = simulated_topics(1)
    probabilities = fitted.topic_probabilities(features)
    for low in (0.0, 0.1, 0.3, 0.5, 0.8):
        chosen = (probabilities >= low) & (probabilities < low + 0.1)
        assert true[chosen].mean() == pytest.approx(probabilities[chosen].mean(), abs=0.05)
    features, labels = simulated_categories(0)
    weights = fit_category(list(features), labels)
    features, labels = simulated_categories(1, notes=40_000)
    probabilities = weights.category_probabilities(features)
    best = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == np.array(labels)
    for low in (0.3, 0.5, 0.7, 0.9):
        chosen = (best >= low) & (best < low + 0.1)
        assert right[chosen].mean() == pytest.approx(best[chosen].mean(), abs=0.06)


@pytest.mark.parametrize(
    "weights", [*DEFAULTS.values(), *MODEL_ALONE.values(), Weights((9.0, 9.0, 9.0, 9.0))]
)
@pytest.mark.parametrize("scale", [1, 1_000])
def test_probabilities(weights, scale):
    features = np.random.default_rng(0).normal(size=(5, 7, len(VOICES))).astype(np.float32) * scale
    of_topics = weights.topic_probabilities(features)
    of_categories = weights.category_probabilities(features)
    for each in (of_topics, of_categories):
        assert each.shape == (5, 7)
        assert np.isfinite(each).all()
        assert each.min() >= 0
        assert each.max() <= 1
    np.testing.assert_allclose(of_categories.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.category_probabilities(features[:, :1]), 1)


@pytest.mark.parametrize("right", [True, False])
def test_fitting_stays_finite_where_nothing_or_everything_is_right(right):
    features = np.random.default_rng(0).normal(size=(60, 5, len(VOICES)))
    fitted = fit_topics(list(features), [np.full(5, right)] * 60)
    assert np.isfinite([*fitted.voices, fitted.bias]).all()
    assert (fitted.topic_probabilities(features) > 0.5).all() == right
    one = fit_category(list(features[:, :1]), [0] * 60)
    assert np.isfinite(one.voices).all()
