"""Convert columns of any type to the types of NOTES and CLICKS.

Raw tables have the columns and types of ``NOTES`` and ``CLICKS`` but may contain nulls and nonsense, which
``validate`` cleans. A cell that cannot be converted becomes null and is reported. The package ``cells`` reads
ids, texts, topics and times. In texts, bytes that are not UTF-8 become U+FFFD, one for each broken byte.
"""

import json
from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.cells.ids import coded_ids, ids
from notellm.data.cells.nested import unwrapped
from notellm.data.cells.options import CellOptions
from notellm.data.cells.texts import texts
from notellm.data.cells.times import times
from notellm.data.cells.topics import topics
from notellm.data.log import NO_TIME, ClickLog, Coded, Times, only_order
from notellm.data.problems import Problem, Report
from notellm.data.ratings import is_click, numbers_of
from notellm.data.reading.options import ReadOptions
from notellm.data.row_order import order_of_ids
from notellm.data.schema import CLICKS, NOTES
from notellm.errors import ConfigError, DataError

#: Raw notes and clicks: the columns and types of the clean tables, where every value may be null.
RAW_NOTES = pa.schema([column.with_nullable(True) for column in NOTES])
RAW_CLICKS = pa.schema([column.with_nullable(True) for column in CLICKS])

# Rows of one Arrow chunk, whose 32-bit offsets limit it to 2 GiB of text.
_CHUNK = 1 << 15
#: Metadata of tables whose cells have been converted: doing that again would decode "&amp;amp;" twice.
_CONVERTED = {b"notellm.cells": b"converted"}
_MOST_EVENTS = 1_000  # a log has few; with more, a column that holds no events was named
_DROPPED = "\0dropped"


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


def raw_notes(table: pa.Table, where: str, report: Report, options: CellOptions | None = None) -> pa.Table:
    """Convert notes of any column types to the schema ``RAW_NOTES``, row for row.

    Args:
        table: table with the column ``note_id``, and ``title`` or ``content``; the other columns of ``NOTES``
            are optional. Further columns are dropped.
        where: name of the table in the report, as "notes.csv".
        report: receives what was guessed, and what could not be read.
        options: how cells are read.

    Raises:
        DataError: if a column is missing, or has a type that cannot be an id, a text, topics or a time.
    """
    if is_converted(table):
        return table
    require(table.column_names, ("note_id",), where)
    if not {"title", "content"} & set(table.column_names):
        require(table.column_names, ("title",), where)
    columns: dict[str, pl.Series] = {}
    for name in NOTES.names:
        if name not in table.column_names:
            continue
        column, place = table.column(name), f"{where}: {name}"
        if name == "note_id":
            columns[name] = ids(column, place, report, options)
        elif name == "topics":
            columns[name] = topics(column, place, report, options)
        elif name == "published_at":
            columns[name] = times(column, place, report, options)
        else:
            columns[name] = texts(column, place, report, options)
    return raw_table(columns, RAW_NOTES).replace_schema_metadata(_CONVERTED)


def raw_clicks(table: pa.Table, where: str, report: Report, options: ReadOptions | None = None) -> pa.Table:
    """Convert clicks of any column types to the schema ``RAW_CLICKS``; see :func:`click_log`."""
    if is_converted(table):
        return table
    return converted_clicks(click_log(table, where, report, options))


def converted_clicks(log: ClickLog) -> pa.Table:
    """Return a raw log as raw clicks, whose cells are not converted again."""
    return log.table(RAW_CLICKS).replace_schema_metadata(_CONVERTED)


def click_log(
    table: pa.Table, where: str, report: Report, options: ReadOptions | None = None, *, perhaps: str = ""
) -> ClickLog:
    """Convert clicks of any column types to a log.

    Without ``timestamp`` the order of the rows is the time: a user's n-th row is at 1970-01-01 plus n
    seconds. If that order is the order of the ids, or of the ratings, it says nothing of time, and every row
    is at 1970-01-01. Without ``event`` every row is a "click". Rows whose ``rating`` is too low, or which
    ``options.events`` drops, are left out.

    Args:
        table: table with the columns ``user_id`` and ``note_id``; ``timestamp``, ``event`` and ``rating`` are
            optional. Further columns are dropped.
        where: name of the table in the report, as "clicks.csv".
        report: receives what was guessed, and what could not be read.
        options: how cells are read.
        perhaps: columns of the file that may hold times, for a report that there are none.

    Raises:
        DataError: if a column is missing, or has a type that cannot be an id, a text or a time.
        ConfigError: if there is a smallest rating, but no column of ratings.
    """
    if is_converted(table):
        texts_of = {name: Coded.of(table.column(name)) for name in ("user_id", "note_id", "event")}
        return ClickLog(
            texts_of["user_id"],
            texts_of["note_id"],
            _micro(pl.Series(table["timestamp"])),
            texts_of["event"],
        )
    options = options or ReadOptions()
    require(table.column_names, ("user_id", "note_id"), where)
    names = table.column_names
    users = coded_ids(table.column("user_id"), f"{where}: user_id", report, options)
    notes = coded_ids(table.column("note_id"), f"{where}: note_id", report, options)
    if "timestamp" in names:
        moments = _micro(times(table.column("timestamp"), f"{where}: timestamp", report, options))
        _report_order_only(table, moments, where, report)
    else:
        moments = _order(users, notes, table, where, report, options, perhaps)
    if "event" in names:
        events = _events(table.column("event"), f"{where}: event", report, options)
    else:
        events = Coded(np.zeros(table.num_rows, np.int32), pa.array(["click"]))
    log = ClickLog(users, notes, moments, events)
    kept = np.ones(len(log), np.bool_)
    if (dropped := events.values.index(_DROPPED).as_py()) >= 0:
        kept = events.codes != dropped
    if "rating" in names:
        name = options.columns.get("rating", "rating")
        counted = is_click(table.column("rating"), name, options.min_rating, where, report)
        kept = kept if counted is None else kept & counted.to_numpy()
    elif options.min_rating is not None:
        raise ConfigError(
            f"min_rating is {options.min_rating:g}, but {where} has no column of ratings; say which it "
            "is, as rating=THE_FILES_NAME with the columns option"
        )
    return log if kept.all() else log.take(kept)


