"""Times that are written as numbers: since 1970, as days of Excel, as years, or as the digits of a date.

The unit of a number since 1970 is told by its magnitude: below 1e11 seconds, below 1e14 milliseconds, below
1e17 microseconds, else nanoseconds. Fractions of a microsecond are cut off.
"""

import polars as pl

from notellm.data.problems import Report

UNITS = {"s": 1_000_000.0, "ms": 1_000.0, "us": 1.0, "ns": 0.001}
#: Days between 1899-12-30, where Excel counts from, and 1970-01-01.
_EXCEL_EPOCH = 25_569
_EXCEL_DAYS = (32_874, 73_415)  # 1990 to 2100
#: Counts of 100 ns since the year 1 for 2000 to 2100. As nanoseconds since 1970 they were in 1989 to 1991.
_TICKS = (630_822_816_000_000_000, 662_380_416_000_000_000)
#: Microseconds from the year 1 to 1970.
_YEAR_1 = 62_135_596_800_000_000
_YEARS = (1900, 2100)
_DAY = 86_400_000_000
_TIME = pl.Datetime("us", "UTC")


def number_times(number: pl.Series, where: str, report: Report, time_format: str | None = None) -> pl.Series:
    """Convert numbers to UTC microseconds; what is no time is null.

    Args:
        number: integers or floats.
        where: name of the column in the report.
        report: receives what was guessed.
        time_format: "excel", "year" or a unit of ``UNITS``; None guesses.
    """
    if not number.dtype.is_integer():
        number = number.cast(pl.Float64)
        number = number.set(~number.is_finite().fill_null(value=False), None)
    if time_format in UNITS:
        value = pl.col("number")
        if time_format == "ns":
            return _micro(value // 1000, number)
        return _micro(
            value * (UNITS[time_format] if number.dtype.is_float() else int(UNITS[time_format])), number
        )
    if time_format == "excel" or (time_format is None and _all_within(number, *_EXCEL_DAYS)):
        days = (pl.col("number").cast(pl.Float64) - _EXCEL_EPOCH) * _DAY
        if time_format is None:
            _guess(report, number, where, "days since 1899-12-30, as Excel counts", "--time-format excel")
        return _micro(
            (days / 1_000_000).round() * 1_000_000, number
        )  # a double holds seconds of a day, not more
    if time_format is None and _all_within(number, *_TICKS):
        action = "read so; --time-format ns takes them as nanoseconds since 1970"
        _guess(report, number, where, "100 ns since the year 1, as .NET counts", "", action)
        return _micro(pl.col("number") // 10 - _YEAR_1, number)
    years = number.is_between(*_YEARS).fill_null(value=False)
    is_year = time_format == "year" or (time_format is None and years.any() and not _counts(number))
    if is_year:
        years = years & (number == number.cast(pl.Int64))
        _guess(
            report,
            number.filter(years),
            where,
            "a year",
            "--time-format year" if time_format is None else "",
            "read as its first day",
        )
    digits = _dates(number)
    dates = number.filter(digits.is_not_null())
    if time_format is None:
        _guess(report, dates, where, "the digits of a date", "", "read as that date")
    since = _since(number)
    first = pl.date(pl.col("number").cast(pl.Int64), 1, 1).cast(_TIME)
    read = number.to_frame("number").select(
        pl.coalesce(pl.when(pl.lit(years) & is_year).then(first), digits, since).alias("time")
    )
    return read.to_series()


def _guess(
    report: Report, found: pl.Series, where: str, what: str, option: str, action: str = "read so"
) -> None:
    found = found.drop_nulls()
    if len(found):
        example = found[0]
        example = int(example) if float(example).is_integer() else example
        report.add(f"a number that is {what}", where, len(found), example, action, option)


def _all_within(number: pl.Series, low: float, high: float) -> bool:
    return bool(number.count() and number.is_between(low, high).all())


def _counts(number: pl.Series) -> bool:
    """Whether small numbers that are no years are among the numbers: then they count something."""
    small = number.filter(number.is_between(0, _EXCEL_DAYS[0]) & ~number.is_between(*_YEARS))
    return bool(len(small.drop_nulls()))


def _dates(number: pl.Series) -> pl.Series:
    """The times whose digits are YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS; null for other numbers."""
    value = pl.col("number").cast(pl.Int64, strict=False)
    text = value.cast(pl.String)
    whole = pl.col("number") == value
    found = [
        pl.when(whole & value.is_between(low, high)).then(
            (text + rest).str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="us")
        )
        for low, high, rest in (
            (19000101, 21001231, "000000"),
            (190001010000, 210012312359, "00"),
            (19000101000000, 21001231235959, ""),
        )
    ]
    series = number.to_frame("number").select(pl.coalesce(found)).to_series()
    return series.dt.replace_time_zone("UTC")


def _since(number: pl.Series) -> pl.Series:
    """Numbers since 1970 by their magnitude."""
    value = pl.col("number")
    # A number that does not fit 64 bits of microseconds is not a time.
    size = value.cast(pl.Float64).abs()
    micro = (
        pl.when(size < 1e11)
        .then(value * 1e6 if number.dtype.is_float() else value.cast(pl.Int64, strict=False) * 1_000_000)
        .when(size < 1e14)
        .then(value * 1000)
        .when(size < 1e17)
        .then(value)
        .when(size < 9e18)
        .then(value // 1000)
    )
    return _micro(micro, number)


def _micro(micro: pl.Expr, number: pl.Series) -> pl.Series:
    frame = number.to_frame("number")
    return (
        frame.select(micro.cast(pl.Int64, strict=False).cast(pl.Datetime("us")))
        .to_series()
        .dt.replace_time_zone("UTC")
    )
