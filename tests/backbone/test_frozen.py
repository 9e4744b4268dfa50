"""Frozen lower layers and upper layers, computed apart, are the whole model."""

from typing import Any

import pytest
import torch

from notellm.backbone.frozen import SplitModel
from notellm.backbone.load import LoraOptions, add_lora, hidden_states
from notellm.errors import ConfigError, ModelError
from tests.backbone.test_layers import IDS, made

NAMES = ("llama", "gemma3", "qwen2", "gpt2")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones_like(IDS)
    mask[1, 9:] = 0
    mask[2, 5:] = 0
    return IDS, mask


@pytest.mark.parametrize("upper", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_both_parts_are_the_whole_model(name: str, upper: int):
    model = made(name).eval()
    split = SplitModel(model, upper)
    ids, mask = batch()
    with torch.no_grad():
        whole = hidden_states(model, ids, mask)
        states = split.lower(ids, mask)
        parts = split.upper(ids, mask, states)
        again = hidden_states(model, ids, mask)  # nothing is left behind in the model
    assert split.frozen == 4 - upper
    torch.testing.assert_close(parts[mask.bool()], whole[mask.bool()])
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    assert not any("forward" in vars(module) for module in model.modules())


def test_states_of_a_prompt_do_not_depend_on_what_follows():
    split = SplitModel(made("gemma3").eval(), 2)
    ids, _ = batch()
    longer = split.lower(ids, torch.ones_like(ids))
    torch.testing.assert_close(split.lower(ids[:, :8], torch.ones_like(ids[:, :8])), longer[:, :8])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_below_is_frozen_and_what_is_above_is_not(name: str, lora: bool):
    model = made(name)
    if lora:
        add_lora(model, LoraOptions(last_layers=2))
        adapters = [key for key, _ in model.named_parameters() if "lora_" in key]
        assert adapters
        assert not any(f".{layer}." in key for key in adapters for layer in (0, 1))
    before = {key for key, weight in model.named_parameters() if weight.requires_grad}
    SplitModel(model, 2).freeze()
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert {key for key in trained if ".0." in key or ".1." in key or "embed" in key or "wpe" in key} == set()
    assert {key for key in before if ".2." in key or ".3." in key or "norm.weight" in key} <= trained | {
        key for key in before if ".0." in key or ".1." in key
    }


def test_gradients_of_the_upper_layers_are_those_of_the_whole_model():
    model = made("gemma3")
    split = SplitModel(model, 2)
    split.freeze()
    ids, mask = batch()
    weights = {key: weight for key, weight in model.base_model.named_parameters() if weight.requires_grad}
    found = []
    for states in (hidden_states(model, ids, mask), split.upper(ids, mask, split.lower(ids, mask))):
        loss = states[mask.bool()].float().square().sum()
        found.append(torch.autograd.grad(loss, list(weights.values())))
    for key, one, two in zip(weights, *found, strict=True):
        torch.testing.assert_close(one, two, msg=key)


@pytest.mark.parametrize("upper", [0, 4, 5])
def test_a_number_out_of_range_names_the_range(upper: int):
    with pytest.raises(
        ConfigError, match=f"train_layers is {upper}, but the backbone has 4 layers; give 1 to 3"
    ):
        SplitModel(made("llama"), upper)


def test_upper_layers_that_read_more_than_states_are_refused():
    """The last layer adds what the first one was given in this pass, which stored states do not hold."""
    model: Any = made("llama")
    given: list[torch.Tensor] = []
    model.base_model.register_forward_pre_hook(lambda *_: given.append(torch.zeros(1)))
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda _, __, named: given.append(named["hidden_states"]), with_kwargs=True
    )
    model.model.layers[3].register_forward_hook(lambda _, __, output: output + given[-1])
    with pytest.raises(
        ModelError, match="LlamaForCausalLM cannot be computed apart: its upper layers read more"
    ):
        SplitModel(model, 2)


def test_layers_that_are_not_in_one_list_are_refused():
    model: Any = made("llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match="its layers are not in one list; leave train_layers out"):
        SplitModel(model, 2)
