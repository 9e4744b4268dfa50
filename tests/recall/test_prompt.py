"""The Note Compression Prompt: one pass, exact budgets, the vector before [EMB], labels after it."""

import json
import re
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.note import Note, notes_from_table
from notellm.errors import ConfigError, DataError
from notellm.recall.config import NoteLLMConfig
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import IGNORED, PromptBuilder, builtin_templates, load_template, template_from_dict

MARKED = {
    "name": "marked",
    "topic_separator": ", ",
    "category": {
        "prompt": "T[{title}]P[{topics}]C[{content}] word",
        "guidance": " is",
        "output": " {category}",
    },
    "topics": {"prompt": "T[{title}]C[{content}] {n} word", "guidance": " {n} are", "output": " {topics}"},
}
LONG = Note(
    "the best soup of the moon " * 30,
    "rocket garlic and comet butter " * 300,
    tuple(f"topic{i}" for i in range(40)),
    "Cooking",
)


def count(builder: PromptBuilder, text: str) -> int:
    return len(builder.output_ids([text])[0])


def marked(model: NoteLLM, **options) -> PromptBuilder:
    return PromptBuilder(model.tokenizer, template_from_dict(MARKED, "marked"), NoteLLMConfig(**options))


def parts(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"T\[(.*)\]P\[(.*)\]C\[(.*)\] word", text, re.DOTALL)
    assert found is not None, text
    return found.group(1), found.group(2), found.group(3)


# ---------------------------------------------------------------- budgets


def test_each_part_is_cut_at_its_budget(model: NoteLLM):
    builder = marked(model, title_tokens=7, content_tokens=11, topics_tokens=9)
    (cut,) = builder.cut([LONG])
    assert LONG.title.startswith(cut.title)
    assert LONG.content.startswith(cut.content)
    assert 5 <= count(builder, cut.title) <= 7
    assert 9 <= count(builder, cut.content) <= 11
    assert 0 < len(cut.topics) < len(LONG.topics)
    assert cut.topics == LONG.topics[: len(cut.topics)]
    assert sum(count(builder, topic) + 1 for topic in cut.topics) <= 9
    assert cut.category == LONG.category


def test_what_fits_is_not_touched(model: NoteLLM):
    note = Note("soup", "garlic  and\nbutter ", ("a", "b"), "Cooking")
    assert model.prompt.cut([note]) == [note]


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=120), st.text(alphabet="海滩机票 ab\n", max_size=120), st.integers(1, 12))
def test_budgets_hold_for_any_text(tiny: NoteLLM, title: str, content: str, budget: int):
    config = NoteLLMConfig(title_tokens=budget, content_tokens=budget, topics_tokens=budget)
    builder = PromptBuilder(tiny.tokenizer, tiny.prompt.template, config)
    (cut,) = builder.cut([Note(title, content, (title, content))])
    assert title.startswith(cut.title)
    assert content.startswith(cut.content)
    assert count(builder, cut.title) <= budget
    assert count(builder, cut.content) <= budget


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "word " * 200_000, "海" * 10**6, " " * 10**6, "[EMB]" * 200_000]
)
def test_a_million_characters(model: NoteLLM, text: str):
    (cut,) = model.prompt.cut([Note(text, text, (text, "soup"))])
    (ids,) = model.prompt.prompt_ids([model.prompt.render(cut)])
    assert len(ids) <= model.settings.max_length
    assert ids.count(model.prompt.emb_id) == 0
    assert "soup" not in cut.topics or text.isspace()


@pytest.mark.parametrize("name", ["title_tokens", "content_tokens", "topics_tokens"])
def test_a_budget_must_be_positive(tiny: NoteLLM, name: str):
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        marked(tiny, **{name: 0})


# ---------------------------------------------------------------- the template