def _micro(moments: pl.Series) -> Times:
    """Return times as microseconds since 1970."""
    micro: Times = moments.dt.epoch("us").fill_null(NO_TIME).to_numpy()
    return micro


def _report_order_only(table: pa.Table, moments: Times, where: str, report: Report) -> None:
    """Report numbers that are a counter, not times."""
    if not pa.types.is_timestamp(table.schema.field("timestamp").type) and only_order(moments):
        known = moments[moments != NO_TIME]
        example = f"{known[0] / 1e6:g} s after 1970-01-01"
        action = "they count as order only"
        report.add("all times are in 1970", f"{where}: timestamp", len(known), example, action)


def _events(column: pa.ChunkedArray, where: str, report: Report, options: ReadOptions) -> Coded:
    """Return what events count as, in small letters."""
    events = Coded.of(unwrapped(column, "text", where, report))
    counts = events.counts()
    own = Report()
    names = texts(pa.chunked_array([events.values]), where, own, options).str.to_lowercase()
    for problem in own.problems:
        count = sum(int(counts[place]) for place in _places_of(problem, events.values, options))
        report.add(problem.problem, where, count or problem.count, problem.example, problem.action)
    counted = {name.strip().lower(): into for name, into in options.events.items()}
    if not counted:
        return events.with_values(names.to_arrow().cast(pa.string()))
    if "" in counted:  # what rows without an event count as
        without = events.codes < 0
        names = pl.concat([names.fill_null(""), pl.Series([""])])
        counts = np.append(counts, np.count_nonzero(without))
        events = Coded(np.where(without, np.int32(len(events.values)), events.codes), events.values)
    is_dropped = names.is_in([name for name, into in counted.items() if into == "drop"]).fill_null(
        value=False
    )
    example = names.filter(is_dropped)[0] if is_dropped.any() else ""
    rows = int(counts[is_dropped.to_numpy()].sum())
    report.add("event that counts as nothing", where, rows, example, "left out")
    names = names.replace({name: _DROPPED if into == "drop" else into for name, into in counted.items()})
    return events.with_values(names.to_arrow().cast(pa.string()))


def _places_of(problem: Problem, values: pa.Array, options: ReadOptions) -> Iterator[int]:
    """Yield the places of the events that have a problem, among the first distinct ones."""
    for place in range(min(len(values), _MOST_EVENTS)):
        own = Report()
        texts(pa.chunked_array([values[place : place + 1]]), "", own, options)
        if problem.problem in {each.problem for each in own.problems}:
            yield place


def _order(
    users: Coded,
    notes: Coded,
    table: pa.Table,
    where: str,
    report: Report,
    options: ReadOptions,
    perhaps: str,
) -> Times:
    """Return the times of a log without times."""
    order, rows = options.order, table.num_rows
    if order is None:
        others = {}
        if "rating" in table.column_names:
            name = options.columns.get("rating", "rating")
            others[name] = numbers_of(table.column("rating"), f"{where}: {name}").to_numpy()
        sorted_by = order_of_ids(users, notes, others)
        order = "none" if sorted_by else "rows"
        if sorted_by:
            example = f"rows of users are sorted by {sorted_by}{perhaps and f'; {perhaps}'}"
            problem, action = (
                "no column 'timestamp', and no order in time",
                "no order: every row is at 1970-01-01",
            )
            report.add(problem, where, rows, example, action, "--order none")
        else:
            action = "a user's n-th row is at 1970-01-01 + n s"
            report.add("no column 'timestamp'", where, rows, perhaps, action, "--order rows")
    if order == "none":
        return np.zeros(rows, np.int64)
    by_user = np.argsort(users.codes, kind="stable")
    lengths = np.bincount(users.codes + 1)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    nth = np.empty(rows, np.int64)
    nth[by_user] = np.arange(rows) - starts + 1
    return nth * 1_000_000


def is_converted(table: pa.Table) -> bool:
    """Tell whether a table comes from :func:`raw_notes` or :func:`raw_clicks`."""
    return _CONVERTED.items() <= (table.schema.metadata or {}).items()


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
    bounds = pc.min_max(clicks["timestamp"].cast(pa.int64())).as_py()
    return bounds["min"] is not None and only_order(np.array([bounds["min"], bounds["max"]]))


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
