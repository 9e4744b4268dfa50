"""Convert columns of any type to the types of NOTES and CLICKS.

Raw tables have the columns and types of ``NOTES`` and ``CLICKS`` but may contain nulls and nonsense, which
``validate`` cleans. A cell that cannot be converted becomes null and is reported. Ids become strings without
surrounding white space (see ``ids``). Topics are lists; in text, a JSON array or words between ``|``. In
texts, bytes that are not UTF-8 become U+FFFD, one for each broken byte. Times are described in
``notellm.data.times``.
"""

import json
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.columns import is_text, plain, utf8
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES
from notellm.data.times import times
from notellm.errors import DataError

#: Raw notes and clicks: the columns and types of the clean tables, where every value may be null.
RAW_NOTES = pa.schema([column.with_nullable(True) for column in NOTES])
RAW_CLICKS = pa.schema([column.with_nullable(True) for column in CLICKS])

# Rows of one Arrow chunk, whose 32-bit offsets limit it to 2 GiB of text.
_CHUNK = 1 << 15
_YEAR_OF_ORDER = datetime(1970, 1, 1, tzinfo=UTC), datetime(1971, 1, 1, tzinfo=UTC)
_LARGEST_EXACT_FLOAT = 2**53


def raw_table(columns: dict[str, pl.Series], schema: pa.Schema) -> pa.Table:
    """Return Polars columns as an Arrow table of ``schema``; an absent column is null in every row.

    The table has small chunks, so that the 32-bit offsets of text do not overflow.
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
    """Convert notes of any column types to the schema ``RAW_NOTES``, row for row.

    Args:
        table: table with the column ``note_id``, and ``title`` or ``content``; the other columns of ``NOTES``
            are optional. Further columns are dropped.
        where: name of the table in the report, as "notes.csv".
        report: receives what could not be read.

    Raises:
        DataError: if a column is missing, or has a type that cannot be an id, a text, topics or a time.
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
    """Convert clicks of any column types to the schema ``RAW_CLICKS``, row for row.

    Without ``timestamp`` the order of the rows is the time: a user's n-th row is at 1970-01-01 plus n
    seconds. Without ``event`` every row is a "click".

    Args:
        table: table with the columns ``user_id`` and ``note_id``; ``timestamp`` and ``event`` are optional.
            Further columns are dropped.
        where: name of the table in the report, as "clicks.csv".
        report: receives what could not be read.

    Raises:
        DataError: if a column is missing, or has a type that cannot be an id, a text or a time.
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


def require(present: list[str], names: tuple[str, ...], where: str) -> None:
    """Check that every name is among the columns of a file.

    Args:
        present: columns of the file.
        names: columns that are needed.
        where: name of the file in the message.

    Raises:
        DataError: if a needed column is missing.
    """
    for name in names:
        if name not in present:
            raise DataError(
                f"{where} has no column {name!r}; its columns are {', '.join(map(repr, present))}; "
                f"rename one or say which it is with the columns option, as {name}=THE_FILES_NAME"
            )


def order_times(users: pl.Series) -> pl.Series:
    """Return times that keep only the order: 1970-01-01 plus n seconds for a user's n-th row, n from 1."""
    frame = pl.DataFrame({"user": users})
    nth = frame.select(pl.int_range(1, pl.len() + 1).over("user")).to_series()
    return (nth * 1_000_000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def is_order_only(clicks: pa.Table) -> bool:
    """Tell whether a log keeps only the order of clicks: it has times, and all of them are in 1970.

    Args:
        clicks: table with the column ``timestamp`` of ``CLICKS``.
    """
    bounds = pc.min_max(clicks["timestamp"]).as_py()
    first, end = _YEAR_OF_ORDER
    return bounds["min"] is not None and first <= bounds["min"] and bounds["max"] < end


def labels(cell: str, key: str, where: str) -> list[str]:
    """Return the names in a cell with a JSON list of objects, as ``[{"name": "x", ...}]``.

    Args:
        cell: the text; an empty one has no names.
        key: the key of the name in each object.
        where: name of the column in the message, as "news.tsv: entities".

    Raises:
        DataError: if the cell is not such a list.
    """
    try:
        return [entry[key] for entry in json.loads(cell or "[]")]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f'{where} are {cell[:80]!r}; they must be JSON like [{{"{key}": "x"}}]') from error


def ids(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Convert ids to strings without surrounding white space.

    Integers are written in decimal. Floating point whole numbers lose the fraction (12.0 is "12"), and NaN is
    null. In text the ".0" is removed only if every non-empty id of the column ends so, as a number column
    with missing values does in a CSV file.

    Raises:
        DataError: if the type of the column cannot be an id.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_integer(kind):
        return pl.Series(column).cast(pl.String)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    elif pa.types.is_floating(kind):
        numbers = pl.Series(column).cast(pl.Float64).fill_nan(None)
        doubtful = numbers.filter(numbers.abs() > _LARGEST_EXACT_FLOAT)
        _lost_digits(doubtful, where, report)
        whole = (numbers == numbers.floor()) & (numbers.abs() < 2**63)
        return pl.select(
            pl.when(whole)
            .then(numbers.cast(pl.Int64, strict=False).cast(pl.String))
            .otherwise(numbers.cast(pl.String))
        ).to_series()
    elif not is_text(kind) and not pa.types.is_null(kind):
        raise DataError(f"{where} is of type {kind}; ids are text or integers: cast the column")
    text = utf8(column, where, report).str.strip_chars()
    filled = text.drop_nulls()
    filled = filled.filter(filled != "")
    decimal = r"^-?\d+\.0+$"
    # Looking at the first ids is enough for most columns.
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
    """Convert a column to text; numbers are written out.

    Raises:
        DataError: if the column contains lists.
    """
    column = plain(column)
    if pa.types.is_nested(column.type):
        raise DataError(f"{where} is of type {column.type}; it must be text: join the list first")
    if not is_text(column.type):
        return pl.Series(column).cast(pl.String)
    return utf8(column, where, report)


def topics(column: pa.ChunkedArray, where: str, report: Report) -> pl.Series:
    """Convert topics to lists of strings; text is a JSON array, or words between ``|``.

    Raises:
        DataError: if the column is neither lists of text nor text.
    """
    kind = column.type
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and not pa.types.is_nested(kind.value_type):
        return _topic_lists(column, where, report)
    if not is_text(plain(column).type) and not pa.types.is_null(kind):
        raise DataError(
            f"{where} is of type {kind}; topics are lists of text, or text: a JSON array or words between |"
        )
    unreadable: list[str] = []
    lists = [_topics_of(cell, unreadable) for cell in utf8(plain(column), where, report)]
    example, action = next(iter(unreadable), ""), "read as words between |"
    report.add("topics start with [ but are not a JSON array", where, len(unreadable), example, action)
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
    return pl.Series(column).cast(text_type).fill_null(pl.Series([[]], dtype=text_type))


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
