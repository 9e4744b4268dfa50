"""p values of bootstrap resamples and Holm's correction, against values computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.errors import DataError
from notellm.experiment.statistics import bootstrap_p, holm

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("resampled", "expected"),
    [
        ([0.3, 0.1, 0.2, -0.1], 2 * (1 + 1) / 5),
        ([-0.3, -0.1, -0.2, 0.1], 2 * (1 + 1) / 5),
        ([0.5] * 99, 2 * 1 / 100),
        ([0.5] * 98 + [0.0], 2 * 2 / 100),  # exactly 0 is no difference in favour of either
        ([0.0] * 50, 1),
        ([0.1, -0.1], 1),
        ([0.2, np.nan, 0.1, np.nan, 0.3], 2 * 1 / 4),
        ([np.nan], 1),
        ([], 1),
    ],
)
def test_p_is_twice_the_share_of_resamples_on_the_rarer_side(resampled, expected):
    assert bootstrap_p(resampled) == pytest.approx(expected)


def test_without_a_difference_one_in_twenty_is_below_a_twentieth():
    draw = np.random.default_rng(0)
    below = 0
    for _ in range(400):
        sample = draw.normal(size=60)
        below += bootstrap_p(sample[draw.integers(0, 60, (400, 60))].mean(axis=1)) < 0.05
    assert 0.02 < below / 400 < 0.09


def test_a_worked_example_of_holm():
    """Sorted, the values times 4, 3, 2 and 1 are 0.02, 0.03, 0.06 and 0.04; none is below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_value_or_none_is_not_corrected():
    assert holm([0.2]).tolist() == [0.2]
    assert holm([]).shape == (0,)


@given(P_VALUES)
def test_holm_rejects_what_the_step_down_procedure_rejects(values):
    adjusted, alpha = holm(values), 0.05
    rejected = set()
    for step, place in enumerate(np.argsort(values, kind="stable")):
        if values[place] * (len(values) - step) > alpha:
            break
        rejected.add(int(place))
    assert {place for place, p in enumerate(adjusted) if p <= alpha} == rejected


@given(P_VALUES)
def test_corrected_values_are_no_smaller_keep_the_order_and_stay_in_range(values):
    adjusted = holm(values)
    assert (adjusted >= np.array(values)).all()
    assert (adjusted <= np.minimum(1, len(values) * np.array(values))).all()
    order = np.argsort(values, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()
    np.testing.assert_array_equal(holm([values[place] for place in order]), adjusted[order])


@pytest.mark.parametrize("wrong", [1.5, -0.1, float("nan")])
def test_what_is_no_p_value_is_refused(wrong):
    with pytest.raises(DataError, match="must lie in 0 to 1"):
        holm([0.5, wrong])
