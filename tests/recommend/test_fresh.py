"""Fresh notes in a list: how many, which, and where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.recommend.fresh import ENOUGH, FreshNotes, nearest, with_fresh
from notellm.recommend.recommender import Recommender

FRESH = 12


@given(st.integers(0, 40), st.integers(0, 12), st.integers(1, 6))
def test_fresh_notes_have_the_places_that_are_multiples_and_the_others_keep_their_order(others, fresh, every):
    rng = np.random.default_rng(others)
    order = rng.permutation(others + fresh)
    placed = with_fresh(order, fresh, every=every).tolist()
    assert sorted(placed) == list(range(others + fresh))
    assert [row for row in placed if row < others] == [row for row in order.tolist() if row < others]
    assert [row for row in placed if row >= others] == list(range(others, others + fresh))
    for nth in range(fresh):
        place = every * (nth + 1) - 1
        if place < len(placed) and others >= place - nth:
            assert placed[place] == others + nth


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 8), st.integers(0, 99))
def test_the_nearest_are_those_of_a_loop(notes, opened, count, seed):
    rng = np.random.default_rng(seed)
    vectors, queries = rng.normal(size=(notes, 4)), rng.normal(size=(opened, 4))
    rows, of = nearest(vectors, queries, count)
    best = [max(float(vector @ query) for query in queries) for vector in vectors]
    assert rows.tolist() == sorted(range(notes), key=lambda row: -best[row])[:count]
    for row, source in zip(rows, of, strict=True):
        assert vectors[row] @ queries[source] == pytest.approx(best[row])


@pytest.fixture(scope="module")
def parts(home):
    """An index, a ranker, and the ids of the notes."""
    loaded = Recommender.load(home / "vectors.parquet", home / "ranker")
    return loaded.index, loaded.ranker, loaded.ranker.texts.ids


def exploring(parts, share, shown=None):
    index, ranker, ids = parts
    counts = shown or {}
    return Recommender(
        index, ranker, fresh=FreshNotes(lambda: ids[:FRESH], lambda note_id: counts.get(note_id, 0), share)
    )


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize(
    ("share", "places"), [(0.0, []), (0.1, [10]), (0.25, [5, 10]), (0.5, [2, 4, 6, 8, 10])]
)
def test_a_share_of_the_places_explores_notes_nearest_to_the_history(parts, rerank, share, places):
    index, _, ids = parts
    history = ids[100:104]
    found = exploring(parts, share).recommend(history=history, k=10, rerank=rerank)
    assert len(set(found.note_ids)) == 10
    fresh = [place for place, source in enumerate(found.sources, 1) if source == "fresh"]
    assert fresh == places
    assert set(found.sources) <= {"recall", "fresh"}
    cosines = index.vectors(ids[:FRESH]) @ index.vectors(history).T
    nearest_ones = [ids[row] for row in np.argsort(-cosines.max(axis=1), kind="stable")]
    explored = [found.note_ids[place - 1] for place in places]
    assert explored == nearest_ones[: len(places)]
    for place in places:
        note_id, reason = found.note_ids[place - 1], found.reasons[place - 1]
        best = index.vectors([note_id]) @ index.vectors(history).T
        assert reason == history[int(best.argmax())]
    assert (", and" in found.basis) is bool(places)


def test_what_was_shown_often_enough_or_seen_or_excluded_is_not_explored(parts):
    _, _, ids = parts
    shown = dict.fromkeys(ids[: FRESH - 3], ENOUGH) | {ids[FRESH - 3]: ENOUGH - 1}
    found = exploring(parts, 0.5, shown).recommend(
        history=[*ids[100:104], ids[FRESH - 2]], exclude=[ids[FRESH - 1]]
    )
    fresh = [n for n, source in zip(found.note_ids, found.sources, strict=True) if source == "fresh"]
    assert fresh == [ids[FRESH - 3]]


def test_without_exploring_the_list_is_as_before(parts):
    index, ranker, ids = parts
    plain = Recommender(index, ranker).recommend(history=ids[100:104], k=10)
    none = exploring(parts, 0.0).recommend(history=ids[100:104], k=10)
    all_shown = exploring(parts, 0.5, dict.fromkeys(ids, ENOUGH)).recommend(history=ids[100:104], k=10)
    assert plain.note_ids == none.note_ids == all_shown.note_ids
    assert plain.basis == none.basis == all_shown.basis
