"""Category and topics of a table, the record of the file, and runs that are killed."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.errors import ConfigError, DataError
from notellm.jobs import tag as jobs_tag
from notellm.jobs.tag import TOP_CATEGORIES, tag_to_parquet
from notellm.recall.model import NoteLLM
from notellm.record import describe, read_record
from tests.conftest import SMALL

COLUMNS = [
    "note_id",
    "category",
    "category_probability",
    "topics",
    "topic_probabilities",
    "categories",
    "category_probabilities",
]


class StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def model(notes):
    """A model that knows the notes."""
    made = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, categories=["Cooking", "Astronomy"])
    made.fit_tagger(notes)
    return made


@pytest.fixture(scope="module")
def named(notes):
    """A model without known notes whose settings name categories."""
    return NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, categories=["Cooking", "Astronomy"])


def rows_of(path):
    return pq.read_table(path).to_pylist()


def test_tags_have_probabilities_and_their_record(model, notes: pa.Table, tmp_path):
    tagged = tag_to_parquet(model, notes, tmp_path / "tags.parquet", progress=False)
    table = pq.read_table(tmp_path / "tags.parquet")
    assert table.column_names == COLUMNS
    assert table.schema.field("category_probability").type == pa.float32()
    assert table.schema.field("topic_probabilities").type.value_type == pa.float32()
    assert table.column("note_id").equals(notes.column("note_id"))
    for row in table.to_pylist():
        for names, values in (("topics", "topic_probabilities"), ("categories", "category_probabilities")):
            assert len(row[names]) == len(set(row[names])) == len(row[values])
            assert row[values] == sorted(row[values], reverse=True)
            assert all(0 <= value <= 1 for value in row[values])
        assert len(row["categories"]) <= TOP_CATEGORIES
        if row["category"] is None:
            assert row["category_probability"] is None
        else:
            assert (row["category"], row["category_probability"]) == (
                row["categories"][0],
                row["category_probabilities"][0],
            )
    record = read_record(tmp_path / "tags.parquet")
    assert record["kind"] == "tags"
    assert record["config"] == {"topics": None, "least": 0.02, "free": False}
    assert record["data"]["notes"] == describe(notes)
    assert record["data"]["model"]["fingerprint"] == model.fingerprint()
    rows = table.to_pylist()
    without = [sum(not row[name] for row in rows) for name in ("category", "topics")]
    assert [tagged.without_category, tagged.without_topics] == without
    assert record["metrics"]["notes_with_topics"] == tagged.notes - without[1]


def test_each_row_is_of_its_own_note_which_does_not_speak_for_itself(model, notes: pa.Table, tmp_path):
    few = notes.slice(10, 20)
    tag_to_parquet(model, few, tmp_path / "t.parquet", topics=2, progress=False)
    ids = few.column("note_id").to_pylist()
    expected = model.tag(few, topics=2, note_ids=ids)
    for row, tags in zip(rows_of(tmp_path / "t.parquet"), expected, strict=True):
        assert row["topics"] == [topic.name for topic in tags.topics]
        assert len(row["topics"]) == 2
        assert row["topic_probabilities"] == pytest.approx(
            [topic.probability for topic in tags.topics], abs=1e-4
        )
    alone = [tag.probability for tags in model.tag(few, topics=2) for tag in tags.topics]
    assert alone != [tag.probability for tags in expected for tag in tags.topics]


def test_least_decides_what_is_published(model, notes: pa.Table, tmp_path):
    # Notes that are not known, so that some categories are likelier than others.
    blank = notes.set_column(1, "title", pa.array([f"something {i}" for i in range(60)]))
    tag_to_parquet(model, blank, tmp_path / "t.parquet", least=0, progress=False)
    first = sorted(row["category_probability"] for row in rows_of(tmp_path / "t.parquet"))
    least = (first[0] + first[-1]) / 2
    tagged = tag_to_parquet(model, blank, tmp_path / "t.parquet", least=least, progress=False)
    rows = rows_of(tmp_path / "t.parquet")
    likely = [row["category_probabilities"][0] >= least for row in rows]  # the ranking stays
    assert [row["category"] is not None for row in rows] == likely
    assert 0 < tagged.without_category == 60 - sum(likely) < 60
    assert all(value >= least for row in rows for value in row["topic_probabilities"])
    for options, says in (({"topics": 0}, "n is 0"), ({"least": 1.5}, "least is 1.5")):
        with pytest.raises(ConfigError, match=says):
            tag_to_parquet(model, notes, tmp_path / "none.parquet", progress=False, **options)
    with pytest.raises(DataError, match="no notes to tag"):
        tag_to_parquet(model, notes.slice(0, 0), tmp_path / "none.parquet", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_a_killed_run_continues_and_the_file_is_the_same(model, notes: pa.Table, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_tag, "SHARD", 16)
    tag_to_parquet(model, notes, tmp_path / "whole.parquet", progress=False)
    calls: list[int] = []
    written = NoteLLM.tag

    def counted(*args, **options):
        if len(calls) == 2:
            raise StoppedError
        calls.append(args[1].num_rows)
        return written(*args, **options)

    monkeypatch.setattr(NoteLLM, "tag", counted)
    with pytest.raises(StoppedError):
        tag_to_parquet(model, notes, tmp_path / "tags.parquet", progress=False)
    assert not (tmp_path / "tags.parquet").exists()
    calls.clear()

    def seen(*args, **options):
        calls.append(0)
        return written(*args, **options)

    monkeypatch.setattr(NoteLLM, "tag", seen)
    tag_to_parquet(model, notes, tmp_path / "tags.parquet", progress=False)
    assert len(calls) == 2  # of four
    assert (tmp_path / "tags.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("change", ["least", "tagger"])
def test_shards_of_other_options_or_known_notes_are_not_used(
    model, notes: pa.Table, tmp_path, monkeypatch, change
):
    written = NoteLLM.tag

    def stopped(*args, **options):
        if args[1].num_rows < 16:
            raise StoppedError
        return written(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(jobs_tag, "SHARD", 50)
        patch.setattr(NoteLLM, "tag", stopped)
        with pytest.raises(StoppedError):
            tag_to_parquet(model, notes, tmp_path / "tags.parquet", progress=False)
    other = model
    if change == "tagger":
        other = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, categories=["Cooking", "Astronomy"])
        other.fit_tagger(notes.slice(0, 30))
    options: dict[str, Any] = {"least": 0.9} if change == "least" else {}
    monkeypatch.setattr(jobs_tag, "SHARD", 50)
    tag_to_parquet(other, notes, tmp_path / "tags.parquet", progress=False, **options)
    tag_to_parquet(other, notes, tmp_path / "fresh.parquet", progress=False, **options)
    assert rows_of(tmp_path / "tags.parquet") == rows_of(tmp_path / "fresh.parquet")


def test_what_is_not_learnt_is_empty(notes: pa.Table, tmp_path):
    model = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16)
    model.learnt = frozenset({"topics"})
    model.fit_tagger(notes)
    tagged = tag_to_parquet(model, notes, tmp_path / "t.parquet", topics=1, progress=False)
    assert (tagged.without_category, tagged.without_topics) == (60, 0)
    assert all(row["category"] is None and not row["categories"] for row in rows_of(tmp_path / "t.parquet"))


def test_models_without_known_notes(named, tiny: NoteLLM, notes: pa.Table, tmp_path):
    """They choose among the categories that they name, if any, and write topics without probabilities."""
    few = notes.slice(0, 4)
    tag_to_parquet(named, few, tmp_path / "t.parquet", topics=2, progress=False)
    rows = rows_of(tmp_path / "t.parquet")
    assert {name for row in rows for name in row["categories"]} == {"Cooking", "Astronomy"}
    assert [row["topics"] for row in rows] == named.write_topics(few, n=2)
    assert all(value is None for row in rows for value in row["topic_probabilities"])
    assert not tiny.settings.categories
    tagged = tag_to_parquet(tiny, few, tmp_path / "t.parquet", progress=False)
    assert tagged.without_category == 4
    tag_to_parquet(tiny, few, tmp_path / "t.parquet", free=True, progress=False)
    assert [row["category"] or "" for row in rows_of(tmp_path / "t.parquet")] == tiny.categorize(
        few, constrained=False
    )
