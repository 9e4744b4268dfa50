"""Several processes train one model: all compute it, one of them writes it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from notellm.backbone.load import to_accelerator
from notellm.data.sample_world import sample_world
from notellm.data.schema import IMPRESSIONS, NOTES
from notellm.data.split import split_by_note
from notellm.errors import ConfigError
from notellm.files import read_json
from notellm.jobs import recall_model
from notellm.jobs import train_recall as job
from notellm.jobs.train_rank import train_rank
from notellm.pairs.local import mine_pairs
from notellm.recall.config import RecallOptions
from notellm.recall.trainer import Validation
from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("notes", "pairs", "held_out_notes", "held_out_pairs")


def train(data: Path, output: Path, batch: int) -> None:
    """Train a small model on tables from a folder, in this process."""
    notes, pairs, *held_out = (pq.read_table(data / f"{name}.parquet") for name in NAMES)
    options = RecallOptions(
        max_steps=2, batch_pairs=batch, evaluations=2, alpha=0.0, writing_epochs=0.0, dim=16
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_model, "TinyOptions", lambda: SMALL)
        job.train_recall(notes, pairs, output, options=options, validation=Validation(*held_out))


def start(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.test_processes", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_make_the_model_of_one_with_twice_the_batch(tmp_path):
    world = sample_world(notes=200, users=80, clicks=2_000, bots=0, seed=5)
    split = split_by_note(world.notes, world.clicks, valid=0.2)
    tables = [
        table
        for part in (split.train, split.valid)
        for table in (part.notes, mine_pairs(part.clicks, progress=False))
    ]
    for name, table in zip(NAMES, tables, strict=True):
        pq.write_table(table, tmp_path / f"{name}.parquet")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        start(tmp_path, tmp_path / "two", 8, RANK=rank, LOCAL_RANK=rank, **shared) for rank in ("0", "1")
    ]
    output = [process.communicate(timeout=280)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], output[0][-3000:] + output[1][-3000:]
    assert "trained 2 steps" in output[0]
    assert "trained 2 steps" not in output[1]  # the main process alone shows progress

    train(tmp_path, tmp_path / "one", 16)
    weights, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-6, rtol=0)
    records = [read_json(tmp_path / name / "record.json") for name in ("two", "one")]
    assert records[0]["metrics"]["validation"] == pytest.approx(records[1]["metrics"]["validation"], abs=1e-3)
    assert not list(tmp_path.glob("two.run/checkpoint-*"))


def test_a_ranker_is_refused_to_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    empty = IMPRESSIONS.empty_table()
    with pytest.raises(ConfigError, match="WORLD_SIZE is 4"):
        train_rank(NOTES.empty_table(), empty, empty, tmp_path / "ranker")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("seen", "taken"), [(8, 3), (1, 0)])
def test_a_process_takes_the_accelerator_of_its_number_among_those_it_sees(monkeypatch, seen, taken):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("meta"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: seen)
    monkeypatch.setenv("LOCAL_RANK", "3")
    places: list[torch.device] = []
    module: Any = SimpleNamespace(to=places.append)
    to_accelerator(module)
    assert places == [torch.device("meta", taken)]


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
