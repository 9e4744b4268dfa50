"""What the model writes: categories of the list only, and exactly the greedy choice."""

import json
import shutil

import pyarrow as pa
import pytest
import torch

import notellm.recall.generate as generate_module
from notellm.data.note import notes_from_table
from notellm.errors import ConfigError, DataError
from notellm.recall.model import NoteLLM
from tests.conftest import Checkpoint, fresh

NAMES = ["Cook", "Cooking", "Cooking at home", "旅行", "旅行攻略", "[EMB]", "</s>", "a, b"]


def next_logits(model: NoteLLM, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.backbone(torch.tensor([ids])).logits
    return logits[0, -1]


def start_ids(model: NoteLLM, note, task, n: int) -> list[int]:
    prompt = model.prompt
    (ids,) = prompt.prompt_ids([prompt.render(prompt.cut([note])[0], task, n)])
    return [*ids, prompt.emb_id, *prompt.guidance_ids(task, n)]


def greedy_category(model: NoteLLM, note, names: list[str]) -> str:
    """Among the spellings that begin with what is written: the most likely next token, until one ends."""
    prompt = model.prompt
    spelled = {
        (*prompt.output_ids([prompt.output("category", category=name)])[0], prompt.eos_id): name
        for name in reversed(names)
    }
    written: tuple[int, ...] = ()
    while written not in spelled:
        logits = next_logits(model, [*start_ids(model, note, "category", 1), *written])
        allowed = {s[len(written)] for s in spelled if s[: len(written)] == written}
        written = (*written, max(allowed, key=lambda token: float(logits[token])))
    return spelled[written]


def test_a_constrained_category_is_the_greedy_choice_among_the_names(model: NoteLLM, notes: pa.Table):
    model.eval()
    rows = notes_from_table(notes)[:15]
    found = model.categorize(rows, categories=NAMES)
    assert set(found) <= set(NAMES)
    assert found == [greedy_category(model, note, NAMES) for note in rows]


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


def test_free_writing_is_greedy_too(model: NoteLLM, notes: pa.Table):
    model.eval()
    prompt = model.prompt
    rows = notes_from_table(notes)[:4]
    found = model.categorize(rows, constrained=False)
    assert any(found)
    for note, text in zip(rows, found, strict=True):
        ids = start_ids(model, note, "category", 1)
        written: list[int] = []
        while len(written) < generate_module._LONGEST_CATEGORY:
            token = int(next_logits(model, [*ids, *written]).argmax())
            if token == prompt.eos_id:
                break
            written.append(token)
        assert text == str(model.tokenizer.decode(written, skip_special_tokens=True)).strip()


def test_the_number_of_topics(model: NoteLLM, notes: pa.Table):
    rows = notes.slice(0, 12)
    for n in (1, 3):
        found = model.write_topics(rows, n=n)
        assert len(found) == 12
        assert all(len(topics) <= n for topics in found)
        assert all(len({topic.casefold() for topic in topics}) == len(topics) for topics in found)
    assert any(found)
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


@pytest.mark.parametrize("names", [["all"], *([name] for name in HOSTILE)], ids=lambda names: names[0])
@pytest.mark.parametrize("where", ["file", "model"])
def test_a_backbones_own_way_of_decoding_does_not_count(
    checkpoints: dict[str, Checkpoint], notes: pa.Table, tmp_path, names: list[str], where: str
):
    plain = fresh("llama", checkpoints, notes)
    rows = notes.slice(0, 3)
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
    for write in (
        lambda m: m.categorize(rows, categories=NAMES),
        lambda m: m.categorize(rows, constrained=False),
        lambda m: m.write_topics(rows, n=2),
    ):
        assert write(changed) == write(plain)
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
        tiny.categorize(notes, categories=[])
    with pytest.raises(ConfigError, match="no category is known"):
        tiny.categorize(notes, categories=[" ", ""])
    with pytest.raises(ConfigError, match="n is 0; ask for at least 1 topic"):
        tiny.write_topics(notes, n=0)
    with pytest.raises(DataError, match="there are no notes"):
        tiny.write_topics([])
