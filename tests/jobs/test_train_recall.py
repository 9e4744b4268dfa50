"""Training a model as a job: defaults, records, resuming."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from notellm.data.sample_world import sample_world
from notellm.data.split import split_by_note
from notellm.errors import ConfigError, StorageError
from notellm.files import read_json
from notellm.jobs.runs import discard_unfinished
from notellm.jobs.train_recall import build_recall_model, train_recall
from notellm.pairs.local import mine_pairs
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.record import describe

JOB = """
import sys
from notellm import RecallOptions, Validation, mine_pairs, sample_world, split_by_note, train_recall

world = sample_world(notes=260, users=150, clicks=4_000, bots=0, seed=5)
split = split_by_note(world.notes, world.clicks, valid=0.2)
pairs, held_out = (mine_pairs(part.clicks, progress=False) for part in (split.train, split.valid))
options = RecallOptions(max_steps=8, batch_pairs=4, evaluations=8)
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


def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole = job(tmp_path / "whole")
    killed = job(tmp_path / "killed")
    checkpoint = tmp_path / "killed.run" / "checkpoint-3" / "trainer_state.json"
    end = time.monotonic() + 120
    while not checkpoint.is_file() and killed.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert whole.wait() == 0
    assert job(tmp_path / "killed", "--resume").wait() == 0
    one = load_file(tmp_path / "whole" / "model.safetensors")
    two = load_file(tmp_path / "killed" / "model.safetensors")
    assert all((one[name] == two[name]).all() for name in one)
    assert one.keys() == two.keys()
    records = [read_json(tmp_path / name / "record.json") for name in ("whole", "killed")]
    assert records[0] == records[1]
    assert records[0]["metrics"]["untrained"].keys() == {"recall@10", "recall@100", "mrr", "mean"}
    assert "nan" not in (tmp_path / "killed" / "README.md").read_text()


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
