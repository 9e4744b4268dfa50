"""Sequences that share a beginning read as they do whole, or the model is known to be another kind."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from notellm.backbone import shared
from notellm.backbone.load import hidden_states
from notellm.backbone.shared import can_share, end_states, read_beginning

SIZE: Any = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def mistral(window):
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**SIZE, sliding_window=window)).eval()


@torch.no_grad()
def largest_difference(model):
    """Of the states of two sequences after ten shared tokens, whole and shared."""
    ids = torch.randint(3, 50, (2, 14), generator=torch.Generator().manual_seed(1))
    ids[1, :10] = ids[0, :10]
    mask = torch.ones(2, 14, dtype=torch.long)
    mask[1, 12:] = 0
    ends = mask.sum(1) - 1
    whole = hidden_states(model, ids, mask)[torch.arange(2), ends]
    parts = end_states(model, read_beginning(model, ids[0, :10].tolist()), ids[:, 10:], mask[:, 10:])
    return float((whole - parts).abs().max())


@pytest.mark.parametrize("fused", [True, False])
def test_grouped_keys_and_padding_change_nothing(fused, monkeypatch):
    if not fused:  # as on an accelerator
        monkeypatch.setattr("notellm.backbone.shared._FUSED", None)
    model = mistral(None)
    assert can_share(model)
    assert largest_difference(model) < 1e-5


def test_a_window_is_refused_though_a_few_tokens_do_not_show_it():
    model = mistral(5)
    with pytest.raises(ValueError, match="cache drops tokens of the beginning"):
        largest_difference(model)
    assert not can_share(model)


def test_capped_scores_are_refused():
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZE)).eval()
    assert not can_share(model)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_was(training):
    model = mistral(None).train(training)
    ids = torch.tensor([[3, 4, 5, 6]])
    before = model.config._attn_implementation
    states = hidden_states(model, ids, torch.ones_like(ids))
    assert can_share(model)
    assert model.training is training
    assert model.config._attn_implementation == before
    torch.testing.assert_close(hidden_states(model, ids, torch.ones_like(ids)), states, rtol=0, atol=0)


def test_a_model_without_a_part_named_mlp_is_read_too():
    torch.manual_seed(0)
    sizes: Any = {"ffn_dim": 32, "word_embed_proj_dim": 32}
    config = OPTConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **sizes)
    model = OPTForCausalLM(config).eval()
    assert can_share(model)
    assert largest_difference(model) < 1e-5


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_threads_that_read_whole_sequences_or_other_beginnings_meanwhile(own):
    model = mistral(None)
    model.set_attn_implementation(own)
    ids = torch.randint(3, 50, (2, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        whole = hidden_states(model, ids, mask)
    together = Barrier(4)

    def read(number):
        rows = ids[number % 2 :][:1]
        with torch.no_grad():
            for _ in range(20):
                together.wait()
                if number < 2:
                    torch.testing.assert_close(hidden_states(model, ids, mask), whole, rtol=1e-4, atol=1e-5)
                    continue
                start = read_beginning(model, rows[0, :10].tolist())
                parts = end_states(model, start, rows[:, 10:], mask[:1, 10:])
                torch.testing.assert_close(parts[0], whole[number % 2, -1], rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_a_whole_sequence_is_read_with_the_models_own_attention_meanwhile(own):
    """Another thread of the same model, at the moment when its attention is switched."""
    model = mistral(None)
    model.set_attn_implementation(own)
    ids = torch.randint(3, 50, (2, 14), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0

    def whole():
        with torch.no_grad():
            return hidden_states(model, ids, mask)[mask.bool()]

    wanted = whole()
    with torch.no_grad():
        reading = shared._Reading(read_beginning(model, [3, 4]), torch.tensor([0]))
    with shared._attending_to(model, reading), ThreadPoolExecutor(1) as pool:
        found = pool.submit(whole).result()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
