"""Loading a causal language model: its own head, LoRA in and out, errors in one line."""

import shutil
import sys
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from notellm.backbone.load import (
    LoraOptions,
    add_lora,
    check_label_logits,
    evaluation_mode,
    hidden_states,
    label_logits,
    load_backbone,
    save_backbone,
)
from notellm.errors import ConfigError, MissingDependencyError, ModelError
from tests.conftest import Checkpoint

SHAPE: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
}


def some_ids(rows: int = 3, length: int = 9) -> torch.Tensor:
    return torch.randint(3, 50, (rows, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["llama", "qwen2", "neox"])
def test_label_logits_are_the_models_own(checkpoints: dict[str, Checkpoint], name: str):
    model, _ = load_backbone(checkpoints[name].path, "[EMB]")
    ids = some_ids()
    mask = torch.ones_like(ids)
    with torch.no_grad():
        full = model(input_ids=ids, attention_mask=mask).logits
        ours = label_logits(model, hidden_states(model, ids, mask)[:, 2:5])
    assert full.std() > 0.01
    torch.testing.assert_close(ours, full[:, 2:5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Gemma2ForCausalLM, Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=0.5)),
        (GraniteForCausalLM, GraniteConfig(**SHAPE, logits_scaling=8.0)),
        (CohereForCausalLM, CohereConfig(**SHAPE, logit_scale=0.0625)),
    ],
    ids=["gemma2", "granite", "cohere"],
)
def test_heads_that_scale_or_cap(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)
    ids = some_ids()
    with torch.no_grad():
        states = hidden_states(model, ids, torch.ones_like(ids))
        full = model(input_ids=ids).logits
        plain = model.get_output_embeddings()(states)
        assert (full - plain).abs().max() > 1e-2  # the head does more than its matrix
        torch.testing.assert_close(label_logits(model, states), full, rtol=1e-5, atol=1e-5)
    check_label_logits(model)


