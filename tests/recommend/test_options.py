"""The options of a recommendation: defaults, checks, and what unknown keywords are told."""

import subprocess
import sys

import pytest

from notellm.errors import ConfigError
from notellm.recommend.options import RecommendOptions


def test_defaults():
    assert RecommendOptions.from_keywords({}) == RecommendOptions(20, 100, None, 10, rerank=True)


def test_every_problem_is_named():
    with pytest.raises(ConfigError) as caught:
        RecommendOptions.from_keywords({"k": 0, "recall_k": -1, "per_note": 0, "last": 0})
    message = str(caught.value)
    assert all(f"{name} is" in message for name in ("k", "recall_k", "per_note", "last"))
    assert "it must be at least k (0)" in message


def test_an_unknown_keyword_is_told_the_known_ones():
    with pytest.raises(ConfigError, match="unknown option 'top'; recommend knows k, recall_k, per_note"):
        RecommendOptions.from_keywords({"top": 3})


def test_the_options_load_quickly():
    code = "import sys, notellm.recommend.options; sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
