"""Writing aside: whole or not at all."""

import os

import pyarrow as pa
import pytest

from notellm.errors import DataError, StorageError
from notellm.files import read_json, read_parquet, write_aside, write_json, write_parquet


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
