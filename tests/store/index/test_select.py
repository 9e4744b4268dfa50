"""What is shown of what was found, against the two rules written out plainly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.errors import ConfigError
from notellm.store.index.select import check_selection, select
from tests.store.index.contract import unit


def plainly(query, scores, vectors, k, near_duplicates, diversity):
    """The note with the largest worth, one after the other, in plain Python."""
    shown: list[int] = []
    while len(shown) < k:
        best, best_worth = -1, float("-inf")
        for i in range(len(scores)):
            to_shown = [float(vectors[i] @ vectors[j]) for j in shown]
            same = near_duplicates is not None and any(
                cosine >= near_duplicates for cosine in [float(vectors[i] @ query), *to_shown]
            )
            if i in shown or same:
                continue
            worth = float(scores[i])
            if shown:
                worth = (1 - diversity) * worth - diversity * max(to_shown)
            if worth > best_worth:
                best, best_worth = i, worth
        if best < 0:
            break
        shown.append(best)
    return shown


def found(query, vectors):
    """Vectors best first, and their cosines."""
    scores = vectors @ query
    order = np.argsort(-scores, kind="stable")
    return scores[order], vectors[order]


#: Few different numbers along few axes: cosines tie, and sums of them are exact.
quarters = st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=9)


@settings(max_examples=300, deadline=None)
@given(
    quarters,
    st.integers(1, 10),
    st.sampled_from([None, 0.125, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_it_shows_what_the_rules_say_ties_included(numbers, k, near_duplicates, diversity):
    query = np.array([0.5, 0.5, 0.0], dtype=np.float32)
    scores, vectors = found(query, np.array(numbers, dtype=np.float32) / 4)
    shown = select(query, scores, vectors, k, near_duplicates=near_duplicates, diversity=diversity)
    assert shown == plainly(query, scores, vectors, k, near_duplicates, diversity)


@pytest.mark.parametrize("near_duplicates", [None, 0.6, 0.9])
@pytest.mark.parametrize("diversity", [0.0, 0.3, 0.9])
def test_it_shows_what_the_rules_say_of_unit_vectors(near_duplicates, diversity):
    for seed in range(10):
        query, *rest = unit(40, 4, seed)
        scores, vectors = found(query, np.array(rest))
        shown = select(query, scores, vectors, 12, near_duplicates=near_duplicates, diversity=diversity)
        assert shown == plainly(query, scores, vectors, 12, near_duplicates, diversity)


def test_without_options_the_order_of_the_search_stays():
    query, *rest = unit(30, 5)
    scores, vectors = found(query, np.array(rest))
    assert select(query, scores, vectors, 8) == list(range(8))
    assert select(query, scores, vectors, 100) == list(range(29))
    assert select(query, scores[:0], vectors[:0], 5) == []


def directions(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_repost_of_the_query_or_of_a_note_shown_before_is_left_out():
    query = directions(0)[0]
    # To the query: 0 and 5 degrees. To the note at 30: that at 33, but not 60, nor -30.
    scores, vectors = found(query, directions(0, 5, 30, 33, -30.5, 60))
    close = float(np.cos(np.radians(8)))
    assert select(query, scores, vectors, 10, near_duplicates=close) == [2, 3, 5]
    assert np.degrees(np.arccos(scores[[2, 3, 5]])) == pytest.approx([30, 30.5, 60], abs=0.01)
    # What is left out leaves its place to others, and counts as nothing for those that come later.
    scores, vectors = found(query, directions(20, 25, 30))
    assert select(query, scores, vectors, 2, near_duplicates=close) == [0, 2]


def test_a_threshold_of_one_takes_the_same_vector_only():
    query = np.array([1, 0, 0], dtype=np.float32)
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 1, 2]]
    assert select(query, vectors @ query, vectors, 10, near_duplicates=1.0) == [1, 3]


def test_diversity_prefers_another_direction():
    query = directions(0)[0]
    scores, vectors = found(query, directions(10, 12, 14, -40))
    assert select(query, scores, vectors, 4) == [0, 1, 2, 3]
    # 0.5 * cos 40 - 0.5 * cos 50 = 0.06 against 0.5 * cos 12 - 0.5 * cos 2 = -0.01
    assert select(query, scores, vectors, 2, diversity=0.5) == [0, 3]
    # 0.9 * cos 40 - 0.1 * cos 50 = 0.63 against 0.9 * cos 12 - 0.1 * cos 2 = 0.78
    assert select(query, scores, vectors, 2, diversity=0.1) == [0, 1]
    assert sorted(select(query, scores, vectors, 4, diversity=0.9)) == [0, 1, 2, 3]  # nothing is lost


@pytest.mark.parametrize("value", [0, -0.5, 1.01, float("nan")])
def test_near_duplicates_that_are_no_cosine(value):
    vectors = directions(0, 90)
    with pytest.raises(
        ConfigError, match=r"near_duplicates is .*; it must be a cosine above 0 and at most 1"
    ):
        select(vectors[0], vectors[:, 0], vectors, 1, near_duplicates=value)


@pytest.mark.parametrize("value", [1, -0.1, float("nan")])
def test_diversity_out_of_range(value):
    with pytest.raises(
        ConfigError, match=r"diversity is .*; allowed are numbers from 0 \(no diversity\) to below 1"
    ):
        check_selection(None, value)
