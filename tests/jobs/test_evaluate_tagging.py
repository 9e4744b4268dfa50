"""Tagging is measured on notes that training has not seen, for all methods alike."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from notellm.data.sample_world import sample_world
from notellm.data.split import Part, Split, split_by_note
from notellm.jobs import evaluate_tagging as module
from notellm.jobs.evaluate_tagging import ALONE, NAME, evaluate_tagging, tagging_tables
from notellm.recall.model import NoteLLM
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def split():
    world = sample_world(notes=300, users=100, clicks=2_000, bots=0, seed=2)
    return split_by_note(world.notes, world.clicks)


@pytest.fixture(scope="module")
def model(split):
    categories = sorted(set(split.train.notes.column("category").to_pylist()))
    model = NoteLLM.from_corpus(split.train.notes, categories=categories)
    model.fit_tagger(split.train.notes, split.valid.notes)
    return model


@pytest.fixture(scope="module")
def result(model, split):
    return evaluate_tagging(model, split, tagged_notes=20, progress=False)


def without(notes, column, value):
    place = notes.schema.get_field_index(column)
    field = notes.schema.field(place)
    return notes.set_column(place, field, pa.array([value] * notes.num_rows, field.type))


def test_all_methods_see_the_same_notes(result):
    assert list(result.categories) == [
        "most frequent category",
        "vote of 20 train notes",
        "linear classifier",
        ALONE,
        NAME,
    ]
    assert list(result.topics) == ["most similar train note", "vote of 20 train notes", ALONE, NAME]
    assert {each.notes for each in [*result.categories.values(), *result.topics.values()]} == {20}
    assert all(name == each.name for name, each in result.categories.items())
    assert result.remarks == []
    assert all(each.ill_formed == 0 for each in result.categories.values())
    assert all(each.novel == 0 for each in result.topics.values())  # all choose among known topics


def test_the_sample_world_is_learnt_by_the_baselines(result):
    least = result.categories["most frequent category"].accuracy
    assert result.categories["linear classifier"].accuracy > least
    assert result.categories["vote of 20 train notes"].accuracy > least


def test_the_tagger_is_better_than_the_language_model_alone(result):
    assert result.categories[NAME].accuracy >= result.categories[ALONE].accuracy
    assert result.categories[NAME].accuracy > result.categories["most frequent category"].accuracy


def test_a_model_without_a_tagger_is_left_out(split):
    bare = NoteLLM.from_corpus(split.train.notes, tiny=SMALL, dim=16, categories=["a"])
    result = evaluate_tagging(bare, split, tagged_notes=3, progress=False)
    assert set(result.categories) == {
        "most frequent category",
        "vote of 20 train notes",
        "linear classifier",
    }
    assert set(result.topics) == {"most similar train note", "vote of 20 train notes"}


def test_tables_fit_a_terminal(result):
    tables = tagging_tables(result.categories, result.topics)
    assert [table.caption.split(",")[0] for table in tables] == ["Category", "Topics"]
    assert max(len(line) for table in tables for line in table.text().splitlines()) <= 110
    assert tagging_tables({}, {}) == []


def test_notes_of_train_and_valid_are_left_out(model, split, monkeypatch):
    seen = []

    def watched(_, notes):
        seen.extend(notes.column("note_id").to_pylist())
        return [[("x", 1.0)]] * notes.num_rows

    monkeypatch.setattr(module, "majority_category", watched)
    everything = pa.concat_tables([split.train.notes, split.valid.notes, split.test.notes])
    mixed = Split(split.train, split.valid, Part(everything, split.test.clicks))
    evaluate_tagging(model, mixed, tagged_notes=10_000, progress=False)
    assert seen == split.test.notes.column("note_id").to_pylist()


def test_what_notes_do_not_have_is_not_measured(model, split):
    no_category = Split(
        split.train, split.valid, Part(without(split.test.notes, "category", ""), split.test.clicks)
    )
    result = evaluate_tagging(model, no_category, tagged_notes=3, progress=False)
    assert result.categories == {}
    assert result.topics
    no_topics = Split(
        split.train, split.valid, Part(without(split.test.notes, "topics", []), split.test.clicks)
    )
    result = evaluate_tagging(model, no_topics, tagged_notes=3, progress=False)
    assert result.topics == {}
    assert result.categories
    none = split.test.notes.filter(pc.equal(split.test.notes.column("note_id"), "none"))
    result = evaluate_tagging(
        model, Split(split.train, split.valid, Part(none, split.test.clicks)), progress=False
    )
    assert (result.categories, result.topics, result.remarks) == ({}, {}, [])