TOKENS = torch.tensor([7, 3, 49, 3])


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (LlamaForCausalLM, LlamaConfig(**SHAPE)),
        (Gemma2ForCausalLM, Gemma2Config(**SHAPE, head_dim=8, final_logit_softcapping=0.5)),
        (GraniteForCausalLM, GraniteConfig(**SHAPE, logits_scaling=8.0)),
        (CohereForCausalLM, CohereConfig(**SHAPE, logit_scale=0.0625)),
    ],
    ids=["llama", "gemma2", "granite", "cohere"],
)
def test_logits_of_some_tokens_are_columns_of_all_logits(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    states = torch.randn(5, SHAPE["hidden_size"])
    with torch.no_grad():
        full = label_logits(model, states)
        torch.testing.assert_close(label_logits(model, states, TOKENS), full[:, TOKENS])
        head = model.get_output_embeddings()
        head.bias = torch.nn.Parameter(torch.randn(SHAPE["vocab_size"]))
        biased = label_logits(model, states)
        assert (biased - full).abs().max() > 1e-3
        torch.testing.assert_close(label_logits(model, states, TOKENS), biased[:, TOKENS])
        assert label_logits(model, states, TOKENS[:0]).shape == (5, 0)


def test_logits_of_some_tokens_with_an_adapter_on_the_head():
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    states = torch.randn(5, SHAPE["hidden_size"])
    with torch.no_grad():
        plain = label_logits(model, states, TOKENS)
        add_lora(model, LoraOptions(rank=4, dropout=0.0, targets=("lm_head", "q_proj")))
        filled_lora(model)
        full = label_logits(model, states)
        found = label_logits(model, states, TOKENS)
    torch.testing.assert_close(found, full[:, TOKENS])
    assert (found - plain).abs().max() > 1e-3


def test_a_head_of_another_kind_is_refused():
    class Doubled(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = 2 * output.logits + 1
            return output

    with pytest.raises(ModelError, match="Doubled treats its logits in a way"):
        check_label_logits(Doubled(LlamaConfig(**SHAPE)))


def test_the_check_leaves_the_mode_alone():
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).train()
    check_label_logits(model)
    assert model.training


@pytest.mark.parametrize("training", [False, True])
def test_evaluation_mode_ends_with_the_block(training: bool):
    module = torch.nn.Sequential(torch.nn.Dropout()).train(training)
    with pytest.raises(ZeroDivisionError), evaluation_mode(module):  # noqa: PT012 - the mode inside counts, too
        assert not module.training
        assert not module[0].training
        raise ZeroDivisionError
    assert module.training == module[0].training == training


@pytest.mark.parametrize("name", ["llama", "qwen2", "neox"])
def test_the_embedding_has_a_row_for_every_token(checkpoints: dict[str, Checkpoint], name: str):
    plain = AutoModelForCausalLM.from_pretrained(checkpoints[name].path)
    model, tokenizer = load_backbone(checkpoints[name].path, "[EMB]")
    table: Any = model.get_input_embeddings()
    old: Any = plain.get_input_embeddings()
    rows, kept = len(table.weight), len(tokenizer) - 1
    assert tokenizer.convert_tokens_to_ids("[EMB]") == kept
    assert rows >= len(tokenizer)
    assert model.config.vocab_size == rows
    assert torch.equal(table.weight[:kept], old.weight[:kept])
    if name == "qwen2":  # published checkpoints have spare rows: nothing grows
        assert rows == len(old.weight)


# ---------------------------------------------------------------- errors


def test_what_is_no_model(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"is not a model directory: it has no config\.json"):
        load_backbone(empty)
    with pytest.raises(ModelError, match="no causal language model at no/such-model") as caught:
        load_backbone("no/such-model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "gone", "config", "kind"])
def test_a_damaged_model(tmp_path, checkpoints: dict[str, Checkpoint], damage: str):
    path = tmp_path / "model"
    shutil.copytree(checkpoints["llama"].path, path)
    weights = path / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "gone":
        weights.unlink()
    elif damage == "config":
        (path / "config.json").write_text("{")
    else:
        (path / "config.json").write_text('{"model_type": "not-a-model"}')
    says = r"config\.json is not valid JSON" if damage == "config" else "no causal language model at"
    with pytest.raises(ModelError, match=says) as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- LoRA


def filled_lora(model) -> None:
    """Adapters start as no change; give them one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)


@pytest.mark.parametrize("name", ["llama", "qwen2", "neox"])
def test_adapters_are_merged_when_saved(tmp_path, checkpoints: dict[str, Checkpoint], name: str):
    model, _ = load_backbone(checkpoints[name].path, "[EMB]")
    ids = some_ids()
    with torch.no_grad():
        before = model(input_ids=ids).logits
    add_lora(model, LoraOptions(rank=4))
    filled_lora(model)
    model.eval()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        adapted = model(input_ids=ids).logits
    assert (adapted - before).abs().max() > 1e-2
    save_backbone(model, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(opened(input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-4)
    assert set(opened.state_dict()) == set(
        AutoModelForCausalLM.from_pretrained(checkpoints[name].path).state_dict()
    )
    after = model.state_dict()
    assert set(after) == set(weights)
    assert all(torch.equal(after[key], weights[key]) for key in weights)
    assert {key for key, weight in model.named_parameters() if weight.requires_grad} == {
        key for key, _ in model.named_parameters() if "lora_" in key
    }


def test_wrong_targets_list_the_right_ones(checkpoints: dict[str, Checkpoint]):
    model, _ = load_backbone(checkpoints["llama"].path)
    with pytest.raises(ConfigError, match=r"LoRA targets \('nowhere',\) do not fit.*k_proj.*v_proj"):
        add_lora(model, LoraOptions(targets=("nowhere",)))


def test_without_peft_the_install_command_is_given(monkeypatch, checkpoints: dict[str, Checkpoint]):
    model, _ = load_backbone(checkpoints["llama"].path)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'notellm\[lora\]'"):
        add_lora(model, LoraOptions())
