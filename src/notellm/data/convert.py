"""The rules by which a column of any type becomes a column of the tables NOTES and CLICKS.

Raw tables have the columns and types of ``NOTES`` and ``CLICKS`` but may hold nulls and nonsense;
``validate`` turns them into clean ones. A cell that a rule cannot read becomes null and is
reported.

- **Ids** become strings without surrounding white space. Integers are written in decimal. Floating
  point whole numbers lose the fraction (12.0 is "12") and NaN is null; in text the ".0" goes only
  if every non-empty id of the column ends so, which is what a number column with holes looks like
  in a CSV.
- **Topics** are lists; in text a JSON array, or separated by ``|``.
- **Times** are Arrow timestamps and dates (without a zone: UTC), ISO 8601 text (without a zone:
  UTC), or numbers since 1970 whose unit shows in each number's magnitude: below 1e11 seconds, below
  1e14 milliseconds, below 1e17 microseconds, else nanoseconds. A whole number from 19000101 to
  21001231 that is a valid date is that day, as YYYYMMDD. Finer than a microsecond is cut off.
- **Texts** are text; bytes that are not UTF-8 become U+FFFD, one for each broken byte.
"""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES
from notellm.errors import DataError

#: Raw notes and clicks: the columns and types of the clean tables, where every value may be null.
RAW_NOTES = pa.schema([column.with_nullable(True) for column in NOTES])
RAW_CLICKS = pa.schema([column.with_nullable(True) for column in CLICKS])

# Rows of one Arrow chunk: its offsets are 32-bit, so a chunk may not hold over 2 GiB of text.
_CHUNK = 1 << 15
_TIME = pl.Datetime("us", "UTC")
_YEAR_OF_ORDER = datetime(1970, 1, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC)
_LARGEST_EXACT_FLOAT = 2**53
_FORMATS_WITH_ZONE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_FORMATS_WITHOUT_ZONE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")


def raw_table(columns: dict[str, pl.Series], schema: pa.Schema) -> pa.Table:
    """Arrow table of ``schema`` from Polars columns; an absent one is null in every row.

    Text is written in small chunks, so that no chunk's 32-bit offsets overflow.
    """
    rows = len(next(iter(columns.values())))
    table = pa.table(
        {name: columns[name].to_arrow() if name in columns else pa.nulls(rows) for name in schema.names}
    )
    batches = [
        pa.table(
            {name: batch.column(name).cast(schema.field(name).type) for name in schema.names},
            schema=schema,
        )
        for batch in table.to_batches(max_chunksize=_CHUNK)
    ]
    return pa.concat_tables(batches) if batches else schema.empty_table()


def raw_notes(table: pa.Table, where: str, report: Report) -> pa.Table:
    """Notes of any column types as a table of ``RAW_NOTES``, row for row.

    Args:
        table: a column ``note_id`` and ``title`` or ``content``; the other columns of ``NOTES`` if
            it has them. More columns are dropped.
        where: what the report calls the table, as "notes.csv".
        report: receives what could not be read.

    Raises:
        DataError: a column is missing, or has a type that cannot be an id, a text, topics or a
            time.
    """
    require(table.column_names, ("note_id",), where)
    if not {"title", "content"} & set(table.column_names):
        require(table.column_names, ("title",), where)
    columns: dict[str, pl.Series] = {}
    for name in NOTES.names:
        if name not in table.column_names:
            continue
        column, place = table.column(name), f"{where}: {name}"
        if name == "note_id":
            columns[name] = ids(column, place, report)
        elif name == "topics":
            columns[name] = topics(column, place, report)
        elif name == "published_at":
            columns[name] = times(column, place, report)
        else:
            columns[name] = texts(column, place, report)
    return raw_table(columns, RAW_NOTES)


def raw_clicks(table: pa.Table, where: str, report: Report) -> pa.Table:
    """Clicks of any column types as a table of ``RAW_CLICKS``, row for row.

    Without ``timestamp`` the order of the rows is the time: a user's n-th row is at 1970-01-01 plus
    n seconds. Without ``event`` every row is a "click".

    Args:
        table: columns ``user_id`` and ``note_id``, and ``timestamp`` and ``event`` if it has them.
            More columns are dropped.
        where: what the report calls the table, as "clicks.csv".
        report: receives what could not be read.

    Raises:
        DataError: a column is missing, or has a type that cannot be an id, a text or a time.
    """
    require(table.column_names, ("user_id", "note_id"), where)
    names = table.column_names
    columns = {name: ids(table.column(name), f"{where}: {name}", report) for name in ("user_id", "note_id")}
    if "timestamp" in names:
        columns["timestamp"] = times(table.column("timestamp"), f"{where}: timestamp", report)
    else:
        columns["timestamp"] = order_times(columns["user_id"])
        action = "a user's n-th row is at 1970-01-01 + n s"
        report.add("no column 'timestamp'", where, table.num_rows, "", action)
    if "event" in names:
        event = texts(table.column("event"), f"{where}: event", report)
        columns["event"] = event.str.strip_chars().str.to_lowercase()
    else:
        columns["event"] = pl.repeat("click", table.num_rows, dtype=pl.String, eager=True)
    return raw_table(columns, RAW_CLICKS)


