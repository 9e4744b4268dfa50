from notellm.data.convert import RAW_NOTES
from notellm.data.datasets.lastfm import read_lastfm
from notellm.data.validate import validate


def write(folder):
    artists = (
        'id\tname\turl\tpictureURL\n1\tRöyk "Ten\thttp://x\thttp://y\n2\tDiary\thttp://x\n3\ta\tb\tc\td\n'
    )
    (folder / "artists.dat").write_text(artists, encoding="utf-8")
    (folder / "tags.dat").write_bytes("tagID\ttagValue\n1\tmétal\n2\tgothic\n".encode("latin-1"))
    (folder / "user_taggedartists.dat").write_text(
        "userID\tartistID\ttagID\tday\tmonth\tyear\n2\t1\t1\t1\t4\t2009\n2\t1\t2\t1\t4\t2009\n3\t1\t2\t1\t4\t2009\n"
        "3\t9\t2\t1\t4\t2009\n3\t1\t77\t1\t4\t2009\n"
    )
    (folder / "user_artists.dat").write_text("userID\tartistID\tweight\n2\t1\t13883\n2\t2\t0\n3\t2\t1\n")
    return folder


def found(report):
    return {row.problem: (row.where, row.count, row.example) for row in report.problems}


def test_artists_who_were_played_are_clicks(tmp_path):
    data = read_lastfm(write(tmp_path))
    assert data.notes.schema.equals(RAW_NOTES)
    assert data.notes.column("title").to_pylist() == ['Röyk "Ten', "Diary"]
    assert data.notes.column("topics").to_pylist() == [["gothic", "métal"], []]
    assert data.clicks.to_pylist() == [{"user_id": "2", "note_id": "1"}, {"user_id": "3", "note_id": "2"}]
    assert found(data.report) == {
        "other number of cells than the header": ("artists.dat", 1, "line 4: 5 cells, not 4"),
        "bytes that are not UTF-8": ("tags.dat", 1, "line 2: 1\\tmétal"),
        "artist never played": ("user_artists.dat: weight", 1, "userID 2, artistID 2, weight 0"),
    }
    assert validate(data.notes, data.clicks)[1].num_rows == 2


def test_tags_are_optional(tmp_path):
    (write(tmp_path) / "tags.dat").unlink()
    data = read_lastfm(tmp_path)
    assert data.notes.column("topics").to_pylist() == [None, None]
    assert "no tags.dat with user_taggedartists.dat" in found(data.report)
