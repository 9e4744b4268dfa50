"""The corpus-initialised backbone knows what notes are about before any training."""

import math
from collections import Counter
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from notellm.backbone.batch import pad
from notellm.data.note import Note, notes_from_table
from notellm.errors import DataError
from notellm.recall.model import NoteLLM
from notellm.recall.projection import principal_components, write_start
from notellm.recall.tiny import TinyOptions
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def concepts() -> list[Note]:
    """90 notes of three concepts; a note has 4 of its concept's 24 words and 8 words that all share."""
    rng = np.random.default_rng(3)
    shared = [f"common{chr(97 + i)}" for i in range(12)]
    rows = []
    for i in range(90):
        own = [f"{'xyz'[i % 3]}word{chr(97 + j)}" for j in rng.choice(24, 4, replace=False)]
        words = [*own, *rng.choice(shared, 8)]
        rng.shuffle(words)
        rows.append(Note(" ".join(words[:3]), " ".join(words[3:])))
    return rows


def same_concept(vectors: np.ndarray) -> float:
    """Share of the 10 nearest notes that are of the same concept, i % 3."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :10]
    return float((nearest % 3 == np.arange(len(vectors))[:, None] % 3).mean())


def test_it_finds_the_same_concept_before_training_and_random_weights_do_not(concepts: list[Note]):
    size = TinyOptions(vocabulary=600, hidden=64, layers=2, heads=4, intermediate=64)
    model = NoteLLM.from_corpus(concepts, tiny=size, dim=16)
    torch.manual_seed(0)
    config = cast("LlamaConfig", model.backbone.config)
    random = NoteLLM(LlamaForCausalLM(config), model.tokenizer, model.settings)
    start = principal_components(random.prompt_states(random.prompts(concepts)), 16)
    write_start(random.projection, start)
    ours, theirs = same_concept(model.encode(concepts)), same_concept(random.encode(concepts))
    assert sum(w.numel() for w in random.parameters()) == sum(w.numel() for w in model.parameters())
    assert ours > 0.75
    assert theirs < ours - 0.2


def test_it_is_the_same_for_one_seed(notes: pa.Table):
    one, two, other = (NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, seed=seed) for seed in (1, 1, 2))
    weights = one.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in two.state_dict().items())
    assert any(not torch.equal(weight, weights[name]) for name, weight in other.state_dict().items())
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab()


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_attention_of_the_last_position_is_proportional_to_a_power_of_idf(notes: pa.Table, power: float):
    size = TinyOptions(vocabulary=700, hidden=64, layers=2, heads=2, intermediate=64, idf_power=power)
    model = NoteLLM.from_corpus(notes, tiny=size, dim=16)
    model.eval()
    prompts = model.prompts(notes)
    rows = model.tokenizer(prompts, add_special_tokens=False)["input_ids"]
    frequency = Counter(token for row in rows for token in set(row))
    total = len(prompts)
    model.backbone.set_attn_implementation("eager")
    checked = 0
    for ids in model.prompt.prompt_ids(prompts[:12]):
        with torch.no_grad():
            attention = model.backbone(torch.tensor([ids]), output_attentions=True).attentions[0][0, :, -1]
        idf = [
            math.log((1 + total) / (1 + frequency[token])) + 1 if frequency[token] else 1.0 for token in ids
        ]
        wanted = np.array(idf) ** power
        wanted /= wanted.sum()
        for head in attention.numpy():
            np.testing.assert_allclose(head, wanted, rtol=0.03)
        checked += power == 0.0 or wanted.max() / wanted.min() > 1.8**power
    assert checked == 12


def test_the_last_state_is_the_idf_weighted_mean_of_the_token_vectors(tiny: NoteLLM, notes: pa.Table):
    """Layer 0 adds that mean to the last token's own vector, the other layers nothing."""
    (ids,) = tiny.prompt.prompt_ids(tiny.prompts(notes.slice(4, 1)))
    backbone = tiny.backbone.eval()
    tiny.backbone.set_attn_implementation("eager")
    with torch.no_grad():
        output = backbone(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    table = backbone.get_input_embeddings().weight[ids].detach()
    normed = table / table.pow(2).mean(dim=1, keepdim=True).sqrt()
    normed[:, -1 - normed.shape[1] // 4 :] = 0  # bigrams and the channel of the idf are no part of the mean
    head_width = table.shape[1] // 4
    weights = output.attentions[0][0, :, -1].repeat_interleave(head_width, dim=0)  # (hidden, length)
    wanted = table[-1] + (weights.T * normed).sum(dim=0)
    final = wanted / wanted.pow(2).mean().sqrt()
    torch.testing.assert_close(output.hidden_states[-1][0, -1], final, rtol=1e-3, atol=1e-3)


def test_upper_case_and_wide_letters_read_as_lower_case(tiny: NoteLLM):
    plain, loud = tiny.encode([Note("garlic soup", "bread"), Note("GARLIC Ｓｏｕｐ", "Bread")])
    np.testing.assert_allclose(plain, loud, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_notes_is_enough(notes: pa.Table, count: int):
    model = NoteLLM.from_corpus(notes.slice(0, count), tiny=SMALL, dim=16)
    vectors = model.encode(notes)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_notes_without_any_text_are_refused():
    with pytest.raises(DataError, match="hold no text"):
        NoteLLM.from_corpus([Note("", " ", (), "Cooking")], tiny=SMALL)


def test_weights_can_be_trained(notes: pa.Table):
    """Nothing in the model is left over from inference mode."""
    model = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16)
    batch = pad(model.prompt.prompt_ids(model.prompts(notes_from_table(notes)[:4])), model.tokenizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batch).vectors[0].sum().backward()
    before = model.projection.bias.detach().clone()
    optimizer.step()
    assert model.training
    assert not torch.equal(before, model.projection.bias)
