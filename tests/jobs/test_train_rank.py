"""Training a ranker as a job: options, records, resuming, histories, splits and evaluation."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

from notellm.data.impressions import impressions_from_clicks
from notellm.data.sample_world import sample_world
from notellm.data.schema import IMPRESSIONS
from notellm.data.split import split_impressions
from notellm.data.validate_impressions import validate_impressions
from notellm.errors import ConfigError, DataError
from notellm.evaluate.ranking import evaluate_ranking
from notellm.files import read_json
from notellm.jobs import rank_codes, rank_tuning
from notellm.jobs import train_rank as train_rank_module
from notellm.jobs.card import ranker_card
from notellm.jobs.evaluate_rank import evaluate_rank
from notellm.jobs.runs import train_or_resume
from notellm.jobs.train_rank import build_rank_model, liked_histories, train_rank
from notellm.rank.answers import fit_answer_rows
from notellm.rank.batch import NoteTexts, questions
from notellm.rank.collaborative.kinds import KINDS, Collaborative
from notellm.rank.config import RankOptions
from notellm.rank.scorer import Ranker
from notellm.rank.trainer import BinLLMTrainer
from notellm.record import describe, read_record

JOB = """
import sys
from notellm import RankOptions, impressions_from_clicks, sample_world, split_impressions, train_rank

world = sample_world(notes=220, users=40, clicks=600, bots=0, seed=5)
train, valid, _ = split_impressions(impressions_from_clicks(world.clicks))
options = RankOptions(max_steps=4, batch=8, evaluations=4, two_step=True, code_epochs=2, out_of_fold=2,
                         patience=3, learning_rate=1e-3)
train_rank(world.notes, train, valid, sys.argv[1], options=options, resume="--resume" in sys.argv,
           progress=False)
