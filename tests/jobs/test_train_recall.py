"""Training a model as a job: defaults, records, resuming."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from notellm.data.sample_world import sample_world
from notellm.data.split import split_by_note
from notellm.errors import ConfigError, StorageError
from notellm.files import read_json
from notellm.jobs import recall_model, runs
from notellm.jobs import train_recall as job_module
from notellm.jobs.recall_model import build_recall_model, build_untrained
from notellm.jobs.runs import discard_unfinished
from notellm.jobs.train_recall import WRITING, _hide_answers, train_recall
from notellm.options import filled
from notellm.pairs.local import mine_pairs
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.known import FILE as KNOWN
from notellm.recall.tagging.tagger import WEIGHTS
from notellm.recall.tiny import TinyOptions
from notellm.recall.trainer import Validation
from notellm.record import describe
from tests.conftest import SMALL

JOB = """
import sys
from notellm import RecallOptions, Validation, mine_pairs, sample_world, split_by_note, train_recall

world = sample_world(notes=260, users=150, clicks=4_000, bots=0, seed=5)
split = split_by_note(world.notes, world.clicks, valid=0.2)
pairs, held_out = (mine_pairs(part.clicks, progress=False) for part in (split.train, split.valid))
options = RecallOptions(max_steps=8, batch_pairs=4, evaluations=8, tiny_hidden=32, tiny_layers=2)
validation = Validation(split.valid.notes, held_out)
train_recall(split.train.notes, pairs, sys.argv[1], options=options, validation=validation,
    resume="--resume" in sys.argv, progress=False)
