"""The start of a projection is computed once: kept, continued, read again, and never mistaken for another."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file, save_file

from notellm.artifacts.manifest import MANIFEST, write_manifest
from notellm.data.schema import CLICKS
from notellm.errors import ConfigError, ModelError
from notellm.jobs import train_recall as job_module
from notellm.jobs.recall_model import build_recall_model, build_untrained
from notellm.jobs.runs import START_FOLDER, Run
from notellm.jobs.train_recall import train_recall
from notellm.recall import start as module
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.start import START, load_start, start_projection
from tests.conftest import NOTE_COUNT, Checkpoint, fresh

KINDS = ("components", "ridge")


class KilledError(Exception):
    """Ends a computation in the middle."""


@pytest.fixture(scope="module")
def clicks() -> pa.Table:
    """40 users who each click 5 notes of one theme."""
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "note_id": f"n{3 * int(pick) + user % 3}", "event": "click"}
        for user in range(40)
        for pick in rng.choice(NOTE_COUNT // 3, 5, replace=False)
    ]
    now = datetime(2024, 1, 1, tzinfo=UTC)
    return pa.Table.from_pylist([row | {"timestamp": now} for row in rows], schema=CLICKS)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 16)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> "Computed":
    """What hidden states were computed of; it can be told to fail."""
    record = Computed()
    states = NoteLLM.prompt_states

    def counted(model: NoteLLM, texts: Any, **more: Any) -> Any:
        if len(record.calls) == record.most:
            raise KilledError
        record.calls.append(len(texts))
        return states(model, texts, **more)

    monkeypatch.setattr(NoteLLM, "prompt_states", counted)
    return record


class Computed:
    """The number of notes of each call, and the number of calls that are allowed."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.most = -1

    def again(self, *, most: int = -1) -> None:
        self.calls.clear()
        self.most = most


def options(checkpoints: dict[str, Checkpoint], **more: Any) -> RecallOptions:
    chosen: dict[str, Any] = {"backbone": str(checkpoints["llama"].path), "dim": 16, "template": "compact"}
    return RecallOptions(**(chosen | {"max_steps": 2, "batch_pairs": 4, "evaluations": 2} | more))


def weights(model: NoteLLM) -> np.ndarray:
    parts = (model.projection.weight, model.projection.bias)
    return np.concatenate([part.detach().numpy().ravel() for part in parts])


@pytest.fixture
def start(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, clicks: pa.Table
) -> Callable[..., tuple[NoteLLM, str]]:
    """A function that gives a new model its start; equal arguments, equal model."""

    def call(file: Path | None, kind: Any = "ridge", **more: Any) -> tuple[NoteLLM, str]:
        model = fresh("llama", checkpoints, notes)
        given = {"clicks": clicks, "notes": notes, "seed": 0} | more
        return model, start_projection(model, given.pop("notes"), kind, file=file, **given)

    return call


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_changes_nothing(kind: Any, start: Any, tmp_path: Path):
    without, _ = start(None, kind)
    kept, found = start(tmp_path / "new" / START, kind)
    assert found == kind
    np.testing.assert_array_equal(weights(kept), weights(without))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [START]  # no states are left


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_start_continues_to_the_same_weights(
    kind: Any, start: Any, computed: Computed, tmp_path: Path
):
    whole, _ = start(tmp_path / "whole" / START, kind)
    every = list(computed.calls)
    assert len(every) > 2
    computed.again(most=2)
    with pytest.raises(KilledError):
        start(tmp_path / "cut" / START, kind)
    assert not (tmp_path / "cut" / START).exists()
    computed.again()
    resumed, _ = start(tmp_path / "cut" / START, kind)
    assert computed.calls == every[2:]
    np.testing.assert_array_equal(weights(resumed), weights(whole))
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [START]
    computed.again(most=0)
    again, found = start(tmp_path / "cut" / START, kind)
    assert found == kind
    np.testing.assert_array_equal(weights(again), weights(whole))


def test_a_start_of_something_else_is_not_taken(
    start: Any, computed: Computed, notes: pa.Table, clicks: pa.Table, tmp_path: Path
):
    file = tmp_path / START
    start(file)
    others: list[dict[str, Any]] = [
        {"kind": "components"},
        {"seed": 1},
        {"notes": notes.slice(1)},
        {"clicks": clicks.slice(5)},
    ]
    for other in others:
        computed.again()
        found, _ = start(file, **other)
        assert computed.calls
        np.testing.assert_array_equal(weights(found), weights(start(None, **other)[0]))


def test_a_start_of_another_backbone_is_not_taken(
    start: Any, computed: Computed, checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    file = tmp_path / START
    start(file, "components")
    computed.again()
    other = fresh("llama", checkpoints, notes)
    embedding: Any = other.backbone.get_input_embeddings()
    embedding.weight.data[7] += 1
    start_projection(other, notes, "components", file=file)
    assert sum(computed.calls) == notes.num_rows


def test_a_damaged_start_and_one_of_another_shape_are_clear_errors(start: Any, tmp_path: Path):
    file = tmp_path / START
    model, _ = start(file)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=r"is not a whole file of a start.*remove the file"):
        start(file)
    with pytest.raises(ModelError, match="is not a whole file of a start"):
        load_start(model.projection, file)
    save_file({"weight": model.projection.weight[:3].contiguous(), "bias": model.projection.bias}, file)
    with pytest.raises(ModelError, match="its kind is None"):
        load_start(model.projection, file)
    save_file(
        {"weight": model.projection.weight[:3].contiguous(), "bias": model.projection.bias},
        file,
        {"kind": "ridge"},
    )
    with pytest.raises(ModelError, match=r"of shape \(3, \d+\), but this one is"):
        load_start(model.projection, file)


