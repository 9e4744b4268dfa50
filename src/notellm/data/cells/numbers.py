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
_DAY_SECONDS = 86_400
#: Where the digits of YYYYMMDD, YYYYMMDDHHMM and YYYYMMDDHHMMSS lie, and what they lack.
_DIGITS = (
    (19000101, 21001231, "000000"),
    (190001010000, 210012312359, "00"),
    (19000101000000, 21001231235959, ""),
)
_SLICE = 1 << 22  # rows that are converted at once, so that a long column needs little memory
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
    form = time_format or _form(number)
    if time_format is None:
        _report(number, form, where, report)
    slices = range(0, len(number), _SLICE)
    parts = [_read(number[start : start + _SLICE], form) for start in slices]
    return pl.concat(parts, rechunk=False) if parts else pl.Series([], dtype=_TIME)


def _form(number: pl.Series) -> str:
    """Return what the numbers are: "excel", "ticks", "year" (among others), or "since" 1970 and dates."""
    if number.count() and number.is_between(*_EXCEL_DAYS).all():
        return "excel"
    if number.count() and number.is_between(*_TICKS).all():
        return "ticks"
    years = number.is_between(*_YEARS).any()
    # Small numbers that are no years count something.
    small = number.is_between(0, _EXCEL_DAYS[0]) & ~number.is_between(*_YEARS)
    return "year" if years and not small.any() else "since"


def _report(number: pl.Series, form: str, where: str, report: Report) -> None:
    """Report what was guessed."""
    if form == "excel":
        what = "days since 1899-12-30, as Excel counts"
        _guess(report, number, where, what, "read so", "--time-format excel")
        return
    if form == "ticks":
        action = "read so; --time-format ns takes them as nanoseconds since 1970"
        _guess(report, number, where, "100 ns since the year 1, as .NET counts", action, "")
        return
    if form == "year":
        years = number.filter(number.is_between(*_YEARS))
        _guess(report, years, where, "a year", "read as its first day", "--time-format year")
    digits = number.filter(_may_be_date(number))
    dates = digits.filter(_dates(digits).is_not_null()) if len(digits) else digits
    _guess(report, dates, where, "the digits of a date", "read as that date", "")


def _guess(report: Report, found: pl.Series, where: str, what: str, action: str, option: str) -> None:
    found = found.drop_nulls()
    if len(found):
        example = int(found[0]) if float(found[0]).is_integer() else found[0]
        report.add(f"a number that is {what}", where, len(found), example, action, option)


def _read(number: pl.Series, form: str) -> pl.Series:
    """Convert numbers of a known form."""
    value = pl.col("number")
    if form == "ns":
        return _micro(value // 1000, number)
    if form in UNITS:
        return _micro(value * (UNITS[form] if number.dtype.is_float() else int(UNITS[form])), number)
    if form == "excel":
        # A double holds the seconds of such a day, and not more.
        seconds = (value.cast(pl.Float64) - _EXCEL_EPOCH) * _DAY_SECONDS
        return _micro(seconds.round() * 1_000_000, number)
    if form == "ticks":
        return _micro(value // 10 - _YEAR_1, number)
    read = _since(number)
    candidates = _may_be_date(number)
    if candidates.any():
        places = candidates.arg_true()
        digits = _dates(number.gather(places))
        is_date = digits.is_not_null()
        read = read.scatter(places.filter(is_date), digits.filter(is_date))
    if form == "year":
        years = number.is_between(*_YEARS).fill_null(value=False) & (
            number == number.cast(pl.Int64, strict=False)
        )
        if years.any():
            first = (
                number.filter(years)
                .to_frame("number")
                .select(pl.date(value.cast(pl.Int32), 1, 1).cast(_TIME))
            )
            read = read.scatter(years.arg_true(), first.to_series())
    return read


def _may_be_date(number: pl.Series) -> pl.Series:
    """Tell which numbers lie where the digits of a date do."""
    low, high = _DIGITS[0][0], _DIGITS[-1][1]
    may_be = number.is_between(low, high) if len(number) else pl.Series([], dtype=pl.Boolean)
    if may_be.any():
        may_be = pl.select(
            pl.any_horizontal([pl.lit(number.is_between(low, high)) for low, high, _ in _DIGITS])
        ).to_series()
    return may_be.fill_null(value=False)


def _dates(number: pl.Series) -> pl.Series:
    """The times whose digits are YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS; null for other numbers."""
    value = pl.col("number").cast(pl.Int64, strict=False)
    text = value.cast(pl.String)
    whole = pl.col("number") == value
    found = [
        pl.when(whole & value.is_between(low, high)).then(
            (text + rest).str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="us")
        )
        for low, high, rest in _DIGITS
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
