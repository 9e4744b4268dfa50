"""A training that goes on from a saved model."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from notellm.data.sample_world import sample_world
from notellm.errors import ConfigError, DataError, ModelError
from notellm.files import json_text
from notellm.jobs import recall_model
from notellm.jobs.recall_model import build_recall_model, build_untrained, made_with
from notellm.jobs.train_recall import train_recall
from notellm.pairs.local import mine_pairs
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from notellm.record import RECORD, read_record
from notellm.renew.models import Models
from notellm.renew.options import RenewOptions
from notellm.renew.training import recall_options
from tests.conftest import SMALL

OPTIONS = RecallOptions(max_steps=2, batch_pairs=8, dim=16, writing_epochs=0)


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=120, users=60, clicks=1_500, bots=0, seed=5)


@pytest.fixture(scope="module")
def pairs(world):
    return mine_pairs(world.clicks, progress=False)


@pytest.fixture(scope="module")
def first(world, pairs, tmp_path_factory):
    """The folder of the model that trainings go on from."""
    folder = tmp_path_factory.mktemp("warm") / "first"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_model, "TinyOptions", lambda: SMALL)
        train_recall(world.notes, pairs, folder, options=OPTIONS, progress=False)
    return folder


def test_the_training_starts_with_weights_tokenizer_temperature_and_prompt_of_the_saved_model(first, world):
    saved = NoteLLM.from_saved(first)
    start = build_recall_model(replace(OPTIONS, warm_start=str(first)), world.notes)
    np.testing.assert_array_equal(start.encode(world.notes), saved.encode(world.notes))
    assert start.tokenizer.get_vocab() == saved.tokenizer.get_vocab()
    assert float(start.tau.detach()) == float(saved.tau.detach())
    assert start.settings == saved.settings


def test_the_training_changes_the_model_and_its_record_names_the_start(first, world, pairs, tmp_path):
    options = replace(OPTIONS, warm_start=str(first), max_steps=3)
    trained = train_recall(world.notes, pairs, tmp_path / "second", options=options, progress=False)
    saved = NoteLLM.from_saved(first)
    assert np.abs(trained.encode(world.notes) - saved.encode(world.notes)).max() > 1e-4
    record = read_record(tmp_path / "second")
    assert record["data"]["start"]["fingerprint"] == saved.fingerprint()
    assert f"going on from the trained model `{saved.fingerprint()}`" in (
        tmp_path / "second" / "README.md"
    ).read_text(encoding="utf-8")
    assert (record["config"]["backbone"], record["config"]["warm_start"]) == ("tiny", str(first))
    before = build_untrained(tmp_path / "second", world.notes, world.clicks)
    np.testing.assert_array_equal(before.encode(world.notes), saved.encode(world.notes))


def test_the_start_that_has_been_replaced_is_not_taken_for_the_untrained_model(first, world, pairs, tmp_path):
    start = tmp_path / "model"
    NoteLLM.from_saved(first).save_pretrained(start)
    options = replace(OPTIONS, warm_start=str(start))
    train_recall(world.notes, pairs, tmp_path / "second", options=options, progress=False)
    NoteLLM.from_saved(tmp_path / "second").save_pretrained(start)
    with pytest.raises(DataError, match="no longer in"):
        build_untrained(tmp_path / "second", world.notes, world.clicks)


@pytest.mark.parametrize(
    "changed",
    [
        {"tiny_hidden": 16},
        {"tiny_layers": 1},
        {"teacher": "x"},
        {"template": "english"},
        {"projection": "ridge"},
    ],
)
def test_what_the_saved_model_has_already_cannot_be_chosen(first, world, changed):
    with pytest.raises(ConfigError, match=rf"{next(iter(changed))} is .* leave warm_start out"):
        build_recall_model(replace(OPTIONS, warm_start=str(first), **changed), world.notes)


def test_another_size_of_vectors_is_refused(first, world):
    with pytest.raises(ConfigError, match=r"dim is 32, but .* has 16; give dim 16"):
        build_recall_model(replace(OPTIONS, warm_start=str(first), dim=32), world.notes)


def test_a_folder_without_a_saved_model_is_refused(world, tmp_path):
    with pytest.raises(ModelError, match="not a saved NoteLLM"):
        build_recall_model(replace(OPTIONS, warm_start=str(tmp_path)), world.notes)


def test_a_pretrained_model_goes_on_with_adapters(checkpoints, notes, pairs, tmp_path):
    del pairs
    options = RecallOptions(backbone=str(checkpoints["llama"].path), dim=16, max_steps=1, batch_pairs=4)
    build_recall_model(options, notes).save_pretrained(tmp_path / "model")
    warm = replace(options, warm_start=str(tmp_path / "model"))
    start = build_recall_model(warm, notes)
    saved = NoteLLM.from_saved(tmp_path / "model")
    np.testing.assert_allclose(start.encode(notes), saved.encode(notes), atol=1e-5)
    trainable = {name for name, weight in start.backbone.named_parameters() if weight.requires_grad}
    assert trainable
    assert all("lora" in name for name in trainable if "layers" in name)


def test_how_the_first_model_was_made_is_known_after_every_training(first, world, pairs, tmp_path):
    wanted = made_with(read_record(first))
    assert wanted["tau"] == 2.0
    assert wanted["template"] == "compact"
    start = first
    for name in ("second", "third"):
        options = replace(OPTIONS, warm_start=str(start), max_steps=1)
        train_recall(world.notes, pairs, tmp_path / name, options=options, progress=False)
        start = tmp_path / name
        assert made_with(read_record(start)) == wanted
        serving = Models(start, None)
        assert serving.recall_options().template is None
        anew = recall_options(serving, RenewOptions(start="new"))
        assert (anew.warm_start, anew.template, anew.tau) == (None, "compact", 2.0)
        assert recall_options(serving, RenewOptions()) == anew
    record = read_record(start)
    del record["data"]["start"]["made_with"]
    (start / RECORD).write_text(json_text(record))
    with pytest.raises(ConfigError, match="its record does not say how that one was made"):
        recall_options(serving, RenewOptions(start="new"))
    assert recall_options(serving, RenewOptions()).warm_start == str(start)


def test_a_renewal_goes_on_from_a_pretrained_model(first, tmp_path):
    shutil.copytree(first, tmp_path / "model")
    record = read_record(first)
    record["config"] |= {"backbone": "some/model", "lora": True}
    (tmp_path / "model" / RECORD).write_text(json_text(record))
    chosen = recall_options(Models(tmp_path / "model", None), RenewOptions())
    assert (chosen.warm_start, chosen.backbone) == (str(tmp_path / "model"), "some/model")
