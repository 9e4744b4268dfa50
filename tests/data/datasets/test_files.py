import pytest

from notellm.data.datasets.files import find_file, read_delimited
from notellm.errors import DataError, StorageError


def put(folder, name, content):
    path = folder / name
    path.write_text(content)
    return path


def test_datasets_may_lack_the_header(tmp_path, caplog):
    with_header = put(tmp_path, "a.csv", "b,a\n2,1\n")
    without = put(tmp_path, "b.csv", '1,2\nragged\n"3",4\n')
    assert read_delimited(with_header, ("a", "b")).to_pylist() == [{"a": "1", "b": "2"}]
    assert not caplog.records
    assert read_delimited(without, ("a", "b")).column("a").to_pylist() == ["1", "3"]
    assert "line 2" in caplog.text
    raw = put(tmp_path, "c.tsv", '"x\t2\n')
    assert read_delimited(raw, ("a", "b"), delimiter="\t", quoting=False).to_pylist() == [
        {"a": '"x', "b": "2"}
    ]
    with pytest.raises(DataError, match="has 2 columns on line 1; it must have a, b, c"):
        read_delimited(without, ("a", "b", "c"))


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
