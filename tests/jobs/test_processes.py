"""Several processes train one model: all compute it, one of them writes it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from notellm.backbone.load import to_accelerator
from notellm.files import read_json

ROOT = Path(__file__).resolve().parents[2]
JOB = """
import sys
from notellm import RecallOptions, Validation, mine_pairs, sample_world, split_by_note
from notellm.jobs import train_recall as job
from tests.conftest import SMALL

job.TinyOptions = lambda: SMALL
world = sample_world(notes=200, users=80, clicks=2_000, bots=0, seed=5)
split = split_by_note(world.notes, world.clicks, valid=0.2)
pairs, held_out = (mine_pairs(part.clicks, progress=False) for part in (split.train, split.valid))
options = RecallOptions(
    max_steps=2, batch_pairs=int(sys.argv[2]), evaluations=2, alpha=0.0, writing_epochs=0.0, dim=16
)
validation = Validation(split.valid.notes, held_out)
job.train_recall(split.train.notes, pairs, sys.argv[1], options=options, validation=validation)
"""


def start(target, batch, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", JOB, str(target), str(batch)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_make_the_model_of_one_with_twice_the_batch(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(tmp_path / "two", 8, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")]
    output = [process.communicate(timeout=280)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], output[0][-3000:] + output[1][-3000:]
    assert "2/2" in output[0]
    assert "2/2" not in output[1]  # the main process alone shows progress

    one = start(tmp_path / "one", 16)
    assert one.wait(timeout=280) == 0
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-6, rtol=0)
    records = [read_json(tmp_path / name / "record.json") for name in ("two", "one")]
    assert records[0]["metrics"]["validation"] == pytest.approx(records[1]["metrics"]["validation"], abs=1e-3)
    assert not list(tmp_path.glob("two.run/checkpoint-*"))


def test_a_process_takes_the_accelerator_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("meta"))
    monkeypatch.setenv("LOCAL_RANK", "3")
    places: list[torch.device] = []
    module: Any = SimpleNamespace(to=places.append)
    to_accelerator(module)
    assert places == [torch.device("meta", 3)]
