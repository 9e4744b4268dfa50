"""Backbones in one GGUF file: they equal the same weights in transformers, or are refused in one line."""

import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from notellm.backbone import gguf as opening
from notellm.backbone.load import load_backbone
from notellm.backbone.tokenizer import harden, load_tokenizer, tokenizer_state
from notellm.errors import MissingDependencyError, ModelError
from notellm.jobs.train_recall import train_recall
from notellm.rank.model import BinLLM
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from tests.backbone.small_gguf import write_gguf
from tests.conftest import Checkpoint
from tests.rank.small import TEMPLATE

TEXTS = ["soup and bread", "  two  spaces,\n\n123 naïve 海滩", "</s> <s> is text", ""]
IDS = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def llama(checkpoints: dict[str, Checkpoint]) -> Path:
    """The folder of the small Llama that the files are written from."""
    return checkpoints["llama"].path


@pytest.fixture
def file(llama: Path, tmp_path: Path) -> Path:
    """The small Llama in one GGUF file, alone in its folder."""
    path = tmp_path / "models" / "small.gguf"
    path.parent.mkdir()
    write_gguf(llama, path)
    return path


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=IDS).logits
    return result


def refusal(path: str | Path) -> str:
    """The one line by which every way of opening a backbone refuses a path."""
    lines = set()
    for way in (load_backbone, NoteLLM.from_pretrained, BinLLM.from_pretrained):
        with pytest.raises(ModelError) as caught:
            way(path)
        lines.add(str(caught.value))
    (line,) = lines
    assert "\n" not in line
    return line


# ---------------------------------------------------------------- what is opened


@pytest.mark.parametrize("as_folder", [True, False])
def test_logits_and_tokens_are_those_of_the_same_weights(llama: Path, file: Path, as_folder: bool):
    model, tokenizer = load_backbone(file.parent if as_folder else file)
    wanted = harden(AutoTokenizer.from_pretrained(llama))
    torch.testing.assert_close(logits(model), logits(LlamaForCausalLM.from_pretrained(llama)))
    assert tokenizer(TEXTS)["input_ids"] == wanted(TEXTS)["input_ids"]
    assert tokenizer.special_tokens_map == wanted.special_tokens_map
    assert len(tokenizer) == len(wanted) == model.config.vocab_size
    assert load_tokenizer(file)(TEXTS)["input_ids"] == wanted(TEXTS)["input_ids"]


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_quantized_tensors_are_unpacked(llama: Path, tmp_path: Path, kind: str):
    held = write_gguf(llama, tmp_path / "q.gguf", quantize=gguf.GGMLQuantizationType[kind])
    model, _ = load_backbone(tmp_path / "q.gguf")
    state = model.state_dict()
    assert set(state) == set(held)
    assert all(torch.equal(state[name], held[name].float()) for name in held)
    assert not torch.equal(logits(model), logits(LlamaForCausalLM.from_pretrained(llama)))


def test_the_dtype_is_the_wanted_one(file: Path):
    assert load_backbone(file)[0].dtype == torch.float32
    model, _ = load_backbone(file, dtype="bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_saved_it_is_a_plain_model_with_equal_logits_and_tokenizer(file: Path, tmp_path: Path):
    model, tokenizer = load_backbone(file, "[EMB]")
    new = tmp_path / "new"
    model.save_pretrained(new)
    tokenizer.save_pretrained(new)
    config = json.loads((new / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(tmp_path) not in (new / "config.json").read_text()
    assert (new / "model.safetensors").is_file()
    again, same = load_backbone(new, "[EMB]", saved=True)
    assert tokenizer_state(same) == tokenizer_state(tokenizer)
    assert same(TEXTS)["input_ids"] == tokenizer(TEXTS)["input_ids"]
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(new)), logits(model), rtol=0, atol=0
    )


def test_a_model_of_notes_is_saved_and_opened_with_equal_vectors(file: Path, notes: pa.Table, tmp_path: Path):
    model = NoteLLM.from_pretrained(file, dim=8)
    model.save_pretrained(tmp_path / "model")
    again = NoteLLM.from_saved(tmp_path / "model")
    assert again.verified_fingerprint() == model.fingerprint()
    np.testing.assert_array_equal(again.encode(notes), model.encode(notes))


def test_a_ranker_opens_it_too(file: Path, tmp_path: Path):
    wording = tmp_path / "wording.json"
    wording.write_text(json.dumps(TEMPLATE))
    model = BinLLM.from_pretrained(file, template=str(wording))
    plain, _ = load_backbone(file)
    torch.testing.assert_close(logits(model.backbone), logits(plain))


def test_it_is_trained_with_adapters(file: Path, notes: pa.Table, pairs: pa.Table, tmp_path: Path):
    options = RecallOptions(backbone=str(file), max_steps=3, batch_pairs=4, dim=8)
    trained = train_recall(notes, pairs, tmp_path / "model", options=options, progress=False)
    again = NoteLLM.from_saved(tmp_path / "model")
    np.testing.assert_allclose(again.encode(notes), trained.encode(notes), atol=1e-5)
    before, _ = load_backbone(file)
    assert (logits(again.backbone)[..., :600] - logits(before)).abs().max() > 0


# ---------------------------------------------------------------- what beside it is not read


def test_nothing_beside_the_file_is_read(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain, tokenizer = load_backbone(file)
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "adapter_config.json"):
        (file.parent / name).write_text('{"auto_map": {"AutoTokenizer": [null, "own.Own"]}, "broken": 1}')
    (file.parent / "own.py").write_text("raise SystemExit(3)")
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / file.name).write_bytes(b"GGUF, but another file of that name in the working directory")
    monkeypatch.chdir(other)
    model, same = load_backbone(file.parent)
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=0)
    assert tokenizer_state(same) == tokenizer_state(tokenizer)


