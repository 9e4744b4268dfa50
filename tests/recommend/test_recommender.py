"""Recall and rank together: what comes back, why, and what never does."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notellm.errors import ConfigError, DataError
from notellm.rank.scorer import Ranker
from notellm.recommend.recommender import Recommender


@pytest.fixture(scope="module")
def recommender(home):
    return Recommender.load(home / "vectors.parquet", home / "ranker")


@pytest.fixture(scope="module")
def ids(recommender):
    """All notes, in the order of the vectors' file."""
    return recommender.ranker.texts.ids


@pytest.fixture(scope="module")
def user(recommender):
    """A user with a history of some length."""
    return next(u for u, history in recommender.ranker.histories.items() if len(history) > 5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_never_a_seen_or_excluded_note_and_never_more_than_k(recommender, ids, data):
    known = st.sampled_from(sorted(recommender.ranker.histories))
    history = data.draw(st.none() | st.lists(st.sampled_from(ids), max_size=12))
    user = data.draw(st.none() | known)
    exclude = data.draw(st.lists(st.sampled_from([*ids, "gone"]), max_size=30))
    k = data.draw(st.integers(1, 12))
    rerank = data.draw(st.booleans())
    result = recommender.recommend(
        user, history=history, k=k, exclude=exclude, recall_k=15, last=3, rerank=rerank
    )
    seen = recommender.ranker.histories.get(user, []) if history is None else history
    assert 1 <= len(result.note_ids) <= k
    assert len(set(result.note_ids)) == len(result.note_ids) == len(result.scores) == len(result.reasons)
    assert not set(result.note_ids) & {*seen, *exclude}
    assert list(result.scores) == sorted(result.scores, reverse=True)
    latest = list(dict.fromkeys(reversed(seen)))[:3]  # a note opened again counts once
    assert all(reason in latest for reason in result.reasons if reason is not None)
    assert all((reason is None) == (not seen) for reason in result.reasons)
    again = recommender.recommend(
        user, history=history, k=k, exclude=exclude, recall_k=15, last=3, rerank=rerank
    )
    assert result.note_ids == again.note_ids
    assert (result.scores == again.scores).all()


def test_recall_is_the_best_similarity_to_any_opened_note(recommender, ids):
    """Compared with every similarity computed plainly."""
    vectors = recommender.index.vectors(ids)
    history = [ids[3], ids[70], ids[3], ids[150]]
    result = recommender.recommend(history=history, k=9, rerank=False)
    similarity = vectors @ vectors[[3, 70, 150]].T
    best = similarity.max(axis=1)
    best[[3, 70, 150]] = -2
    order = np.argsort(-best)[:9]
    assert result.note_ids == [ids[row] for row in order]
    np.testing.assert_allclose(result.scores, best[order], atol=1e-6)
    sources = [history[i] for i in (0, 1, 3)]
    assert result.reasons == [sources[similarity[row].argmax()] for row in order]
    assert result.basis == "related to 3 opened notes, not ranked"


def test_the_candidates_are_what_is_recommended_without_ranking(recommender, ids):
    options = {"k": 20, "recall_k": 20, "last": 3, "per_note": 9}
    found = recommender.recommend(history=ids[:5], exclude=ids[5:90], rerank=False, **options)
    assert recommender.candidates(ids[:5], exclude=ids[5:90], **options) == found.note_ids
    assert len(recommender.candidates(ids[:5])) == 100
    assert recommender.candidates([]) == recommender.candidates(["gone"]) == []
    with pytest.raises(ConfigError, match="last"):
        recommender.candidates(ids[:5], last=0)


def test_one_opened_note_brings_no_more_than_its_share(recommender, ids):
    history = ids[10:13]
    result = recommender.recommend(history=history, k=20, recall_k=50, per_note=4, rerank=False)
    counts = [result.reasons.count(note_id) for note_id in history]
    assert max(counts) <= 4
    assert sum(counts) == len(result.note_ids) > 4


def test_rank_orders_the_candidates_of_recall(recommender, user):
    recalled = recommender.recommend(user, k=30, recall_k=30, rerank=False)
    result = recommender.recommend(user, k=30, recall_k=30)
    assert set(result.note_ids) == set(recalled.note_ids)
    ranking = recommender.ranker.rank(user, recalled.note_ids)
    assert result.note_ids == ranking.note_ids
    assert result.note_ids != recalled.note_ids
    assert result.basis.endswith("ranked by code and history")
    why = dict(zip(recalled.note_ids, recalled.reasons, strict=True))
    assert result.reasons == [why[note_id] for note_id in result.note_ids]


def test_without_history_the_popular_notes_are_candidates(recommender):
    likes: dict[str, int] = {}
    for history in recommender.ranker.histories.values():
        for note_id in history:
            likes[note_id] = likes.get(note_id, 0) + 1
    result = recommender.recommend(k=5, recall_k=5, rerank=False)
    assert list(result.scores) == sorted(likes.values(), reverse=True)[:5]
    assert result.reasons == [None] * 5
    assert result.basis == "popular notes, not ranked"
    ranked = recommender.recommend(history=[], k=5, recall_k=5)
    assert set(ranked.note_ids) == set(result.note_ids)
    assert ranked.basis == "popular notes, ranked for a typical user"


def test_mistakes_are_told_in_one_line(recommender, ids, user):
    with pytest.raises(DataError, match=r"the user 'nobody' is not among the .* give a history"):
        recommender.recommend("nobody")
    with pytest.raises(DataError, match="the note 'zzz' of the history is not among"):
        recommender.recommend(user, history=[ids[0], "zzz"])
    with pytest.raises(DataError, match="nothing is left to recommend"):
        recommender.recommend(history=ids[:3], exclude=ids)
    with pytest.raises(DataError, match="nothing is left to recommend"):
        recommender.recommend(exclude=ids)
    with pytest.raises(ConfigError, match=r"k is 0.*last is 0"):
        recommender.recommend(user, k=0, last=0)
    with pytest.raises(ConfigError, match="recall_k is 5; it must be at least k"):
        recommender.recommend(user, k=6, recall_k=5)
    with pytest.raises(ConfigError, match="unknown option 'top'; recommend knows k, recall_k"):
        recommender.recommend(user, top=3)
    with pytest.raises(DataError, match="same notes"):
        Recommender.from_vectors(["x"], np.ones((1, 4), np.float32), recommender.ranker)
    with pytest.raises(DataError, match="one vector"):
        Recommender.from_vectors(["x", "x"], np.ones((2, 4), np.float32), recommender.ranker)


def test_notes_without_vector_or_unknown_to_the_ranker_are_no_candidates(recommender, ids):
    vectors = recommender.index.vectors(ids)
    few = Recommender.from_vectors(
        [*ids[:40], "newer"],
        np.vstack([vectors[:40], vectors[:1]]),
        recommender.ranker,
    )
    result = few.recommend(history=[ids[0], ids[200]], k=40, recall_k=40)
    assert set(result.note_ids) == set(ids[1:40])
    only = few.recommend(history=[ids[200]], k=3, recall_k=10)  # nothing near it is known
    assert only.basis.startswith("popular notes, ranked by history")


def test_newer_notes_are_recommended_once_the_tables_hold_them(home, recommender, ids):
    table = recommender.ranker.table
    older = Ranker(recommender.ranker.model, recommender.ranker.codes, table[:100])
    history = ids[:2]
    before = Recommender.from_vectors(ids, recommender.index.vectors(ids), older).recommend(
        history=history, k=98
    )
    assert set(before.note_ids) <= set(ids[:100])
    after = Recommender.load(home / "vectors.parquet", home / "ranker", notes=table)
    assert set(after.recommend(history=history, k=100).note_ids) - set(ids[:100])
