"""Vectors of a whole table: resumable shards, one file in the table's order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import notellm.recall.embed as embed_module
from notellm.errors import DataError, StorageError
from notellm.files import read_parquet
from notellm.recall.embed import embed_to_parquet
from notellm.recall.model import NoteLLM
from notellm.record import describe, fingerprint, read_record
from notellm.vectors import read_vectors, vector_table
from tests.conftest import SMALL


class Counting:
    """The model with its encoding counted, and killed after some shards."""

    def __init__(self, model: NoteLLM, monkeypatch, kill_after: int | None = None) -> None:
        self.notes = 0
        self.calls = 0
        encode = model.encode

        def counted(notes, **options):
            if self.calls == kill_after:
                raise KeyboardInterrupt
            self.calls += 1
            self.notes += len(notes)
            return encode(notes, **options)

        monkeypatch.setattr(model, "encode", counted)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(embed_module, "SHARD", 25)


def test_ids_and_vectors_are_in_the_tables_order(tiny: NoteLLM, notes: pa.Table, tmp_path: Path):
    schema = embed_to_parquet(tiny, notes, tmp_path / "vectors.parquet", progress=False)
    ids, vectors = read_vectors(tmp_path / "vectors.parquet")
    assert ids == notes.column("note_id").to_pylist()
    np.testing.assert_allclose(vectors, tiny.encode(notes), atol=1e-5)
    assert vectors.dtype == np.float32
    assert schema == pq.read_schema(tmp_path / "vectors.parquet")
    assert schema.field("vector").type == pa.list_(pa.float32(), 16)
    assert [file.name for file in tmp_path.iterdir()] == ["vectors.parquet"]


def test_a_killed_run_goes_on_where_it_stopped(tiny: NoteLLM, notes: pa.Table, tmp_path: Path, monkeypatch):
    embed_to_parquet(tiny, notes, tmp_path / "whole.parquet", progress=False)
    target = tmp_path / "run" / "vectors.parquet"
    with monkeypatch.context() as patch:
        Counting(tiny, patch, kill_after=1)
        with pytest.raises(KeyboardInterrupt):
            embed_to_parquet(tiny, notes, target, progress=False)
    assert not target.exists()
    (parts,) = target.parent.iterdir()
    assert len(list(parts.glob("*.parquet"))) == 1
    with monkeypatch.context() as patch:
        counting = Counting(tiny, patch)
        embed_to_parquet(tiny, notes, target, progress=False)
    assert counting.notes == 60 - 25
    assert target.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert list(target.parent.iterdir()) == [target]


def test_shards_of_another_model_or_other_notes_are_not_used(
    tiny: NoteLLM, notes: pa.Table, tmp_path: Path, monkeypatch
):
    target = tmp_path / "vectors.parquet"
    with monkeypatch.context() as patch:
        Counting(tiny, patch, kill_after=2)
        with pytest.raises(KeyboardInterrupt):
            embed_to_parquet(tiny, notes, target, progress=False)
    other = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, seed=9)
    assert other.fingerprint() != tiny.fingerprint()
    for model, table in ((other, notes), (tiny, notes.slice(1))):
        with monkeypatch.context() as patch:
            counting = Counting(model, patch)
            embed_to_parquet(model, table, target, progress=False)
        assert counting.notes == len(table)
        np.testing.assert_allclose(read_vectors(target)[1], model.encode(table), atol=1e-5)


def test_the_file_says_whose_vectors_it_holds(tiny: NoteLLM, notes: pa.Table, tmp_path: Path):
    other = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, seed=9)
    made = [(tiny, notes), (other, notes), (tiny, notes.slice(1))]
    for number, (model, table) in enumerate(made):
        embed_to_parquet(model, table, tmp_path / f"{number}.parquet", progress=False)
        record = read_record(tmp_path / f"{number}.parquet")
        assert record["kind"] == "vectors"
        assert record["data"] == {"model": {"fingerprint": model.fingerprint()}, "notes": describe(table)}
        assert record["fingerprint"] == fingerprint(read_parquet(tmp_path / f"{number}.parquet"))
        assert record["metrics"] == {"notes": len(table)}
        assert (record["config"]["dim"], record["config"]["template"]) == (16, "compact")
    records = [read_record(tmp_path / f"{number}.parquet") for number in range(len(made))]
    assert len({record["fingerprint"] for record in records}) == len(made)


def test_titles_alone_are_enough(tiny: NoteLLM, notes: pa.Table, tmp_path: Path):
    bare = notes.select(["note_id", "title"])
    embed_to_parquet(tiny, bare, tmp_path / "v.parquet", progress=False)
    np.testing.assert_allclose(read_vectors(tmp_path / "v.parquet")[1], tiny.encode(bare), atol=1e-5)


def test_what_cannot_be_embedded_or_read(tiny: NoteLLM, notes: pa.Table, tmp_path: Path):
    with pytest.raises(DataError, match="no notes to embed"):
        embed_to_parquet(tiny, notes.slice(0, 0), tmp_path / "v.parquet")
    with pytest.raises(DataError, match="no column note_id; found title"):
        embed_to_parquet(tiny, notes.select(["title"]), tmp_path / "v.parquet")
    with pytest.raises(StorageError, match="no such file"):
        read_vectors(tmp_path / "nothing.parquet")
    pq.write_table(pa.table({"note_id": ["a"], "vector": [[1.0]]}), tmp_path / "lists.parquet")
    with pytest.raises(DataError, match="expected a fixed-size list"):
        read_vectors(tmp_path / "lists.parquet")


def test_a_sliced_file_reads_right(tmp_path: Path):
    vectors = np.arange(40, dtype=np.float32).reshape(10, 4)
    table = vector_table(pa.array([f"n{i}" for i in range(10)]), vectors)
    pq.write_table(
        pa.concat_tables([table.slice(0, 3), table.slice(3)]), tmp_path / "v.parquet", row_group_size=3
    )
    ids, read = read_vectors(tmp_path / "v.parquet")
    assert ids == [f"n{i}" for i in range(10)]
    np.testing.assert_array_equal(read, vectors)
