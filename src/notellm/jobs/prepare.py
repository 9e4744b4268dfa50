"""Read notes and clicks from files or a public dataset, and clean them: what ``notellm prepare`` does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from notellm.data.cells.options import CellOptions, Markup
from notellm.data.convert import RAW_CLICKS, click_log
from notellm.data.datasets.table import read_clicks_of
from notellm.data.log import ClickLog
from notellm.data.problems import Report
from notellm.data.read import read_log, read_notes, read_topics, with_topics
from notellm.data.reading.dialect import Quoting
from notellm.data.reading.options import Counted, Order, ReadOptions
from notellm.data.schema import CLICKS, NOTES
from notellm.data.validate import clean as clean_tables
from notellm.errors import ConfigError, DataError, did_you_mean
from notellm.options import check, option

#: The tables that options may be stated for, as in "notes=;".
TABLES = ("notes", "clicks", "topics")
#: Rows of each table that are read to show what would be done.
SAMPLE_ROWS = 1_000


@dataclass(frozen=True)
class PrepareOptions:
    """How tables are read and cleaned; what is left out is guessed, and reported with the option for it.

    Attributes:
        separator: text between the cells of delimited files, such as ";" or tab; of one table: clicks=tab.
            Repeatable.
        quoting: what a double quote means: double (two stand for one), backslash (a backslash before it
            makes it text) or none (quotes are text); of one table: notes=none. Repeatable.
        encoding: encoding of text files, such as utf-8 or cp1252; of one table: notes=cp1252. Repeatable.
        time_format: form of times: day-first, month-first, excel, year, s, ms, us, ns, or a strptime format
            such as "%d.%m.%Y %H:%M"; of one table: clicks=day-first. Repeatable.
        topic_separator: character between the topics of a cell; "none" if a cell holds one topic.
        missing: words that stand for a missing value, separated by commas; "" for none.
        markup: HTML in texts: text (entities are decoded, tags are taken out) or keep.
        header: whether the first row of delimited files names the columns; without, columns are "#1", "#2".
        min_rating: the smallest rating that counts as a click.
        event: NAME=click, NAME=view or NAME=drop: what an event of another name counts as. Repeatable.
        order: what the order of the rows of a log without times says: rows (a user's rows follow each other
            in time) or none.
        user_limit: users with more clicks than this are dropped as bots; 0 keeps all.
    """

    separator: list[str] | None = option(None)
    quoting: list[str] | None = option(None)
    encoding: list[str] | None = option(None)
    time_format: list[str] | None = option(None)
    topic_separator: str | None = option(None)
    missing: str = option(CellOptions.missing)
    markup: Markup = option("text")
    header: bool = option(True, flag="--header/--no-header")
    min_rating: float | None = option(None)
    event: list[str] | None = option(None)
    order: Order | None = option(None)
    user_limit: int = option(5_000, least=0)

    def of(self, table: str, columns: Mapping[str, str], rows: int | None = None) -> ReadOptions:
        """Return the options with which one table is read.

        Args:
            table: one of ``TABLES``.
            columns: the file's name of each column, by our name.
            rows: number of rows to read; None reads all.

        Raises:
            ConfigError: if a value is not allowed.
        """
        check(self)
        quoting = _stated("quoting", self.quoting, table)
        if quoting not in (None, "double", "backslash", "none"):
            raise ConfigError(f"quoting is {quoting!r}; it must be double, backslash or none")
        return ReadOptions(
            missing=self.missing,
            markup=self.markup,
            topic_separator=self.topic_separator,
            time_format=_stated("time_format", self.time_format, table),
            separator=_stated("separator", self.separator, table),
            quoting=cast("Quoting | None", quoting),
            encoding=_stated("encoding", self.encoding, table),
            columns=columns,
            header=self.header,
            rows=rows,
            min_rating=self.min_rating if table == "clicks" else None,
            events=_events(self.event or []) if table == "clicks" else {},
            order=self.order if table == "clicks" else None,
        )


@dataclass(frozen=True)
class Sources:
    """Where the tables come from.

    Attributes:
        notes: file, folder of parts or pattern of the notes.
        clicks: the same of the clicks; None for no clicks.
        topics: the same of a table of topics beside the notes; None for none.
        columns: by table, the file's name of each column by our name; those under "" are of all tables that
            have the column.
        hashtags: move hashtags of the text to the topics.
    """

    notes: str | Path
    clicks: str | Path | None = None
    topics: str | Path | None = None
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    hashtags: bool = False


@dataclass(frozen=True)
class Raw:
    """Raw notes and clicks, what reading them reported, and what was read as what."""

    notes: pa.Table
    log: ClickLog
    report: Report
    roles: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def clicks(self) -> pa.Table:
        """The raw clicks as a table."""
        return self.log.table(RAW_CLICKS)


def read_sources(sources: Sources, options: PrepareOptions, *, rows: int | None = None) -> Raw:
    """Read the tables of files.

    Args:
        sources: the files.
        options: how they are read.
        rows: number of rows to read of each; None reads all.

    Raises:
        StorageError: if a file is absent or cannot be read.
        DataError: if a file holds no table, lacks a column, or cannot be read without a further option.
        ConfigError: if an option is not allowed.
    """
    columns = _columns_of(sources)
    notes = read_notes(
        sources.notes, options=options.of("notes", columns["notes"], rows), hashtags=sources.hashtags
    )
    report, table, roles = notes.report, notes.table, {"notes": notes.roles}
    if sources.topics is not None:
        more, read = read_topics(sources.topics, options=options.of("topics", columns["topics"], rows))
        report = report + read
        table = with_topics(table, more, Path(sources.topics).name, report)
    if sources.clicks is None:
        return Raw(table, click_log(CLICKS.empty_table(), "clicks", report), report, roles)
    clicks = read_log(sources.clicks, options=options.of("clicks", columns["clicks"], rows))
    return Raw(table, clicks.log, report + clicks.report, {**roles, "clicks": clicks.roles})


def read_dataset(name: str, source: str | Path, options: PrepareOptions) -> Raw:
    """Read a public dataset.

    Raises:
        ConfigError: if there is no such dataset, or an option does not go with it.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    own = {each.name: getattr(options, each.name) for each in fields(options)}
    kept = {"min_rating", "user_limit"}
    changed = [n for n, value in own.items() if n not in kept and value != getattr(PrepareOptions(), n)]
    if changed:
        raise ConfigError(
            f"--dataset {name} is read by rules of its own; leave out --{changed[0].replace('_', '-')}"
        )
    raw = read_clicks_of(name, source, min_rating=options.min_rating)
    report = Report()
    log = click_log(raw.clicks, "clicks", report)
    return Raw(raw.notes, log, raw.report + report)