"""
QUICK: dict[str, Any] = {"max_steps": 2, "batch": 8, "evaluations": 1, "code_epochs": 3, "out_of_fold": 2}


@pytest.fixture(scope="module")
def world():
    sample = sample_world(notes=300, users=100, clicks=2_500, bots=0, seed=3)
    return sample.notes, *split_impressions(impressions_from_clicks(sample.clicks))


@pytest.fixture(scope="module")
def fitted(world, tmp_path_factory):
    """A trained ranker and its directory."""
    notes, train, valid, _ = world
    folder = tmp_path_factory.mktemp("fit") / "ranker"
    return train_rank(notes, train, valid, folder, options=RankOptions(**QUICK), progress=False), folder


def rows(*entries):
    """Impressions from (user, note, label, second, history)."""
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return pa.Table.from_pylist(
        [
            dict(zip(IMPRESSIONS.names, (u, n, label, start + timedelta(seconds=t), h), strict=True))
            for u, n, label, t, h in entries
        ],
        schema=IMPRESSIONS,
    )


def test_defaults_come_with_the_kind_of_backbone():
    tiny, large = RankOptions().resolved(), RankOptions(backbone="some/model").resolved()
    assert (tiny.template, tiny.lora, tiny.two_step, tiny.batch) == ("compact", False, False, 64)
    assert (large.template, large.lora, large.two_step, large.learning_rate) == ("notes", True, True, 1e-4)
    assert large.bits == 32
    assert large.history == 10
    assert not RankOptions(backbone="some/model", form="text_only").resolved().two_step
    assert RankOptions(epochs=7, two_step=True).resolved().epochs == 7


def test_all_wrong_options_are_told_together():
    wrong: dict[str, Any] = {"form": "ids", "bits": 12, "template": "klingon", "unknown": "x", "lora": True}
    wrong["answers"] = "words"
    options = RankOptions(**wrong, epochs=0, patience=0, out_of_fold=1)
    with pytest.raises(ConfigError) as caught:
        options.resolved()
    message = str(caught.value)
    for part in (
        "form is 'ids'",
        "bits is 12",
        "klingon",
        "epochs is 0",
        "patience is 0",
        "out_of_fold is 1",
        "answers is words, but the tiny backbone",
    ):
        assert part in message
    assert "LoRA" in message
    assert "unknown is 'x'" in message
    assert "\n" not in message


def test_the_ranker_is_written_with_its_record_and_opens_again(world, fitted):
    notes, train, valid, _ = world
    ranker, folder = fitted
    record = read_json(folder / "record.json")
    assert (record["kind"], record["seed"]) == ("ranker", 0)
    assert record["config"]["template"] == "compact"
    data = {"notes": describe(notes), "train": describe(train), "valid": describe(valid), "vectors": None}
    assert record["data"] == data
    metrics = record["metrics"]
    for name in ("codes", "untrained", "validation"):
        assert 0 < metrics[name]["auc"] < 1
        assert 0 < metrics[name]["uauc"] < 1
    assert metrics["codes_step"]["steps"] == 2
    assert [entry["step"] for entry in metrics["codes_step"]["history"]] == [2]
    card = (folder / "README.md").read_text()
    assert f"{train.num_rows:,} impressions of {notes.num_rows:,} notes" in card
    assert f"{metrics['validation']['auc']:.4f}" in card
    run = folder.with_name("ranker.run")
    assert (run / "started.json").is_file()
    assert not [path for path in run.rglob("*") if "checkpoint" in path.name or path.name == "tuned"]
    again = Ranker.from_pretrained(folder)
    assert record["fingerprint"] == again.model.fingerprint()
    user = valid["user_id"][0].as_py()
    candidates = notes["note_id"].to_pylist()[:9]
    one, two = ranker.rank(user, candidates), again.rank(user, candidates)
    assert one.note_ids == two.note_ids
    np.testing.assert_allclose(one.scores, two.scores, atol=1e-6)
    assert one.basis == "code and history"


@pytest.mark.slow
def test_the_untrained_figures_are_those_of_the_model_after_its_answers_are_fitted(
    world, tmp_path, monkeypatch
):
    """Otherwise nothing would tell whether the tuning helped."""
    notes, train, valid, _ = world
    answered = []

    def remember(model, *arguments, **options):
        fit_answer_rows(model, *arguments, **options)
        table, _ = validate_impressions(valid, notes)
        asked = questions(model, NoteTexts(model, notes), table, None)
        answered.append(roc_auc_score(table["label"].to_numpy(), model.predict(model.tokenize(asked))))

    monkeypatch.setattr(rank_tuning, "fit_answer_rows", remember)
    options = RankOptions(**QUICK | {"form": "text_only"})
    train_rank(notes, train, valid, tmp_path / "ranker", options=options, progress=False)
    untrained = read_json(tmp_path / "ranker" / "record.json")["metrics"]["untrained"]
    assert untrained["auc"] == pytest.approx(answered[0], abs=1e-6)


TEXT_ONLY = {"form": "text_only"}, [0.7, 0.6]  # before the step, after it
# Codes alone, the start; text before and after: better; with codes before and after: better, below the start.
TWO_STEP = {"two_step": True}, [0.6, 0.7, 0.5, 0.6, 0.5, 0.65]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "aucs"), [TEXT_ONLY, TWO_STEP])
def test_what_only_made_it_worse_is_undone(how, aucs, world, tmp_path, monkeypatch):
    notes, train, valid, _ = world

    def spoil(self, **_):
        for parameter in self.model.parameters():
            parameter.data.normal_()

    monkeypatch.setattr(BinLLMTrainer, "train", spoil)
    kept: dict[str, Any] = {}
    figures = iter(aucs)

    def told(table, scores):
        del table, scores
        return {"auc": next(figures)}

    options = RankOptions(**QUICK | how)
    for module in (train_rank_module, rank_tuning):
        monkeypatch.setattr(module, "ranking_figures", told)

    def remember(model, *arguments, **options):
        fit_answer_rows(model, *arguments, **options)
        if not kept:
            kept.update({name: w.clone() for name, w in model.named_parameters()})

    monkeypatch.setattr(rank_tuning, "fit_answer_rows", remember)
    ranker = train_rank(notes, train, valid, tmp_path / "ranker", options=options, progress=False)
    assert all((kept[name] == weight).all() for name, weight in ranker.model.named_parameters())
    metrics = read_json(tmp_path / "ranker" / "record.json")["metrics"]
    assert metrics["text_step"]["kept_start"] == (how == TEXT_ONLY[0])
    assert metrics["validation"] == metrics["untrained"] == {"auc": 0.7}


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    """Killed in the second of two steps: the codes and the first step are kept, not made again."""
    killed = subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path / "killed")],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    checkpoint = tmp_path / "killed.run" / "codes" / "checkpoint-2" / "trainer_state.json"
    end = time.monotonic() + 150
    while not checkpoint.is_file() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert (tmp_path / "killed.run" / "text" / "tuned" / "metrics.json").is_file()

    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "whole")])
    exec(JOB, {})
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "killed"), "--resume"])
    monkeypatch.delattr(rank_codes, "fit_out_of_fold")
    exec(JOB, {})
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == two.keys()
    assert all((one[name] == two[name]).all() for name in one)
    records = [read_json(tmp_path / name / "record.json") for name in ("whole", "killed")]
    assert records[0] == records[1]
    assert len(records[0]["metrics"]["codes_step"]["history"]) == 4
    assert not (tmp_path / "killed.run" / "fitted_codes").exists()


def test_an_unfinished_run_is_neither_lost_nor_mixed(world, tmp_path, monkeypatch):
    notes, train, valid, _ = world

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(rank_tuning, "NoteTexts", cut_off)
        with pytest.raises(KeyboardInterrupt):
            train_rank(notes, train, valid, tmp_path / "r", options=RankOptions(**QUICK), progress=False)
    other = RankOptions(**QUICK | {"batch": 4})
    with pytest.raises(ConfigError, match="--resume"):
        train_rank(notes, train, valid, tmp_path / "r", options=other, progress=False)
    with pytest.raises(ConfigError, match="batch was 8, is 4; other valid data"):
        train_rank(notes, train, train, tmp_path / "r", options=other, resume=True, progress=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "lora"), [("llama", True), ("qwen2", False), ("neox", True)])
def test_a_pretrained_backbone_is_tuned_in_two_steps(name, lora, checkpoints, world, tmp_path):
    """Tied embeddings (qwen2) and other projections than q and v (neox) among them."""
    if lora:
        pytest.importorskip("peft")
    notes, train, valid, _ = world
    options = RankOptions(
        **QUICK,
        backbone=str(checkpoints[name].path),
        lora=lora,
        template="compact",
        history=2,
        title_tokens=6,
        learning_rate=1e-2,
    )
    ranker = train_rank(notes, train[:80], valid[:40], tmp_path / "ranker", options=options, progress=False)
    metrics = read_json(tmp_path / "ranker" / "record.json")["metrics"]
    assert metrics["text_step"]["steps"] == metrics["codes_step"]["steps"] == 2
    assert metrics.keys() >= {"codes", "untrained", "validation"}
    again = Ranker.from_pretrained(tmp_path / "ranker")
    assert not any("lora" in name for name, _ in again.model.named_parameters())
    candidates = notes["note_id"].to_pylist()[:5]
    scores, _ = ranker.scores(None, candidates, history=candidates[:2])
    np.testing.assert_allclose(again.scores(None, candidates, history=candidates[:2])[0], scores, atol=1e-4)


PRETRAINED: dict[str, Any] = {"template": "compact", "history": 2, "title_tokens": 6, "learning_rate": 1e-2}


def test_a_pretrained_backbone_answers_by_words_or_by_a_head_fitted_first(checkpoints, world, tmp_path):
    notes, train, valid, _ = world
    built: dict[str, Any] = {"backbone": str(checkpoints["qwen2"].path), "lora": False, "form": "text_only"}
    for answers in ("words", "fitted"):
        options = RankOptions(**QUICK, **PRETRAINED, **built, answers=answers, answer_rows=50)
        ranker = train_rank(
            notes, train[:80], valid[:40], tmp_path / answers, options=options, progress=False
        )
        assert (ranker.model.answer_head is not None) == (answers == "fitted")
        assert read_record(tmp_path / answers)["config"]["answers"] == answers
    again = RankOptions(**QUICK, **PRETRAINED, **built | {"backbone": str(tmp_path / "fitted")})
    words = replace(again, answers="words")
    assert build_rank_model(again, notes, train).answer_head is not None
    assert build_rank_model(words, notes, train).answer_head is None


@pytest.mark.slow
def test_the_fitted_answers_of_a_cut_off_run_are_not_fitted_again(checkpoints, world, tmp_path, monkeypatch):
    """Cut off before the last of two steps, by when the answers were fitted three times."""
    pytest.importorskip("peft")
    notes, train, valid, _ = world
    options = RankOptions(**QUICK, **PRETRAINED, backbone=str(checkpoints["qwen2"].path), answer_rows=50)

    def tuned(folder, **more):
        return train_rank(notes, train[:80], valid[:40], folder, options=options, progress=False, **more)

    whole = tuned(tmp_path / "whole")
    calls: list[int] = []

    def cut_off(trainer):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        train_or_resume(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(rank_tuning, "train_or_resume", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tuned(tmp_path / "cut")
    kept = sorted(path.name for path in (tmp_path / "cut.run").glob("fitted_answers*"))
    assert kept == ["fitted_answers", "fitted_answers_codes", "fitted_answers_text"]
    monkeypatch.delattr(rank_tuning, "fit_answer_head")
    resumed = tuned(tmp_path / "cut", resume=True)
    assert not [*(tmp_path / "cut.run").glob("fitted_answers*")]
    assert resumed.model.fingerprint() == whole.model.fingerprint()
    assert read_record(tmp_path / "cut")["metrics"] == read_record(tmp_path / "whole")["metrics"]


def test_histories_are_what_users_liked_by_the_end_oldest_first():
    early = rows(("a", "n1", True, 1, []), ("b", "n9", False, 1, []), ("a", "n2", False, 2, ["n1"]))
    late = rows(("a", "n4", True, 9, ["n1", "n3"]), ("a", "n5", True, 8, ["n1", "n3"]))
    assert liked_histories(early, late) == {"a": ["n1", "n3", "n5", "n4"], "b": []}
    assert liked_histories(late, early) == liked_histories(early, late)
    many = rows(*(("a", f"n{i}", True, i, [f"n{j}" for j in range(max(0, i - 50), i)]) for i in range(70)))
    assert liked_histories(many)["a"] == [f"n{i}" for i in range(70)]  # or what was seen comes back


def test_histories_of_a_click_log_are_the_clicks_themselves(world):
    clicks = sample_world(notes=300, users=100, clicks=2_500, bots=0, seed=3).clicks
    _, train, valid, test = world
    histories = liked_histories(train, valid, test)
    clicks = clicks.filter(pc.equal(clicks["event"], "click"))
    clicked: dict[str, set[str]] = {user: set() for user in histories}
    for user, note in zip(clicks["user_id"].to_pylist(), clicks["note_id"].to_pylist(), strict=True):
        clicked[user].add(note)
    assert sum(map(len, histories.values())) > 500
    assert {user: set(history) for user, history in histories.items()} == clicked


def test_a_log_of_order_alone_is_split_by_each_users_sequence():
    clicks = sample_world(notes=60, users=30, clicks=900, bots=0, seed=1).clicks
    user = clicks["user_id"].to_pylist()
    nth: dict[str, int] = {}
    times = []
    for name in user:
        nth[name] = nth.get(name, 0) + 1
        times.append(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=nth[name]))
    ordered = clicks.set_column(2, clicks.schema.field("timestamp"), pa.array(times, clicks.schema.types[2]))
    impressions = impressions_from_clicks(ordered)
    parts = split_impressions(impressions, valid=0.1, test=0.2)
    assert sum(part.num_rows for part in parts) == impressions.num_rows
    bounds = [
        part.group_by("user_id").aggregate([("timestamp", "min"), ("timestamp", "max")]).to_pylist()
        for part in parts
    ]
    compared = 0
    for early, late in pairwise(bounds):
        last = {row["user_id"]: row["timestamp_max"] for row in early}
        for row in late:
            assert row["timestamp_min"] >= last.get(row["user_id"], row["timestamp_min"])
            compared += row["user_id"] in last
    assert compared > 20
    # A click and the note drawn in its place stay together, and the shares of moments are as asked.
    moments = [set(zip(p["user_id"].to_pylist(), p["timestamp"].to_pylist(), strict=True)) for p in parts]
    assert not moments[0] & moments[1]
    assert not moments[1] & moments[2]
    every = moments[0] | moments[1] | moments[2]
    for name in {user for user, _ in every}:
        count, held_out = (sum(user == name for user, _ in part) for part in (every, moments[2]))
        assert abs(held_out - 0.2 * count) < 1
    with pytest.raises(ConfigError, match="test is 0"):
        split_impressions(impressions, test=0)
    one_each = impressions.group_by("user_id").aggregate([("timestamp", "min")])
    assert one_each.num_rows > 1
    with pytest.raises(DataError, match="a part is empty"):
        split_impressions(impressions[:2])


def test_evaluation_has_the_baselines_and_the_groups(world, fitted, tmp_path):
    notes, train, _, test = world
    ranker, _ = fitted
    result = evaluate_rank(ranker, test, train=train, resamples=20, progress=False)
    assert [r.name for r in result.results] == ["item popularity", "BinMF", "BinLLM"]
    assert {"warm", "cold item"} <= set(result.results[-1].by_group)
    liked = train.filter(train["label"])["note_id"].to_pylist()
    counts = [liked.count(note_id) for note_id in test["note_id"].to_pylist()]
    assert result.results[0].figures["AUC"] == evaluate_ranking(test, counts, resamples=20).figures["AUC"]
    result.save(tmp_path / "report")
    assert "BinMF" in (tmp_path / "report" / "report.md").read_text()
    assert read_json(tmp_path / "report" / "results.json")["ranking"][2]["name"] == "BinLLM"
    record = read_json(tmp_path / "report" / "record.json")
    assert record["data"]["ranker"]["fingerprint"] == ranker.model.fingerprint()
    assert record["metrics"]["ranking"]["AUC"] == result.results[-1].figures["AUC"].mean

    alone = evaluate_rank(ranker, test, resamples=20, progress=False)  # without the training rows
    assert alone.results[-1].figures == result.results[-1].figures
    by_train, by_codes = result.results[-1].by_group, alone.results[-1].by_group
    assert {name: part.rows for name, part in by_train.items()} == {
        name: part.rows for name, part in by_codes.items()
    }
    scores = np.arange(test.num_rows)
    scored = evaluate_rank({"mine": scores}, test, train=train, resamples=20)
    assert [r.name for r in scored.results] == ["item popularity", "mine"]
    fewer = Ranker(ranker.model, ranker.codes, notes[:200], ranker.histories)
    dropped = evaluate_rank(fewer, test, resamples=20, progress=False).record["metrics"]["dropped"]
    assert dropped["impression of an unknown note"] > 0


@pytest.mark.parametrize("kind", get_args(Collaborative))
def test_codes_alone_are_named_after_their_model(world, fitted, kind):
    ranker, folder = fitted
    described = replace(ranker.codes, description={"options": {"collaborative": kind}})
    other = Ranker(ranker.model, described, world[0], ranker.histories)
    result = evaluate_rank(other, world[3], resamples=2, progress=False)
    assert result.results[1].name == KINDS[kind].label
    record = read_record(folder)
    card = ranker_card("r", record | {"config": record["config"] | {"collaborative": kind}})
    assert f"codes alone ({KINDS[kind].label})" in card
