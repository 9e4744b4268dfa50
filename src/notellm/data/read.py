"""Read notes, clicks and topics from files into raw Arrow tables.

Raw tables have the columns and types of ``NOTES`` and ``CLICKS`` but may contain nulls; ``validate`` cleans
them. Files are Parquet, delimited text or JSON, compressed or not; their content says which, not their names
(``reading``). How cells are converted is described in ``cells``.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
import pyarrow as pa

from notellm.data.cells.ids import ids
from notellm.data.cells.nested import Role
from notellm.data.cells.topics import topics
from notellm.data.convert import click_log, converted_clicks, raw_notes
from notellm.data.hashtags import add_topics, split_hashtags
from notellm.data.log import ClickLog
from notellm.data.other_columns import near, report_others
from notellm.data.problems import Problem, Report
from notellm.data.ratings import numbers_of, rating_column
from notellm.data.reading.options import ReadOptions
from notellm.data.reading.table import Layout, read_table
from notellm.errors import DataError

_NOTES: dict[str, Role] = {
    "note_id": "id",
    "title": "text",
    "content": "text",
    "topics": "topics",
    "category": "text",
    "published_at": "time",
}
_CLICKS: dict[str, Role] = {
    "user_id": "id",
    "note_id": "id",
    "timestamp": "time",
    "event": "text",
    "rating": "text",
}
_NOTES_LAYOUT = Layout(_NOTES, (("note_id",), ("title", "content")))
_CLICKS_LAYOUT = Layout(_CLICKS, (("user_id",), ("note_id",)))
_TOPICS_LAYOUT = Layout({"note_id": "id", "topics": "topics"}, (("note_id",), ("topics",)))
#: Options that are stated for each table, as ``--separator notes=;``.
_OF_TABLE = re.compile(r"(--(?:separator|quoting|encoding|time-format)) '?(.*?)'?")


@dataclass(frozen=True)
class LogResult:
    """A raw click log and a report of what could not be read.

    Attributes:
        log: the log.
        report: problems of the file, each with a count and the first line.
        roles: the file's name of each column that was read, by our name.
    """

    log: ClickLog
    report: Report
    roles: dict[str, str]


@dataclass(frozen=True)
class ReadResult:
    """A raw table and a report of what could not be read.

    Attributes:
        table: table with the columns and types of ``NOTES`` or ``CLICKS``, where values may be null.
        report: problems of the file, each with a count and the first line.
        roles: the file's name of each column that was read, by our name.
    """

    table: pa.Table
    report: Report
    roles: dict[str, str]


def read_notes(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    hashtags: bool = False,
    options: ReadOptions | None = None,
) -> ReadResult:
    """Read a table of notes.

    Args:
        path: a file, a folder of parts or a pattern, with a column ``note_id`` and a column ``title`` or
            ``content`` (or both); ``topics``, ``category`` and ``published_at`` are optional.
        columns: the file's name of each column that is named differently, as ``{"note_id": "item_id"}``,
            beside ``options.columns``.
        hashtags: move the hashtags of title and content to the topics (``split_hashtags``).
        options: how the file is read.

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if it holds no table, a column is missing, or no row can be read.
        ConfigError: if an option is not allowed.
    """
    options = _with_columns(options, columns)
    report = Report()
    cells, present = read_table(path, _NOTES_LAYOUT, options, report)
    if not cells.num_rows:
        found = f"\n{report}" if len(report) else ""
        raise DataError(f"{path} has a header but no row that can be read{found}")
    where = Path(path).name
    others = _others(cells, present, options)
    for name in _NOTES:
        if name not in cells.column_names:
            perhaps = _perhaps(name, others, clicks=False)
            report.add(
                f"no column {name!r}",
                where,
                cells.num_rows,
                perhaps,
                "empty in every note",
                informs=not perhaps,
            )
    table = raw_notes(cells, where, report, options)
    if hashtags:
        table = _move_hashtags(table)
    return ReadResult(table, _stated(report, "notes"), _roles(cells, present, options))


def read_clicks(
    path: str | Path, *, columns: Mapping[str, str] | None = None, options: ReadOptions | None = None
) -> ReadResult:
    """Read a click log.

    Args:
        path: a file, a folder of parts or a pattern, with the columns ``user_id`` and ``note_id``. Without
            ``timestamp`` the order of the rows is the time, unless it is that of the ids; without ``event``
            every row is a "click". A column of ratings counts with ``min_rating``.
        columns: the file's name of each column that is named differently, as ``{"timestamp": "time"}``,
            beside ``options.columns``.
        options: how the file is read.

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if it holds no table, or a column is missing.
        ConfigError: if an option is not allowed.
    """
    read = read_log(path, columns=columns, options=options)
    return ReadResult(converted_clicks(read.log), read.report, read.roles)


def read_log(
    path: str | Path, *, columns: Mapping[str, str] | None = None, options: ReadOptions | None = None
) -> LogResult:
    """Read a click log as codes, which need less memory; arguments and errors as :func:`read_clicks`."""
    options = _with_columns(options, columns)
    report = Report()
    named = _with_rating(path, options)
    try:
        cells, present = read_table(path, _CLICKS_LAYOUT, named, report)
        if named is not options:
            numbers_of(cells.column("rating"))
    except DataError:
        if named is options:
            raise
        # Nobody named the column of ratings: it is no reason to stop.
        cells, present = read_table(path, _CLICKS_LAYOUT, options, report := Report())
        name = named.columns["rating"]
        action = f"not looked at; --clicks-column {shlex.quote(f'rating={name}')} does"
        report.add("column that is named like a rating", Path(path).name, cells.num_rows, name, action)
    else:
        options = named
    where = Path(path).name
    if not cells.num_rows and not len(report):
        report.add("no rows", where, 1, "", "an empty table")
    others = _others(cells, present, options)
    report_others(others, cells.column_names, where, cells.num_rows, report)
    perhaps = _perhaps("timestamp", others, clicks=True)
    log = click_log(cells, where, report, options, perhaps=perhaps)
    return LogResult(log, _stated(report, "clicks"), _roles(cells, present, options))


def _with_rating(path: str | Path, options: ReadOptions) -> ReadOptions:
    """Return the options with the column that is named like a rating; the same if there is none.

    Only the first row is read for it, since a log may be long.
    """
    cells, present = read_table(path, _CLICKS_LAYOUT, replace(options, rows=1), Report())
    if "rating" in cells.column_names:
        return options
    name = rating_column(_others(cells, present, options))
    return options if name is None else replace(options, columns={**options.columns, "rating": name})


def read_topics(path: str | Path, *, options: ReadOptions | None = None) -> tuple[pl.DataFrame, Report]:
    """Read topics of notes from a table of their own, with one or several topics a row.

    Args:
        path: a file, a folder of parts or a pattern, with the columns ``note_id`` and ``topics``.
        options: how it is read.

    Returns:
        A frame with the columns ``note_id`` and ``topics`` (list of text), a row for each note; and the
        report.

    Raises:
        StorageError: as :func:`read_notes`, like DataError and ConfigError.
    """
    options = options or ReadOptions()
    report = Report()
    cells, _ = read_table(path, _TOPICS_LAYOUT, options, report)
    where = Path(path).name
    report.add("no rows", where, int(not cells.num_rows), "", "no topics")
    note_ids = ids(cells.column("note_id"), f"{where}: note_id", report, options)
    words = topics(cells.column("topics"), f"{where}: topics", report, options)
    frame = pl.DataFrame({"note_id": note_ids, "topics": words}).drop_nulls("note_id")
    frame = (
        frame.explode("topics", empty_as_null=False).group_by("note_id", maintain_order=True).agg("topics")
    )
    return frame, _stated(report, "topics")


def with_topics(notes: pa.Table, more: pl.DataFrame, where: str, report: Report) -> pa.Table:
    """Return raw notes with further topics, after their own.

    Args:
        notes: raw notes.
        more: topics by note, from :func:`read_topics`.
        where: name of the topics' file in the report.
        report: receives the notes of the topics that are not there.
    """
    table = pl.DataFrame(notes.select(["note_id", "topics"]))
    unknown = more.join(table, on="note_id", how="anti")
    example = unknown["note_id"][0] if unknown.height else ""
    report.add("topics of an unknown note", where, unknown.height, example, "left out")
    joined = table.join(more.rename({"topics": "more"}), on="note_id", how="left", maintain_order="left")
    none = pl.Series([[]], dtype=pl.List(pl.String))
    both = joined.select(pl.concat_list(pl.col("topics").fill_null(none), pl.col("more").fill_null(none)))
    place = notes.column_names.index("topics")
    kind = notes.schema.field("topics")
    return notes.set_column(place, kind, both.to_series().to_arrow().cast(kind.type))


def _with_columns(options: ReadOptions | None, columns: Mapping[str, str] | None) -> ReadOptions:
    options = options or ReadOptions()
    return replace(options, columns={**options.columns, **columns}) if columns else options


def _others(cells: pa.Table, present: list[str], options: ReadOptions) -> list[str]:
    """Return the columns of a file that are read as nothing."""
    read = {options.columns.get(name, name).lower() for name in cells.column_names}
    return [name for name in present if name.lower() not in read]


def _perhaps(ours: str, others: list[str], *, clicks: bool) -> str:
    """Return the example of a column that is missing: those that may be it."""
    found = near(ours, others, clicks=clicks)
    return f"perhaps {', '.join(found)}" if found else ""


def _roles(cells: pa.Table, present: list[str], options: ReadOptions) -> dict[str, str]:
    roles = {}
    for name in cells.column_names:
        theirs = options.columns.get(name, name)
        is_place = theirs.startswith("#") and theirs[1:].isdigit() and theirs not in present
        if is_place and present:  # an empty file has no columns
            theirs = f"{theirs} ({present[int(theirs[1:]) - 1]})"
        roles[name] = next((each for each in present if each.lower() == theirs.lower()), theirs)
    return roles


def _stated(report: Report, table: str) -> Report:
    """Return a report whose options are stated for one table."""

    def of_table(problem: Problem) -> Problem:
        match = _OF_TABLE.fullmatch(problem.option)
        return replace(problem, option=f"{match[1]} '{table}={match[2]}'") if match else problem

    return Report([of_table(problem) for problem in report.problems])


def _move_hashtags(table: pa.Table) -> pa.Table:
    """Move the hashtags of title and content to the topics."""
    titles, contents, topic_lists = [], [], []
    for title, content, note_topics in zip(
        *(table.column(name).to_pylist() for name in ("title", "content", "topics")), strict=True
    ):
        title_text, title_tags = split_hashtags(title or "")
        content_text, content_tags = split_hashtags(content or "")
        titles.append(title_text)
        contents.append(content_text)
        topic_lists.append(add_topics(note_topics or [], title_tags + content_tags))
    columns = {"title": titles, "content": contents, "topics": topic_lists}
    for name, values in columns.items():
        place = table.column_names.index(name)
        kind = table.schema.field(name)
        table = table.set_column(place, kind, pa.array(values, kind.type))
    return table
