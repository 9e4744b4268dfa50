from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.data.cells.ids import ids
from notellm.data.cells.texts import texts
from notellm.data.cells.times import times
from notellm.data.cells.topics import topics
from notellm.data.convert import (
    RAW_CLICKS,
    RAW_NOTES,
    is_order_only,
    labels,
    order_times,
    raw_clicks,
    raw_notes,
)
from notellm.data.problems import Report
from notellm.data.schema import TIME
from notellm.errors import DataError

MOMENT = datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)
SECONDS = int(MOMENT.timestamp())


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def read(rule, values, kind=None):
    report = Report()
    return rule(column(values, kind), "t", report).to_list(), report


def broken(*cells):
    """A text column with bytes that are not UTF-8, as a file may have it."""
    offsets = np.cumsum([0, *map(len, cells)]).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(cells))]
    return pa.chunked_array([pa.Array.from_buffers(pa.string(), len(cells), buffers)])


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2**62, None], pa.int64(), ["1", str(2**62), None]),
        ([2**64 - 1], pa.uint64(), [str(2**64 - 1)]),
        ([12.0, float("nan"), 12.5, -3.0, None], pa.float64(), ["12", None, "12.5", "-3", None]),
        ([" a ", "", None], pa.string(), ["a", "", None]),
        (["v1.0", "2.0"], pa.string(), ["v1.0", "2.0"]),
        (["1.5", "2.0"], pa.large_string(), ["1.5", "2.0"]),
        (["a", "b", "a"], pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
        ([3, 4], pa.dictionary(pa.int8(), pa.int32()), ["3", "4"]),
        ([b"x"], pa.binary(), ["x"]),
        ([None, None], pa.null(), [None, None]),
    ],
)
def test_ids(values, kind, expected):
    found, report = read(ids, values, kind)
    assert found == expected
    assert len(report) == 0


@pytest.mark.parametrize("values", [[float(2**60)], ["1.2345678901234568e+18", "x"]])
def test_ids_that_lost_digits_are_reported(values):
    assert "floating point" in str(read(ids, values)[1])


def test_ids_of_an_impossible_type():
    with pytest.raises(DataError, match="ids are text or integers"):
        read(ids, [True])


@pytest.mark.parametrize(
    "value",
    [
        SECONDS,
        float(SECONDS),
        SECONDS * 1_000,
        SECONDS * 1_000_000,
        SECONDS * 1_000_000_000,
        str(SECONDS),
        f"{SECONDS}.0",
        f"{SECONDS * 1000}",
        "2024-02-29T12:30:15Z",
        "2024-02-29 12:30:15",
        " 2024-02-29 12:30:15.000 ",
        "2024-02-29T12:30:15+00:00",
        "2024-02-29T13:30:15+01:00",
        "2024-02-29T07:30:15-0500",
        "2024-02-29T07:30:15-05",
        "2024-02-29 12:30:15z",
    ],
)
def test_one_moment_in_every_form(value):
    found, report = read(times, [value, None])
    assert found == [MOMENT, None]
    assert len(report) == 0


@pytest.mark.parametrize(
    "value",
    ["2024-02-29", date(2024, 2, 29), 20240229, "20240229", datetime(2024, 2, 29)],  # noqa: DTZ001
)
def test_one_day_in_every_form(value):
    assert read(times, [value])[0] == [datetime(2024, 2, 29, tzinfo=UTC)]


def test_times_with_fractions_and_without_seconds():
    assert read(times, ["2024-02-29T12:30:15.123456789Z", "2024-02-29 12:30"])[0] == [
        MOMENT + timedelta(microseconds=123456),
        MOMENT.replace(second=0),
    ]
    assert read(times, [SECONDS + 0.5])[0] == [MOMENT + timedelta(seconds=0.5)]
    micro = SECONDS * 1_000_000 + 123_457
    assert read(times, [str(micro)])[0] == [MOMENT + timedelta(microseconds=123_457)]


def test_times_of_different_forms_in_one_column():
    forms = ["2024-02-29T07:30:15-05", "2024-02-29", str(SECONDS), "2024-02-29 12:30:15", "x", ""]
    day = datetime(2024, 2, 29, tzinfo=UTC)
    assert read(times, forms)[0] == [MOMENT, day, MOMENT, MOMENT, None, None]


def test_unreadable_times_are_missing_and_reported():
    found, report = read(times, ["yesterday", "2024-02-30 00:00:00", "", None, str(SECONDS)])
    assert found == [None, None, None, None, MOMENT]
    assert report.problems[0].count == 2
    assert report.problems[0].example == "yesterday"
    assert read(times, [float("inf"), float("nan"), 1e30])[0] == [None] * 3


