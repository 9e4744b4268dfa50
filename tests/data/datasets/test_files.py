import gzip

import pyarrow as pa
import pytest

from notellm.data.datasets.files import Rows, find_file, read_delimited, read_lines, read_objects
from notellm.data.problems import Report
from notellm.errors import DataError, StorageError


def put(folder, name, content):
    path = folder / name
    path.write_text(content)
    return path


def test_datasets_may_lack_the_header(tmp_path):
    with_header = put(tmp_path, "a.csv", "b,a\n2,1\n")
    without = put(tmp_path, "b.csv", '1,2\nragged\n"3",4\n')
    report = Report()
    assert read_delimited(with_header, ("a", "b"), report).to_pylist() == [{"a": "1", "b": "2"}]
    assert not len(report)
    assert read_delimited(without, ("a", "b"), report).column("a").to_pylist() == ["1", "3"]
    (row,) = report.problems
    assert (row.where, row.count, row.example[:6]) == ("b.csv", 1, "line 2")
    raw = put(tmp_path, "c.tsv", '"x\t2\n')
    assert read_delimited(raw, ("a", "b"), report, delimiter="\t", quoting=False).to_pylist() == [
        {"a": '"x', "b": "2"}
    ]
    with pytest.raises(DataError, match="has 2 columns on line 1; it must have a, b, c"):
        read_delimited(without, ("a", "b", "c"), report)


def test_a_header_that_lacks_a_column_is_no_row(tmp_path):
    path = put(tmp_path, "a.csv", "a,c\n2,1\n")
    with pytest.raises(DataError, match="has no column b; its first line is a, c"):
        read_delimited(path, ("a", "b"), Report())


def test_lines_may_be_in_utf_8_and_latin_1(tmp_path):
    path = tmp_path / "a.dat"
    path.write_bytes("1\tcafé\n".encode() + "2\tÜber “x”\n".encode("cp1252") + b"3\t\x81\r\n4\tplain\n")
    report = Report()
    table = read_delimited(path, ("id", "name"), report, delimiter="\t", latin1=True)
    assert table.column("name").to_pylist() == ["café", "Über “x”", "\x81", "plain"]
    assert list(read_lines(path, report, latin1=True))[::3] == ["1\tcafé", "4\tplain"]
    for row in report.problems:
        assert (row.problem, row.count, row.action) == ("bytes that are not UTF-8", 2, "read as Latin-1")
    assert len(report) == 2
    report = Report()
    assert (
        read_delimited(path, ("id", "name"), report, delimiter="\t").column("name").to_pylist()[1][0]
        == "\ufffd"
    )
    assert [row.problem for row in report.problems] == ["broken UTF-8"]


def test_objects_are_json_or_python_literals(tmp_path):
    path = tmp_path / "a.json.gz"
    lines = ['{"a": 1}', "", "{u'a': None}", "[1]", "{'a': oops}", '{"a": "\xff"}']
    path.write_bytes(gzip.compress("\n".join(lines).encode("latin-1")))
    report = Report()
    assert list(read_objects(path, report)) == [{"a": 1}, {"a": None}, {"a": "\ufffd"}]
    bad, broken = report.problems
    assert (bad.problem, bad.count, bad.example) == ("no object", 2, "line 4: list, not an object")
    assert (broken.problem, broken.count, broken.example[:6]) == ("broken UTF-8", 1, "line 6")
    with pytest.raises(DataError, match="no line that is an object; line 1: neither JSON"):
        list(read_objects(put(tmp_path, "b.json", "a,b\n"), Report()))
    with pytest.raises(DataError, match="it is empty"):
        list(read_objects(put(tmp_path, "c.json", "\n"), Report()))


def test_rows_are_collected_in_chunks(monkeypatch):
    monkeypatch.setattr("notellm.data.datasets.files._CHUNK_ROWS", 2)
    rows = Rows({"a": pa.large_string(), "b": pa.list_(pa.large_string())})
    for n in range(5):
        rows.add(f"{n}\ud83d" if n == 3 else None, ["\udc00"] * n)
    table = rows.table()
    assert table.column("a").to_pylist() == [None, None, None, "3\ufffd", None]
    assert table.column("b").to_pylist()[2] == ["\ufffd", "\ufffd"]
    assert [len(chunk) for chunk in table.column("a").chunks] == [2, 2, 1]
    assert Rows({"a": pa.int64()}).table().num_rows == 0


def test_find_file(tmp_path):
    put(tmp_path, "a_1.csv", "x")
    assert find_file(tmp_path, "b.csv", "a_*.csv") == tmp_path / "a_1.csv"
    assert find_file(tmp_path, "b.csv", needed=False) is None
    with pytest.raises(DataError, match=r"no file b.csv or c.csv"):
        find_file(tmp_path, "b.csv", "c.csv")
    put(tmp_path, "a_2.csv", "x")
    with pytest.raises(DataError, match="2 files"):
        find_file(tmp_path, "a_*.csv")
    with pytest.raises(StorageError, match="no such folder"):
        find_file(tmp_path / "none", "a")