@pytest.mark.parametrize("name", builtin_templates())
def test_every_field_is_filled(tiny: NoteLLM, name: str):
    builder = PromptBuilder(tiny.tokenizer, load_template(name), NoteLLMConfig(max_length=512))
    note = Note("TITLE", "CONTENT", ("ONE", "TWO"), "ANSWER")
    category, topics = builder.render(note), builder.render(note, "topics", 2)
    assert all(part in category for part in ("TITLE", "CONTENT", "ONE", "TWO"))
    assert all(topics.count(part) == 1 for part in ("TITLE", "CONTENT"))
    assert "ANSWER" not in category + topics
    assert "ONE" not in topics
    assert not re.search(r"\{(title|content|topics|category|n|end)\}", category + topics)
    assert builder.output("category", category="ANSWER").strip() == "ANSWER"
    assert builder.parse_topics(builder.output("topics", topics=["ONE", "TWO"])) == ["ONE", "TWO"]


def test_the_english_wording_is_the_papers(tiny: NoteLLM):
    builder = PromptBuilder(tiny.tokenizer, load_template("english"), NoteLLMConfig(max_length=512))
    assert builder.render(Note("A", "B", ("C",)), "topics", 3) == (
        "Extract the note information in json format, compress it into one word for recommendation, and "
        "generate 3 topics of the note. {'title': 'A', 'content': 'B'} The compression word is:\""
    )


def test_a_field_inside_a_note_stays_as_it_is(model: NoteLLM):
    note = Note("{content} and {title}", "{topics}{n}{category}", ("{title}",))
    builder = marked(model, title_tokens=40, content_tokens=40, max_length=512)
    assert parts(builder.render(note)) == ("{content} and {title}", "{title}", "{topics}{n}{category}")


def test_ones_own_template(tiny: NoteLLM, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(MARKED), encoding="utf-8")
    template = load_template(path)
    assert template.category.prompt == MARKED["category"]["prompt"]  # type: ignore[index]
    assert template_from_dict(template.to_dict(), "again") == template
    builder = PromptBuilder(tiny.tokenizer, template)
    assert builder.render(Note("a", "b", ("c", "d"))) == "T[a]P[c, d]C[b] word"


def test_every_problem_of_a_template_is_named():
    bad = {
        "topic_separator": " ",
        "category": {"prompt": "{title} {category}", "guidance": "", "output": "x"},
        "topics": {"prompt": "{topics} =", "guidance": "", "output": "{topics}"},
    }
    with pytest.raises(ConfigError) as caught:
        template_from_dict(bad, "mine.json")
    message = str(caught.value)
    assert message.startswith("template mine.json: ")
    for problem in (
        "category.prompt must not contain {category}: that is the answer",
        "category.prompt must end in fixed text",
        "category.output must contain {category}",
        "topics.prompt must contain {title} or {content}",
        "topics.prompt must not contain {topics}: that is the answer",
        "topic_separator must be",
    ):
        assert problem in message
    assert "\n" not in message


@pytest.mark.parametrize("bad", [[], "text", {}, {"category": 1, "topics": {"prompt": 3}}])
def test_what_is_no_template_at_all(bad):
    with pytest.raises(ConfigError, match="template here: "):
        template_from_dict(bad, "here")


def test_an_unknown_template_lists_the_known_ones(tmp_path):
    assert builtin_templates() == ["chinese", "compact", "english", "prompteol", "repllama"]
    with pytest.raises(ConfigError, match="no template 'klingon': give one of chinese, compact, english, "):
        load_template("klingon")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises((ConfigError, DataError), match=r"broken\.json"):
        load_template(tmp_path / "broken.json")


# ---------------------------------------------------------------- the length of the whole


