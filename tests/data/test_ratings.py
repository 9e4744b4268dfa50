"""Ratings: which column holds them, and which of them count as clicks."""

import pyarrow as pa
import pytest

from notellm.data.problems import Report
from notellm.data.ratings import is_click, numbers_of, rating_column
from notellm.data.read import read_clicks
from notellm.data.reading.options import ReadOptions
from notellm.errors import ConfigError, DataError

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["rating"], "rating"),
        (["x", "user_rating", "y"], "user_rating"),
        (["Stars"], "Stars"),
        (["overall"], "overall"),
        (["book-rating"], "book-rating"),
        (["liked"], "liked"),
        (["play_count"], "play_count"),
        (["rating", "play_count"], "rating"),  # a rating before an amount
        (["rating", "score"], None),  # which one is not told
        (["hours_played"], "hours_played"),
        (["watch_ratio"], "watch_ratio"),
        (["ratings_count_text", "operating", "strategy", "starship"], None),
        ([], None),
    ],
)
def test_the_column_of_ratings(names, expected):
    assert rating_column(names) == expected


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 5], pa.int8(), [1.0, 5.0]),
        ([4.5, NAN], pa.float32(), [4.5, NAN]),
        (["4.5", " 3 ", "4,5", "x", "", None], pa.string(), [4.5, 3.0, 4.5, None, None, None]),
        ([True, False], pa.bool_(), [1.0, 0.0]),
        (["5", "5", "1"], pa.dictionary(pa.int8(), pa.string()), [5.0, 5.0, 1.0]),
    ],
)
def test_numbers_of_ratings_in_any_type(values, kind, expected):
    column = pa.chunked_array([pa.array(values, kind)])
    assert numbers_of(column).to_list() == pytest.approx(expected, nan_ok=True)


def counted(values, min_rating, kind=None):
    report = Report()
    column = pa.chunked_array([pa.array(values, kind)])
    found = is_click(column, "stars", min_rating, "c.csv", report)
    return None if found is None else found.to_list(), {each.problem: each.count for each in report.problems}


def test_ratings_from_a_threshold_on_are_clicks():
    found, problems = counted([5, 4, 3, 0], 4)
    assert found == [True, True, False, False]
    assert problems == {"rating below 4": 2}
    assert counted(["5", "4,0", "3.9"], 4.0)[0] == [True, True, False]


def test_what_is_no_finite_number_is_no_click():
    found, problems = counted([5.0, NAN, INF, -INF, None, 1.0], 4)
    assert found == [True, False, False, False, False, False]
    assert problems == {"rating is no finite number": 4, "rating below 4": 1}


def test_without_a_threshold_ratings_are_doubtful():
    assert counted([5, 2, 2], None) == (None, {"column that looks like a rating": 3})
    assert counted([5, 5, 5], None) == (None, {})  # one value says nothing
    assert counted([], None, pa.int64()) == (None, {})


def test_errors_name_the_value():
    with pytest.raises(
        DataError, match=r"c\.csv: stars is 'good' in the first row; a rating must be a number"
    ):
        counted(["good", "bad"], 4)
    with pytest.raises(DataError, match="none is at least 9, the largest is 5; lower --min-rating"):
        counted([5, 3], 9)


def log(folder, text, **options):
    (folder / "c.csv").write_text(text)
    return read_clicks(folder / "c.csv", options=ReadOptions(**options))


def test_a_column_of_amounts_is_reported_only_for_rows_with_nothing(tmp_path):
    result = log(tmp_path, "user_id,note_id,play_count\nu,1,3\nu,2,0\nu,3,-1\n")
    row = next(each for each in result.report.problems if "amounts" in each.problem)
    assert (row.count, row.example) == (2, "play_count 0")
    assert result.table.num_rows == 3
    assert "amounts" not in str(log(tmp_path, "user_id,note_id,play_count\nu,1,3\nu,2,5\n").report)
    assert log(tmp_path, "user_id,note_id,play_count\nu,1,3\nu,2,0\n", min_rating=1).table.num_rows == 1


def test_a_threshold_without_ratings_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"min_rating is 4, but c\.csv has no column of ratings"):
        log(tmp_path, "user_id,note_id\nu,1\n", min_rating=4)
    with pytest.raises(ConfigError, match="has no column of ratings"):
        log(tmp_path, "user_id,note_id,rating_a,my_rating,score\nu,1,5,5,5\n", min_rating=4)


def test_the_order_of_rows_counts_only_clicks(tmp_path):
    """Rows below the threshold still take their place in the order."""
    result = log(tmp_path, "user_id,note_id,rating\nu,7,5\nu,3,1\nu,9,4\n", min_rating=4)
    assert result.table["note_id"].to_pylist() == ["7", "9"]
    times = [time.timestamp() for time in result.table["timestamp"].to_pylist()]
    assert times == sorted(set(times))
