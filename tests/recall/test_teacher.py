"""The tiny backbone learns from a teacher, whose vectors are computed once, also where the run is killed."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from notellm.backbone.encoder import TextEncoder
from notellm.data.note import Note, notes_from_table
from notellm.errors import ConfigError, DataError, ModelError
from notellm.files import read_json
from notellm.jobs import recall_model
from notellm.jobs.recall_model import build_recall_model
from notellm.jobs.train_recall import train_recall
from notellm.recall import teacher as module
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.teacher import teacher_vectors
from notellm.recall.tiny import TinyOptions
from tests.conftest import SMALL, Checkpoint, fresh

WORDS = 40


def agreement(model: NoteLLM, notes: list[Note], said: np.ndarray) -> float:
    """Correlation of the model's and the teacher's cosines of different notes."""
    vectors = model.encode(notes)
    above = np.triu_indices(len(notes), 1)
    return float(np.corrcoef((vectors @ vectors.T)[above], (said @ said.T)[above])[0, 1])


def test_the_student_is_closer_to_the_teacher_with_it_than_without_on_notes_it_has_not_seen():
    """The teacher knows 4 meanings of 40 words, mixed at random, and that half of the words say little."""
    rng = np.random.default_rng(0)
    meaning = (
        rng.standard_normal((4, 16))[np.arange(WORDS) % 4] * np.where(np.arange(WORDS) < 20, 1, 0.1)[:, None]
    )
    picks = [rng.choice(WORDS, 6, replace=False) for _ in range(240)]
    notes = [Note(" ".join(f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in pick)) for pick in picks]
    said = np.stack([meaning[pick].sum(axis=0) for pick in picks])
    said = (said / np.linalg.norm(said, axis=1, keepdims=True)).astype(np.float32)
    size = TinyOptions(vocabulary=600, hidden=64, layers=1, heads=4, intermediate=32)
    alone, taught = (
        NoteLLM.from_corpus(notes[:160], tiny=size, dim=32, taught=vectors) for vectors in (None, said[:160])
    )
    assert agreement(taught, notes[160:], said[160:]) > agreement(alone, notes[160:], said[160:]) + 0.2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_notes_and_a_teacher_that_says_always_the_same_are_enough(notes: pa.Table, count: int):
    same = np.full((count, 4), 0.5, dtype=np.float32)
    vectors = NoteLLM.from_corpus(notes.slice(0, count), tiny=SMALL, dim=16, taught=same).encode(notes)
    assert np.isfinite(vectors).all()


def test_vectors_for_other_notes_are_refused(notes: pa.Table):
    with pytest.raises(DataError, match="3 vectors of a teacher and 60 notes"):
        NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, taught=np.ones((3, 4), np.float32))


def test_each_kind_of_teacher_gives_a_vector_of_unit_norm_for_each_note(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    saved = fresh("tiny", checkpoints, notes)
    saved.save_pretrained(tmp_path / "saved")
    for name in (str(tmp_path / "saved"), str(checkpoints["llama"].path)):
        vectors = teacher_vectors(name, notes, tmp_path / "work")
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert np.linalg.norm(vectors[0] - vectors[57]) < 1e-3  # the same text
        assert np.linalg.norm(vectors[0] - vectors[1]) > 0.1
    np.testing.assert_allclose(
        teacher_vectors(str(tmp_path / "saved"), notes, tmp_path / "work"), saved.encode(notes), atol=1e-5
    )
    with pytest.raises(ConfigError, match=r"layers is 1, but .* is a saved NoteLLM"):
        teacher_vectors(str(tmp_path / "saved"), notes, tmp_path / "work", layers=1)


class Killed(BaseException):
    pass


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of texts that the teacher has read, by shard; after a -1 the third is killed."""
    counts: list[int] = []
    encode = TextEncoder.encode

    def watched(self: TextEncoder, texts: Any) -> np.ndarray:
        if -1 in counts and len(counts) == 3:
            raise Killed
        counts.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(TextEncoder, "encode", watched)
    monkeypatch.setattr(module, "_SHARD", 25)
    return counts


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_model, "TinyOptions", lambda: SMALL)


@pytest.mark.usefixtures("_small")
def test_a_killed_run_is_resumed_without_reading_a_note_again(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, pairs: pa.Table, tmp_path: Path, read: list[int]
):
    options = RecallOptions(
        teacher=str(checkpoints["llama"].path), dim=16, max_steps=2, batch_pairs=4, writing_epochs=0.0
    )

    def train(name: str, **more: Any) -> NoteLLM:
        return train_recall(notes, pairs, tmp_path / name, options=options, progress=False, **more)

    whole = train("whole")
    assert read == [25, 25, 10]
    read[:] = [-1]
    with pytest.raises(Killed):
        train("killed")
    assert read == [-1, 25, 25]
    read.clear()
    with pytest.raises(ConfigError, match=r"unfinished run \(teacher\); continue it with --resume"):
        train("killed")
    resumed = train("killed", resume=True)
    assert read == [10]
    np.testing.assert_array_equal(resumed.encode(notes), whole.encode(notes))
    assert not (tmp_path / "killed.run" / module.FOLDER).exists()
    record = read_json(tmp_path / "killed" / "record.json")
    assert record["config"]["teacher"] == options.teacher
    assert f"`{options.teacher}`" in (tmp_path / "killed" / "README.md").read_text()


def test_complete_vectors_are_not_computed_again_for_the_same_teacher_and_notes(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path, read: list[int]
):
    teacher = str(checkpoints["llama"].path)
    first = teacher_vectors(teacher, notes, tmp_path)
    np.testing.assert_array_equal(teacher_vectors(teacher, notes, tmp_path), first)
    assert read == [25, 25, 10]
    teacher_vectors(teacher, notes, tmp_path, layers=1)
    teacher_vectors(teacher, notes.slice(1), tmp_path)
    assert read == [25, 25, 10, 25, 25, 10, 25, 25, 9]


@pytest.mark.usefixtures("_small")
def test_the_untrained_model_has_the_teacher_too_and_leaves_no_file(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    teacher = str(checkpoints["llama"].path)
    with_it, without = (
        build_recall_model(RecallOptions(teacher=name, dim=16), notes).encode(notes_from_table(notes)[:9])
        for name in (teacher, None)
    )
    assert not np.allclose(with_it, without, atol=0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "some/model", "teacher": "t"}, "only the tiny backbone learns from a teacher"),
        ({"teacher": "tiny"}, "knows nothing but these notes"),
        ({"teacher_layers": 2}, "there is no teacher to cut"),
        ({"teacher": "t", "teacher_layers": 0}, "teacher_layers is 0; it must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        RecallOptions(**options).resolved()


def test_what_is_no_model_is_refused(notes: pa.Table, tmp_path: Path):
    with pytest.raises(ModelError, match="there is no model folder"):
        teacher_vectors("./nowhere", notes, tmp_path / "work")
    assert not (tmp_path / "work").exists()