"""


def job(target, *more):
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(target), *more], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )


def test_defaults_come_with_the_kind_of_backbone():
    tiny, large = RecallOptions().resolved(), RecallOptions(backbone="some/model").resolved()
    assert (tiny.template, tiny.lora, large.template, large.lora) == ("compact", False, "english", True)
    assert (large.tau, large.alpha, large.topic_share, large.dim, large.batch_pairs) == (
        3.0,
        0.01,
        0.4,
        128,
        64,
    )
    assert RecallOptions(backbone="some/model", lora=False).resolved().learning_rate == 3e-6
    assert RecallOptions(tau=1.0, epochs=7).resolved().tau == 1.0
    with pytest.raises(ConfigError, match="LoRA"):
        RecallOptions(lora=True).resolved()


def test_the_size_of_the_tiny_backbone_is_an_option():
    given: dict[str, Any] = {"tiny_layers": 3, "tiny_hidden": 64}
    for name, value in given.items():
        assert getattr(replace(RecallOptions(), **{name: value}).resolved(), name) == value
        with pytest.raises(ConfigError, match=f"{name} is {value}, but the backbone is 'some/model'"):
            replace(RecallOptions(backbone="some/model"), **{name: value}).resolved()
    with pytest.raises(ConfigError, match="tiny_hidden is 100; it must be a multiple of 8"):
        RecallOptions(tiny_hidden=100).resolved()
    with pytest.raises(ConfigError, match=r"tiny_layers is 0.*tiny_hidden is 0; it must be at least 8"):
        RecallOptions(tiny_layers=0, tiny_hidden=0).resolved()


def test_the_tiny_backbone_has_the_size_asked_for_and_is_built_again_with_it(notes, pairs, tmp_path):
    options = RecallOptions(
        tiny_layers=3,
        tiny_hidden=40,
        mask_false_negatives=False,
        learn_tau=False,
        max_steps=2,
        batch_pairs=4,
        dim=8,
        writing_epochs=0,
    )
    start = build_recall_model(options, notes)
    config = start.config.get_text_config()
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (3, 40, 80)
    trained = train_recall(notes, pairs, tmp_path / "model", options=options, progress=False)
    assert float(trained.tau.detach()) == options.resolved().tau
    assert np.abs(trained.encode(notes) - start.encode(notes)).max() > 1e-4
    again = build_untrained(tmp_path / "model", notes, notes.slice(0, 0))
    np.testing.assert_array_equal(again.encode(notes), start.encode(notes))
    config = read_json(tmp_path / "model" / "record.json")["config"]
    names = ("tiny_layers", "tiny_hidden", "mask_false_negatives", "learn_tau")
    assert [config[name] for name in names] == [3, 40, False, False]


def test_without_a_size_the_tiny_backbone_has_its_measured_one(notes):
    config = build_recall_model(RecallOptions(), notes).config.get_text_config()
    size = TinyOptions()
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (
        size.layers,
        size.hidden,
        size.intermediate,
    )


@pytest.mark.parametrize("changed", [{"tiny_layers": 1}, {"tiny_hidden": 32}, {"learn_tau": False}])
def test_a_run_is_not_resumed_with_another_size(notes, pairs, tmp_path, changed, monkeypatch):
    given: dict[str, Any] = {
        "max_steps": 2,
        "batch_pairs": 4,
        "dim": 8,
        "writing_epochs": 0,
        "tiny_hidden": 16,
    }

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.Run, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train_recall(notes, pairs, tmp_path / "model", options=RecallOptions(**given), progress=False)
    (name,) = changed
    with pytest.raises(ConfigError, match=f"started differently .*{name} was"):
        train_recall(
            notes,
            pairs,
            tmp_path / "model",
            options=RecallOptions(**(given | changed)),
            resume=True,
            progress=False,
        )


def test_a_learnt_tau_outlives_the_training_of_the_output_head(notes, pairs, tmp_path):
    options = RecallOptions(tiny_hidden=16, max_steps=3, batch_pairs=4, dim=8, head_learning_rate=0.1)
    trained = train_recall(notes, pairs, tmp_path / "model", options=options, progress=False)
    assert read_json(tmp_path / "model" / "record.json")["metrics"]["writing_steps"] == 3
    assert abs(float(trained.tau.detach()) - filled(options.resolved().tau)) > 0.01


def kill_at(checkpoint, target, *more):
    """Kill a job when it has written a checkpoint."""
    killed = job(target, *more)
    end = time.monotonic() + 120
    while not checkpoint.is_file() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not target.exists()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    """Killed in the joint training, and again in the training of the output head."""
    whole, target = tmp_path / "whole", tmp_path / "killed"
    work = tmp_path / "killed.run"
    kill_at(work / "checkpoint-3" / "trainer_state.json", target)
    kill_at(work / WRITING / "checkpoint-3" / "trainer_state.json", target, "--resume")
    for arguments in ([str(target), "--resume"], [str(whole)]):
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        exec(JOB, {})
    one = load_file(whole / "model.safetensors")
    two = load_file(target / "model.safetensors")
    assert all((one[name] == two[name]).all() for name in one)
    assert one.keys() == two.keys()
    records = [read_json(folder / "record.json") for folder in (whole, target)]
    assert records[0] == records[1]
    assert records[0]["metrics"]["untrained"].keys() == {"recall@10", "recall@100", "mrr", "mean"}
    assert "nan" not in (target / "README.md").read_text()
    for file in (WEIGHTS, KNOWN):
        assert (target / file).read_bytes() == (whole / file).read_bytes()


def test_a_folder_of_somebody_else_at_the_place_of_the_run_is_not_touched(tmp_path):
    world = sample_world(notes=260, users=150, clicks=4_000, bots=0, seed=5)
    mine = tmp_path / "model.run" / "checkpoint-drafts" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("x")
    for work in (
        lambda: train_recall(
            world.notes, None, tmp_path / "model", options=RecallOptions(max_steps=1), progress=False
        ),
        lambda: discard_unfinished(tmp_path / "model.run"),
    ):
        with pytest.raises(StorageError, match="is not the working folder of a notellm run"):
            work()
    assert mine.read_text() == "x"


@pytest.mark.slow
def test_the_record_is_resolved_and_checkpoints_go(tmp_path):
    world = sample_world(notes=260, users=150, clicks=4_000, bots=0, seed=5)
    part = split_by_note(world.notes, world.clicks, valid=0).train
    pairs = mine_pairs(part.clicks, progress=False)
    options = RecallOptions(max_steps=2, batch_pairs=4, seed=9)
    train_recall(part.notes, pairs, tmp_path / "model", clicks=part.clicks, options=options, progress=False)
    record = read_json(tmp_path / "model" / "record.json")
    assert record["config"]["template"] == "compact"
    assert record["seed"] == 9
    assert record["metrics"]["steps"] == 2
    tables = {"notes": part.notes, "pairs": pairs, "clicks": part.clicks}
    assert record["data"] == {name: describe(table) for name, table in tables.items()} | {"validation": None}
    assert record["fingerprint"] == NoteLLM.from_pretrained(tmp_path / "model").fingerprint()
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{part.notes.num_rows:,} notes and {pairs.num_rows:,} related pairs" in card
    assert not list((tmp_path / "model.run").glob("checkpoint-*"))
    with pytest.raises(ConfigError, match="max_steps is 0"):
        train_recall(part.notes, pairs, tmp_path / "none", options=RecallOptions(max_steps=0), progress=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("lora", [True, False])
def test_a_pretrained_backbone_is_trained_and_opens_again(lora, checkpoints, notes, pairs, tmp_path):
    """By path, with adapters or whole; what is written needs neither peft nor the checkpoint it came from."""
    path = checkpoints["llama"].path
    options = RecallOptions(
        backbone=str(path),
        lora=lora,
        max_steps=3,
        batch_pairs=4,
        dim=16,
        learning_rate=1e-2,
        template="compact",
    )
    before = build_recall_model(options, notes).encode(notes)
    np.testing.assert_array_equal(build_recall_model(options, notes).encode(notes), before)
    trained = train_recall(notes, pairs, tmp_path / "model", options=options, progress=False)
    again = NoteLLM.from_pretrained(tmp_path / "model")
    np.testing.assert_allclose(again.encode(notes), trained.encode(notes), atol=1e-5)
    assert not any("lora" in name for name, _ in again.named_parameters())
    assert np.abs(before - again.encode(notes)).max() > 1e-3  # it has learnt something
    assert sorted(set(notes.column("category").to_pylist()) - {""}) == again.settings.categories


# ---------------------------------------------------------------- hidden answers


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=800, users=150, clicks=4_000, bots=0, seed=5)


def hide(notes, validation=None, seed=0):
    """Notes that are held out, at least some, and the notes that are left to learn from."""
    held_out, taught = _hide_answers(notes, validation, seed)
    assert held_out is not None
    return held_out, taught


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(recall_model, "TinyOptions", lambda: SMALL)


def answers(table):
    return dict(
        zip(
            table["note_id"].to_pylist(),
            zip(table["topics"].to_pylist(), table["category"].to_pylist(), strict=True),
            strict=True,
        )
    )


def test_a_tenth_of_the_answers_is_hidden(world):
    held_out, taught = hide(world.notes)
    assert taught.schema == world.notes.schema
    assert taught.drop_columns(["topics", "category"]).equals(
        world.notes.drop_columns(["topics", "category"])
    )
    true, told = answers(world.notes), answers(taught)
    hidden = {note_id for note_id in true if told[note_id] == ([], "")}
    assert all(told[note_id] == true[note_id] for note_id in true if note_id not in hidden)
    labelled = [note_id for note_id, (topics, category) in true.items() if topics or category]
    assert len(hidden.intersection(labelled)) == pytest.approx(len(labelled) // 10, abs=3)
    assert answers(held_out) == {note_id: true[note_id] for note_id in held_out["note_id"].to_pylist()}
    assert hidden.intersection(labelled) <= set(held_out["note_id"].to_pylist())
    again, _ = hide(world.notes)
    assert again.equals(held_out)
    other, _ = hide(world.notes, seed=1)
    assert not other.equals(held_out)


def test_notes_of_one_text_are_hidden_together(world):
    """Each text three times, under different ids."""
    copies = pa.concat_tables(
        world.notes.set_column(
            0, "note_id", pa.array([f"{copy}-{note_id}" for note_id in world.notes["note_id"].to_pylist()])
        )
        for copy in range(3)
    ).combine_chunks()
    held_out, _ = hide(copies)
    texts = set(zip(held_out["title"].to_pylist(), held_out["content"].to_pylist(), strict=True))
    everything = zip(copies["title"].to_pylist(), copies["content"].to_pylist(), strict=True)
    assert held_out.num_rows == sum(text in texts for text in everything)


def test_a_text_that_very_many_notes_have_leaves_something_to_learn(world):
    """Half of the notes have the same text."""
    same = pa.array(["the same"] * 600)
    half = world.notes.slice(0, 600)
    for name in ("title", "content"):
        half = half.set_column(half.schema.get_field_index(name), half.schema.field(name), same)
    more = sample_world(notes=600, users=20, clicks=100, bots=0, seed=6).notes
    notes = pa.concat_tables([half, world.notes.slice(600), more]).combine_chunks()
    for seed in range(20):
        held_out, taught = hide(notes, seed=seed)
        assert held_out.num_rows < 200
        assert any(taught["topics"].to_pylist())
    assert _hide_answers(half, None, 0) == (None, half)


def test_few_notes_hide_nothing_and_validation_notes_are_used_first(world):
    few = world.notes.slice(0, 300)
    held_out, taught = _hide_answers(few, None, 0)
    assert held_out is None
    assert taught is few
    validation = Validation(world.notes.slice(600), pa.table({}))
    held_out, taught = hide(few, validation)
    assert held_out is validation.notes
    assert taught is few
    held_out, taught = hide(world.notes, Validation(few.slice(0, 10), pa.table({})))
    assert held_out.num_rows > 50
    assert taught is not world.notes


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_no_hidden_answer_reaches_the_training_and_all_are_known_afterwards(world, tmp_path, monkeypatch):
    held_out, _ = hide(world.notes, seed=3)
    seen = []

    def watched(function, name):
        def call(*args, **options):
            seen.append(options.get("notes", args[1] if name == "build_recall_model" else None))
            return function(*args, **options)

        return call

    for name in ("build_recall_model", "NoteLLMTrainer"):
        monkeypatch.setattr(job_module, name, watched(getattr(job_module, name), name))
    pairs = mine_pairs(world.clicks, progress=False)
    options = RecallOptions(max_steps=1, batch_pairs=4, dim=16, seed=3)
    model = train_recall(world.notes, pairs, tmp_path / "model", options=options, progress=False)
    assert len(seen) == 3  # the start, the joint training and the writing
    for table in seen:
        told = answers(table)
        assert all(told[note_id] == ([], "") for note_id in held_out["note_id"].to_pylist())
    assert model.tagger is not None
    labelled = {note_id for note_id, (topics, category) in answers(world.notes).items() if topics or category}
    assert model.tagger.known_ids == labelled
    assert model.tagger.weights["category"].fitted_on > 50
    assert set(model.settings.categories) == {category for _, category in answers(world.notes).values()} - {
        ""
    }


@pytest.mark.slow
@pytest.mark.usefixtures("_small")
def test_learning_to_write_changes_no_vector(world, tmp_path):
    notes = world.notes.slice(0, 200)
    pairs = mine_pairs(world.clicks, progress=False)
    kept = set(notes["note_id"].to_pylist())
    pairs = pa.Table.from_pylist(
        [pair for pair in pairs.to_pylist() if {pair["source"], pair["target"]} <= kept], schema=pairs.schema
    )
    trained = {}
    for epochs in (0.0, 2.0):
        options = RecallOptions(max_steps=None, epochs=0.5, batch_pairs=8, dim=16, writing_epochs=epochs)
        path = tmp_path / str(epochs)
        trained[epochs] = train_recall(notes, pairs, path, options=options, progress=False)
        assert not list((tmp_path / f"{epochs}.run").rglob("checkpoint-*"))
    np.testing.assert_array_equal(trained[0.0].encode(notes), trained[2.0].encode(notes))
    heads = [each.backbone.get_output_embeddings().weight for each in trained.values()]
    assert not (heads[0] == heads[1]).all()
    metrics = [read_json(tmp_path / str(epochs) / "record.json")["metrics"] for epochs in trained]
    assert "writing_steps" not in metrics[0]
    batch = RecallOptions().resolved(pairs=False).batch_pairs  # of the writing, not of the joint training
    assert metrics[1]["writing_steps"] == round(2 * notes.num_rows / batch)