def require(found: list[str], names: tuple[str, ...], where: str) -> None:
    """Check that every name is among the columns found.

    Raises:
        DataError: one is not; it names the columns found and the way out.
    """
    for name in names:
        if name not in found:
            raise DataError(
                f"{where} has no column {name!r}; its columns are {', '.join(map(repr, found))}; "
                f"rename one or say which it is with the columns option, as {name}=THE_FILES_NAME"
            )


def order_times(users: pl.Series) -> pl.Series:
    """Times that say only the order: a user's n-th row is 1970-01-01 plus n seconds, n from 1."""
    frame = pl.DataFrame({"user": users})
    nth = frame.select(pl.int_range(1, pl.len() + 1).over("user")).to_series()
    return (nth * 1_000_000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def is_order_only(clicks: pa.Table) -> bool:
    """Whether a log keeps only the order of clicks: it has times, and all of them lie in 1970.

    Args:
        clicks: table with the column ``timestamp`` of ``CLICKS``.
    """
    found = pc.min_max(clicks["timestamp"]).as_py()
    first, end = _YEAR_OF_ORDER
    return found["min"] is not None and first <= found["min"] and found["max"] < end


def labels(cell: str, key: str, where: str) -> list[str]:
    """The names in a cell with a JSON list of objects, as ``[{"name": "x", ...}]``; none if it is empty.

    Args:
        cell: the text.
        key: under which an object has its name.
        where: what an error calls the column, as "news.tsv: entities".

    Raises:
        DataError: it is no such list.
    """
    try:
        return [entry[key] for entry in json.loads(cell or "[]")]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f'{where} are {cell[:80]!r}; they must be JSON like [{{"{key}": "x"}}]') from error


