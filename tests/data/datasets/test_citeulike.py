import pytest

from notellm.data.convert import RAW_NOTES
from notellm.data.datasets.citeulike import read_citeulike
from notellm.data.validate import validate
from notellm.errors import DataError

ARTICLES = (
    '"doc.id","title","citeulike.id","raw.title","raw.abstract"\n'
    '"1","the tea","42","The Tea: a ""study""","We drink,\nthen écrire."\n'
    '"2","camp","60","Camp",NA\n"3","third","61","Third","x"\n'
)


def write(folder, item_tag="3 0 1 2\n0\n2 1 9\n"):
    (folder / "raw-data.csv").write_bytes(ARTICLES.encode("latin-1"))
    (folder / "users.dat").write_text("2 0 1\n1 2\n")
    (folder / "tags.dat").write_bytes("bibtex-import\nlangué\nrare\n".encode("latin-1"))
    (folder / "item-tag.dat").write_text(item_tag)
    return folder


def found(report):
    return {row.problem: (row.where, row.count, row.example) for row in report.problems}


def test_articles_are_numbered_from_zero_on(tmp_path):
    data = read_citeulike(write(tmp_path))
    assert data.notes.schema.equals(RAW_NOTES)
    rows = [(row["note_id"], row["title"], row["content"], row["topics"]) for row in data.notes.to_pylist()]
    assert rows == [
        ("0", 'The Tea: a "study"', "We drink,\nthen écrire.", ["langué", "rare"]),
        ("1", "Camp", "", []),
        ("2", "Third", "x", ["langué"]),
    ]
    assert data.clicks.to_pylist() == [
        {"user_id": "0", "note_id": "0"},
        {"user_id": "0", "note_id": "1"},
        {"user_id": "1", "note_id": "2"},
    ]
    assert [(row.problem, row.where, row.count, row.example) for row in data.report.problems] == [
        ("bytes that are not UTF-8", "raw-data.csv", 1, 'line 3: then écrire."'),
        ("bytes that are not UTF-8", "tags.dat", 1, "line 2: langué"),
        ("tag that tags.dat lacks", "item-tag.dat", 1, "line 3: 9"),
        ("tag that CiteULike writes", "tags.dat", 1, "bibtex-import"),
    ]
    assert validate(data.notes, data.clicks)[1].num_rows == 3


def test_counts_may_be_wrong_or_missing(tmp_path):
    data = read_citeulike(write(tmp_path, item_tag="1 1 2\n0\n1 1\n"))
    assert data.notes.column("topics").to_pylist() == [["langué", "rare"], [], ["langué"]]
    assert found(data.report)["first number does not count the rest"] == ("item-tag.dat", 1, "line 1")
    data = read_citeulike(write(tmp_path, item_tag="0 1 2\n0\n0 1 2\n"))
    assert data.notes.column("topics").to_pylist() == [["langué", "rare"], [], ["langué", "rare"]]
    assert found(data.report)["lines without a count"] == ("item-tag.dat", 3, "line 1")


def test_bad_files(tmp_path):
    (write(tmp_path) / "item-tag.dat").unlink()
    assert "no item-tag.dat with tags.dat" in found(read_citeulike(tmp_path).report)
    (tmp_path / "raw-data.csv").write_text("doc.id,raw.title,raw.abstract\nfirst,a,b\n")
    with pytest.raises(DataError, match=r"a doc\.id is 'first'; it must be a whole number"):
        read_citeulike(tmp_path)
