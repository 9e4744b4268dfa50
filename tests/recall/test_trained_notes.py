"""A model's directory says which notes it was trained on."""

import pytest

from notellm.data.sample_world import sample_world
from notellm.errors import ModelError
from notellm.jobs.train_recall import train_recall
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.trained_notes import TRAINED_NOTES, read_trained_notes, trained_notes_file
from tests.conftest import SMALL


def test_a_training_leaves_the_ids_of_its_notes_and_the_model_is_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("notellm.jobs.recall_model._tiny_size", lambda _: SMALL)
    notes = sample_world(notes=40, users=10, clicks=100, bots=0, seed=1).notes
    options = RecallOptions(max_steps=1, batch_pairs=4, dim=8, writing_epochs=0)
    train_recall(notes, None, tmp_path / "model", options=options, progress=False)
    found = read_trained_notes(tmp_path / "model")
    assert found is not None
    assert found.to_pylist() == notes["note_id"].to_pylist()
    NoteLLM.from_pretrained(tmp_path / "model").verified_fingerprint()


def test_a_model_that_was_not_trained_here_does_not_say(tmp_path):
    assert read_trained_notes(tmp_path) is None


def test_the_same_notes_give_the_same_bytes():
    notes = sample_world(notes=40, users=10, clicks=100, bots=0, seed=1).notes
    assert trained_notes_file(notes) == trained_notes_file(notes.select(["note_id", "title"]))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / TRAINED_NOTES).write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"trained_notes\.parquet does not hold"):
        read_trained_notes(tmp_path)
