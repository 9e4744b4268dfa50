"""The last layer computes some tokens only, and their states and gradients stay what they were."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from notellm.backbone.load import hidden_states
from notellm.backbone.wanted import can_skip, last_layer_at, states_at

SIZE: Any = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
OPT: Any = {"vocab_size": 50, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZE, attention_bias=True)),
    "norms of queries": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZE)),
    "norms after": lambda: Gemma2ForCausalLM(Gemma2Config(**SIZE)),
    "experts": lambda: MixtralForCausalLM(MixtralConfig(**SIZE, num_local_experts=2)),
    "other names": lambda: OPTForCausalLM(OPTConfig(**OPT, num_hidden_layers=2, num_attention_heads=4)),
    "fused queries": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)),
}
ROWS, POSITIONS = torch.tensor([[0, 0, 1, 2], [3, 7, 5, 0]])


def model_of(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def batch():
    ids = torch.randint(3, 50, (3, 8), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[1, 6:] = 0
    return ids, mask


def parts_of(model):
    ids, mask = batch()
    return states_at(model, ids, mask, ROWS, POSITIONS)


def gradients(model, states):
    model.zero_grad()
    states.pow(2).sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", list(MODELS))
def test_states_and_gradients_are_those_of_the_whole_model(name):
    model = model_of(name)
    assert can_skip(model)
    whole = hidden_states(model, *batch())[ROWS, POSITIONS]
    wanted = gradients(model, whole)
    parts = parts_of(model)
    torch.testing.assert_close(parts, whole)
    computed = gradients(model, parts)
    assert computed.keys() == wanted.keys()
    for each, gradient in wanted.items():
        torch.testing.assert_close(computed[each], gradient, msg=each)


def test_fewer_operations_are_computed():
    model = model_of("llama")

    def operations(compute):
        with FlopCounterMode(display=False) as counter:
            compute()
        return counter.get_total_flops()

    whole = operations(lambda: hidden_states(model, *batch()))
    parts = operations(lambda: parts_of(model))
    tokens, left_out, hidden = 3 * 8, 3 * 8 - len(ROWS), 32
    per_token = 2 * (2 * hidden * hidden + 3 * hidden * 64)  # query and output projections, feed-forward part
    assert whole - parts == left_out * per_token
    assert tokens > left_out


def test_a_layer_that_is_computed_again_in_the_backward_pass_is_left_as_it_is():
    model = model_of("llama")
    model.activation_checkpointing_enable()
    assert not can_skip(model)


def test_another_thread_reads_all_tokens_meanwhile():
    model = model_of("llama")
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        whole = hidden_states(model, *batch())
        with last_layer_at(model, ROWS, POSITIONS):
            beside = pool.submit(torch.inference_mode()(hidden_states), model, *batch()).result()
    torch.testing.assert_close(beside, whole)


def test_the_model_is_as_before_afterwards():
    model = model_of("llama")
    whole = hidden_states(model, *batch())
    parts_of(model)
    torch.testing.assert_close(hidden_states(model, *batch()), whole)