def test_a_training_continues_its_start(
    checkpoints: dict[str, Checkpoint],
    notes: pa.Table,
    pairs: pa.Table,
    clicks: pa.Table,
    computed: Computed,
    tmp_path: Path,
):
    chosen = options(checkpoints)

    def train(name: str, **more: Any) -> NoteLLM:
        path = tmp_path / name
        return train_recall(notes, pairs, path, clicks=clicks, options=chosen, progress=False, **more)

    whole = train("whole")
    every = list(computed.calls)
    computed.again(most=2)
    with pytest.raises(KilledError):
        train("cut")
    computed.again()
    with pytest.raises(ConfigError, match=r"holds an unfinished run.*--resume"):
        train("cut")
    resumed = train("cut", resume=True)
    assert computed.calls == every[2:]
    assert resumed.fingerprint() == whole.fingerprint()
    files = [load_file(tmp_path / name / START) for name in ("whole", "cut")]
    assert all((files[0][name] == files[1][name]).all() for name in ("weight", "bias"))
    assert not (tmp_path / "cut.run" / START_FOLDER).exists()


def test_a_training_that_is_killed_after_its_start_does_not_compute_it_again(
    checkpoints: dict[str, Checkpoint],
    notes: pa.Table,
    pairs: pa.Table,
    clicks: pa.Table,
    computed: Computed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    chosen = options(checkpoints)

    def train(name: str, **more: Any) -> NoteLLM:
        path = tmp_path / name
        return train_recall(notes, pairs, path, clicks=clicks, options=chosen, progress=False, **more)

    def fail(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "train_or_resume", fail)
        with pytest.raises(KilledError):
            train("cut")
    before = load_file(tmp_path / "cut.run" / START_FOLDER / START)
    computed.again(most=0)
    resumed = train("cut", resume=True)
    after = load_file(tmp_path / "cut" / START)
    assert all((before[name] == after[name]).all() for name in before)
    computed.again()
    assert resumed.fingerprint() == train("whole").fingerprint()


def test_evaluate_reads_the_start_of_a_model(
    checkpoints: dict[str, Checkpoint],
    notes: pa.Table,
    pairs: pa.Table,
    clicks: pa.Table,
    computed: Computed,
    tmp_path: Path,
):
    chosen = options(checkpoints, learning_rate=1e-2)
    path = tmp_path / "model"
    trained = train_recall(notes, pairs, path, clicks=clicks, options=chosen, progress=False)
    built = build_recall_model(chosen, notes, clicks)
    computed.again(most=0)
    untrained = build_untrained(path, notes, clicks)
    np.testing.assert_allclose(untrained.encode(notes), built.encode(notes), atol=1e-4)
    assert np.abs(untrained.encode(notes) - trained.encode(notes)).max() > 1e-2
    opened = NoteLLM.from_saved(path).fingerprint()
    # A model of an older notellm has no such file: it is the same model, and its start is computed.
    for name in (START, MANIFEST):
        (path / name).unlink()
    write_manifest(path, "model")
    assert NoteLLM.from_saved(path).fingerprint() == opened
    computed.again()
    older = build_untrained(path, notes, clicks)
    assert computed.calls
    np.testing.assert_allclose(older.encode(notes), untrained.encode(notes), atol=1e-4)


@pytest.mark.parametrize("kind", ["random", "saved"])
def test_where_there_is_no_start_none_is_kept(
    kind: Any, checkpoints: dict[str, Checkpoint], notes: pa.Table, pairs: pa.Table, tmp_path: Path
):
    chosen = options(checkpoints, projection="random")
    if kind == "saved":
        build_recall_model(chosen, notes).save_pretrained(tmp_path / "saved")
        chosen = options(checkpoints, backbone=str(tmp_path / "saved"))
    train_recall(notes, pairs, tmp_path / "model", options=chosen, progress=False)
    assert not (tmp_path / "model" / START).exists()
    untrained = build_untrained(tmp_path / "model", notes, pa.table({}))
    np.testing.assert_array_equal(weights(untrained), weights(build_recall_model(chosen, notes)))


def test_of_several_processes_the_first_one_alone_keeps_the_start(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = Run(tmp_path / "model", "model", force=False)
    monkeypatch.setenv("RANK", "1")
    second = build_recall_model(options(checkpoints), notes, run=run)
    assert not run.folder.exists()
    monkeypatch.setenv("RANK", "0")
    first = build_recall_model(options(checkpoints), notes, run=run)
    assert (run.folder / START_FOLDER / START).is_file()
    np.testing.assert_array_equal(weights(first), weights(second))
