import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.microlens import read_microlens
from notellm.data.validate import validate
from notellm.errors import DataError, StorageError

TITLES = 'item,title\r\n1,"a caption, long # two words # next"\r\n2,# only tag\r\n3,plain\r\n'


def write(folder, titles=TITLES, pairs="7\t1 3 1\r\n8\t2\r\n"):
    (folder / "MicroLens-1k_titles.csv").write_text(titles, newline="")
    if pairs:
        (folder / "MicroLens-1k_pairs.tsv").write_text(pairs, newline="")
    return folder


@pytest.mark.parametrize("titles", [TITLES, TITLES.removeprefix("item,title\r\n")])
def test_captions_are_contents_and_their_tags_topics(tmp_path, titles):
    data = read_microlens(write(tmp_path, titles))
    notes, clicks = data.notes, data.clicks
    assert notes.schema.equals(RAW_NOTES)
    assert notes.column("note_id").to_pylist() == ["1", "2", "3"]
    assert notes.column("content").to_pylist() == ["a caption, long", "", "plain"]
    assert notes.column("topics").to_pylist() == [["two words", "next"], ["only tag"], []]
    assert clicks.schema.equals(RAW_CLICKS)
    assert clicks.column("user_id").to_pylist() == ["7", "7", "7", "8"]
    assert clicks.column("note_id").to_pylist() == ["1", "3", "1", "2"]
    assert [t.timestamp() for t in clicks.column("timestamp").to_pylist()] == [1, 2, 3, 1]
    assert validate(notes, clicks, strict=True)[1].num_rows == 4
    (row,) = data.report.problems
    assert (row.problem, row.count) == ("items in time order, without times", 4)


def test_real_times_are_used_where_the_folder_has_them(tmp_path):
    write(tmp_path)
    (tmp_path / "MicroLens-1k_pairs.csv").write_text("user,item,timestamp\n7,1,1660000000000\n")
    data = read_microlens(tmp_path)
    clicks = data.clicks
    assert clicks.column("timestamp").to_pylist()[0].timestamp() == 1_660_000_000


def test_missing_files(tmp_path):
    with pytest.raises(StorageError, match="no such folder"):
        read_microlens(tmp_path / "none")
    with pytest.raises(DataError, match=r"no file MicroLens-\*_titles.csv"):
        read_microlens(tmp_path)
    with pytest.raises(DataError, match="pairs"):
        read_microlens(write(tmp_path, pairs=None))


@pytest.mark.real
def test_real_microlens(real_data):
    data = read_microlens(real_data("microlens-50k"))
    notes, clicks = data.notes, data.clicks
    notes, clicks, report = validate(notes, clicks)
    assert (notes.num_rows, clicks.num_rows) == (19_220, 359_708)
    assert len(set(clicks.column("user_id").to_pylist())) == 50_000
    assert {p.problem: p.count for p in report.problems} == {
        "may stand for a missing value": 1,  # a caption "?"
        "HTML entity": 1,
    }
    with_topics = sum(bool(topics) for topics in notes.column("topics").to_pylist())
    assert 0.8 < with_topics / notes.num_rows < 0.95
    assert not any("#" in text for text in notes.column("content").to_pylist())
