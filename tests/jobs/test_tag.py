"""Category and topics of a table, and the record of the file."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.errors import ConfigError
from notellm.jobs.tag import tag_to_parquet
from notellm.recall.model import NoteLLM
from notellm.record import describe, read_record
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def model(notes):
    return NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, categories=["Cooking", "Astronomy"])


def test_tags_carry_their_record(model, notes: pa.Table, tmp_path):
    few = notes.slice(0, 5)
    tag_to_parquet(model, few, tmp_path / "tags.parquet", topics=2, progress=False)
    tags = pq.read_table(tmp_path / "tags.parquet")
    assert tags.column("note_id").to_pylist() == few.column("note_id").to_pylist()
    assert tags.column("category").to_pylist() == model.categorize(few)
    assert tags.column("topics").to_pylist() == model.write_topics(few, n=2)
    record = read_record(tmp_path / "tags.parquet")
    assert (record["kind"], record["config"]) == ("tags", {"topics": 2, "constrained": True})
    assert record["data"] == {"model": {"fingerprint": model.fingerprint()}, "notes": describe(few)}
    assert record["metrics"]["notes"] == 5
    assert record["metrics"]["notes_with_topics"] == sum(map(bool, tags.column("topics").to_pylist()))
    tag_to_parquet(model, notes.slice(1, 5), tmp_path / "others.parquet", topics=2, progress=False)
    assert read_record(tmp_path / "others.parquet")["data"]["notes"] != record["data"]["notes"]


def test_a_model_without_categories_writes_topics_alone(tiny: NoteLLM, notes: pa.Table, tmp_path):
    assert not tiny.settings.categories
    tag_to_parquet(tiny, notes.slice(0, 2), tmp_path / "t.parquet", progress=False)
    assert pq.read_schema(tmp_path / "t.parquet").names == ["note_id", "topics"]
    tag_to_parquet(tiny, notes.slice(0, 2), tmp_path / "t.parquet", constrained=False, progress=False)
    assert pq.read_schema(tmp_path / "t.parquet").names == ["note_id", "category", "topics"]
    with pytest.raises(ConfigError, match="n is 0"):
        tag_to_parquet(tiny, notes, tmp_path / "none.parquet", topics=0, progress=False)
    assert not (tmp_path / "none.parquet").exists()
