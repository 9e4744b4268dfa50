import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.evaluate.tagging_categories import evaluate_categories

NAMES = ["tea", "rain", "chess", "bikes", "cups", "salt", "moss"]


def test_by_hand():
    result = evaluate_categories(
        [
            [(" Food\n", 0.9), ("travel", 0.1)],
            [("travel", 0.5), ("FOOD", 0.4)],
            [("poetry", 0.3)],
            [("anything", 1.0)],
        ],
        ["food", "food", "Travel", ""],
        ["Food", "Travel"],
    )
    assert result.notes == 3
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.top5 == pytest.approx(2 / 3)
    assert result.ill_formed == pytest.approx(1 / 3)
    # food: TP 1, FP 0, FN 1; travel: TP 0. Poetry is no true category.
    assert result.macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    assert result.calibration_error == pytest.approx((abs(0.9 - 1) + 0.5 + 0.3) / 3)


def test_calibration_joins_probabilities_of_one_bin():
    """Of 0.95 and 0.99, both in the last of 15 bins, one is correct: |0.97 - 0.5|."""
    result = evaluate_categories([[("a", 0.95)], [("a", 0.99)]], ["a", "b"], ["a", "b"])
    assert result.calibration_error == pytest.approx(0.47)


@pytest.mark.parametrize("probability", [0.0, 1 / 15, 0.5, 1.0])
def test_a_probability_that_is_the_share_of_correct_ones_has_no_error(probability):
    truth = ["a"] * round(30 * probability) + ["b"] * round(30 * (1 - probability))
    result = evaluate_categories([[("a", probability)]] * 30, truth, ["a", "b"])
    assert result.calibration_error == pytest.approx(0, abs=1e-9)


def test_the_sixth_name_is_not_among_five():
    ranking = [(name, 0.1) for name in NAMES]
    result = evaluate_categories([ranking, ranking], [NAMES[4], NAMES[5]], NAMES)
    assert result.top5 == 0.5


def test_a_repeated_name_takes_one_place():
    ranking = [*[("tea", 0.2)] * 5, ("rain", 0.0)]
    assert evaluate_categories([ranking], ["rain"], NAMES).top5 == 1


def test_perfect_predictions():
    result = evaluate_categories([[(name, 1.0)] for name in NAMES], NAMES, NAMES)
    assert (result.accuracy, result.macro_f1, result.top5) == (1, 1, 1)
    assert (result.calibration_error, result.ill_formed) == (0, 0)


def test_an_empty_ranking_is_wrong_and_ill_formed_but_calibrated():
    result = evaluate_categories([[]], ["tea"], NAMES)
    assert (result.accuracy, result.macro_f1, result.top5, result.ill_formed) == (0, 0, 0, 1)
    assert result.calibration_error == 0


def test_json_has_all_figures_but_the_name():
    values = evaluate_categories([[("tea", 1.0)]], ["tea"], NAMES).to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values == {
        "notes": 1,
        "accuracy": 1.0,
        "macro_f1": 1.0,
        "top5": 1.0,
        "calibration_error": 0.0,
        "ill_formed": 0.0,
    }


@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from([*NAMES, "no"]), st.floats(0, 1)), max_size=7),
            st.sampled_from(NAMES),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 99),
)
def test_figures_are_shares_and_do_not_depend_on_the_order_of_notes(notes, seed):
    order = np.random.default_rng(seed).permutation(len(notes))
    first, second = (
        evaluate_categories([notes[i][0] for i in rows], [notes[i][1] for i in rows], NAMES).to_json()
        for rows in (range(len(notes)), order)
    )
    assert first == pytest.approx(second)
    assert all(0 <= share <= 1 + 1e-9 for name, share in first.items() if name != "notes")
    assert first["accuracy"] <= first["top5"]
