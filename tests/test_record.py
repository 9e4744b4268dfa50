"""Records and fingerprints."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import notellm.record as record_module
from notellm.artifacts.parquet import RECORD_KEY
from notellm.data.sample_world import sample_world
from notellm.errors import DataError, StorageError
from notellm.files import read_parquet, write_json, write_parquet
from notellm.record import RECORD, describe, fingerprint, make_record, read_record, write_record

BASE = {"a": ["x", None, "yy"], "t": [["p", "q"], [], ["r"]], "n": [1.0, 2.0, None], "b": [True, False, None]}


def test_chunks_and_a_trip_to_disk_do_not_count(tmp_path):
    notes = sample_world(notes=200, users=50, clicks=500, seed=3).notes
    write_parquet(notes, tmp_path / "notes.parquet")
    cut = pa.concat_tables([notes.slice(0, 7), notes.slice(7, 100), notes.slice(107)])
    assert cut.column("title").num_chunks == 3
    assert fingerprint(notes) == fingerprint(cut) == fingerprint(read_parquet(tmp_path / "notes.parquet"))


def test_vectors_have_a_fingerprint(tmp_path):
    def table(numbers):
        return pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(numbers, pa.float32()), 4)})

    numbers = np.arange(40)
    write_parquet(table(numbers), tmp_path / "v.parquet")
    cut = pa.concat_tables([table(numbers).slice(0, 3), table(numbers).slice(3)])
    assert (
        fingerprint(table(numbers)) == fingerprint(cut) == fingerprint(read_parquet(tmp_path / "v.parquet"))
    )
    assert fingerprint(table(numbers)) != fingerprint(table(numbers[::-1]))


def test_blocks_do_not_count(monkeypatch):
    clicks = sample_world(notes=200, users=50, clicks=500, seed=3).clicks
    whole = fingerprint(clicks)
    monkeypatch.setattr(record_module, "_BLOCK", 7)
    assert fingerprint(clicks) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"a": ["x", "", "yy"]},
        {"a": ["xy", None, "y"]},
        {"t": [["p"], ["q"], ["r"]]},
        {"t": [["pq"], [], ["r"]]},
        {"n": [1.0, 2.0, 0.0]},
        {"n": [2.0, 1.0, None]},
        {"b": [True, False, False]},
        {"b": [False, True, None]},
    ],
)
def test_any_change_of_a_value_counts(change):
    assert fingerprint(pa.table(BASE)) != fingerprint(pa.table(BASE | change))


def test_a_record_says_what_made_the_artifact():
    record = make_record(kind="dataset", config={"x": 1}, data={"notes": 2}, seed=3, metrics={"m": 0.5})
    assert (record["kind"], record["seed"], record["config"]["x"]) == ("dataset", 3, 1)
    assert {"notellm", "python", "torch", "transformers"} <= record["versions"].keys()
    assert make_record(kind="x", config={}, data={}) == make_record(kind="x", config={}, data={})


def test_a_record_goes_round_in_a_folder_and_in_a_parquet_file(tmp_path):
    table = pa.table({"名": ["笔记", "note"]})
    record = make_record(
        kind="tags", config={"名": None}, data={"notes": describe(table)}, metrics={"m": 0.1}, fingerprint="f"
    )
    write_record(tmp_path, record)
    write_parquet(table, tmp_path / "t.parquet", record=record)
    assert read_record(tmp_path) == read_record(tmp_path / "t.parquet") == record
    assert fingerprint(pq.read_table(tmp_path / "t.parquet")) == fingerprint(table)


def test_a_table_that_is_read_and_written_again_does_not_keep_the_record(tmp_path):
    write_parquet(pa.table(BASE), tmp_path / "a.parquet", record=make_record(kind="x", config={}, data={}))
    for read in (read_parquet, pq.read_table):
        write_parquet(read(tmp_path / "a.parquet").slice(1), tmp_path / "b.parquet", force=True)
        with pytest.raises(DataError, match=r"b\.parquet carries no record"):
            read_record(tmp_path / "b.parquet")


def test_what_carries_no_record_is_said(tmp_path):
    with pytest.raises(StorageError, match="no such file or folder"):
        read_record(tmp_path / "none")
    with pytest.raises(DataError, match=r"carries no record \(no record\.json"):
        read_record(tmp_path)
    write_json([1], tmp_path / RECORD)
    with pytest.raises(DataError, match="carries no record"):
        read_record(tmp_path)
    (tmp_path / "text.parquet").write_text("x")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_record(tmp_path / "text.parquet")
    table = pa.table({"a": [1]}).replace_schema_metadata({RECORD_KEY: "{"})
    pq.write_table(table, tmp_path / "half.parquet")
    with pytest.raises(DataError, match=r"half\.parquet"):
        read_record(tmp_path / "half.parquet")
