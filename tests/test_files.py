"""Writing aside: whole or not at all."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.errors import DataError, StorageError
from notellm.files import (
    read_json,
    read_parquet,
    write_aside,
    write_json,
    write_parquet,
    write_parquet_pieces,
)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    target = tmp_path / "value.json"
    write_json({"a": 1}, target)
    with pytest.raises(ZeroDivisionError), write_aside(target) as aside:  # noqa: PT012 - it fails half-way
        aside.write_text("half")
        raise ZeroDivisionError
    assert read_json(target) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "made"
    for name in ("one", "two"):
        with write_aside(target) as aside:
            aside.mkdir()
            (aside / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write_json([1], tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_overwrite_can_be_refused(tmp_path):
    write_json(1, tmp_path / "x.json")
    with (
        pytest.raises(StorageError, match="exists already"),
        write_aside(tmp_path / "x.json", overwrite=False),
    ):
        pass
    assert read_json(tmp_path / "x.json") == 1


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

    write_parquet(pa.table({"a": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ZeroDivisionError):
        write_parquet_pieces(pieces(), tmp_path / "t.parquet")
    assert read_parquet(tmp_path / "t.parquet").to_pydict() == {"a": [1]}
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
