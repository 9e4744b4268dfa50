"""Convert a column of times of any type to UTC microseconds.

Times are Arrow timestamps and dates, ISO 8601 text, numbers (``numbers.py``), or one of the other forms of
``time_forms.py``. Times without a zone are UTC.
"""

import re
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, plain, utf8
from notellm.data.cells.missing import without_missing
from notellm.data.cells.nested import unwrapped
from notellm.data.cells.numbers import UNITS, number_times
from notellm.data.cells.options import CellOptions
from notellm.data.cells.time_forms import Form, read_form
from notellm.data.problems import Report
from notellm.errors import ConfigError, DataError

_TIME = pl.Datetime("us", "UTC")
_FORMATS_WITH_ZONE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_FORMATS_WITHOUT_ZONE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_NUMBERS = ("excel", "year", *UNITS)
_ORDERS = ("day-first", "month-first")
#: The directives of strptime that dates and times are made of, and any text between them.
_DIRECTIVES = re.compile(r"(?:[^%]|%[.:#-]?\d?[aAbBCdDeFfhHIjklmMpPRSTyYzZ%])+")
#: Milliseconds since 1970 as .NET writes them into JSON.
_NET = r"^/Date\((-?\d+)(?:[+-]\d{4})?\)/$"
#: Share of a column's times from which on doubtful ones are an error, not a row of the report.
_MANY = 0.5


def times(
    column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None
) -> pl.Series:
    """Convert times to UTC microseconds; what cannot be read becomes null.

    Args:
        column: the times.
        where: name of the column in the report.
        report: receives what was guessed, and what could not be read.
        options: how cells are read.

    Raises:
        DataError: if the type of the column cannot be a time, or many times may be day first or month first
            and none of the column decides it.
        ConfigError: if the time format is not one.
    """
    options = options or CellOptions()
    column = plain(column)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        series = pl.Series(column)
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            return series.cast(pl.Datetime("us", kind.tz)).dt.convert_time_zone("UTC")
        return series.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    is_strptime = options.time_format not in (None, *_NUMBERS, *_ORDERS)
    if is_number and (is_strptime or options.missing_numbers):
        # The format is that of their digits, and words for a missing value may be numbers.
        column = pa.chunked_array([pl.Series(column).cast(pl.String).to_arrow()])
    elif is_number:
        numbers = pl.Series(column)
        if kind in (pa.float16(), pa.float32()):
            found = numbers.filter((numbers.abs() > 2**24) & numbers.is_finite())
            action = "kept, but a float of 32 bits holds times of today to about two minutes"
            report.add(
                "time as a float of 32 bits", where, len(found), found[0] if len(found) else "", action
            )
        read = number_times(numbers, where, report, _number_format(options.time_format))
        _report_lost(numbers, read, where, report)
        return read
    column = unwrapped(column, "time", where, report)
    if not is_text(column.type) and not pa.types.is_null(kind):
        raise DataError(f"{where} is of type {kind}; a time is a timestamp, a text or a number since 1970")
    text = without_missing(utf8(column, where, report), where, report, options)
    text = pl.select(pl.when(text != "").then(text)).to_series()
    text = text.str.replace(_NET, "${1}")
    if options.time_format is None or options.time_format in (*_NUMBERS, *_ORDERS):
        read = _text_times(text, where, report, options.time_format)
    else:
        read = _formatted(text, options.time_format)
    lost = text.filter(read.is_null() & text.is_not_null())
    if len(lost):
        action = "taken as missing; --time-format says how to read it"
        report.add("unreadable time", where, len(lost), lost[0], action)
    return read


def _number_format(time_format: str | None) -> str | None:
    return time_format if time_format in _NUMBERS else None


def _report_lost(numbers: pl.Series, read: pl.Series, where: str, report: Report) -> None:
    lost = numbers.filter(read.is_null() & numbers.is_not_null())
    if len(lost):
        report.add("unreadable time", where, len(lost), lost[0], "taken as missing")


def _formatted(text: pl.Series, time_format: str) -> pl.Series:
    """Read texts by a strptime format, with or without a zone."""
    if "%" not in time_format or not _DIRECTIVES.fullmatch(time_format):
        raise ConfigError(
            f"time_format is {time_format!r}, which is no form of times; give "
            f"{', '.join((*_ORDERS, *_NUMBERS))}, or a strptime format such as '%d.%m.%Y %H:%M'"
        )
    try:
        read = text.str.to_datetime(time_format, strict=False, time_unit="us")
    except pl.exceptions.PolarsError:  # a format without minutes, or without a time of the day
        distinct = text.unique().drop_nulls()
        values = {each: _parsed(each, time_format) for each in distinct}
        read = text.replace_strict(list(values), list(values.values()), default=None, return_dtype=_TIME)
    return (read if read.dtype == _TIME else read.dt.replace_time_zone("UTC")).cast(_TIME)


