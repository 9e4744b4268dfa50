"""Bootstrap intervals hold what they promise."""

import math

import numpy as np
import pytest

from notellm.evaluate import bootstrap as module
from notellm.evaluate.bootstrap import Interval, intervals


def test_interval_covers_the_truth_about_95_times_in_100():
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        sample = (draw.random(200) < 0.3).astype(float)
        interval = intervals({"hit": sample}, 300, trial)["hit"]
        assert interval.low <= interval.mean <= interval.high
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize("draws", [10, 100])
def test_intervals_in_steps(monkeypatch, draws):
    """Resamples drawn in steps are as many and as varied."""
    values = {"x": np.arange(30.0), "y": np.arange(30.0) ** 2}
    monkeypatch.setattr(module, "DRAWS", draws)
    found = intervals(values, 1_000, 0)
    sd = np.arange(30.0).std() / math.sqrt(30)
    assert found["x"].high - found["x"].low == pytest.approx(2 * 1.96 * sd, rel=0.1)


@pytest.mark.parametrize("place", [0, 4, 9])
def test_every_query_is_drawn_as_often(place):
    """Of ten queries with one hit, 2.5 % of the resamples have more than three, wherever the hit is."""
    values = np.zeros(10)
    values[place] = 1.0
    found = intervals({"hit": values}, 20_000, 0)["hit"]
    assert found.low == 0.0
    assert found.high == pytest.approx(0.3)


def test_percent():
    assert Interval(0.25, 0.125, 0.5).percent() == Interval(25.0, 12.5, 50.0)
