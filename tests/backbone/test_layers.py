"""A model cut to its first layers computes what they computed before, and is saved as a plain model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from notellm.backbone.branches import can_branch
from notellm.backbone.layers import cut_layers
from notellm.backbone.load import check_label_logits, hidden_states, load_backbone, save_backbone
from notellm.backbone.shared import can_share
from notellm.errors import ConfigError, ModelError
from notellm.jobs.train_rank import build_rank_model
from notellm.jobs.train_recall import train_recall
from notellm.rank.config import RankOptions
from notellm.recall.config import RecallOptions
from notellm.recall.model import NoteLLM
from tests.conftest import Checkpoint
from tests.rank.small import TEMPLATE

SIZE: Any = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": [1, 2, 3, 4],  # as long as a list with an entry for each layer
}
KINDS = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
IDS = torch.randint(3, 50, (3, 14), generator=torch.Generator().manual_seed(0))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SIZE))


def gemma3(window: int = 6) -> PreTrainedModel:
    config = Gemma3TextConfig(**SIZE, query_pre_attn_scalar=8, sliding_window=window, layer_types=KINDS)
    return Gemma3ForCausalLM(config)


def qwen2() -> PreTrainedModel:
    size = {name: value for name, value in SIZE.items() if name != "head_dim"}
    return Qwen2ForCausalLM(Qwen2Config(**size, tie_word_embeddings=True))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=4, n_head=4, n_positions=64))


MAKERS = {"llama": llama, "gemma3": gemma3, "qwen2": qwen2, "gpt2": gpt2}


def made(name: str) -> PreTrainedModel:
    """A model whose layers all matter."""
    torch.manual_seed(0)
    model: PreTrainedModel = MAKERS[name]().eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(5)
    return model


def final_norm(model: PreTrainedModel) -> Any:
    return model.base_model.norm if hasattr(model.base_model, "norm") else model.base_model.ln_f


@torch.no_grad()
def states(model: PreTrainedModel) -> torch.Tensor:
    return hidden_states(model, IDS, torch.ones_like(IDS))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_states_are_those_of_the_whole_model_after_that_layer_and_the_final_norm(name: str, count: int):
    model = made(name)
    with torch.no_grad():
        whole = model(input_ids=IDS, output_hidden_states=True, use_cache=False)
        wanted = final_norm(model)(whole.hidden_states[count])
    cut_layers(model, count)
    torch.testing.assert_close(states(model), wanted)
    assert (states(model) - whole.hidden_states[-1]).abs().max() > 1e-2
    check_label_logits(model)


@pytest.mark.parametrize("name", MAKERS)
def test_saved_it_is_a_plain_model_with_that_many_layers(name: str, tmp_path: Path):
    model = made(name)
    cut_layers(model, 3)
    save_backbone(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["n_layer" if name == "gpt2" else "num_hidden_layers"] == 3
    if name == "gemma3":
        assert config["layer_types"] == KINDS[:3]
        assert config["eos_token_id"] == [1, 2, 3, 4]
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert set(again.state_dict()) == set(model.state_dict())
    torch.testing.assert_close(states(again), states(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", MAKERS)
def test_with_a_cache_it_writes_what_it_writes_without(name: str):
    model = made(name)
    cut_layers(model, 2)
    written = [
        model.generate(  # type: ignore[operator]
            IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=6, do_sample=False, use_cache=cache
        )
        for cache in (True, False)
    ]
    assert torch.equal(*written)


def test_it_shares_beginnings_and_branches_as_before(checkpoints: dict[str, Checkpoint]):
    _, tokenizer = load_backbone(checkpoints["llama"].path)
    model = made("llama")
    cut_layers(model, 2)
    assert can_share(model)
    assert can_branch(model, tokenizer)
    model = made("gemma3")  # two of its kinds of layers are left
    cut_layers(model, 2)
    assert not can_share(model)
    assert can_branch(model, tokenizer)
    model = made("gemma3")
    cut_layers(model, 1)  # which has no window
    assert can_share(model)
    assert can_branch(model, tokenizer)


def test_all_layers_are_the_model_as_it_was():
    model = made("llama")
    before = states(model)
    cut_layers(model, 4)
    torch.testing.assert_close(states(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("count", [0, -1, 5])
def test_a_number_out_of_range_names_the_range(count: int):
    with pytest.raises(ConfigError, match=f"layers is {count}, but the backbone has 4 layers; give 1 to 4"):
        cut_layers(made("llama"), count)


def test_layers_that_depend_on_later_ones_are_not_cut(monkeypatch: pytest.MonkeyPatch):
    """As where layers share keys by their distance from the end."""
    model: Any = made("llama")
    layer = model.model.layers[1]
    whole = layer.forward

    def forward(*args, **options):
        return whole(*args, **options) * model.config.num_hidden_layers

    monkeypatch.setattr(layer, "forward", forward)
    with pytest.raises(
        ModelError, match="cannot be cut to its first layers: what its layers compute depends on"
    ):
        cut_layers(model, 2)


# ---------------------------------------------------------------- as an option


def test_the_tiny_backbone_is_not_cut():
    for options in (RecallOptions(layers=1), RankOptions(layers=1)):
        with pytest.raises(ConfigError, match="layers is 1, but only pretrained backbones are cut"):
            options.resolved()
    with pytest.raises(ConfigError, match="layers is 0"):
        RecallOptions(backbone="some/model", layers=0).resolved()


def test_a_trained_model_has_that_many_layers(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, pairs: pa.Table, tmp_path: Path
):
    options = RecallOptions(
        backbone=str(checkpoints["llama"].path),
        layers=1,
        max_steps=2,
        batch_pairs=4,
        dim=8,
        template="compact",
    )
    trained = train_recall(notes, pairs, tmp_path / "model", options=options, progress=False)
    again = NoteLLM.from_saved(tmp_path / "model")
    assert again.config.num_hidden_layers == 1
    np.testing.assert_allclose(again.encode(notes), trained.encode(notes), atol=1e-5)
    assert "layers.1." not in " ".join(again.state_dict())
    with pytest.raises(ConfigError, match="is a saved NoteLLM"):
        NoteLLM.from_pretrained(tmp_path / "model", layers=1)
    with pytest.raises(ConfigError, match="layers is 3, but the backbone has 2 layers; give 1 to 2"):
        NoteLLM.from_pretrained(checkpoints["llama"].path, layers=3)


def test_a_ranker_has_that_many_layers(checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path):
    wording = tmp_path / "wording.json"
    wording.write_text(json.dumps(TEMPLATE))
    options = RankOptions(backbone=str(checkpoints["qwen2"].path), layers=1, template=str(wording), lora=True)
    model = build_rank_model(options, notes, notes)
    assert model.config.num_hidden_layers == 1
    model.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_hidden_layers"] == 1
