"""Rules on the distinct values of a log that is kept as codes count its rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.log import ClickLog
from notellm.data.problems import Report
from notellm.data.read import read_clicks, read_log
from notellm.data.reading.headings import without_headings
from notellm.data.reading.options import ReadOptions
from notellm.errors import DataError


def log_of(folder, text, **options):
    path = folder / "c.csv"
    path.write_text(text)
    read = read_log(path, options=ReadOptions(**options))
    return read.log, {each.problem: (each.count, each.example) for each in read.report.problems}


def notes_in(log: ClickLog) -> list[str]:
    return [str(note) for note in log.notes.array()]


@pytest.mark.parametrize("users", [["u"], ["7"], [f"u{i}" for i in range(30)]])
def test_the_header_again_in_a_log(tmp_path, users):
    rows = [f"{user},1\n" for user in users] * 10
    header = "user_id,note_id\n"
    log, reported = log_of(tmp_path, header + "".join(rows) + "USER_ID , Note_id\n" + "".join(rows) + header)
    assert notes_in(log) == ["1"] * 20 * len(users)
    assert reported["the header again as a row"] == (2, "user_id | note_id")


def test_a_user_named_as_the_header_stays(tmp_path):
    log, reported = log_of(tmp_path, "user_id,note_id\n" + "user_id,1\nu,note_id\n" * 20)
    assert len(log) == 40
    assert "the header again as a row" not in reported


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_the_header_again_in_columns_of_several_chunks(kind):
    name = "user.id (x)"
    users = pa.chunked_array([pa.array(["a", None]).cast(kind), pa.array(["userXid (x)", name]).cast(kind)])
    notes = pa.chunked_array([pa.array(["1", "2", "3", "n"]).cast(kind)])
    table = pa.table({"user_id": users, "note_id": notes})
    report = Report()
    left = without_headings(table, {"user_id": name, "note_id": "N"}, "c.csv", report)
    assert left["note_id"].to_pylist() == ["1", "2", "3"]
    assert [(each.problem, each.count) for each in report.problems] == [("the header again as a row", 1)]


def test_a_header_of_digits_again_in_a_column_of_numbers():
    table = pa.table({"user_id": [5, 0, 6], "note_id": [7, 1, 1]})
    left = without_headings(table, {"user_id": "0", "note_id": "1"}, "c.csv", Report())
    assert left["user_id"].to_pylist() == [5, 6]


def test_a_rule_and_types_below_the_header_of_a_log(tmp_path):
    rows = "u,1\n" * 20
    log, reported = log_of(tmp_path, f"user_id,note_id\n---,---\n{rows}")
    assert (len(log), reported["a rule below the header"]) == (20, (1, "--- | ---"))
    log, reported = log_of(tmp_path, f"user_id,note_id\nSTRING,BIGINT\n{rows}")
    assert (len(log), reported["a row of types below the header"]) == (20, (1, "STRING | BIGINT"))


@pytest.mark.parametrize(
    ("cells", "read", "reported"),
    [
        (['="007"', "8"], ["007", "8"], ("id as a formula of Excel", '="007"')),
        (['"1,000"', "8"], ["1000", "8"], ("id with commas for thousands", "1,000")),
        (
            ["anonymous", "8"],
            ["anonymous", "8"],
            ("id that may stand for a missing one, or a total", "anonymous"),
        ),
        (["'8", "9"], ["'8", "9"], ("id that begins with a quote mark", "'8")),
        (["08", "8"], ["08", "8"], ("ids that differ in leading zeros alone", "08")),
        (["1e5", "8"], ["1e5", "8"], ("id written as a floating point number", "1e5")),
    ],
)
def test_doubtful_ids_are_counted_by_their_rows(tmp_path, cells, read, reported):
    first, second = cells
    text = "user_id,note_id\n" + f"u,{first}\nu,{second}\nv,{first}\n" * 5
    log, problems = log_of(tmp_path, text)
    problem, example = reported
    assert notes_in(log) == [read[0], read[1], read[0]] * 5
    assert problems[problem] == (10, example)


def test_rows_without_an_event_may_count_as_nothing(tmp_path):
    text = "user_id,note_id,event\n" + "u,1,\nu,2,click\nu,3,\n" * 3
    log, reported = log_of(tmp_path, text, events={"": "drop"})
    assert notes_in(log) == ["2"] * 3
    assert reported["event that counts as nothing"] == (6, "")
    log, _ = log_of(tmp_path, text, events={"": "view"})
    assert log.events.array().to_pylist() == ["view", "click", "view"] * 3


def test_a_problem_of_events_is_counted_by_its_rows(tmp_path):
    text = "user_id,note_id,event\n" + "u,1,NaN\nu,2,unknown\nu,3,unknown\nu,4,click\n" * 3
    _, reported = log_of(tmp_path, text)
    assert reported["word for a missing value"] == (3, "NaN")
    assert reported["may stand for a missing value"] == (6, "unknown")


def test_ratings_are_counted_by_their_rows(tmp_path):
    text = "user_id,note_id,rating\n" + 'u,1,yes\nu,2,no\nu,3,"4,5"\nu,4,\n' * 3
    log, reported = log_of(tmp_path, text, min_rating=1)
    assert notes_in(log) == ["1", "3"] * 3
    assert reported["rating in words"] == (6, "yes")
    assert reported["rating with commas"] == (3, "4,5")
    assert reported["rating is no finite number"] == (3, "")


def test_a_rating_that_is_a_list_is_an_error(tmp_path):
    pq.write_table(pa.table({"user_id": ["u"], "note_id": ["1"], "rating": [[5.0]]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"rating is of type list.*name another column"):
        read_clicks(tmp_path / "c.parquet", options=ReadOptions(min_rating=1))


def test_an_empty_log_whose_columns_are_named_by_place(tmp_path):
    log, reported = log_of(tmp_path, "", columns={"user_id": "#1", "note_id": "#2"})
    assert len(log) == 0
    assert "no rows" in reported
