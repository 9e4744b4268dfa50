"""What a model has learnt to write goes with it, and what it has not learnt it does not write."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.note import Note
from notellm.data.split import Part, Split
from notellm.errors import ConfigError, DataError, ModelError
from notellm.jobs.evaluate_recall import evaluate_recall
from notellm.jobs.tag import tag_to_parquet
from notellm.jobs.train_recall import train_recall
from notellm.recall.config import RecallOptions
from notellm.recall.learnt import read_learnt, taught_tasks
from notellm.recall.model import NoteLLM
from tests.conftest import SMALL, fresh

BOTH = Note("t", topics=("a",), category="c")
TOPICS, CATEGORY, BARE = Note("t", topics=("a",)), Note("t", category="c"), Note("t")
ONLY_TOPICS, ONLY_CATEGORY = frozenset({"topics"}), frozenset({"category"})


@pytest.mark.parametrize(
    ("notes", "pairs", "alpha", "topic_share", "taught"),
    [
        ([BOTH, BARE], True, 0.01, 0.4, ONLY_TOPICS | ONLY_CATEGORY),
        ([BARE], True, 0.01, 0.4, frozenset()),
        ([CATEGORY, BARE], True, 0.01, 0.4, ONLY_CATEGORY),
        ([TOPICS], True, 0.01, 0.4, ONLY_TOPICS),
        ([BOTH], True, 0.0, 0.4, frozenset()),
        ([BOTH], False, 0.0, 0.4, ONLY_TOPICS | ONLY_CATEGORY),
        ([BOTH, TOPICS], True, 0.01, 0.0, ONLY_CATEGORY),
        ([BOTH], False, 0.01, 0.0, ONLY_CATEGORY),
        ([BOTH, TOPICS], False, 0.01, 0.0, ONLY_TOPICS | ONLY_CATEGORY),
        ([BOTH, TOPICS], True, 0.01, 1.0, ONLY_TOPICS),
        ([BOTH, CATEGORY], True, 0.01, 1.0, ONLY_TOPICS | ONLY_CATEGORY),
    ],
)
def test_what_a_training_teaches(notes, pairs, alpha, topic_share, taught):
    assert taught_tasks(notes, pairs=pairs, alpha=alpha, topic_share=topic_share) == taught


def without(notes: pa.Table, *names: str) -> pa.Table:
    for name in names:
        field = notes.schema.field(name)
        empty = pa.array([[] if name == "topics" else ""] * len(notes), field.type)
        notes = notes.set_column(notes.schema.get_field_index(name), field, empty)
    return notes


@pytest.fixture(scope="module")
def silent(notes: pa.Table) -> NoteLLM:
    """A model of notes with neither topics nor categories."""
    return NoteLLM.from_corpus(without(notes, "topics", "category"), tiny=SMALL, dim=16)


def test_a_model_of_notes_without_topics_writes_none(notes, tmp_path):
    made = NoteLLM.from_corpus(without(notes, "topics"), tiny=SMALL, dim=16, categories=["Cooking"])
    made.save_pretrained(tmp_path / "model")
    for model in (made, NoteLLM.from_saved(tmp_path / "model")):
        assert model.learnt == ONLY_CATEGORY
        assert set(model.categorize(notes.slice(0, 3))) == {"Cooking"}
        with pytest.raises(ConfigError, match="this model has not learnt to write topics"):
            model.write_topics(notes.slice(0, 3))


def test_a_model_of_notes_without_categories_chooses_none_and_writes_none(silent, notes):
    for options in ({}, {"constrained": False}, {"categories": ["Cooking", "Travel"]}):
        with pytest.raises(ConfigError, match="has not learnt to write categories"):
            silent.categorize(notes.slice(0, 3), **options)


def test_of_a_language_model_that_was_not_trained_here_nothing_is_known(checkpoints, notes, tmp_path):
    model = fresh("llama", checkpoints, notes)
    assert model.learnt is None
    assert len(model.write_topics(notes.slice(0, 2))) == 2
    model.save_pretrained(tmp_path / "model")
    assert NoteLLM.from_saved(tmp_path / "model").learnt is None


def test_what_it_has_learnt_does_not_change_the_fingerprint(silent):
    before = silent.fingerprint()
    silent.learnt, kept = None, silent.learnt
    assert silent.fingerprint() == before
    silent.learnt = kept


def test_a_training_notes_what_it_taught(notes, checkpoints, tmp_path):
    options = RecallOptions(
        backbone=str(checkpoints["llama"].path), lora=False, dim=16, max_steps=1, batch_pairs=4, evaluations=1
    )
    bare = without(notes, "topics")
    train_recall(bare, None, tmp_path / "model", options=options, progress=False)
    opened = NoteLLM.from_saved(tmp_path / "model")
    assert opened.learnt == ONLY_CATEGORY
    assert "topics" in (opened.unlearnt("topics") or "")


def test_tags_of_a_model_that_has_learnt_neither_are_empty(silent, notes, tmp_path):
    tag_to_parquet(silent, notes.slice(0, 3), tmp_path / "tags.parquet", progress=False)
    tags = pq.read_table(tmp_path / "tags.parquet")
    columns = ["category", "category_probability", "topics", "topic_probabilities", "categories"]
    assert tags.column_names == ["note_id", *columns, "category_probabilities"]
    assert tags["category"].to_pylist() == [None] * 3
    assert tags["topics"].to_pylist() == [[]] * 3


def test_an_evaluation_says_what_it_left_out(silent, notes):
    split = Split(
        Part(notes.slice(0, 40), pa.table({})),
        Part(notes.slice(0, 0), pa.table({})),
        Part(notes, pa.table({})),
    )
    with pytest.raises(
        DataError, match="nothing can be measured; Category: NoteLLM is not measured; this model"
    ):
        evaluate_recall(silent, split, None, progress=False)


@pytest.mark.parametrize("entry", [["poems"], "topics", {"topics": 1}, 3, [["topics"]]])
def test_an_entry_that_is_no_list_of_tasks_is_refused(entry):
    with pytest.raises(ModelError, match="it must list category and topics"):
        read_learnt(entry)
    assert read_learnt(None) is None
    assert read_learnt([]) == frozenset()
