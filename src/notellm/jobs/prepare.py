"""Read notes and clicks from files or a public dataset, and clean them: what ``notellm prepare`` does."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from notellm.data.convert import RAW_CLICKS, click_log
from notellm.data.datasets.table import RATING_NAMES, read_clicks_of
from notellm.data.log import ClickLog
from notellm.data.problems import Report
from notellm.data.read import read_log, read_notes, read_topics, with_topics
from notellm.data.schema import CLICKS, NOTES
from notellm.data.validate import clean as clean_tables
from notellm.errors import ConfigError, DataError, did_you_mean
from notellm.jobs.prepare_options import PrepareOptions

#: Rows of each table that are read to show what would be done.
SAMPLE_ROWS = 1_000


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
    """Raw notes and clicks.

    Attributes:
        notes: raw notes.
        log: raw clicks.
        report: what reading them reported.
        roles: by table, the file's name of each column by our name.
        by_rules: whether the report holds the rules of a public dataset's reader, not problems of files.
    """

    notes: pa.Table
    log: ClickLog
    report: Report
    roles: dict[str, dict[str, str]] = field(default_factory=dict)
    by_rules: bool = False

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
    if sources.clicks is None:
        _check_without_clicks(sources, options)
    if sources.topics is None and sources.columns.get("topics"):
        raise ConfigError("--topics-column is of the table --topics, which is not given")
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
    check_by_rules(name, options)
    raw = read_clicks_of(name, source, min_rating=options.min_rating)
    report = Report()
    log = click_log(raw.clicks, "clicks", report)
    return Raw(raw.notes, log, raw.report + report, by_rules=True)


def check_by_rules(name: str, options: PrepareOptions) -> None:
    """Refuse options of files for a dataset that is read by rules of its own.

    Raises:
        ConfigError: if there is one.
    """
    own = {each.name: getattr(options, each.name) for each in fields(options)}
    kept = {"user_limit", *(["min_rating"] if name in RATING_NAMES else [])}
    changed = [n for n, value in own.items() if n not in kept and value != getattr(PrepareOptions(), n)]
    if changed:
        raise ConfigError(
            f"--dataset {name} is read by rules of its own; leave out --{changed[0].replace('_', '-')}"
        )


def clean(raw: Raw, options: PrepareOptions, *, strict: bool = False) -> tuple[pa.Table, ClickLog, Report]:
    """Clean raw tables by the rules of ``data.validate``; return notes, the log and the whole report.

    Raises:
        DataError: if ``strict`` is set and there is a problem, or nothing is left.
    """
    found = Report() if raw.by_rules else raw.report.serious
    if strict and len(found):
        raise DataError(f"strict: reading found {len(found)} kinds of problems\n{found}")
    limit = options.user_limit or None
    notes, log, found = clean_tables(
        raw.notes, raw.log, strict=strict, max_user_clicks=limit, read=raw.report
    )
    return notes, log, raw.report + found


def _check_without_clicks(sources: Sources, options: PrepareOptions) -> None:
    """Refuse options of clicks where there are none."""
    given = {
        "clicks-column": bool(sources.columns.get("clicks")),
        "min-rating": options.min_rating is not None,
        "event": bool(options.event),
        "order": options.order is not None,
    }
    if unused := next((name for name, is_given in given.items() if is_given), None):
        raise ConfigError(f"--{unused} is of the clicks, but there is no --clicks")


def configuration(options: PrepareOptions, **more: Any) -> dict[str, Any]:
    """Return the options as the configuration of a record."""
    return {**more, **asdict(options)}


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
