"""Texts become vectors as sentence-transformers computes them, and as a language model's states say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from notellm.backbone.encoder import TextEncoder
from notellm.backbone.load import hidden_states, load_backbone
from notellm.errors import ConfigError, ModelError
from tests.conftest import Checkpoint
from tests.sentence_encoder import write_sentence_encoder

TEXTS = ["garlic soup", "", "a comet near the moon " * 30, "soup [SEP] with [CLS] bread", "海滩"]
TYPES = "sentence_transformers.models."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A random sentence encoder that reads 20 tokens, as sentence-transformers saves it; pools the mean."""
    write_sentence_encoder(tmp_path, TEXTS * 3)
    return tmp_path


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


def pool(folder: Path, settings: dict[str, Any]) -> None:
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32, **settings})


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


@pytest.mark.parametrize(
    "pooling",
    [{"pooling_mode_mean_tokens": True}, {"pooling_mode_cls_token": True}, {"pooling_mode": "lasttoken"}],
)
def test_a_sentence_encoder_gives_the_vectors_of_sentence_transformers(folder: Path, pooling: dict[str, Any]):
    from sentence_transformers import SentenceTransformer

    pool(folder, pooling)
    texts = [text for text in TEXTS if text and "[SEP]" not in text]
    wanted = SentenceTransformer(str(folder), device="cpu").encode(texts)
    encoder = TextEncoder.from_sentence_encoder(folder)
    np.testing.assert_allclose(unit(encoder.encode(texts)), wanted, atol=1e-5)


def test_special_tokens_and_empty_texts_are_plain_texts(folder: Path):
    encoder = TextEncoder.from_sentence_encoder(folder)
    vectors = encoder.encode(TEXTS)
    assert np.isfinite(vectors).all()
    ids = encoder.tokenizer(TEXTS[3])["input_ids"]
    assert not set(ids) & set(encoder.tokenizer.all_special_ids)


@pytest.mark.parametrize(
    ("file", "value", "message"),
    [
        (
            "modules.json",
            [{"type": TYPES + "Transformer", "path": ""}],
            "computes its vectors by Transformer;",
        ),
        ("modules.json", {"a": 1}, "does not list the steps"),
        (
            "modules.json",
            [{"type": "own.Transformer", "path": ""}],
            "computes its vectors by own.Transformer;",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "max"}, "pools by max; only one of mean, cls, lasttoken"),
        ("1_Pooling/config.json", {}, "pools by nothing"),
    ],
)
def test_other_steps_are_refused(folder: Path, file: str, value: Any, message: str):
    write(folder / file, value)
    with pytest.raises(ModelError, match=message):
        TextEncoder.from_sentence_encoder(folder)


def test_no_file_outside_the_folder_and_no_pickle_is_opened(folder: Path):
    steps = json.loads((folder / "modules.json").read_text())
    steps[1]["path"] = "../1_Pooling"
    write(folder / "modules.json", steps)
    with pytest.raises(ModelError, match="only folders inside"):
        TextEncoder.from_sentence_encoder(folder)
    steps[1]["path"] = "1_Pooling"
    write(folder / "modules.json", steps)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only safetensors are opened"):
        TextEncoder.from_sentence_encoder(folder)


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_a_language_model_gives_the_mean_of_its_states_without_the_first(
    checkpoints: dict[str, Checkpoint], name: str
):
    path = checkpoints[name].path
    encoder = TextEncoder.from_language_model(path)
    model, tokenizer = load_backbone(path)
    vectors = encoder.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"] or [tokenizer.pad_token_id]
        with torch.no_grad():
            states = hidden_states(model, torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))[0]
        wanted = states[1:].mean(dim=0) if len(ids) > 1 else states[0]
        np.testing.assert_allclose(vectors[row], wanted.numpy(), atol=1e-4)


def test_the_first_layers_of_a_language_model_can_be_kept(checkpoints: dict[str, Checkpoint]):
    path = checkpoints["llama"].path
    whole, cut = (TextEncoder.from_language_model(path, layers=layers) for layers in (None, 1))
    assert not np.allclose(whole.encode(TEXTS), cut.encode(TEXTS))
    assert whole.fingerprint() != cut.fingerprint()
    assert cut.fingerprint() == TextEncoder.from_language_model(path, layers=1).fingerprint()
    with pytest.raises(ConfigError, match="layers is 9, but the backbone has 2"):
        TextEncoder.from_language_model(path, layers=9)


def test_missing_weights_are_refused_except_those_that_no_pooling_reads(folder: Path):
    weights = load_file(folder / "model.safetensors")
    whole = TextEncoder.from_sentence_encoder(folder)
    for part in ("pooler.dense.weight", "encoder.layer.1.output.dense.weight"):
        del weights[part]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        if part.startswith("pooler"):
            without = TextEncoder.from_sentence_encoder(folder)
            np.testing.assert_array_equal(without.encode(TEXTS), whole.encode(TEXTS))
            assert without.fingerprint() == whole.fingerprint()
    with pytest.raises(ModelError, match=r"lack encoder\.layer\.1\.output\.dense\.weight"):
        TextEncoder.from_sentence_encoder(folder)


def test_code_of_the_folder_does_not_run(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", config | {"model_type": "own", "auto_map": {"AutoModel": "own.Own"}})
    (folder / "own.py").write_text("raise SystemExit('the code ran')")
    with pytest.raises(ModelError, match="asks to run Python code"):
        TextEncoder.from_sentence_encoder(folder)