def test_arrow_times_of_any_unit_and_zone():
    for unit in ("s", "ms", "us", "ns"):
        assert read(times, [MOMENT], pa.timestamp(unit, tz="UTC"))[0] == [MOMENT]
        assert read(times, [MOMENT.replace(tzinfo=None)], pa.timestamp(unit))[0] == [MOMENT]
    tokyo = pa.timestamp("ms", tz="Asia/Tokyo")
    assert read(times, [MOMENT.astimezone(timezone(timedelta(hours=9)))], tokyo)[0] == [MOMENT]


@given(st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
def test_iso_text_comes_back(moment):
    moment = moment.replace(tzinfo=UTC)
    assert read(times, [moment.isoformat()])[0] == [moment]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (['["a", "b|c"]', "x|y| z", "", None, "[]"], None, [["a", "b|c"], ["x", "y", "z"], [], [], []]),
        (["[1, 2.5, null]", '["\\ud800"]'], None, [["1", "2.5"], ["\ufffd"]]),
        ([["a", None], None, []], pa.list_(pa.string()), [["a", None], [], []]),
        ([[1, 2]], pa.large_list(pa.int64()), [["1", "2"]]),
    ],
)
def test_topics(values, kind, expected):
    found, report = read(topics, values, kind)
    assert found == expected
    assert len(report) == 0


def test_order_only():
    def log(*seconds):
        return pa.table({"timestamp": pa.array([second * 10**6 for second in seconds], TIME)})

    year = 365 * 86_400
    assert is_order_only(log(0, 2, year - 1))
    assert not is_order_only(log(1, 2, year))
    assert not is_order_only(log(-1, 2))
    assert not is_order_only(log())
    assert is_order_only(pa.table({"timestamp": order_times(pl.Series(["u", "v", "u"])).to_arrow()}))


def test_labels():
    assert labels('[{"id": 1, "name": "a"}, {"name": "b"}]', "name", "t") == ["a", "b"]
    assert labels("", "name", "t") == labels("[]", "name", "t") == []
    for cell in ("oops", "[1]", '[{"Name": "a"}]'):
        with pytest.raises(DataError, match=r't are .*; they must be JSON like \[\{"name": "x"\}\]'):
            labels(cell, "name", "t")


def test_topics_of_an_impossible_type():
    with pytest.raises(DataError, match="topics are lists of text"):
        read(topics, [1])


@pytest.mark.parametrize("rule", [ids, texts])
def test_broken_utf8_is_replaced_and_reported(rule):
    report = Report()
    found = rule(broken(b"ok", b"a\xff\xfeb", b"\xed\xa0\x80"), "t", report)
    assert found.to_list()[:2] == ["ok", "a\ufffd\ufffdb"]
    assert report.problems[0].count == 2


def test_broken_utf8_in_topic_lists():
    lists = pa.chunked_array([pa.ListArray.from_arrays([0, 1, 2], broken(b"x", b"\xff").chunk(0))])
    report = Report()
    assert topics(lists, "t", report).to_list() == [["x"], ["\ufffd"]]
    assert report.problems[0].count == 1


def test_text_of_numbers_and_not_of_lists():
    assert read(texts, [1, None])[0] == ["1", None]
    with pytest.raises(DataError, match="join the list first"):
        read(texts, [["a", "b"]])


def test_raw_tables_have_the_schema_and_every_row():
    report = Report()
    notes = raw_notes(pa.table({"note_id": [1, 2], "content": ["x", None]}), "notes", report)
    assert notes.schema.equals(RAW_NOTES)
    assert notes.column("title").to_pylist() == [None, None]
    clicks = raw_clicks(
        pa.table({"user_id": ["u", "v", "u"], "note_id": [1, 2, 2], "other": [0, 0, 0]}),
        "clicks",
        report,
    )
    assert clicks.schema.equals(RAW_CLICKS)
    # Without times, order is the time: a user's n-th row is at 1970 plus n seconds.
    seconds = [time.timestamp() for time in clicks.column("timestamp").to_pylist()]
    assert seconds == [1, 1, 2]
    assert set(clicks.column("event").to_pylist()) == {"click"}
    assert "no column 'timestamp'" in str(report)


@pytest.mark.parametrize(
    ("convert", "table", "missing"),
    [
        (raw_notes, {"item_id": [1], "title": ["x"]}, "note_id"),
        (raw_notes, {"note_id": [1], "text": ["x"]}, "title"),
        (raw_clicks, {"user": [1], "note_id": [1]}, "user_id"),
    ],
)
def test_missing_columns_name_the_way_out(convert, table, missing):
    found = next(iter(table))
    with pytest.raises(DataError, match=rf"no column '{missing}'.*'{found}'.*columns option"):
        convert(pa.table(table), "t", Report())
