"""When the new models take over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.evaluate.bootstrap import Interval, intervals
from notellm.renew.comparison import Figures
from notellm.renew.decision import decide, stays


def figures(before, after, low=None, high=None):
    """Figures whose difference has a given interval."""
    difference = after - before
    span = Interval(difference, difference if low is None else low, difference if high is None else high)
    name = "NDCG@100"
    return Figures(
        {name: Interval(before, before, before)}, {name: Interval(after, after, after)}, {name: span}, name
    )


@pytest.mark.parametrize(
    ("after", "low", "high", "takes_over", "why"),
    [
        (0.25, 0.01, 0.09, True, "not worse"),
        (0.19, -0.05, 0.03, True, "not worse"),
        (0.19, -0.02, -0.001, False, "lower beyond chance"),
        (0.17, -0.08, 0.02, False, "lower by more than 10 % of it"),
        (0.20, -0.05, 0.05, True, "not worse"),
    ],
)
def test_a_model_takes_over_unless_it_is_worse_beyond_chance_or_by_more_than_the_margin(
    after, low, high, takes_over, why
):
    decision = decide({"recall": figures(0.2, after, low, high)}, margin=0.1)
    assert decision.takes_over is takes_over
    (reason,) = decision.reasons
    assert reason.endswith(why)
    assert f"NDCG@100 of recall is {100 * after:.1f} %" in reason


def test_where_clicks_are_on_lists_of_the_serving_models_only_the_margin_counts():
    lower = {"recall": figures(0.2, 0.16, -0.06, -0.02)}
    assert not decide(lower, margin=0.3).takes_over
    decision = decide(lower, margin=0.3, from_lists=True)
    assert decision.takes_over
    assert "so these figures favour them" in decision.reasons[-1]
    far = decide({"recall": figures(0.2, 0.13, -0.1, -0.05)}, margin=0.3, from_lists=True)
    assert not far.takes_over
    assert "lower by more than 30 % of it" in far.reasons[0]


def test_one_worse_list_is_enough_and_only_what_is_worse_is_a_reason():
    both = {"recall": figures(0.2, 0.3), "recommend": figures(0.2, 0.1)}
    decision = decide(both, margin=0.1)
    assert not decision.takes_over
    assert [reason.split(" of ")[1].split()[0] for reason in decision.reasons] == ["recommend"]
    assert decide({"recall": figures(0.2, 0.3), "recommend": figures(0.2, 0.2)}, margin=0).takes_over


@given(st.integers(0, 10_000), st.floats(-0.5, 0.5))
def test_the_rule_is_that_of_the_paired_differences(seed, shift):
    rng = np.random.default_rng(seed)
    before = rng.random(60)
    after = np.clip(before + shift + rng.normal(0, 0.1, 60), 0, 1)
    values = intervals({"before": before, "after": after, "difference": after - before}, 200, seed)
    before_figures, after_figures, differences = (
        {"NDCG@20": values[name]} for name in ("before", "after", "difference")
    )
    each = Figures(before_figures, after_figures, differences)
    worse = values["difference"].high < 0 or (after - before).mean() < -0.1 * before.mean()
    assert decide({"recall": each}, margin=0.1).takes_over is not worse


def test_the_figures_are_shown_and_kept():
    decision = decide({"recall": figures(0.2, 0.25, 0.01, 0.09)}, margin=0.1)
    assert decision.table().rows == [
        ["recall", "NDCG@100", "20.0 [20.0, 20.0]", "25.0 [25.0, 25.0]", "5.0 [1.0, 9.0]"]
    ]
    kept = decision.to_json()["figures"]["recall"]
    assert kept["serving"]["NDCG@100"]["mean"] == 0.2
    assert kept["difference"]["NDCG@100"]["high"] == 0.09


def test_without_figures_the_serving_models_stay():
    decision = stays("too few notes")
    assert not decision.takes_over
    assert decision.to_json() == {"takes_over": False, "reasons": ["too few notes"], "figures": {}}


def test_figures_that_are_no_numbers_do_not_let_a_model_take_over():
    assert not decide({"recall": figures(0.2, float("nan"))}, margin=0.1).takes_over
    assert decide({"recall": figures(0.0, 0.0)}, margin=0.1).takes_over