def test_safetensors_beside_it_come_first(llama: Path, file: Path, tmp_path: Path):
    both = tmp_path / "both"
    shutil.copytree(llama, both)
    shutil.copy(file, both / "b.gguf")
    shutil.copy(file, both / "c.gguf")
    model, _ = load_backbone(both)
    torch.testing.assert_close(logits(model), logits(LlamaForCausalLM.from_pretrained(llama)), rtol=0, atol=0)
    assert load_backbone(both / "b.gguf")[0].config.name_or_path == str(both / "b.gguf")


def test_a_saved_model_that_lost_its_weights_does_not_take_a_gguf_file(
    tiny: NoteLLM, file: Path, tmp_path: Path
):
    folder = tmp_path / "model"
    tiny.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    shutil.copy(file, folder)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        NoteLLM.from_saved(folder)
    with pytest.raises(ModelError, match=r"it has no model\.safetensors"):
        load_backbone(folder, saved=True)


# ---------------------------------------------------------------- what is refused


def test_without_the_package_the_install_command_is_given(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    for way in (load_backbone, load_tokenizer, NoteLLM.from_pretrained):
        with pytest.raises(MissingDependencyError, match=r"pip install 'notellm\[gguf\]'"):
            way(file)


def test_of_several_files_one_must_be_named(file: Path):
    shutil.copy(file, file.with_name("other.gguf"))
    line = refusal(file.parent)
    assert (
        f"holds 2 GGUF files (other.gguf, small.gguf); give one of them, for instance {file.parent}" in line
    )
    load_backbone(file)


def test_a_file_that_is_not_there_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "there is no file owner/model.gguf" in refusal("owner/model.gguf")


@pytest.mark.parametrize("kept", [0, 3, 100, 5_000, -100])
def test_a_file_that_was_cut_is_refused(file: Path, kept: int):
    file.write_bytes(file.read_bytes()[:kept])
    line = refusal(file)
    assert str(file) in line
    assert "copy or download it again" in line


def test_a_file_of_another_kind_is_refused(file: Path):
    file.write_bytes(b"not a model at all" * 100)
    assert "is not a whole GGUF file" in refusal(file)


def test_a_file_without_a_weight_is_refused(llama: Path, tmp_path: Path):
    write_gguf(llama, tmp_path / "a.gguf", without="blk.1.ffn_up.weight")
    assert "its weights lack model.layers.1.mlp.up_proj.weight" in refusal(tmp_path / "a.gguf")


def test_an_architecture_that_transformers_does_not_know_is_refused(llama: Path, tmp_path: Path):
    write_gguf(llama, tmp_path / "a.gguf", architecture="rwkv6")
    line = refusal(tmp_path / "a.gguf")
    assert "architecture rwkv6 is not supported" in line
    assert "or the model as safetensors" in line


def test_parts_of_a_split_file_are_refused(llama: Path, file: Path, tmp_path: Path):
    write_gguf(llama, tmp_path / "renamed.gguf", metadata={"split.no": 0, "split.count": 2})
    assert "llama-gguf-split --merge" in refusal(tmp_path / "renamed.gguf")
    for number in (1, 2):
        shutil.copy(file, file.with_name(f"model-0000{number}-of-00002.gguf"))
    file.unlink()
    assert "llama-gguf-split --merge" in refusal(file.parent)
    assert "llama-gguf-split --merge" in refusal(file.parent / "model-00002-of-00002.gguf")


def test_where_transformers_would_fetch_code_it_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(opening, "GGUF_ARCHS", {"llama": None})
    load_backbone(file)
    monkeypatch.setattr(opening, "find_spec", lambda _: object())
    assert "fetches code from the hub where the package kernels is installed" in refusal(file)
