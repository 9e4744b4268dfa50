"""The instruction of the prompt is computed once for all notes, and the vectors stay what they were."""

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from notellm.backbone.branches import Branches
from notellm.backbone.load import LoraOptions
from notellm.backbone.shared import can_share, read_beginning
from notellm.data.note import Note, as_notes
from notellm.recall import model as encoding
from notellm.recall import prompt as wording
from notellm.recall.config import NoteLLMConfig
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import builtin_templates
from notellm.recall.tagging import voices
from tests.conftest import SMALL, fresh

ALIKE = [Note("a", "same beginning of everything " * count) for count in range(1, 6)]


@pytest.fixture
def read(monkeypatch):
    """The beginnings that were read."""
    found = []
    real = read_beginning

    def spy(model, ids):
        found.append(ids)
        return real(model, ids)

    monkeypatch.setattr(encoding, "read_beginning", spy)
    return found


@pytest.mark.parametrize("name", ["llama", "qwen2", "neox"])
def test_vectors_are_those_of_whole_prompts(name, checkpoints, notes, read):
    model = fresh(name, checkpoints, notes)
    with torch.no_grad():  # a vector that depends on all that is read
        for parameter in model.backbone.parameters():
            if parameter.ndim == 2:
                parameter.mul_(1.5)
    for given in (notes, ALIKE):
        np.testing.assert_allclose(model.encode(given), model.encode(given, shared=False), atol=2e-6)
    assert len(read) == 2
    for ids in read:
        assert len(ids) >= 8
        assert "Extract the note information" in model.tokenizer.decode(ids)


def test_what_an_instruction_is_does_not_depend_on_the_notes(checkpoints, notes, read):
    model = fresh("llama", checkpoints, notes)
    model.encode(notes)
    model.encode(ALIKE)
    assert read[0] == read[1]
    prompts = model.prompt.prompt_ids(model.prompts(notes) + model.prompts(ALIKE))
    assert all(row[: len(read[0])] == read[0] for row in prompts)


@pytest.mark.parametrize("template", builtin_templates())
@pytest.mark.parametrize("task", ["category", "topics"])
def test_every_prompt_begins_with_the_instruction(checkpoints, notes, template, task):
    model = fresh("llama", checkpoints, notes, template=template)
    start = model.prompt.instruction_ids(task)
    odd = [Note(text, text, (text,)) for text in ("", "'", "\n", " x", "!?", "ß", "{title}", "🙂", "n of")]
    for note in [*odd, *ALIKE]:
        text = model.prompt.render(note, task, 0)
        assert model.prompt.prompt_ids([text])[0][: len(start)] == start
    if template == "compact":
        assert len(start) < 8


def test_a_model_with_windows_reads_whole_prompts(checkpoints, notes, read):
    tokenizer = fresh("llama", checkpoints, notes).tokenizer
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
    )
    model = NoteLLM(Gemma3ForCausalLM(config).eval(), tokenizer, NoteLLMConfig(dim=8))
    np.testing.assert_array_equal(model.encode(notes), model.encode(notes, shared=False))
    assert read == []


def test_the_tiny_backbone_has_no_instruction(notes, read, monkeypatch):
    model = NoteLLM.from_corpus(notes, tiny=SMALL, dim=8)
    monkeypatch.setattr(encoding, "can_share", lambda _: pytest.fail("it was asked"))
    model.encode(notes)
    assert read == []


def test_whether_a_model_can_share_is_tried_once(checkpoints, notes, monkeypatch):
    model = fresh("llama", checkpoints, notes)
    tried = []
    real = can_share

    def spy(backbone):
        tried.append(backbone)
        return real(backbone)

    monkeypatch.setattr(encoding, "can_share", spy)
    model.encode(notes)
    model.encode(notes)
    assert tried == [model.backbone]


def test_a_few_notes_and_texts_of_another_form_are_read_whole(checkpoints, notes, read):
    model = fresh("llama", checkpoints, notes)
    model.encode(notes.slice(0, 3))
    model.encode(["a", "b", "another text", "than a prompt"])
    assert read == []
    one = np.concatenate([model.encode(notes.slice(i, 1)) for i in range(6)])
    np.testing.assert_allclose(model.encode(notes.slice(0, 6)), one, atol=2e-6)
    assert len(read) == 1


def test_with_adapters_and_while_it_is_trained(checkpoints, notes, read):
    model = fresh("llama", checkpoints, notes, lora=LoraOptions(dropout=0.5)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    np.testing.assert_allclose(model.encode(notes), model.encode(notes, shared=False), atol=2e-6)
    assert len(read) == 1
    assert model.training


@pytest.mark.parametrize("task", ["category", "topics"])
def test_a_tagger_reads_the_same_vectors_and_branches(checkpoints, notes, task, monkeypatch):
    model = fresh("llama", checkpoints, notes)
    reader, rows = model.reader(), as_notes(notes)
    assert not reader.whole
    prompts = reader.prompts(rows, task)
    shared = []
    real = Branches

    def spy(*args, **options):
        shared.append(options["shared"])
        return real(*args, **options)

    monkeypatch.setattr(voices, "Branches", spy)
    with torch.no_grad():
        found, states = reader.vectors(rows, task), reader.branches(prompts, task)[0].states
        monkeypatch.setattr(wording, "LEAST_SHARING", 10**9)
        np.testing.assert_allclose(found, reader.vectors(rows, task), atol=2e-6)
        torch.testing.assert_close(states, reader.branches(prompts, task)[0].states, rtol=1e-4, atol=1e-4)
    size = len(model.prompt.instruction_ids(task, model.settings.typical_topics))
    assert shared == [size, size, 0, 0]
    assert size >= 8


def test_the_number_of_topics_is_a_part_of_the_instruction(checkpoints, notes):
    prompt = fresh("llama", checkpoints, notes).prompt
    start = prompt.instruction_ids("topics", 7)
    assert "generate 7 topics of the note" in prompt.tokenizer.decode(start)
    assert prompt.prompt_ids([prompt.render(Note("soup"), "topics", 7)])[0][: len(start)] == start
