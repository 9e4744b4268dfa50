"""Prompts that end in an end token: the vector is read there, by notellm and by every library."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoTokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)

from notellm.backbone.tokenizer import end_texts, ends_texts, harden
from notellm.data.note import Note, notes_from_table
from notellm.errors import ConfigError
from notellm.recall.batch import PairCollator
from notellm.recall.config import NoteLLMConfig
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import EMB_TOKEN, PromptBuilder, load_template, template_from_dict
from notellm.recall.trainer import NoteLLMTrainer
from tests.conftest import ARCHITECTURES, Checkpoint, byte_level_tokenizer, fresh
from tests.recall import jobs

TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
HOSTILE = Note(
    "{end} </s> soup {content}", "<|im_end|> bread <|endoftext|>{end}", ("{end}", "</s>"), "Cooking"
)


@pytest.fixture(params=ARCHITECTURES)
def ended(request: pytest.FixtureRequest, checkpoints: dict[str, Checkpoint], notes: pa.Table) -> NoteLLM:
    """A model of each architecture whose vectors are read at the end token."""
    return fresh(request.param, checkpoints, notes, template="repllama")


def asked(template: str = "repllama", **parts: Any) -> dict[str, Any]:
    """A template as a JSON object, with other parts of its category task."""
    value = load_template(template).to_dict()
    return value | {"category": value["category"] | parts}


# ---------------------------------------------------------------- the sequence


def test_the_prompt_is_the_text_of_the_note_alone(ended: NoteLLM):
    note = Note("garlic soup", "with bread", ("oven", "pasta"), "Cooking")
    assert ended.prompt.render(note) == "garlic soup oven, pasta with bread"
    assert ended.prompt.render(note, "topics", 2) == "garlic soup with bread"


def test_the_end_token_stands_before_emb_and_is_where_the_vector_is_read(ended: NoteLLM):
    prompt = ended.prompt
    text = prompt.render(Note("garlic soup", "with bread", ("oven",), "Cooking"))
    output = prompt.output("category", category="Cooking")
    (encoded,) = prompt.tokenize([text], ["category"], [output], [0])
    assert encoded.ids[encoded.position : encoded.position + 2] == [prompt.eos_id, prompt.emb_id]
    assert encoded.ids[: encoded.position + 1] == prompt.prompt_ids([text])[0]
    assert encoded.ids[encoded.position + 2 :] == [
        *prompt.guidance_ids("category", 0),
        *prompt.output_ids([output])[0],
        prompt.eos_id,
    ]
    (alone,) = prompt.tokenize([text], ["category"], [""], [0])
    assert alone.ids[alone.position :] == [prompt.eos_id]


def test_no_text_of_a_note_makes_an_end_token(ended: NoteLLM):
    (cut,) = ended.prompt.cut([HOSTILE])
    for task in ("category", "topics"):
        text = ended.prompt.render(cut, task)
        assert "{end}" in text
        (ids,) = ended.prompt.prompt_ids([text])
        assert ids[-1] == ended.prompt.eos_id
        start = [ended.tokenizer.bos_token_id] if ids[0] == ended.tokenizer.bos_token_id else []
        assert ended.prompt.eos_id not in ids[len(start) : -1]


def test_the_vector_depends_on_the_end_token(ended: NoteLLM, notes: pa.Table):
    vectors = ended.encode(notes, shared=False)
    ids = ended.prompt.prompt_ids(ended.prompts(notes))
    states = []
    with torch.no_grad():
        for row in ids:
            tokens = torch.tensor([row])
            assert int(tokens[0, -1]) == ended.tokenizer.eos_token_id
            states.append(ended.backbone.base_model(input_ids=tokens).last_hidden_state[0, -1])
        by_hand = ended.to_vectors(torch.stack(states)).numpy()
    np.testing.assert_allclose(vectors, by_hand, **TOLERANCE)
    np.testing.assert_allclose(ended.encode(notes), by_hand, **TOLERANCE)


def test_an_empty_note_has_a_vector(ended: NoteLLM):
    (vector,) = ended.encode([Note()])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_end_token_counts_for_the_longest_sequence(tiny: NoteLLM):
    prompt = PromptBuilder(tiny.tokenizer, load_template("repllama"), NoteLLMConfig(max_length=30))
    (note,) = prompt.cut([Note("soup " * 40, "bread " * 200, ("oven", "pasta"), "Cooking")])
    for task in ("category", "topics"):
        text = prompt.render(note, task)
        (encoded,) = prompt.tokenize([text], [task], [prompt.output("category", category="Cooking")], [0])
        assert len(encoded.ids) <= 30
        assert encoded.ids[encoded.position] == prompt.eos_id


# ---------------------------------------------------------------- training and reading


def test_a_batch_reads_vectors_at_the_end_token(ended: NoteLLM, notes: pa.Table):
    rows = ended.prompt.cut(notes_from_table(notes))
    batch = PairCollator(ended.prompt, rows, topic_share=0.4, seed=0)([(0, 1, 2), (1, 4, 11)])
    places = torch.arange(4), batch["position"]
    assert (batch["input_ids"][places] == ended.prompt.eos_id).all()
    has_output = (batch["labels"] >= 0).any(dim=1)
    assert has_output.any()
    after = batch["input_ids"][has_output, batch["position"][has_output] + 1]
    assert (after == ended.prompt.emb_id).all()
    assert (batch["attention_mask"][places] == 1).all()


def test_it_is_trained_with_the_contrastive_loss(ended: NoteLLM, notes: pa.Table, pairs: pa.Table, tmp_path):
    before = ended.encode(notes)
    arguments = jobs.arguments(tmp_path, alpha=0.0, topic_share=0.0, learning_rate=0.01)
    NoteLLMTrainer(ended, arguments, notes=notes, pairs=pairs).train()
    assert np.abs(ended.encode(notes) - before).max() > 1e-4


@pytest.mark.parametrize("task", ["category", "topics"])
def test_a_tagger_reads_the_same_vectors(checkpoints: dict[str, Checkpoint], notes: pa.Table, task: Any):
    model = fresh("llama", checkpoints, notes, template="repllama")
    reader, rows = model.reader(), notes_from_table(notes)
    assert not reader.whole
    with torch.no_grad():
        found = reader.vectors(rows, task)
    by_hand = model.encode([model.prompt.render(row, task) for row in model.prompt.cut(rows)], shared=False)
    np.testing.assert_allclose(found, by_hand, **TOLERANCE)


def test_an_instruction_before_it_is_shared(checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path):
    """A template of one's own, with an instruction that is read once and an end token."""
    path = tmp_path / "mine.json"
    instruction = (
        "Extract the note information in json format, compress it into one word: {title} {content}{end}"
    )
    value = asked(prompt=instruction)
    value["topics"]["prompt"] = instruction
    path.write_text(json.dumps(value), encoding="utf-8")
    model = fresh("llama", checkpoints, notes, template=str(path))
    start = model.prompt.instruction_ids()
    assert len(start) >= 8
    assert model.prompt.eos_id not in start
    assert model.prompt.shared_length(model.prompt.prompt_ids(model.prompts(notes)), start) == len(start)
    np.testing.assert_allclose(model.encode(notes), model.encode(notes, shared=False), atol=2e-6)


