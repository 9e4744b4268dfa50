"""Bootstrap intervals hold what they promise."""

import math

import numpy as np
import pytest

from notellm.evaluate import bootstrap as module
from notellm.evaluate.bootstrap import intervals


def test_interval_covers_the_truth_about_95_times_in_100():
    draw = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        sample = (draw.random(200) < 0.3).astype(float)
        interval = intervals({"hit": sample}, 300, trial)["hit"]
        assert interval.low <= interval.mean <= interval.high
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


def test_intervals_in_steps(monkeypatch):
    """Resamples drawn in steps are as many and as varied."""
    values = {"x": np.arange(30.0), "y": np.arange(30.0) ** 2}
    monkeypatch.setattr(module, "DRAWS", 100)
    found = intervals(values, 1_000, 0)
    sd = np.arange(30.0).std() / math.sqrt(30)
    assert found["x"].high - found["x"].low == pytest.approx(2 * 1.96 * sd, rel=0.1)
