from datetime import UTC, datetime

import pytest

from notellm.data.convert import RAW_CLICKS, RAW_NOTES
from notellm.data.datasets.mind import read_mind
from notellm.data.validate import validate
from notellm.errors import DataError

NEWS = (
    'N1\tnews\tlocal\t"Quoted start\tAbstract.\thttp://x\t[{"Label": "Ada"}]\t[{"Label": "ada"}, '
    '{"Label": "Bob"}]\n'
    "N2\tsports\tball\tTitle\t\thttp://x\t[]\t\n"
    "N3\tsports\tball\tThird\t\thttp://x\t[]\t[]\n"
)
BEHAVIORS = (
    "1\tU1\t11/13/2019 1:00:00 PM\tN1 N2\tN3-1 N2-0 N1-1\n"
    "2\tU1\t11/12/2019 11:59:59 PM\tN1 N2\tN2-1\n"
    "3\tU2\t11/13/2019 12:00:00 AM\t\tN1-0 N3-1\n"
)


def write(folder, news=NEWS, behaviors=BEHAVIORS):
    (folder / "news.tsv").write_text(news)
    (folder / "behaviors.tsv").write_text(behaviors)
    return folder


def test_news(tmp_path):
    data = read_mind(write(tmp_path))
    notes = data.notes
    assert notes.schema.equals(RAW_NOTES)
    assert notes.column("title").to_pylist() == ['"Quoted start', "Title", "Third"]
    assert notes.column("topics").to_pylist() == [["Ada", "Bob"], [], []]
    assert notes.column("category").to_pylist() == ["news", "sports", "sports"]


def test_history_comes_before_the_first_impression_and_only_clicked_news_are_clicks(tmp_path):
    data = read_mind(write(tmp_path))
    notes, clicks = data.notes, data.clicks
    assert clicks.schema.equals(RAW_CLICKS)
    _, clicks, report = validate(notes, clicks, strict=True)
    rows = [(row["note_id"], row["timestamp"]) for row in clicks.to_pylist() if row["user_id"] == "U1"]
    day = datetime(2019, 11, 12, 23, 59, tzinfo=UTC)
    noon = datetime(2019, 11, 13, 13, tzinfo=UTC)
    assert rows == [
        ("N1", day.replace(second=57)),
        ("N2", day.replace(second=58)),
        ("N2", day.replace(second=59)),
        ("N3", noon),
        ("N1", noon),
    ]
    assert [r["note_id"] for r in clicks.to_pylist() if r["user_id"] == "U2"] == ["N3"]
    assert len(report) == 0


def test_what_gives_no_click_is_reported(tmp_path):
    rows = {row.problem: row for row in read_mind(write(tmp_path)).report.problems}
    assert rows["clicks of a history, without times"].count == 2
    assert (rows["news shown but not clicked"].count, rows["news shown but not clicked"].example) == (
        2,
        "impression 1: N2-0",
    )
    unlabelled = "1\tU1\t11/13/2019 1:00:00 PM\tN1 N2\tN3 N2\n2\tU1\t11/13/2019 2:00:00 PM\tN1 N2\tN1 N3-2\n"
    data = read_mind(write(tmp_path, behaviors=unlabelled))
    assert data.clicks.column("note_id").to_pylist() == ["N1", "N2"]
    lost = data.report.problems[-1]
    assert (lost.problem, lost.where, lost.count) == ("news shown, without a label", "behaviors.tsv", 4)
    assert (lost.example, lost.action) == ("impression 1: N3", "no click")


def test_bad_cells(tmp_path):
    with pytest.raises(DataError, match="a time is 'soon'"):
        read_mind(write(tmp_path, behaviors="1\tU1\tsoon\t\tN1-1\n"))
    with pytest.raises(DataError, match="entities are 'oops'"):
        read_mind(write(tmp_path, news="N1\ta\tb\tt\tx\tu\toops\t[]\n"))


@pytest.mark.real
def test_real_mind(real_data):
    data = read_mind(real_data("mind-subset"))
    raw_notes, raw_clicks = data.notes, data.clicks
    notes, clicks, report = validate(raw_notes, raw_clicks)
    assert notes.num_rows == 2_000
    assert len(set(notes.column("category").to_pylist())) == 15
    lost = {p.problem: p.count for p in report.problems}
    assert set(lost) == {
        "invisible characters around a text",
        "may stand for a missing value",
        "click on an unknown note",
    }
    assert clicks.num_rows + lost["click on an unknown note"] == raw_clicks.num_rows > 100_000