def ids(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Ids as strings, by the rule above.

    Raises:
        DataError: the column's type cannot be an id.
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_integer(kind):
        return _polars(column).cast(pl.String)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    elif pa.types.is_floating(kind):
        numbers = _polars(column).cast(pl.Float64).fill_nan(None)
        doubtful = numbers.filter(numbers.abs() > _LARGEST_EXACT_FLOAT)
        _lost_digits(doubtful, where, report)
        whole = (numbers == numbers.floor()) & (numbers.abs() < 2**63)
        return pl.select(
            pl.when(whole)
            .then(numbers.cast(pl.Int64, strict=False).cast(pl.String))
            .otherwise(numbers.cast(pl.String))
        ).to_series()
    elif not _is_text(kind) and not pa.types.is_null(kind):
        raise DataError(f"{where} is of type {kind}; ids are text or integers: cast the column")
    text = _utf8(column, where, report).str.strip_chars()
    filled = text.drop_nulls()
    filled = filled.filter(filled != "")
    decimal = r"^-?\d+\.0+$"
    # A look at a few spares most columns the whole search.
    if len(filled) and all(filled.head(100).str.contains(decimal)) and all(filled.str.contains(decimal)):
        return text.str.replace(r"\.0+$", "")
    _lost_digits(filled.filter(filled.str.contains(r"^\d\.\d+[eE]\+?\d+$")), where, report)
    return text


def _lost_digits(doubtful: pl.Series, where: str, report: Report) -> None:
    if len(doubtful):
        problem, action = (
            "id written as a floating point number",
            "kept, but its last digits may be lost",
        )
        report.add(problem, where, len(doubtful), doubtful[0], action)


def texts(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Text of a column; numbers are written out, a list is not text.

    Raises:
        DataError: the column's type cannot be text.
    """
    column = _plain(column)
    if pa.types.is_nested(column.type):
        raise DataError(f"{where} is of type {column.type}; it must be text: join the list first")
    if not _is_text(column.type):
        return _polars(column).cast(pl.String)
    return _utf8(column, where, report)


def topics(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Topics as lists of strings, by the rule above.

    Raises:
        DataError: the column is neither lists of text nor text.
    """
    kind = column.type
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and not pa.types.is_nested(kind.value_type):
        return _topic_lists(column, where, report)
    if not _is_text(_plain(column).type) and not pa.types.is_null(kind):
        raise DataError(
            f"{where} is of type {kind}; topics are lists of text, or text: a JSON array or words between |"
        )
    unreadable: list[str] = []
    lists = [_topics_of(cell, unreadable) for cell in _utf8(_plain(column), where, report)]
    example, action = next(iter(unreadable), ""), "read as words between |"
    report.add("topics start with [ but are no JSON array", where, len(unreadable), example, action)
    return pl.Series(lists, dtype=pl.List(pl.String))


def _topic_lists(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    text_type = pl.List(pl.String)
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        cells = [cell or [] for cell in column.cast(pa.large_list(pa.large_binary())).to_pylist()]
        lists = [[word.decode(errors="replace") for word in cell if word] for cell in cells]
        broken = [
            new
            for cell, new in zip(cells, lists, strict=True)
            if [word for word in cell if word] != [word.encode() for word in new]
        ]
        report.add("broken UTF-8", where, len(broken), broken[0], "broken bytes became U+FFFD")
        return pl.Series(lists, dtype=text_type)
    return _polars(column).cast(text_type).fill_null(pl.Series([[]], dtype=text_type))


def _topics_of(cell: str | None, unreadable: list[str]) -> list[str]:
    cell = (cell or "").strip()
    if cell.startswith("["):
        try:
            value: Any = json.loads(cell)
        except (ValueError, RecursionError):
            unreadable.append(cell)
        else:
            flat = (word for word in value if isinstance(word, str | int | float))
            return [str(word).encode(errors="replace").decode() for word in flat]
    return [word for word in cell.split("|") if word]


def times(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Times in UTC microseconds, by the rule above.

    Raises:
        DataError: the column's type cannot be a time.
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        series = _polars(column)
        if pa.types.is_timestamp(kind) and kind.tz is not None:
            return series.cast(pl.Datetime("us", kind.tz)).dt.convert_time_zone("UTC")
        return series.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _number_times(_polars(column))
    if not _is_text(kind) and not pa.types.is_null(kind):
        raise DataError(
            f"{where} is of type {kind}; a time is a timestamp, ISO 8601 text or a number since 1970"
        )
    text = _utf8(column, where, report).str.strip_chars()
    read = _text_times(text)
    unreadable = text.filter(read.is_null() & text.is_not_null() & (text != ""))
    if len(unreadable):
        report.add("unreadable time", where, len(unreadable), unreadable[0], "taken as missing")
    return read


def _text_times(text: pl.Series) -> pl.Series:
    whole = text.cast(pl.Int64, strict=False)
    number = text.cast(pl.Float64, strict=False)
    found = pl.select(pl.coalesce(_number_times(whole), _number_times(number)).alias("time")).to_series()
    iso: pl.Series | None = None
    for time_format in (*_FORMATS_WITH_ZONE, *_FORMATS_WITHOUT_ZONE):
        if found.null_count() == text.null_count():
            break
        if iso is None:
            iso = text.str.replace(r"^(\d{4}-\d{2}-\d{2})[ t]", "${1}T")
            iso = iso.str.replace(r"\s*[zZ]$", "+00:00")
            iso = iso.str.replace(r"(:\d{2}[^+-]*[+-]\d{2})$", "${1}:00")
        more = iso.str.to_datetime(time_format, strict=False, time_unit="us")
        if more.dtype == pl.Datetime("us"):
            more = more.dt.replace_time_zone("UTC")
        found = pl.select(pl.coalesce(found, more.cast(_TIME))).to_series()
    return found


def _number_times(number: pl.Series) -> pl.Series:
    """Numbers since 1970, of a unit that shows in their magnitude, or YYYYMMDD."""
    if not number.dtype.is_integer():
        number = number.cast(pl.Float64)
        number = number.set(~number.is_finite().fill_null(value=False), None)
    value = pl.col("number")
    # Nothing in seconds reaches 4 million years, so what does not fit 64 bits of microseconds is no
    # time.
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


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without dictionary encoding."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _polars(column: pa.ChunkedArray | pa.Array) -> pl.Series:
    return pl.Series(column)


def _utf8(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """The column as valid UTF-8 text. Arrow does not check what a file claims to be text."""
    if pa.types.is_null(column.type):
        return pl.Series([None] * len(column), dtype=pl.String)
    try:
        text = column.cast(pa.large_string()) if not pa.types.is_large_string(column.type) else column
        text.validate(full=True)
    except pa.ArrowInvalid:
        cells = column.cast(pa.large_binary()).to_pylist()
        decoded = [None if cell is None else cell.decode(errors="replace") for cell in cells]
        broken = [new for cell, new in zip(cells, decoded, strict=True) if cell != (new and new.encode())]
        report.add("broken UTF-8", where, len(broken), broken[0], "broken bytes became U+FFFD")
        return pl.Series(decoded, dtype=pl.String)
    return _polars(text)