def clean(raw: Raw, options: PrepareOptions, *, strict: bool = False) -> tuple[pa.Table, ClickLog, Report]:
    """Clean raw tables by the rules of ``data.validate``; return notes, the log and the whole report.

    Raises:
        DataError: if ``strict`` is set and there is a problem, or nothing is left.
    """
    if strict and len(raw.report):
        raise DataError(f"strict: reading found {len(raw.report)} kinds of problems\n{raw.report}")
    limit = options.user_limit or None
    notes, log, found = clean_tables(
        raw.notes, raw.log, strict=strict, max_user_clicks=limit, read=raw.report
    )
    return notes, log, raw.report + found


def configuration(options: PrepareOptions, **more: Any) -> dict[str, Any]:
    """Return the options as the configuration of a record."""
    return {**more, **asdict(options)}


def _stated(name: str, values: list[str] | None, table: str) -> str | None:
    """Return the value of an option for one table: that of the table, else the one of all tables."""
    found: dict[str, str] = {}
    for value in values or []:
        of, equals, rest = value.partition("=")
        key, stated = (of, rest) if equals and of in TABLES else ("", value)
        if found.get(key, stated) != stated:
            raise ConfigError(
                f"{name} is {found[key]!r} and {stated!r}; say for which table, as notes={stated}"
            )
        found[key] = stated
    return found.get(table, found.get(""))


def _events(entries: list[str]) -> dict[str, Counted]:
    events: dict[str, Counted] = {}
    for entry in entries:
        name, equals, counted = entry.rpartition("=")
        if not equals or counted not in ("click", "view", "drop"):
            raise ConfigError(f"--event is {entry!r}; write NAME=click, NAME=view or NAME=drop")
        if events.get(name, counted) != counted:
            raise ConfigError(f"--event gives {name} twice, as {events[name]} and {counted}; leave one out")
        events[name] = cast("Counted", counted)
    return events


def _columns_of(sources: Sources) -> dict[str, dict[str, str]]:
    """Return the columns of each table."""
    ours = {
        "notes": NOTES.names,
        "clicks": [*CLICKS.names, "rating"],
        "topics": ["note_id", "topics"],
    }
    known = {
        "notes",
        *(["clicks"] if sources.clicks is not None else []),
        *(["topics"] if sources.topics else []),
    }
    shared = dict(sources.columns.get("", {}))
    every = sorted({name for table in ours.values() for name in table})
    for name, theirs in shared.items():
        if name not in every:
            names = ", ".join(every)
            raise ConfigError(
                f"--column {name}={theirs}: {name!r} is none of our columns {names}; write our name "
                f"first{did_you_mean(name, every)}"
            )
        if not any(name in ours[table] for table in known):
            raise ConfigError(f"--column {name}={theirs} is a column of the clicks, but there is no --clicks")
    return {
        table: {
            name: value
            for name, value in shared.items()
            if name in names and (table != "topics" or name != "topics")
        }
        | dict(sources.columns.get(table, {}))
        for table, names in ours.items()
    }