def _parsed(text: str, time_format: str) -> datetime | None:
    try:
        time = datetime.strptime(text, time_format)  # noqa: DTZ007 - a zone may be part of the format
    except ValueError:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _text_times(text: pl.Series, where: str, report: Report, time_format: str | None) -> pl.Series:
    """Convert numbers, ISO 8601 and other forms; what is none of them becomes null."""
    number_format = _number_format(time_format)
    whole = text.cast(pl.Int64, strict=False)
    number = text.cast(pl.Float64, strict=False)
    if number.count() == whole.count():
        read = number_times(whole, where, report, number_format)
    else:
        # Whole numbers keep all of their digits; the others only need those of a double.
        read = number_times(number, where, report, number_format)
        if not number_format:
            exact = number_times(whole.filter(whole.abs() >= 2**53), where, Report())
            if len(exact):
                places = (whole.abs() >= 2**53).fill_null(value=False)
                read = read.scatter(places.arg_true(), exact)
    rest = (read.is_null() & text.is_not_null() & number.is_null()).arg_true()
    if not len(rest):
        return read
    left = text.gather(rest)
    iso = _iso_times(left)
    others = iso.is_null().arg_true()
    if len(others):
        iso = iso.scatter(others, _other_times(left.gather(others), len(text), where, report, time_format))
    return read.scatter(rest, iso)


def _iso_times(text: pl.Series) -> pl.Series:
    """Convert ISO 8601, and its forms with spaces, slashes, "UTC" and decimal commas."""
    iso = text.str.replace(r"^(\d{4})[/.](\d{2})[/.](\d{2})(\D|$)", "${1}-${2}-${3}${4}")
    iso = iso.str.replace(r"^(\d{4}-\d{2}-\d{2})(?:[ tT]+)", "${1}T")
    iso = iso.str.replace(r"((?:[zZ]|[+-]\d{2}:?\d{2}|[+-]\d{2}))\s*\[[\w/+-]+\]$", "${1}")
    iso = iso.str.replace(r"(:\d{2}),(\d+)", "${1}.${2}")
    iso = iso.str.replace(r"(?i)\s*(?:z|utc|gmt)$", "+00:00")
    iso = iso.str.replace(r"(:\d{2}[^+-]*?)\s*([+-]\d{2}):?(\d{2})?$", "${1}${2}:${3}")
    iso = iso.str.replace(r"([+-]\d{2}):$", "${1}:00")
    read = pl.repeat(None, len(text), dtype=_TIME, eager=True)
    for time_format in (*_FORMATS_WITH_ZONE, *_FORMATS_WITHOUT_ZONE):
        if not read.null_count():
            break
        more = iso.str.to_datetime(time_format, strict=False, time_unit="us")
        if more.dtype == pl.Datetime("us"):
            more = more.dt.replace_time_zone("UTC")
        read = pl.select(pl.coalesce(read, more.cast(_TIME))).to_series()
    return read


def _other_times(
    text: pl.Series, rows: int, where: str, report: Report, time_format: str | None
) -> pl.Series:
    """Convert the other forms; the column decides whether the day or the month comes first.

    Args:
        text: the texts.
        rows: number of times in the column.
        where: name of the column.
        report: receives guesses.
        time_format: "day-first" or "month-first"; None guesses.
    """
    distinct = text.unique(maintain_order=True)
    forms = {each: read_form(each) for each in distinct}
    families: dict[str, dict[str, Form]] = {}
    for each, form in forms.items():
        if form is not None and form.ambiguous:
            families.setdefault(form.family, {})[each] = form
    orders = dict.fromkeys(families, time_format if time_format in _ORDERS else None)
    if time_format is None:
        orders = {name: _order(family, text, rows, where, report) for name, family in families.items()}
    values = {each: form and _reading(form, orders.get(form.family)) for each, form in forms.items()}
    month_only = [each for each, form in forms.items() if form is not None and form.month_only]
    if month_only:
        count = int(text.is_in(month_only).sum())
        report.add("a time without day", where, count, month_only[0], "read as the first of the month")
    read = text.replace_strict(list(values), list(values.values()), default=None, return_dtype=pl.Int64)
    return read.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _order(family: dict[str, Form], text: pl.Series, rows: int, where: str, report: Report) -> str | None:
    """Return which of day and month comes first in a family of times; None if they do not decide it."""
    only_day = [each for each, form in family.items() if form.month_first is None]
    only_month = [each for each, form in family.items() if form.day_first is None]
    count = int(text.is_in(list(family)).sum())
    if next(iter(family.values())).family.startswith(".") and not only_month:
        return "day-first"  # as everywhere where dates have points
    if bool(only_day) != bool(only_month):
        order, proof = ("day-first", only_day[0]) if only_day else ("month-first", only_month[0])
        action = f"read {order}, since no other reading fits all"
        report.add("date of day and month in numbers", where, count, proof, action, f"--time-format {order}")
        return order
    example = next(
        (each for each, form in family.items() if None not in (form.day_first, form.month_first)),
        next(iter(family)),
    )
    why = "rows of both kinds are there" if only_day else "no row of the column decides it"
    if count >= _MANY * rows:
        raise DataError(
            f"{where} is {example!r}, which may be day first or month first, and {why}; say --time-format "
            "day-first or --time-format month-first"
        )
    action = f"missing where day or month may come first; {why}: say --time-format day-first or month-first"
    report.add("date of day and month in numbers", where, count, example, action)
    return None


def _reading(form: Form, order: str | None) -> int | None:
    """Return microseconds since 1970; None if the time is doubtful."""
    if not form.ambiguous:
        return form.day_first
    if order is not None:
        return form.day_first if order == "day-first" else form.month_first
    if form.day_first is None or form.month_first is None:
        return form.day_first if form.month_first is None else form.month_first
    return form.day_first if form.day_first == form.month_first else None
