"""Blending: the weights that clicks were made by are found again."""

import numpy as np
import pytest

from notellm.errors import DataError, ModelError
from notellm.rank.blend import Blend, blend_features, fit_blend


def clicks(weights, lists, seed=0):
    """Lists of candidates of different lengths, one of each clicked by the model's own law."""
    draw = np.random.default_rng(seed)
    features = [draw.normal(size=(draw.integers(2, 40), 4)) * [0.1, 0.3, 1.0, 2.0] for _ in range(lists)]
    chosen = [int((own @ weights + draw.gumbel(size=len(own))).argmax()) for own in features]
    return features, chosen


def test_the_weights_behind_the_clicks_are_found():
    made_by = np.array([8.0, -2.0, 0.0, 0.7])
    found = fit_blend(*clicks(made_by, 4_000))
    values = np.array(list(found.to_json().values()))
    np.testing.assert_allclose(values * [0.1, 0.3, 1, 2], made_by * [0.1, 0.3, 1, 2], atol=0.08)


def test_no_other_weights_make_the_clicks_likelier():
    features, chosen = clicks(np.array([5.0, 1.0, 1.0, 0.3]), 50)
    found = np.array(list(fit_blend(features, chosen).to_json().values()))
    spread = np.concatenate(features).std(axis=0)

    def loss(weights):
        scores = [own @ weights for own in features]
        likelihood = [s[i] - np.log(np.exp(s).sum()) for s, i in zip(scores, chosen, strict=True)]
        return 1e-3 * np.square(weights * spread).sum() - np.mean(likelihood)

    draw = np.random.default_rng(1)
    steps = draw.normal(size=(30, 4)) / spread
    assert all(loss(found) <= loss(found + size * step) for step in steps for size in (1e-2, 0.1, 1))


def test_what_tells_nothing_has_no_weight():
    features, chosen = clicks(np.array([0.0, 0.0, 1.0, 0.0]), 100)
    for own in features:
        own[:, 0] = 3.0  # the same of all candidates
    found = fit_blend(features, chosen)
    assert abs(found.best) < 1e-9
    assert found.mean > 0.5


def test_scores_weigh_best_latest_mean_and_log_odds():
    near = np.array([[0.5, 0.1], [0.9, 0.2], [0.1, 0.0]], np.float32)  # three opened notes, two candidates
    chances = np.array([0.5, 0.8], np.float32)
    expected = [[0.9, 0.5, 0.5, 0.0], [0.2, 0.1, 0.1, np.log(4)]]
    np.testing.assert_allclose(blend_features(near, chances), expected, atol=1e-6)
    blend = Blend(best=1, latest=10, mean=100, log_odds=1000)
    scores = blend.scores(near, chances)
    np.testing.assert_allclose(scores, np.array(expected) @ [1, 10, 100, 1000], rtol=1e-5)
    assert scores.dtype == np.float32
    sure = Blend(0, 0, 0, 1).scores(near, np.array([0, 1], np.float32))
    assert np.isfinite(sure).all()


def test_a_blend_is_kept_as_json_and_nothing_else_is_one():
    blend = Blend(0.1, 1 / 3, -2.0, 0.0)
    assert Blend.from_json(blend.to_json()) == blend
    for wrong in ({"best": 1}, {**blend.to_json(), "best": "much"}, [1, 2, 3, 4], "x"):
        with pytest.raises(ModelError, match="no weights of a blend"):
            Blend.from_json(wrong)
    with pytest.raises(DataError, match="no list of candidates"):
        fit_blend([], [])
