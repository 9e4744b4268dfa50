"""Which files a path names, and what they hold, whatever their names are."""

import bz2
import gzip
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.read import read_clicks, read_notes
from notellm.data.reading.options import ReadOptions
from notellm.data.reading.sources import content_of, files_of
from notellm.errors import DataError, StorageError
from tests.data.reading.files import found, problems, put

CSV = b"user_id,note_id\nu,1\nv,2\n"
LINES = b'{"user_id": "u", "note_id": 1}\n{"user_id": "v", "note_id": 2}\n'
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "lz4": lambda data: pa.compress(data, codec="lz4", asbytes=True),
}


def pairs(result):
    table = result.table
    return list(zip(table["user_id"].to_pylist(), table["note_id"].to_pylist(), strict=True))


def parquet(folder, name, rows):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder / name


ROWS = [{"user_id": "u", "note_id": 1}, {"user_id": "v", "note_id": 2}]


@pytest.mark.parametrize("name", ["c", "c.csv", "c.json", "c.parquet", "export.2024-01-01", "c.TXT"])
@pytest.mark.parametrize("kind", ["delimited", "json", "parquet"])
def test_the_content_tells_what_a_file_is(tmp_path, name, kind):
    if kind == "parquet":
        path = parquet(tmp_path, name, ROWS)
    elif (kind, name) == ("delimited", "c.parquet"):
        return  # an error: the name promises what the file is not
    else:
        path = put(tmp_path, name, CSV if kind == "delimited" else LINES)
    assert content_of(path) == kind
    assert pairs(read_clicks(path)) == [("u", "1"), ("v", "2")]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz", "c.csv.zst", "c"])
@pytest.mark.parametrize("data", [CSV, LINES])
def test_compression_is_told_by_the_content(tmp_path, packing, name, data):
    result = read_clicks(put(tmp_path, name, PACKED[packing](data)))
    assert pairs(result) == [("u", "1"), ("v", "2")]
    assert not problems(result.report)


def test_a_gzip_file_of_several_members_is_read_to_its_end(tmp_path):
    data = gzip.compress(CSV) + gzip.compress(b"w,3\n")
    assert pairs(read_clicks(put(tmp_path, "c.csv.gz", data)))[-1] == ("w", "3")


