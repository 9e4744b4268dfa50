"""A sentence encoder is measured as it is and tuned on the pairs, for steps or for a time."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from notellm.errors import ModelError
from notellm.experiment.recall.sentence import load_sentence_model, sentence_vectors, tune_sentence_model
from notellm.lexical.terms import texts_of
from tests.sentence_encoder import write_sentence_encoder


@pytest.fixture
def encoder(notes, tmp_path):
    write_sentence_encoder(tmp_path, texts_of(notes))
    return load_sentence_model(str(tmp_path))


def partner_similarity(vectors, notes, pairs):
    row = {note: i for i, note in enumerate(notes["note_id"].to_pylist())}
    sides = [vectors[[row[note] for note in pairs[side].to_pylist()]] for side in ("source", "target")]
    together = (sides[0] * sides[1]).sum(axis=1).mean()
    return together - (vectors @ vectors.T).mean()


def test_tuning_brings_related_notes_together(encoder, notes, pairs):
    before = sentence_vectors(encoder, notes)
    assert np.linalg.norm(before, axis=1) == pytest.approx(1, abs=1e-5)
    assert tune_sentence_model(encoder, notes, pairs, steps=30) == 30
    after = sentence_vectors(encoder, notes)
    assert partner_similarity(after, notes, pairs) > partner_similarity(before, notes, pairs)


def test_the_seed_decides_the_tuning(notes, pairs, tmp_path):
    write_sentence_encoder(tmp_path, texts_of(notes))
    found = []
    for seed in (0, 0, 1):
        encoder = load_sentence_model(str(tmp_path))
        tune_sentence_model(encoder, notes, pairs, steps=3, seed=seed)
        found.append(sentence_vectors(encoder, notes))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_a_time_is_kept(encoder, notes, pairs, monkeypatch):
    now = iter(range(10_000))  # the start and each step ask the clock once
    monkeypatch.setattr("notellm.experiment.recall.sentence.time.monotonic", lambda: next(now))
    assert tune_sentence_model(encoder, notes, pairs, seconds=7) == 7
    assert not encoder.training
    assert torch.isfinite(next(encoder.parameters())).all()


def test_weights_that_are_a_pickle_are_not_read(notes, tmp_path):
    write_sentence_encoder(tmp_path, texts_of(notes))
    weights = load_file(tmp_path / "model.safetensors")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    load_sentence_model(str(tmp_path))  # the others are there, too
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no sentence-transformers model at"):
        load_sentence_model(str(tmp_path))


def test_a_missing_model_is_one_clear_error(tmp_path):
    with pytest.raises(ModelError, match=r"no sentence-transformers model at .*nothing"):
        load_sentence_model(str(tmp_path / "nothing"))
