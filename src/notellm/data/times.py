"""Convert a column of times of any type to UTC microseconds.

Times are Arrow timestamps and dates, ISO 8601 text (both are UTC if they have no zone), or numbers since
1970. The unit of a number is told by its magnitude: below 1e11 seconds, below 1e14 milliseconds, below 1e17
microseconds, else nanoseconds. A whole number from 19000101 to 21001231 that is a valid date is that day, as
YYYYMMDD. Fractions of a microsecond are cut off.
"""

import polars as pl
import pyarrow as pa

from notellm.data.columns import is_text, plain, utf8
from notellm.data.problems import Report
from notellm.errors import DataError

_TIME = pl.Datetime("us", "UTC")
_FORMATS_WITH_ZONE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_FORMATS_WITHOUT_ZONE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def times(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Convert times to UTC microseconds, by the rules at the top of this module.

    Raises:
        DataError: if the type of the column cannot be a time.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        series = pl.Series(column)
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            return series.cast(pl.Datetime("us", kind.tz)).dt.convert_time_zone("UTC")
        return series.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _number_times(pl.Series(column))
    if not is_text(kind) and not pa.types.is_null(kind):
        raise DataError(
            f"{where} is of type {kind}; a time is a timestamp, ISO 8601 text or a number since 1970"
        )
    text = utf8(column, where, report).str.strip_chars()
    read = _text_times(text)
    unreadable = text.filter(read.is_null() & text.is_not_null() & (text != ""))
    if len(unreadable):
        report.add("unreadable time", where, len(unreadable), unreadable[0], "taken as missing")
    return read


def _text_times(text: pl.Series) -> pl.Series:
    """Convert numbers and ISO 8601 text; what is neither becomes null."""
    whole = text.cast(pl.Int64, strict=False)
    number = text.cast(pl.Float64, strict=False)
    read = pl.select(pl.coalesce(_number_times(whole), _number_times(number)).alias("time")).to_series()
    iso: pl.Series | None = None
    for time_format in (*_FORMATS_WITH_ZONE, *_FORMATS_WITHOUT_ZONE):
        if read.null_count() == text.null_count():
            break
        if iso is None:
            iso = text.str.replace(r"^(\d{4}-\d{2}-\d{2})[ t]", "${1}T")
            iso = iso.str.replace(r"\s*[zZ]$", "+00:00")
            iso = iso.str.replace(r"(:\d{2}[^+-]*[+-]\d{2})$", "${1}:00")
        more = iso.str.to_datetime(time_format, strict=False, time_unit="us")
        if more.dtype == pl.Datetime("us"):
            more = more.dt.replace_time_zone("UTC")
        read = pl.select(pl.coalesce(read, more.cast(_TIME))).to_series()
    return read


def _number_times(number: pl.Series) -> pl.Series:
    """Convert numbers since 1970, whose unit is told by their magnitude, or YYYYMMDD."""
    if not number.dtype.is_integer():
        number = number.cast(pl.Float64)
        number = number.set(~number.is_finite().fill_null(value=False), None)
    value = pl.col("number")
    # A number that does not fit 64 bits of microseconds is not a time.
    size = value.cast(pl.Float64).abs()
    micro = (
        pl.when(size < 1e11)
        .then(value.cast(pl.Float64) * 1e6 if number.dtype.is_float() else value * 1_000_000)
        .when(size < 1e14)
        .then(value * 1000)
        .when(size < 1e17)
        .then(value)
        .when(size < 9e18)
        .then(value // 1000)
    ).cast(pl.Int64, strict=False)
    day = pl.when(value.is_between(19000101, 21001231)).then(
        value.cast(pl.Int64, strict=False).cast(pl.String).str.to_date("%Y%m%d", strict=False)
    )
    whole = number.to_frame("number").with_columns(pl.col("number").cast(number.dtype))
    return whole.select(
        pl.coalesce(
            day.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            micro.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        )
    ).to_series()
