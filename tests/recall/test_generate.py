"""What a model without a tagger writes: the likeliest of the allowed categories, or freely and greedily."""

import json
import shutil
from typing import Any

import pyarrow as pa
import pytest
import torch

import notellm.recall.generate as generate_module
from notellm.data.note import Note, notes_from_table
from notellm.errors import ConfigError, DataError
from notellm.recall.generate import is_plausible
from notellm.recall.model import NoteLLM
from tests.conftest import Checkpoint, fresh
from tests.recall.tagging.test_likelihood import ByHand

NAMES = ["Cook", "Cooking", "Cooking at home", "旅行", "旅行攻略", "[EMB]", "</s>", "a, b"]


def next_logits(model: NoteLLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.backbone(torch.tensor([ids])).logits
    return logits[0, -1]


def start_ids(model: NoteLLM, note, task, n: int) -> list[int]:
    prompt = model.prompt
    (ids,) = prompt.prompt_ids([prompt.render(prompt.cut([note])[0], task, n)])
    return [*ids, prompt.emb_id, *prompt.guidance_ids(task, n)]


def likeliest_category(model: NoteLLM, note, names: list[str]) -> str:
    prompt = model.prompt
    spelt = prompt.output_ids([prompt.output("category", category=name) for name in names])
    hand = ByHand(model.backbone, start_ids(model, note, "category", 1), spelt, [prompt.eos_id])
    found = hand.likelihoods()
    return names[max(found, key=lambda number: found[number])]


def test_a_constrained_category_is_the_likeliest_of_the_names(model: NoteLLM, notes: pa.Table):
    model.eval()
    rows = notes_from_table(notes)[:15]
    found = model.categorize(rows, categories=NAMES)
    assert set(found) <= set(NAMES)
    assert found == [likeliest_category(model, note, NAMES) for note in rows]


def test_notes_differ_in_their_category(tiny: NoteLLM, notes: pa.Table):
    """Not vacuous: even untrained, the corpus-initialised model picks several of the notes' categories."""
    own = notes.column("category").to_pylist()
    names = sorted({name for name in own if name})
    found = tiny.categorize(notes, categories=names)
    assert set(found) <= set(names)
    assert len(set(found)) > 1


@pytest.mark.parametrize("names", [["旅行", "旅行攻略"], ["Cook", "Cooking", "Cook"], ["one"]])
def test_whatever_the_list_the_category_is_from_it(model: NoteLLM, notes: pa.Table, names: list[str]):
    assert set(model.categorize(notes.slice(0, 20), categories=names)) <= set(names)


def test_of_two_names_with_one_spelling_the_first_counts(tiny: NoteLLM, notes: pa.Table):
    assert set(tiny.categorize(notes, categories=["SOUP", "soup"])) == {"SOUP"}


@pytest.mark.slow
def test_many_notes_at_once_write_what_each_writes_alone(model: NoteLLM, notes: pa.Table, monkeypatch):
    rows = notes_from_table(notes)[:10]
    lengths = {len(start_ids(model, note, "category", 1)) for note in rows}
    assert len(lengths) > 3
    for write in (
        lambda some: model.categorize(some, categories=NAMES),
        lambda some: model.categorize(some, constrained=False),
        lambda some: model.write_topics(some, n=2),
    ):
        together = write(rows)
        assert together == [write([note])[0] for note in rows]
        monkeypatch.setattr(generate_module, "BATCH", 3)
        assert write(rows) == together
        monkeypatch.undo()


def greedy(model: NoteLLM, ids: list[int], limit: int) -> str:
    """The likeliest next token each time, but no three tokens that the output has in a row already."""
    written: list[int] = []
    while len(written) < limit:
        logits = next_logits(model, [*ids, *written])
        for i in range(len(written) - 2):
            if written[i : i + 2] == written[-2:]:
                logits[written[i + 2]] = -torch.inf
        token = int(logits.argmax())
        if token == model.prompt.eos_id:
            break
        written.append(token)
    return str(model.tokenizer.decode(written, skip_special_tokens=True)).strip()


def test_free_writing_is_greedy(model: NoteLLM, notes: pa.Table, monkeypatch: pytest.MonkeyPatch):
    """What the prompt says may be said again."""
    monkeypatch.setattr(generate_module, "is_plausible", lambda *_: True)
    model.eval()
    rows = notes_from_table(notes)[:6]
    found = model.categorize(rows, constrained=False)
    assert any(found)
    for note, text in zip(rows, found, strict=True):
        limit = generate_module._LONGEST_CATEGORY
        assert text == greedy(model, start_ids(model, note, "category", 1), limit)


def test_what_the_prompt_says_can_be_written(tiny: NoteLLM, monkeypatch: pytest.MonkeyPatch):
    """A model that copies writes a title of many tokens, which the prompt holds."""
    note = Note(title="garlic bread soup onion pepper")
    title = tiny.prompt.output_ids([" garlic bread soup onion pepper"])[0]
    assert len(title) >= 4
    start = len(start_ids(tiny, note, "category", 1))
    forward = type(tiny.backbone).forward

    def copying(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        written = kwargs["attention_mask"].shape[1] - start
        output.logits[:] = 0
        output.logits[:, -1, [*title, tiny.prompt.eos_id][written]] = 100
        return output

    monkeypatch.setattr(type(tiny.backbone), "forward", copying)
    assert tiny.categorize([note], constrained=False) == [note.title]


def test_a_topic_in_another_spelling_is_not_written_again(tiny: NoteLLM, notes, monkeypatch):
    texts = ["Cold Brew, #cold-brew, tea, coldbrew, C++, C, Tea"]
    monkeypatch.setattr(generate_module, "_texts", lambda *_: texts)
    assert tiny.write_topics(notes.slice(0, 1), free=True) == [["Cold Brew", "tea", "C++", "C"]]
    assert tiny.write_topics(notes.slice(0, 1), free=True, n=2) == [["Cold Brew", "tea"]]


@pytest.mark.parametrize(
    ("name", "plausible"),
    [
        ("cold brew", True),
        ("旅行攻略", True),
        ("C++", True),
        ("2024", True),
        ("hahaha", True),
        ("hahahahaha", False),
        ("aaaa", False),
        ("旅行旅行旅行旅行", False),
        ("!!!", False),
        ("", False),
        ("caf\ufffd", False),
        ("a\nb", False),
        ("a\u200bb", False),
        ("abc" * 2 + "xyz" * 20, False),
        (" ".join(map(str, range(30))), False),
    ],
)
def test_what_a_person_might_have_written(name, plausible):
    assert is_plausible(name) == plausible


def test_a_name_longer_than_allowed_is_not_plausible():
    assert is_plausible("cold brew", 9)
    assert not is_plausible("cold brew", 8)


def test_the_number_of_topics(model: NoteLLM, notes: pa.Table):
    rows = notes.slice(0, 12)
    for n in (1, 3):
        found = model.write_topics(rows, n=n)
        assert len(found) == 12
        assert all(len(topics) <= n for topics in found)
        assert all(len({topic.casefold() for topic in topics}) == len(topics) for topics in found)
    assert any(found) or model.learnt is None  # random weights write nothing plausible
    assert len(model.write_topics(rows)) == 12


def test_a_notes_own_topics_and_category_are_not_read(tiny: NoteLLM, notes: pa.Table):
    bare = notes.select(["note_id", "title", "content"])
    assert tiny.write_topics(notes, n=2) == tiny.write_topics(bare, n=2)
    untitled = notes.drop_columns(["category"])
    assert tiny.categorize(notes, categories=NAMES) == tiny.categorize(untitled, categories=NAMES)


def test_the_models_own_categories_and_methods(tiny: NoteLLM, notes: pa.Table, tmp_path):
    tiny.save_pretrained(tmp_path / "model")
    model = NoteLLM.from_pretrained(tmp_path / "model", categories=["Cooking", "旅行"])
    assert set(model.categorize(notes.slice(0, 5))) <= {"Cooking", "旅行"}
    assert model.write_topics(notes.slice(0, 5), n=2) == tiny.write_topics(notes.slice(0, 5), n=2)
    model.train()
    model.categorize(notes.slice(0, 2))
    assert model.training
    assert model.backbone.training


HOSTILE = {
    "do_sample": True,
    "temperature": 5.0,
    "top_k": 3,
    "num_beams": 3,
    "num_return_sequences": 2,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[5], [6], [7]],
    "suppress_tokens": list(range(3, 40)),
    "begin_suppress_tokens": [8, 9],
    "forced_bos_token_id": 4,
    "forced_eos_token_id": 4,
    "min_length": 40,
    "min_new_tokens": 30,
    "max_length": 3,
    "max_new_tokens": 1,
    "max_time": 1e-9,
    "stop_strings": ["a", "e"],
    "eos_token_id": [5, 6],
    "pad_token_id": 3,
    "guidance_scale": 4.0,
    "sequence_bias": [[[5], 50.0]],
    "exponential_decay_length_penalty": [1, 3.0],
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "return_dict_in_generate": True,
    "output_scores": True,
    "cache_implementation": "static",
    "prompt_lookup_num_tokens": 2,
    "custom_field": 1,
}


def written(model: NoteLLM, rows: pa.Table) -> list[Any]:
    """Everything that a model writes."""
    return [
        model.categorize(rows, categories=NAMES),
        model.categorize(rows, constrained=False),
        model.write_topics(rows, n=2),
    ]


@pytest.fixture(scope="module")
def plainly(checkpoints: dict[str, Checkpoint], notes: pa.Table) -> list[Any]:
    """What a backbone writes that says nothing about how to."""
    return written(fresh("llama", checkpoints, notes), notes.slice(0, 3))


@pytest.mark.parametrize(
    ("names", "where"),
    [(["all"], "file"), (["all"], "model"), *(([name], "file") for name in HOSTILE)],
    ids=lambda names: names if isinstance(names, str) else names[0],
)
def test_a_backbones_own_way_of_decoding_does_not_count(
    checkpoints: dict[str, Checkpoint],
    notes: pa.Table,
    plainly: list[Any],
    tmp_path,
    names: list[str],
    where: str,
):
    hostile = HOSTILE if names == ["all"] else {name: HOSTILE[name] for name in names}
    path = tmp_path / "llama"
    shutil.copytree(checkpoints["llama"].path, path)
    if where == "file":
        (path / "generation_config.json").write_text(json.dumps(hostile))
    changed = fresh("llama", {"llama": Checkpoint("llama", path)}, notes)
    if where == "model":
        for name, value in hostile.items():
            setattr(changed.backbone.generation_config, name, value)
    before = changed.backbone.generation_config.to_dict()
    assert written(changed, notes.slice(0, 3)) == plainly
    assert changed.backbone.generation_config.to_dict() == before


def test_a_hostile_way_of_decoding_is_not_saved(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path
):
    """Transformers refuses to save some of these settings, which must not end a training."""
    path = tmp_path / "llama"
    shutil.copytree(checkpoints["llama"].path, path)
    (path / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.2}))
    model = fresh("llama", {"llama": Checkpoint("llama", path)}, notes)
    model.save_pretrained(tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == model.tokenizer.eos_token_id
    assert "temperature" not in saved


def test_a_models_own_generate_is_not_called(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, monkeypatch: pytest.MonkeyPatch
):
    model = fresh("llama", checkpoints, notes)
    rows = notes.slice(0, 2)
    before = model.write_topics(rows, n=2)

    def generate(*_, **__):
        pytest.fail("the model's own generate was called")

    monkeypatch.setattr(model.backbone, "generate", generate, raising=False)
    assert model.write_topics(rows, n=2) == before


def test_what_cannot_be_written_is_refused(tiny: NoteLLM, notes: pa.Table):
    with pytest.raises(ConfigError, match="no category is known"):
        tiny.categorize(notes)
    with pytest.raises(ConfigError, match="no category is allowed"):
        tiny.categorize(notes, categories=[])
    with pytest.raises(ConfigError, match="no category is allowed"):
        tiny.categorize(notes, categories=[" ", ""])
    with pytest.raises(ConfigError, match="n is 0; ask for at least 1 topic"):
        tiny.write_topics(notes, n=0)
    with pytest.raises(DataError, match="there are no notes"):
        tiny.write_topics([])