@pytest.mark.parametrize("packing", PACKED)
def test_a_compressed_file_without_its_end_is_named(tmp_path, packing):
    data = PACKED[packing](b"user_id,note_id\n" + b"".join(b"user%d,%d\n" % (i * 7, i) for i in range(9_000)))
    with pytest.raises(DataError, match=r"c\.csv is not a whole"):
        read_clicks(put(tmp_path, "c.csv", data[: len(data) // 2]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04rest", "zip archive.*Excel workbook.*unpack it"),
        (b"\xd0\xcf\x11\xe0", "old Excel workbook; save the sheet as CSV"),
        (b"SQLite format 3\x00", "SQLite database; export the table"),
        (b"%PDF-1.7", "PDF document"),
        (b"7z\xbc\xaf\x27", "7z archive; unpack it"),
        (b"Rar!\x1a", "RAR archive; unpack it"),
        (b"ARROW1\x00\x00", "Arrow file; save the table as Parquet"),
        (b"ORC\x08", "ORC file"),
        (b"Obj\x01", "Avro file"),
        (b"\x89HDF\r\n", "HDF5 file"),
        (b"\x80\x04\x95", "pickle, which notellm never opens"),
        (b"<html><body>Sign in", "web page or XML"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html>", "web page or XML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "web page or XML"),
    ],
)
def test_what_holds_no_table_is_named(tmp_path, data, message):
    for name, content in (("c.csv", data), ("c.csv.gz", gzip.compress(data))):
        with pytest.raises(DataError, match=message):
            read_clicks(put(tmp_path, name, content))


def test_a_folder_of_parts_is_one_table(tmp_path):
    put(tmp_path, "log/part-00001.csv", "user_id,note_id\nv,2\n")
    put(tmp_path, "log/part-00000.csv", "user_id,note_id\nu,1\n")
    for other in ("_SUCCESS", ".part-00000.csv.crc", "_temporary/0/part.csv", ".hidden.csv", "part.csv.crc"):
        put(tmp_path, f"log/{other}", "no table\n")
    result = read_clicks(tmp_path / "log")
    assert pairs(result) == [("u", "1"), ("v", "2")]
    several = found(result.report, "table in several files")
    assert (several.count, several.example) == (2, "part-00000.csv")


def test_folders_in_folders_and_parts_of_several_kinds(tmp_path):
    put(tmp_path, "log/year=2024/b.jsonl", LINES)
    put(tmp_path, "log/year=2023/a.csv.gz", gzip.compress(b"note_id;user_id\n7;w\n"))
    parquet(tmp_path, "log/year=2025/c.parquet", [{"note_id": 9, "user_id": "x"}])
    result = read_clicks(tmp_path / "log")
    assert pairs(result) == [("w", "7"), ("u", "1"), ("v", "2"), ("x", "9")]
    assert found(result.report, "separator that the name does not tell").where == "a.csv.gz"


def test_patterns(tmp_path):
    put(tmp_path, "a-1.csv", "user_id,note_id\nu,1\n")
    put(tmp_path, "a-2.csv", "user_id,note_id\nv,2\n")
    put(tmp_path, "deep/er/a-3.csv", "user_id,note_id\nw,3\n")
    put(tmp_path, "b.csv", "x,y\n1,2\n")
    assert pairs(read_clicks(tmp_path / "a-*.csv")) == [("u", "1"), ("v", "2")]
    assert pairs(read_clicks(tmp_path / "a-[2].csv")) == [("v", "2")]
    assert len(pairs(read_clicks(f"{tmp_path}/**/a-*.csv"))) == 3
    with pytest.raises(StorageError, match="no such file"):
        read_clicks(tmp_path / "c-*.csv")


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    put(tmp_path, "log[1].csv", CSV)
    put(tmp_path, "log1.csv", "x,y\n")
    assert files_of(tmp_path / "log[1].csv") == [tmp_path / "log[1].csv"]


def test_ids_of_parts_in_other_types_are_the_same_ids(tmp_path):
    parquet(tmp_path, "log/a.parquet", [{"user_id": "u", "note_id": 7}])
    parquet(tmp_path, "log/b.parquet", [{"user_id": "u", "note_id": 7.0}, {"user_id": "u", "note_id": None}])
    parquet(tmp_path, "log/c.parquet", [{"user_id": "u", "note_id": "7"}])
    put(tmp_path, "log/d.csv", "user_id,note_id\nu,7\n")
    result = read_clicks(tmp_path / "log")
    assert result.table["note_id"].to_pylist() == ["7", "7", None, "7", "7"]


def test_times_of_parts_in_other_types_are_the_same_times(tmp_path):
    pq.write_table(
        pa.table(
            {"user_id": ["u"], "note_id": [1], "timestamp": pa.array([1_700_000_000_000], pa.timestamp("ms"))}
        ),
        tmp_path / "a.parquet",
    )
    parquet(tmp_path, "b.parquet", [{"user_id": "u", "note_id": 2, "timestamp": 1_700_000_000}])
    parquet(tmp_path, "c.parquet", [{"user_id": "u", "note_id": 3, "timestamp": "2023-11-14T22:13:20Z"}])
    times = read_clicks(f"{tmp_path}/*.parquet").table["timestamp"].to_pylist()
    assert [time.timestamp() for time in times] == [1_700_000_000.0] * 3


def test_topics_of_parts_in_other_types(tmp_path):
    parquet(tmp_path, "a.parquet", [{"note_id": 1, "title": "a", "topics": ["x", "y"]}])
    parquet(tmp_path, "b.parquet", [{"note_id": 2, "title": "b", "topics": "x|y"}])
    put(tmp_path, "c.parquet.csv", "note_id,title,topics\n3,c,x|y\n")
    result = read_notes(f"{tmp_path}/*")
    assert result.table["topics"].to_pylist() == [["x", "y"]] * 3


def test_a_column_that_only_some_parts_have_is_missing_in_the_others(tmp_path):
    put(tmp_path, "a.csv", "note_id,title,category\n1,a,food\n")
    put(tmp_path, "b.csv", "note_id,title\n2,b\n")
    result = read_notes(f"{tmp_path}/*.csv")
    assert result.table["category"].to_pylist() == ["food", None]


def test_the_same_problem_of_many_parts_is_one_row(tmp_path):
    for i in range(5):
        put(tmp_path, f"log/{i}.csv", "user_id,note_id\nu,1\nragged\n")
    ragged = found(read_clicks(tmp_path / "log").report, "other number of cells than the header")
    assert (ragged.count, ragged.where) == (5, "log: 5 files")


def test_reading_of_some_rows_ends_in_the_part_that_has_them(tmp_path):
    for i in range(3):
        put(tmp_path, f"log/{i}.csv", f"user_id,note_id\nu,{i}\nv,{i}\n")
    put(tmp_path, "log/9.csv", b"PK\x03\x04")
    assert read_clicks(tmp_path / "log", options=ReadOptions(rows=4)).table.num_rows == 4
