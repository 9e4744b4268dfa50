import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.cells.markup import INVISIBLE
from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.read import read_clicks, read_notes
from notellm.data.reading.options import ReadOptions
from notellm.errors import ConfigError, DataError, StorageError

CLICKS_CSV = "user_id,note_id,timestamp,event\nu,1,1700000000,click\nv,2,1700000001,view\n"


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_format_gives_the_same_table(tmp_path):
    rows = [
        {"note_id": "1", "title": "a, b", "content": "x\ny", "topics": ["t", "u"], "category": "c"},
        {"note_id": "2", "title": '"q"', "content": "", "topics": [], "category": ""},
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "n.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    cells = 'note_id,title,content,topics,category\n1,"a, b","x\ny",t|u,c\n2,"""q""",,,\n'
    quoted = cells.replace("t|u", '"[""t"",""u""]"')
    tabs = 'note_id\ttitle\tcontent\ttopics\tcategory\n1\ta, b\t"x\ny"\tt|u\tc\n2\t"""q"""\t\t\t\n'
    paths = [
        tmp_path / "n.parquet",
        put(tmp_path, "n.jsonl", lines),
        put(tmp_path, "n.ndjson.gz", gzip.compress(lines.encode())),
        put(tmp_path, "n.csv", cells),
        put(tmp_path, "quoted.CSV", quoted),
        put(tmp_path, "bom.csv", b"\xef\xbb\xbf" + cells.encode()),
        put(tmp_path, "n.tsv", tabs),
        put(tmp_path, "n.csv.gz", gzip.compress(cells.encode())),
    ]
    tables = [read_notes(path).table for path in paths]
    assert tables[0].schema.equals(RAW_NOTES)
    assert tables[0].column("topics").to_pylist() == [["t", "u"], []]
    assert all(table.equals(tables[0]) for table in tables[1:])


def test_line_ends_and_no_last_line_end(tmp_path):
    plain = read_clicks(put(tmp_path, "a.csv", CLICKS_CSV)).table
    assert plain.num_rows == 2
    assert plain.schema.equals(RAW_CLICKS)
    for i, content in enumerate(
        [
            CLICKS_CSV.replace("\n", "\r\n"),
            CLICKS_CSV.replace("\n", "\r"),
            CLICKS_CSV.rstrip("\n"),
            CLICKS_CSV.replace("\n", "\n\n"),
            CLICKS_CSV.replace("\n", ",\n"),
        ]
    ):
        assert read_clicks(put(tmp_path, f"{i}.csv", content)).table.equals(plain)


def test_columns_option_reads_other_names_and_ignores_other_columns(tmp_path):
    path = put(tmp_path, "a.csv", "x,item,who,when\n9,1,u,2024-01-01\n")
    names = {"note_id": "item", "user_id": "who", "timestamp": "when"}
    table = read_clicks(path, columns=names).table
    assert table.column_names == RAW_CLICKS.names
    assert table.to_pylist()[0]["note_id"] == "1"
    assert table.to_pylist()[0]["timestamp"].year == 2024


def test_float_ids_of_a_column_with_holes_match_integer_ids(tmp_path):
    notes = read_notes(put(tmp_path, "n.csv", "note_id,title\n12,a\n7,b\n")).table
    csv = put(tmp_path, "c.csv", "user_id,note_id\nu,12.0\nu,\nu,7.0\n")
    line = '{"user_id": 1, "note_id": %s}\n'
    jsonl = put(tmp_path, "c.jsonl", line % "12" + line % "null" + line % "7.0")
    pq.write_table(pa.table({"user_id": [1, 1, 1], "note_id": [12.0, None, 7.0]}), tmp_path / "c.parquet")
    for path in (csv, jsonl, tmp_path / "c.parquet"):
        found = read_clicks(path).table.column("note_id").to_pylist()
        assert [found[0], found[2]] == notes.column("note_id").to_pylist()
        assert not found[1]


def test_order_is_the_time_where_there_is_none(tmp_path):
    result = read_clicks(put(tmp_path, "c.csv", "user_id,note_id\nu,1\nv,1\nu,2\n"))
    seconds = [time.timestamp() for time in result.table.column("timestamp").to_pylist()]
    assert seconds == [1, 1, 2]
    assert result.report.problems[0].count == 3


def test_hashtags_move_to_the_topics(tmp_path):
    path = put(tmp_path, "n.csv", "note_id,title,content,topics\n1,Hi #A,x #b #a y,B|c\n2,#z,,\n")
    plain, moved = read_notes(path).table, read_notes(path, hashtags=True).table
    assert plain.column("title").to_pylist()[0] == "Hi #A"
    assert moved.column("title").to_pylist() == ["Hi", ""]
    assert moved.column("content").to_pylist()[0] == "x y"
    assert moved.column("topics").to_pylist() == [["B", "c", "A"], ["z"]]
    assert moved.schema.equals(RAW_NOTES)


def test_absent_optional_columns_are_reported(tmp_path):
    report = read_notes(put(tmp_path, "n.csv", "note_id,title\n1,a\n")).report
    assert [problem.problem for problem in report.problems] == [
        f"no column {name!r}" for name in ("content", "topics", "category", "published_at")
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", "[\n1\n]\n", "line 2: int, not an object"),
        ("c.csv", "user_id,note_id\n1\n2\n", "no row that can be read: all 2 have another number of cells"),
        ("c.xlsx", b"PK\x03\x04...", "zip archive"),
        ("c.csv", b"SQLite format 3\x00", "SQLite database"),
        ("c.csv", "<!DOCTYPE html><html>Sign in", "web page"),
        ("c.csv", b"\x80\x04\x95", "pickle, which notellm never opens"),
        ("c", "x", "no column 'user_id'; its columns are 'x'"),
        ("c.gz", "x", "not a whole gzip file"),
        ("c.csv.gz", b"no gzip", "gzip"),
        ("c.csv.gz", gzip.compress(CLICKS_CSV.encode() * 99, mtime=0)[:-9], "gzip"),
        ("c.parquet", "no parquet", "not a readable Parquet file"),
        ("c.csv", "user_id,user_id,note_id\nu,v,1\n", "'user_id' more than once"),
        ("c.csv", "user;note\nu;1\n", r"no column 'user_id'; its columns are 'user', 'note'"),
        ("c.csv", "user_id,item\nu,1\n", "no column 'note_id'.*'item'.*columns option"),
        ("c.jsonl", '{"user_id": 1}\n', "no column 'note_id'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read_clicks(put(tmp_path, name, content))


def test_what_is_no_file(tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        read_clicks(tmp_path / "none.csv")
    with pytest.raises(StorageError, match="no such file"):
        read_clicks(tmp_path / "*.csv")
    with pytest.raises(DataError, match="is a folder without files"):
        read_clicks(tmp_path)
    pq.write_table(pa.table({"user": ["u"], "note_id": ["n"]}), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="no column 'user_id'"):
        read_clicks(tmp_path / "d.parquet")


@pytest.mark.parametrize("content", ["", "\n\n", "user_id,note_id\n", "\ufeffuser_id,note_id,timestamp"])
@pytest.mark.parametrize("name", ["c.csv", "c.csv.gz"])
def test_a_log_without_rows_is_an_empty_table(tmp_path, name, content):
    data = content.encode()
    result = read_clicks(put(tmp_path, name, gzip.compress(data) if name.endswith("gz") else data))
    assert result.table.num_rows == 0
    assert "no rows" in str(result.report)
    with pytest.raises(DataError, match=r"is empty|no row that can be read"):
        read_notes(put(tmp_path, "n.csv", content.replace("user_id", "title")))


def test_wrong_columns_option(tmp_path):
    path = put(tmp_path, "c.csv", CLICKS_CSV)
    with pytest.raises(DataError, match="no column 'item', which the columns option names for note_id"):
        read_clicks(path, columns={"note_id": "item"})
    with pytest.raises(ConfigError, match="'item' is not one of our columns user_id"):
        read_clicks(path, columns={"item": "note_id"})
    with pytest.raises(ConfigError, match="did you mean timestamp"):
        read_clicks(path, columns={"time": "timestamp"})


def test_ragged_rows_are_left_out_with_count_and_line(tmp_path):
    content = 'user_id,note_id\nu,1\nu\n"v\nw",2\nu,3,4\nu,5\n'
    result = read_clicks(put(tmp_path, "c.csv", content))
    assert result.table.column("note_id").to_pylist() == ["1", "2", "5"]
    ragged = next(p for p in result.report.problems if "cells" in p.problem)
    assert (ragged.count, ragged.example) == (2, "line 3: 1 cells, not 2")


def test_invalid_json_lines_are_left_out_with_count_and_line(tmp_path):
    good = '{"user_id": "u", "note_id": "1"}\n'
    content = good + "{broken\n" + "[1]\n" + '{"user_id": "\x00"}\n' + "[" * 100_000 + "\n" + good
    result = read_clicks(put(tmp_path, "c.jsonl", content))
    assert result.table.num_rows == 2
    invalid = next(p for p in result.report.problems if "JSON" in p.problem)
    assert invalid.count == 4
    assert invalid.example.startswith("line 2:")


@pytest.mark.parametrize("name", ["n.csv", "n.jsonl"])
def test_broken_text_is_replaced_with_count_and_line(tmp_path, name):
    rows = [b"1,fine", b"2,a\xff\xfe", b"3,\xe7\xac", "4,汉\x00".encode()]
    content = b"note_id,title\n" + b"\n".join(rows)
    if name == "n.jsonl":
        content = b"\n".join(
            b'{"note_id": %s, "title": "%s"}' % tuple(row.split(b",")) for row in rows
        ).replace(b"\x00", b"\\u0000")
        content = content.replace(b"\xe7\xac", b"\\ud800\\udfff \\ud800")
    result = read_notes(put(tmp_path, name, content))
    titles = result.table.column("title").to_pylist()
    assert titles[0] == "fine"
    assert titles[1] == "a\ufffd\ufffd"
    assert titles[2].endswith("\ufffd")
    assert titles[3] == "汉\x00"  # validate takes NUL out
    broken = next(p for p in result.report.problems if "UTF-8" in p.problem)
    assert broken.count == 2
    assert broken.example.startswith("line 3" if name == "n.csv" else "line 2")


def test_a_cell_of_a_million_characters(tmp_path):
    text = "long " * 200_000 + "end"
    result = read_notes(put(tmp_path, "n.csv", f"note_id,title\n1,{text}\n"))
    assert result.table.column("title").to_pylist() == [text]


def test_many_chunks_keep_order_and_lines(tmp_path):
    rows = 120_003
    body = "".join(f"u{i % 7},{i}\n" for i in range(rows))
    result = read_clicks(put(tmp_path, "c.csv", "user_id,note_id\n" + body + "ragged\n"))
    assert result.table.column("note_id").to_pylist() == [str(i) for i in range(rows)]
    assert f"line {rows + 2}:" in str(result.report)


def _bare(title):
    """A title without white space and invisible characters at its ends."""
    return re.sub(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$", "", title.strip())


cells = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<&"), max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(cells, min_size=1, max_size=8))
def test_any_text_survives_csv_and_json(tmp_path_factory, titles):
    folder = tmp_path_factory.mktemp("any")
    quoted = ['"' + title.replace('"', '""') + '"' for title in titles]
    lines = [f"{i},{title}\n" for i, title in enumerate(quoted)]
    csv = put(folder, "n.csv", "note_id,title\n" + "".join(lines))
    rows = [json.dumps({"note_id": i, "title": title}) + "\n" for i, title in enumerate(titles)]
    jsonl = put(folder, "n.jsonl", "".join(rows))
    for path in (csv, jsonl):
        options = ReadOptions(missing="")
        found = read_notes(path, options=options).table.column("title").to_pylist()
        assert found == [_bare(title) for title in titles]


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "jsonl", "csv.gz", "parquet"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, kind):
    path = put(tmp_path_factory.mktemp("bytes"), f"c.{kind}", b"user_id,note_id\n" + content)
    try:
        table = read_clicks(path).table
    except DataError:
        return
    assert table.schema.equals(RAW_CLICKS)
    table.validate(full=True)


def test_a_damaged_parquet_file_is_named(tmp_path):
    """Text that is not UTF-8, and pages that do not decompress, end in one of our errors."""
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    pq.write_table(pa.table({"note_id": ["n1"], "title": text}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"text\.parquet"):
        read_notes(tmp_path / "text.parquet")
    pq.write_table(pa.table({"note_id": ["n1"] * 99, "title": ["a"] * 99}), tmp_path / "pages.parquet")
    damaged = bytearray((tmp_path / "pages.parquet").read_bytes())
    damaged[20:60] = b"\xff" * 40
    (tmp_path / "pages.parquet").write_bytes(damaged)
    with pytest.raises((DataError, StorageError), match=r"pages\.parquet"):
        read_notes(tmp_path / "pages.parquet")
