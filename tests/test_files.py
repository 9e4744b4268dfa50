"""Parquet and JSON files: whole or not at all, damage is named."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.errors import DataError, StorageError
from notellm.files import read_json, read_parquet, write_json, write_parquet, write_parquet_pieces

RECORD = {"kind": "vectors"}


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_json([1], tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_json_is_replaced_only_on_request(tmp_path):
    write_json(1, tmp_path / "x.json")
    with pytest.raises(StorageError, match="a file that notellm did not write is there"):
        write_json(2, tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == 1
    write_json(2, tmp_path / "x.json", replace=True)
    assert read_json(tmp_path / "x.json") == 2


def test_readers_name_what_is_wrong(tmp_path):
    write_parquet(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no column 'b'; its columns are a"):
        read_parquet(tmp_path / "t.parquet", ["b"])
    with pytest.raises(StorageError, match="no such file"):
        read_parquet(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_parquet(tmp_path / "bad.parquet")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_json(tmp_path / "bad.json")


def test_a_flipped_byte_of_a_page_is_found(tmp_path):
    """Wherever the byte lies in the data pages, the file is refused or reads as it was written."""
    path = tmp_path / "t.parquet"
    table = pa.table({"id": [f"note {i}" for i in range(500)], "x": [float(i * i) for i in range(500)]})
    write_parquet(table, path)
    whole = path.read_bytes()
    end = pq.ParquetFile(path).metadata.row_group(0).column(1)
    pages = end.data_page_offset + 200  # well within the pages of the second column
    refused = 0
    for at in range(8, pages, 37):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        path.write_bytes(damaged)
        try:
            found = read_parquet(path)
        except DataError:
            refused += 1
        else:
            assert found == table, f"a flipped bit at {at} gave another table"
    assert refused > 10


def test_text_that_is_not_utf8_is_found_at_reading(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"id": bad}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="damaged"):
        read_parquet(tmp_path / "t.parquet")


def test_pieces_make_one_file(tmp_path):
    table = pa.table({"a": list(range(10)), "b": [[str(i)] * i for i in range(10)]})
    record = {"kind": "x"}
    pieces = (table.slice(start, 4) for start in range(0, 10, 4))
    write_parquet_pieces(pieces, tmp_path / "pieces.parquet", record=record)
    write_parquet(table, tmp_path / "whole.parquet", record=record)
    assert read_parquet(tmp_path / "pieces.parquet") == read_parquet(tmp_path / "whole.parquet") == table
    schemas = [pq.read_schema(tmp_path / f"{name}.parquet") for name in ("pieces", "whole")]
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert schemas[0].metadata


def test_a_piece_that_fails_leaves_what_was_there(tmp_path):
    def pieces():
        yield pa.table({"a": [2]})
        raise ZeroDivisionError

    write_parquet(pa.table({"a": [1]}), tmp_path / "t.parquet", record=RECORD)
    with pytest.raises(ZeroDivisionError):
        write_parquet_pieces(pieces(), tmp_path / "t.parquet", record=RECORD)
    assert read_parquet(tmp_path / "t.parquet").to_pydict() == {"a": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_only_a_file_of_the_same_kind_is_replaced(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(pa.table({"a": [1]}), path, record=RECORD)
    write_parquet(pa.table({"a": [2]}), path, record=RECORD)
    for record, reason in (({"kind": "tags"}, "a file of vectors is there"), (None, "did not write")):
        with pytest.raises(StorageError, match=reason):
            write_parquet(pa.table({"a": [3]}), path, record=record)
    assert read_parquet(path).to_pydict() == {"a": [2]}
    write_parquet(pa.table({"a": [3]}), path, record={"kind": "tags"}, force=True)
    assert read_parquet(path).to_pydict() == {"a": [3]}