def test_content_goes_first_then_topics_then_title_and_the_wording_stays(model: NoteLLM):
    with pytest.raises(ConfigError, match="alone takes") as caught:
        marked(model, max_length=1)
    wording = int(re.search(r"alone takes (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    seen = []
    for room in (8, 14, 22, 35, 50, 64, 80, 120, 200):
        builder = marked(
            model, title_tokens=20, content_tokens=40, topics_tokens=25, max_length=wording + room
        )
        (note,) = builder.cut([LONG])
        text = builder.render(note)
        title, topics, content = parts(text)
        ids = builder.prompt_ids([text])[0]
        assert len(ids) + 2 + len(builder.guidance_ids("category", 0)) <= wording + room
        assert note.title.startswith(title)
        assert ", ".join(note.topics).startswith(topics)
        assert note.content.startswith(content)
        if topics != ", ".join(note.topics):
            assert content == ""
        if title != note.title:
            assert topics == content == ""
        seen.append((len(title), len(topics), len(content)))
    assert seen[0][0] < seen[-1][0]
    assert 0 in {topics for _, topics, _ in seen}
    assert seen[-1][2] > 0
    assert sum(seen[-1]) == max(sum(lengths) for lengths in seen)
    assert [sum(lengths) for lengths in seen] == sorted(sum(lengths) for lengths in seen)


def test_in_the_topics_task_too(model: NoteLLM):
    builder = marked(model, max_length=40)
    (note,) = builder.cut([LONG])
    for n in (1, 30):
        text = builder.render(note, "topics", n)
        assert text.startswith("T[")
        assert text.endswith(f"] {n} word")
        (encoded,) = builder.tokenize([text], ["topics"], [builder.output("topics", topics=LONG.topics)], [n])
        assert len(encoded.ids) <= 40
        assert encoded.ids.count(builder.emb_id) == 1


def test_wording_that_does_not_fit_is_refused(tiny: NoteLLM):
    with pytest.raises(ConfigError, match="max_length is 12, but the template 'marked' alone takes"):
        marked(tiny, max_length=12)


# ---------------------------------------------------------------- positions and labels


def test_the_vector_is_read_before_emb_and_labels_are_the_output(model: NoteLLM):
    builder = model.prompt
    note = Note("garlic soup", "with bread", ("oven", "pasta"), "Cooking")
    prompts = [builder.render(note), builder.render(note, "topics", 2)]
    outputs = [
        builder.output("category", category="Cooking"),
        builder.output("topics", topics=["oven", "pasta"]),
    ]
    for encoded, text, task, output in zip(
        builder.tokenize(prompts, ["category", "topics"], outputs, [0, 2]),
        prompts,
        ("category", "topics"),
        outputs,
        strict=True,
    ):
        assert encoded.ids[encoded.position + 1] == builder.emb_id
        assert encoded.ids.count(builder.emb_id) == 1
        assert encoded.ids[: encoded.position + 1] == builder.prompt_ids([text])[0]
        guidance = builder.guidance_ids(task, 2)  # type: ignore[arg-type]
        head = encoded.position + 2 + len(guidance)
        assert encoded.ids[encoded.position + 2 : head] == guidance
        tail = builder.output_ids([output])[0] + [builder.eos_id]
        assert len(tail) > 1
        assert encoded.ids[head:] == encoded.labels[head:] == tail
        assert encoded.labels[:head] == [IGNORED] * head


def test_without_an_output_the_sequence_ends_with_the_prompt(tiny: NoteLLM):
    builder = tiny.prompt
    text = builder.render(Note("soup", "bread"))
    (encoded,) = builder.tokenize([text], ["category"], [builder.output("category")], [0])
    assert encoded.ids == builder.prompt_ids([text])[0]
    assert encoded.position == len(encoded.ids) - 1
    assert set(encoded.labels) == {IGNORED}


def test_an_output_that_does_not_fit_is_cut_without_an_end(tiny: NoteLLM):
    builder = marked(tiny, max_length=60)
    text = builder.render(Note("soup"))
    (encoded,) = builder.tokenize([text], ["category"], [" bread and garlic" * 50], [0])
    assert len(encoded.ids) <= 60
    assert encoded.ids[-1] != builder.eos_id
    assert encoded.labels[-1] == encoded.ids[-1]


def test_generated_topics_are_split_and_repeats_dropped(tiny: NoteLLM):
    assert tiny.prompt.parse_topics(" Soup, bread , ,soup,,BREAD, oven") == ["Soup", "bread", "oven"]
    assert tiny.prompt.parse_topics(" ,, ") == []


# ---------------------------------------------------------------- notes


def test_notes_of_a_table(notes: pa.Table):
    rows = notes_from_table(notes)
    assert len(rows) == notes.num_rows
    assert rows[3].topics == tuple(notes.column("topics")[3].as_py())
    assert notes_from_table(notes.select(["title"])) == [Note(row.title) for row in rows]
    assert notes_from_table(notes.drop_columns(["topics"]))[1] == replace(rows[1], topics=())


def test_a_table_without_texts_is_refused():
    with pytest.raises(DataError, match="needs a column title or content; found note_id"):
        notes_from_table(pa.table({"note_id": ["a"]}))
