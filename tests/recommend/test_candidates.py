"""What recall offered before each click: rows to rank by, lists to blend by, and a ranker made of them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from notellm.data.impressions import click_histories, impressions_from_clicks
from notellm.data.sample_world import sample_world
from notellm.data.schema import IMPRESSIONS
from notellm.data.split import split_impressions
from notellm.errors import ConfigError, DataError
from notellm.files import write_parquet
from notellm.jobs.train_rank import train_rank
from notellm.rank.blend import Blend
from notellm.rank.config import RankOptions
from notellm.rank.scorer import Ranker
from notellm.recommend.candidates import candidate_lists, impressions_from_candidates
from notellm.recommend.near import merge_near
from notellm.recommend.recommender import Recommender
from notellm.record import make_record
from notellm.vectors import search, vector_table

K, LAST = 30, 4
#: Fingerprints of two models.
ONE, OTHER = "1" * 16, "2" * 16


def unit(count, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def world():
    """Notes, clicks, and vectors of all but a few notes."""
    sample = sample_world(notes=240, users=60, clicks=1_800, bots=0, seed=7)
    return sample.notes, sample.clicks, (sample.notes["note_id"].to_pylist()[:230], unit(230))


@pytest.fixture(scope="module")
def order_only(world):
    _, clicks, _ = world
    return clicks.set_column(
        2, clicks.schema.field(2), pa.array(range(len(clicks)), pa.int64()).cast(clicks.schema.field(2).type)
    )


def offered(vectors, history):
    """The candidates of a history, by their ids."""
    ids, table = vectors
    known = [ids.index(note_id) for note_id in history if note_id in ids]
    if not known:
        return []
    latest = [*dict.fromkeys(reversed(known))][:LAST]
    near = merge_near(*search(table, table[latest], K + len(set(known))), set(known), each=K, limit=K)
    return [ids[row] for row in near.rows]


@pytest.mark.parametrize("times", [True, False])
def test_rows_are_the_clicks_that_recall_offered_beside_others_that_it_did(world, order_only, times):
    _, clicks, vectors = world
    clicks = clicks if times else order_only
    rows = impressions_from_candidates(clicks, vectors, negatives=3, recall_k=K, last=LAST, seed=1)
    assert rows.schema == IMPRESSIONS
    assert rows["timestamp"].to_pylist() == sorted(rows["timestamp"].to_pylist())
    every = impressions_from_clicks(clicks)
    liked = every.filter(every["label"]).to_pylist()
    clicked = {user: set(history) for user, history in click_histories(clicks).items()}
    since = {row["note_id"]: row["timestamp"] for row in reversed(liked)}

    groups: list[list[dict[str, Any]]] = []
    for row in rows.to_pylist():
        if row["label"]:
            groups.append([row])
        else:
            groups[-1].append(row)
    used = []
    for click, *others in groups:
        candidates = offered(vectors, click["history"])
        assert click["note_id"] in candidates
        assert 1 <= len({row["note_id"] for row in others}) == len(others) <= 3
        for row in others:
            assert row["note_id"] in candidates
            assert row["note_id"] not in clicked[row["user_id"]]
            assert all(row[name] == click[name] for name in ("user_id", "timestamp", "history"))
            assert not times or since[row["note_id"]] < row["timestamp"]
        used.append((click["user_id"], click["note_id"]))
    # None is missing of which anything else was on offer.
    for row in liked:
        candidates = offered(vectors, row["history"])
        free = [
            note_id
            for note_id in candidates
            if note_id not in clicked[row["user_id"]]
            and (not times or (note_id in since and since[note_id] < row["timestamp"]))
        ]
        expected = row["note_id"] in candidates and bool(free)
        assert ((row["user_id"], row["note_id"]) in used) == expected
    again = impressions_from_candidates(clicks, vectors, negatives=3, recall_k=K, last=LAST, seed=1)
    assert again.equals(rows)


def test_a_log_without_order_has_the_same_order_in_histories_and_candidates(world):
    _, clicks, vectors = world
    moment = pa.array([0] * len(clicks), pa.int64()).cast(clicks.schema.field(2).type)
    tied = clicks.set_column(2, clicks.schema.field(2), moment)
    rows = impressions_from_candidates(tied, vectors, recall_k=K, last=LAST, seed=6)
    opened = click_histories(tied, seed=6)
    filled = 0
    for row in rows.to_pylist():
        own, history = opened[row["user_id"]], row["history"]
        assert history == own[: own.index(row["note_id"]) if row["label"] else len(history)][-50:]
        assert row["label"] == (row["note_id"] in own)
        filled += len(history) > 0
    assert filled == len(rows) > 50  # a row without history would have no candidates


def test_lists_hold_the_click_among_the_candidates(world):
    _, clicks, vectors = world
    ids, table = vectors
    rows = impressions_from_clicks(clicks)
    lists = candidate_lists(rows, vectors, recall_k=K, last=LAST)
    liked = {(row["user_id"], row["note_id"]): row["history"] for row in rows.to_pylist() if row["label"]}
    for entry in lists:
        assert entry.note_ids == offered(vectors, entry.history)
        assert liked[entry.user_id, entry.note_ids[entry.clicked]] == entry.history
        known = [ids.index(note_id) for note_id in reversed(entry.history) if note_id in ids]
        candidates = [ids.index(note_id) for note_id in entry.note_ids]
        np.testing.assert_allclose(
            entry.similarities, table[[*dict.fromkeys(known)][:LAST]] @ table[candidates].T, atol=1e-6
        )
    expected = sum(key[1] in offered(vectors, history) for key, history in liked.items())
    assert len(lists) == expected


@pytest.fixture(scope="module")
def fitted(world, tmp_path_factory):
    notes, clicks, vectors = world
    train, valid, _ = split_impressions(impressions_from_candidates(clicks, vectors), valid=0.15)
    folder = tmp_path_factory.mktemp("blend") / "ranker"
    options = RankOptions(max_steps=2, batch=8, evaluations=1, code_epochs=2, out_of_fold=0)
    arguments = {"vectors": vectors, "vectors_model": ONE, "histories": click_histories(clicks)}
    arguments["progress"] = False
    train_rank(notes, train, valid, folder, options=options, **arguments)
    return folder, train, valid, options, arguments


def test_a_ranker_keeps_its_blend_and_recommend_orders_by_it(world, fitted):
    _, clicks, (ids, table) = world
    folder, *_ = fitted
    ranker = Ranker.from_pretrained(folder)
    assert ranker.blend is not None
    assert ranker.histories == click_histories(clicks)
    recommender = Recommender.from_vectors(ids, table, ranker)
    user, history = max(ranker.histories.items(), key=lambda item: len(item[1]))
    recalled = recommender.recommend(user, k=50, recall_k=50, rerank=False).note_ids
    result = recommender.recommend(user, k=50, recall_k=50)
    assert result.basis.endswith("ranked by code and history, blended with similarity")
    sources = [n for n in dict.fromkeys(reversed(history)) if n in ids][:10]
    near = table[[ids.index(n) for n in sources]] @ table[[ids.index(n) for n in recalled]].T
    scores = ranker.blend.scores(near, ranker.scores(user, recalled)[0])
    assert result.note_ids == [recalled[i] for i in np.argsort(-scores, kind="stable")]
    np.testing.assert_allclose(result.scores, np.sort(scores)[::-1], rtol=1e-5)

    similarity_alone = Blend(best=1, latest=0, mean=0, log_odds=0)
    alone = Ranker(ranker.model, ranker.codes, ranker.table, ranker.histories, similarity_alone)
    assert Recommender.from_vectors(ids, table, alone).recommend(user, k=50, recall_k=50).note_ids == recalled
    assert alone.with_notes(ranker.table[:100]).blend == similarity_alone
    nobody = recommender.recommend(k=5)
    assert nobody.basis == "popular notes, ranked for a typical user"
    assert ((nobody.scores > 0) & (nobody.scores < 1)).all()


def test_a_blend_goes_with_vectors_of_its_own_model_alone(world, fitted, tmp_path):
    _, _, (ids, table) = world
    ranker = Ranker.from_pretrained(fitted[0])
    assert ranker.blend_model == ONE
    assert Recommender.from_vectors(ids, table, ranker, made_by=ONE).doubts == []
    with pytest.raises(DataError, match=f"the model {ONE}, not to those of these vectors, whose model is"):
        Recommender.from_vectors(ids, table, ranker, made_by=OTHER)
    with pytest.raises(DataError, match=OTHER):
        Recommender.from_vectors(ids, table, ranker.with_notes(ranker.table[:50]), made_by=OTHER)
    (doubt,) = Recommender.from_vectors(ids, table, ranker).doubts
    assert doubt.startswith("the model behind these vectors is not known")
    ranker.blend = None  # then P(enjoy) alone orders, which reads no vectors
    assert Recommender.from_vectors(ids, table, ranker, made_by=OTHER).doubts == []

    path = tmp_path / "vectors.parquet"
    for maker, about in ((ONE, {"model": {"fingerprint": ONE}}), (OTHER, {"model": {"fingerprint": OTHER}})):
        record = make_record(kind="vectors", config={}, data=about)
        write_parquet(vector_table(pa.array(ids), table), path, record=record, force=True)
        if maker == ONE:
            assert Recommender.load(path, fitted[0]).doubts == []
        else:
            with pytest.raises(DataError) as caught:
                Recommender.load(path, fitted[0])
            assert str(fitted[0]) in str(caught.value)
            assert str(path) in str(caught.value)
            assert "rank train --vectors" in str(caught.value)
    write_parquet(vector_table(pa.array(ids), table), path, force=True)
    (doubt,) = Recommender.load(path, fitted[0]).doubts
    assert doubt.startswith(f"the model behind {path} is not known")


@pytest.mark.slow
def test_a_run_with_other_vectors_is_not_gone_on_with(world, fitted, tmp_path, monkeypatch):
    notes, _, (ids, table) = world
    _, train, valid, options, arguments = fitted
    monkeypatch.setattr("notellm.jobs.train_rank.blend_for", lambda *_, **__: 1 / 0)  # cut off at the end
    with pytest.raises(ZeroDivisionError):
        train_rank(notes, train, valid, tmp_path / "r", options=options, **arguments)
    for vectors in ((ids, -table), None):  # of the former the similarities are the same, too
        other = {**arguments, "vectors": vectors, "resume": True}
        with pytest.raises(ConfigError, match="other vectors data"):
            train_rank(notes, train, valid, tmp_path / "r", options=options, **other)
    monkeypatch.undo()
    resumed = train_rank(notes, train, valid, tmp_path / "r", options=options, resume=True, **arguments)
    assert resumed.blend == Ranker.from_pretrained(fitted[0]).blend


def test_mistakes_are_told_before_any_work(world, fitted, tmp_path):
    notes, clicks, (ids, table) = world
    _, train, valid, options, _ = fitted
    with pytest.raises(ConfigError, match="negatives is 0"):
        impressions_from_candidates(clicks, (ids, table), negatives=0)
    with pytest.raises(DataError, match="give every note one vector"):
        impressions_from_candidates(clicks, (ids[:5], table))
    with pytest.raises(DataError, match=r"recall offers none of the .* clicks"):
        impressions_from_candidates(clicks, ([f"other {i}" for i in ids], table))
    few = valid[: valid["label"].to_pylist().index(False) + 1]  # a click or a few, and no more
    with pytest.raises(DataError, match=r"recall offers \d+ of \d+ validation clicks .* needs 20"):
        train_rank(notes, train, few, tmp_path / "r", options=options, vectors=(ids, table), progress=False)
    with pytest.raises(DataError, match="give every note one vector"):
        train_rank(notes, train, valid, tmp_path / "r", options=options, vectors=(ids, table[:5]))
    assert not (tmp_path / "r").exists()
