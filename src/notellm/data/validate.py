"""Clean raw notes and clicks by fixed rules, and report everything that was dropped or repaired.

Notes, in this order: rows with an empty id are dropped; NUL and U+FFFD characters are removed; of rows with
the same id the last stays; long texts are cut; topics lose white space, repeats, empty and long ones, and all
beyond ``max_topics``; notes without any text are dropped; a ``published_at`` out of range becomes null.

Clicks, in this order: rows with an empty id, an unknown event or no time are dropped, as are rows out of the
time range (unless the log keeps only the order), repeated rows, users with more than ``max_user_clicks``
clicks (bots), and rows on unknown notes. The rest is grouped by user in order of appearance and sorted by
time within a user.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from notellm.data.clean_clicks import clean_clicks
from notellm.data.clean_notes import clean_notes
from notellm.data.convert import click_log, raw_notes
from notellm.data.log import ClickLog
from notellm.data.problems import Report
from notellm.errors import ConfigError, DataError

_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_AHEAD = timedelta(days=1)  # how far a clock may be ahead


def validate(notes: pa.Table, clicks: pa.Table, **options: Any) -> tuple[pa.Table, pa.Table, Report]:
    """Clean notes and clicks, and report what was wrong.

    Args:
        notes: as for :func:`clean`.
        clicks: as for :func:`clean`.
        options: further options of :func:`clean`.

    Returns:
        Notes (schema ``NOTES``), clicks (schema ``CLICKS``), and the report.

    Raises:
        DataError: as :func:`clean`, like ConfigError.
    """
    good_notes, log, report = clean(notes, clicks, **options)
    return good_notes, log.table(), report


def clean(
    notes: pa.Table,
    clicks: pa.Table | ClickLog,
    *,
    strict: bool = False,
    max_title: int = 1_000,
    max_content: int = 100_000,
    max_topics: int = 50,
    max_topic: int = 100,
    max_user_clicks: int | None = 5_000,
    earliest: datetime = _EARLIEST,
    latest: datetime | None = None,
    read: Report | None = None,
) -> tuple[pa.Table, ClickLog, Report]:
    """Clean notes and clicks as :func:`validate` does; the clicks stay codes, which need less memory.

    Args:
        notes: raw notes with the columns ``note_id`` and ``title`` or ``content``, and optionally other
            columns of ``NOTES``, in any types that ``notellm.data.convert`` can read.
        clicks: raw clicks with the columns ``user_id`` and ``note_id``, and optionally ``timestamp`` and
            ``event``; or a raw log. It may have no rows.
        strict: raise an error instead of cleaning if there is any problem.
        max_title: largest number of characters of a title or category.
        max_content: largest number of characters of a content.
        max_topics: largest number of topics of a note.
        max_topic: largest number of characters of a topic.
        max_user_clicks: largest number of clicks of a user who is not a bot; views do not count. None keeps
            all.
        earliest: earlier times are wrong; UTC if it has no zone.
        latest: later times are wrong; None for a day from now.
        read: what reading the tables reported, for the error where no click is left.

    Returns:
        Notes (schema ``NOTES``), the log, and the report.

    Raises:
        DataError: if ``strict`` is set and there is a problem (the message contains the report), a column is
            missing or of an impossible type, no note is left, or there were clicks and none is left.
        ConfigError: if a limit is not positive, or ``earliest`` is not before ``latest``.
    """
    limits = {
        "max_title": max_title,
        "max_content": max_content,
        "max_topics": max_topics,
        "max_topic": max_topic,
        "max_user_clicks": max_user_clicks,
    }
    for name, value in limits.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    first = _utc(earliest)
    last = datetime.now(UTC) + _AHEAD if latest is None else _utc(latest)
    if first >= last:
        raise ConfigError(f"earliest is {first}; it must be before latest, {last}")

    report = Report()
    good_notes = clean_notes(
        raw_notes(notes, "notes", report),
        first=first,
        last=last,
        lengths={"title": max_title, "content": max_content, "category": max_title},
        max_topics=max_topics,
        max_topic=max_topic,
        report=report,
    )
    log = clicks if isinstance(clicks, ClickLog) else click_log(clicks, "clicks", report)
    good_clicks = clean_clicks(
        log,
        good_notes,
        first=_micro(first),
        last=_micro(last),
        max_user_clicks=max_user_clicks,
        report=report,
    )

    if strict and len(report.serious):
        raise DataError(
            f"strict validation found {len(report)} kinds of problems; repair the data or validate "
            f"without strict\n{report}"
        )
    if not good_notes.num_rows:
        raise DataError(f"no note is left of {notes.num_rows}; see what was dropped\n{report}")
    if len(log) and not len(good_clicks):
        raise DataError(_why_no_click(len(log), good_notes, report, read or Report()))
    return good_notes, good_clicks, report


def clean_log(
    log: ClickLog, events: Sequence[str], *, max_user_clicks: int | None = 5_000
) -> tuple[ClickLog, Report]:
    """Clean a raw log as :func:`clean` does, without notes: clicks on any note are kept.

    Args:
        log: the raw log.
        events: the events that are kept, at least two.
        max_user_clicks: as for :func:`clean`.

    Returns:
        The log and the report.
    """
    report = Report()
    last = _micro(datetime.now(UTC) + _AHEAD)
    good = clean_clicks(
        log,
        None,
        first=_micro(_EARLIEST),
        last=last,
        max_user_clicks=max_user_clicks,
        report=report,
        known_events=events,
    )
    return good, report


def _micro(time: datetime) -> int:
    """Return the exact number of microseconds since 1970."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _why_no_click(rows: int, notes: pa.Table, report: Report, read: Report) -> str:
    """Return the error for a log of which no click is left: the rule that dropped most, and the way out."""
    dropped = [each for each in report.problems if each.where.startswith("clicks")]
    most = max(dropped, key=lambda each: each.count)
    unreadable = next((each for each in read.problems if each.problem == "unreadable time"), None)
    if most.problem == "missing time" and unreadable is not None:
        why = (
            f"{unreadable.count:,} times cannot be read, as {unreadable.example!r}; --time-format "
            "says how they are written"
        )
    elif most.problem == "click on an unknown note":
        why = (
            f"they are clicks on an unknown note, as {most.example}, where the notes have ids as "
            f"{notes['note_id'][0]}"
        )
        why += "; do both tables use the same note ids?"
    else:
        why = f"{most.count:,} were dropped by one rule: {most.problem}, as {most.example} ({most.action})"
    return f"no click is left of {rows:,}: {why}\n{read + report}"


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
