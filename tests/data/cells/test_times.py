"""Times: the forms that people and programs write, and what cannot be told apart."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.cells.options import CellOptions
from notellm.data.cells.times import times
from notellm.errors import ConfigError, DataError
from tests.data.cells.reading import problems, read

DAY = datetime(2019, 10, 1, tzinfo=UTC)
MOMENT = datetime(2021, 1, 29, 7, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2019-10-01 00:00:00 UTC",
        "2019-10-01 02:00:00+0200",
        "2019-10-01 02:00:00 +0200",
        "2019-10-01T02:00:00+02",
        "2019-10-01T02:00:00+02:00[Europe/Berlin]",
        "2019-10-01 00:00:00 GMT",
        "2019-09-30 19:00:00 EST",
        "2019-10-01 00:00:00 Z",
        "20191001T000000Z",
        "20191001T020000+0200",
        "2019-10-01T00:00Z",
        "2019-10-01t00:00:00z",
        "2019-10-01T00:00:00,000Z",
        "2019/10/01 00:00:00",
        "2019/10/1",
        "2019.10.01",
        "1 October 2019",
        "1-Oct-2019",
        "1st of October 2019, 00:00",
        "October 1st, 2019 at 12:00 AM",
        "Oct 1, 2019",
        "Tue, 01 Oct 2019 00:00:00 GMT",
        "Tue Oct  1 00:00:00 2019",
        "Tue Oct 01 00:00:00 +0000 2019",
        "Tue Oct 1 00:00:00 UTC 2019",
        "10 1, 2019",
        "01.10.2019 00:00",
        "2019-09-30 24:00:00",
        "2019年10月1日",
        "20191001000000",
        "201910010000",
        "20191001",
        "43739.0",
    ],
)
def test_one_day_in_every_form(text):
    assert read(times, [text, ""])[0] == [DAY, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("29-01-2021 07:01", MOMENT.replace(second=0)),
        ("2021-1-29 7:01:02", MOMENT),
        ("29.01.2021 07:01:02.250", MOMENT + timedelta(milliseconds=250)),
        ("1/29/2021 7:01:02 AM", MOMENT),
        ("1/29/2021 7:01:02 p.m.", MOMENT + timedelta(hours=12)),
        ("2021-01", datetime(2021, 1, 1, tzinfo=UTC)),
        ("January 2021", datetime(2021, 1, 1, tzinfo=UTC)),
        ("1999", datetime(1999, 1, 1, tzinfo=UTC)),
        ("1999.0", datetime(1999, 1, 1, tzinfo=UTC)),
        ("0000-00-00 00:00:00", None),
        ("2021-02-30", None),
        ("yesterday", None),
        ("01/02/19", None),
        ("2019-10-01 00:00 BST", None),  # British or Bangladeshi
        ("1612080000", datetime(2021, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_single_times(text, expected):
    found, report = read(times, [text])
    assert found == [expected]
    assert (expected is None) == ("unreadable time" in problems(report))


def test_the_column_decides_whether_the_day_comes_first():
    found, report = read(times, ["03/04/2019", "25/12/2019"])
    assert found == [datetime(2019, 4, 3, tzinfo=UTC), datetime(2019, 12, 25, tzinfo=UTC)]
    assert report.options == ["--time-format day-first"]
    found, report = read(times, ["03/04/2019", "12/25/2019"])
    assert found == [datetime(2019, 3, 4, tzinfo=UTC), datetime(2019, 12, 25, tzinfo=UTC)]
    assert report.options == ["--time-format month-first"]


def test_a_column_that_does_not_decide_it_is_an_error():
    with pytest.raises(
        DataError, match=r"'03/04/2019', which may be day first or month first.*--time-format"
    ):
        read(times, ["03/04/2019", "05/06/2019"])
    found, report = read(times, ["03/04/2019"], options=CellOptions(time_format="month-first"))
    assert (found, len(report)) == ([datetime(2019, 3, 4, tzinfo=UTC)], 0)


def test_a_few_doubtful_times_among_others_are_missing_and_reported():
    others = ["2019-10-01"] * 5
    found, report = read(times, [*others, "03/04/2019 2:14 PM", "25-12-2019"])
    assert found[5:] == [None, datetime(2019, 12, 25, tzinfo=UTC)]  # another form decides nothing
    assert problems(report)["date of day and month in numbers"] == 1
    assert problems(report)["unreadable time"] == 1


def test_excel_days():
    expected = [datetime(2021, 1, 29, 7, 1, 2, tzinfo=UTC), datetime(2020, 2, 29, tzinfo=UTC)]
    for values, kind in (
        ([44225.29238425926, 43890.0], pa.float64()),
        (["44225.29238425926", "43890"], pa.string()),
    ):
        found, report = read(times, values, kind)
        assert found == expected
        assert report.options == ["--time-format excel"]
    found, report = read(times, [44225], options=CellOptions(time_format="excel"))
    assert (found, len(report)) == ([datetime(2021, 1, 29, tzinfo=UTC)], 0)


def test_counters_are_neither_years_nor_excel_days():
    counter = list(range(1_890, 1_910))
    found, report = read(times, counter)
    assert found == [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=n) for n in counter]
    assert not problems(report)
    found, _ = read(times, [5, 40_000])
    assert found[1] == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=40_000)


def test_years_among_dates():
    found, report = read(times, ["1999", "2008.0", "2019-10-01", "-3000", "20240229"])
    assert [found[i] for i in (0, 1, 2, 4)] == [
        datetime(1999, 1, 1, tzinfo=UTC),
        datetime(2008, 1, 1, tzinfo=UTC),
        DAY,
        datetime(2024, 2, 29, tzinfo=UTC),
    ]
    assert problems(report) == {"a number that is a year": 2, "a number that is the digits of a date": 1}


def test_a_format_is_an_option():
    options = CellOptions(time_format="%d|%m|%y %H.%M")
    assert read(times, ["29|01|21 07.01", "x"], options=options)[0] == [MOMENT.replace(second=0), None]
    assert read(times, ["29|01|21"], options=CellOptions(time_format="%d|%m|%y"))[0][0].day == 29
    found, _ = read(
        times, ["2021-01-29 09:01:02 +0200"], options=CellOptions(time_format="%Y-%m-%d %H:%M:%S %z")
    )
    assert found == [MOMENT]
    assert read(times, [1_500], options=CellOptions(time_format="ms"))[0] == [
        datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    ]


def test_what_is_no_format_is_named():
    with pytest.raises(ConfigError, match=r"time_format is .*day-first, month-first, excel, year"):
        read(times, ["2019-10-01"], options=CellOptions(time_format="%Q nonsense %"))


@settings(deadline=None)
@given(st.integers(0, 3_000_000_000))
def test_forms_of_one_time_agree(second):
    seconds = datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    expected = [seconds]
    for form in (
        "%Y-%m-%d %H:%M:%S UTC",
        "%Y/%m/%d %H:%M:%S",
        "%a, %d %b %Y %H:%M:%S GMT",
        "%d %B %Y %I:%M:%S %p",
        "%B %d, %Y %H:%M:%S",
        "%Y%m%dT%H%M%SZ",
        "%d.%m.%Y %H:%M:%S",
        "%a %b %d %H:%M:%S +0000 %Y",
    ):
        assert read(times, [seconds.strftime(form)])[0] == expected, form


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_a_time_or_unreadable(text):
    found, report = read(times, ["2019-10-01", text, "2019-10-01"])  # so that one doubtful time is no error
    found = found[1:2]
    assert found[0] is not None or not text.strip() or len(report)