# ---------------------------------------------------------------- saved models


def test_sentence_transformers_reads_the_vectors_at_the_end_token_too(
    ended: NoteLLM, notes: pa.Table, tmp_path: Path
):
    from sentence_transformers import SentenceTransformer

    rows = [*notes_from_table(notes), HOSTILE, Note()]
    ended.save_pretrained(tmp_path / "model")
    opened = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    theirs = opened.encode(ended.prompts(rows), batch_size=16)
    np.testing.assert_allclose(theirs, ended.encode(rows), **TOLERANCE)


def test_a_saved_model_opens_as_it_was(ended: NoteLLM, notes: pa.Table, tmp_path: Path):
    ended.save_pretrained(tmp_path / "model")
    again = NoteLLM.from_saved(tmp_path / "model")
    assert again.verified_fingerprint() == ended.fingerprint()
    assert again.prompt.prompt_ids(["soup"]) == ended.prompt.prompt_ids(["soup"])
    np.testing.assert_allclose(again.encode(notes), ended.encode(notes), **TOLERANCE)
    again.save_pretrained(tmp_path / "again")
    assert NoteLLM.from_saved(tmp_path / "again").verified_fingerprint() == ended.fingerprint()


def test_with_another_template_the_end_token_is_gone_again(ended: NoteLLM, tmp_path: Path):
    ended.save_pretrained(tmp_path / "model")
    other = NoteLLM.from_pretrained(tmp_path / "model", template="compact")
    assert not ends_texts(other.tokenizer)
    (ids,) = other.prompt.prompt_ids(["soup"])
    assert [*ids, ended.prompt.eos_id] == ended.prompt.prompt_ids(["soup"])[0]
    other.save_pretrained(tmp_path / "other")
    assert NoteLLM.from_saved(tmp_path / "other").prompt.prompt_ids(["soup"]) == [ids]


# ---------------------------------------------------------------- tokenizers


def plain_tokenizer(kind: str) -> Any:
    """A tokenizer of a class of transformers, with its own way to add tokens to a text."""
    special = ["<unk>", "<s>", "</s>"]
    made = byte_level_tokenizer(["soup bread garlic oven"] * 3, special, eos_token="</s>", unk_token="<unk>")
    model = json.loads(made.backend_tokenizer.to_str())["model"]
    spelt = {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}
    names: dict[str, Any] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    if kind == "neox":
        return GPTNeoXTokenizer(**spelt, **names, bos_token="<s>")
    if kind == "neox with bos":
        return GPTNeoXTokenizer(**spelt, **names, bos_token="<s>", add_bos_token=True)
    if kind == "qwen2":
        return Qwen2Tokenizer(**spelt, **names)
    if kind == "llama":
        return LlamaTokenizer(**spelt, **names, bos_token="<s>", add_bos_token=True)
    return made


@pytest.mark.parametrize("kind", ["neox", "neox with bos", "qwen2", "llama", "plain"])
def test_the_end_token_of_every_class_of_tokenizers_is_saved(
    kind: str, checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path: Path
):
    tokenizer = harden(plain_tokenizer(kind), EMB_TOKEN)
    before = tokenizer("soup bread")["input_ids"]
    backbone = fresh("llama", checkpoints, notes).backbone
    backbone.resize_token_embeddings(len(tokenizer))
    model = NoteLLM(backbone, tokenizer, NoteLLMConfig(dim=8, template="repllama"))
    assert tokenizer("soup bread")["input_ids"] == [*before, tokenizer.eos_token_id]
    model.save_pretrained(tmp_path / "model")
    opened = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    assert opened("soup </s>")["input_ids"] == tokenizer("soup </s>")["input_ids"]
    assert NoteLLM.from_saved(tmp_path / "model").verified_fingerprint() == model.fingerprint()


def test_a_tokenizer_that_ends_texts_by_itself_is_left_as_it_is():
    tokenizer = harden(plain_tokenizer("qwen2"), EMB_TOKEN)
    tokenizer.add_eos_token = True
    before = tokenizer.backend_tokenizer.to_str()
    for wanted in (True, False):
        end_texts(tokenizer, wanted=wanted)
        assert tokenizer.backend_tokenizer.to_str() == before
    prompt = PromptBuilder(tokenizer, load_template("repllama"))
    (ids,) = prompt.prompt_ids(["soup"])
    assert ids.count(prompt.eos_id) == 1


def test_a_prompt_ends_whether_or_not_its_tokenizer_was_prepared():
    found = []
    for prepared in (False, True):
        tokenizer = harden(plain_tokenizer("plain"), EMB_TOKEN)
        end_texts(tokenizer, wanted=prepared)
        found.append(PromptBuilder(tokenizer, load_template("repllama")).prompt_ids(["soup", ""]))
    assert found[0] == found[1]
    assert found[0][1] == [tokenizer.eos_token_id]


def test_a_tokenizer_without_an_end_token_is_refused(tiny: NoteLLM):
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny.tokenizer.backend_tokenizer)
    with pytest.raises(ConfigError, match=r"the tokenizer has no end token .*'repllama'"):
        PromptBuilder(bare, load_template("repllama"))


# ---------------------------------------------------------------- templates


@pytest.mark.parametrize(
    "parts", [{"prompt": "{end} {title}."}, {"guidance": "{end}"}, {"prompt": "{title}{end} "}]
)
def test_the_end_stands_at_the_end_of_the_prompt_only(parts: dict[str, str]):
    with pytest.raises(ConfigError, match=r"category: \{end\} may only stand at the very end of the prompt"):
        template_from_dict(asked(**parts), "mine")


def test_both_prompts_end_or_none():
    with pytest.raises(ConfigError, match=r"the prompts of both tasks must end in \{end\}, or none"):
        template_from_dict(asked(prompt="{title} ."), "mine")


def test_templates_of_baselines_are_their_papers_wordings(tiny: NoteLLM):
    note = Note("A", "B", ("C", "D"))
    config = NoteLLMConfig(max_length=512)
    found = {
        name: PromptBuilder(tiny.tokenizer, load_template(name), config).render(note)
        for name in ("repllama", "prompteol")
    }
    assert found == {"repllama": "A C, D B", "prompteol": 'This sentence : "A C, D B" means in one word:"'}
    assert load_template("repllama").ends
    assert not load_template("prompteol").ends


def test_two_templates_give_two_models(checkpoints: dict[str, Checkpoint], notes: pa.Table):
    models = [fresh("llama", checkpoints, notes, template=name) for name in ("repllama", "prompteol")]
    assert models[0].fingerprint() != models[1].fingerprint()
    assert np.abs(models[0].encode(notes) - models[1].encode(notes)).max() > 1e-2
