"""Cleaning clicks: the rules of ``validate`` in their order, each with a row of the report.

The work is done on codes and times; each distinct id is looked at once.
"""

import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.log import NO_TIME, ClickLog, Coded, Times, only_order
from notellm.data.problems import Report

EVENTS = ("click", "view")

_SHOWN = ("user_id", "note_id")
_NAMED = 5  # names of events that the report shows

_Mask = npt.NDArray[np.bool_]
_Rows = npt.NDArray[np.integer[Any]]


def clean_clicks(
    log: ClickLog,
    notes: pa.Table | None,
    *,
    first: int,
    last: int,
    max_user_clicks: int | None,
    report: Report,
    known_events: Sequence[str] = EVENTS,
) -> ClickLog:
    """Return the clean rows of a log, grouped by user in order of appearance and sorted by time in them.

    Args:
        log: the raw log.
        notes: the clean notes; None keeps clicks on any note.
        first: earlier times are wrong; microseconds since 1970.
        last: later ones are.
        max_user_clicks: largest number of clicks of a user; None keeps all.
        report: receives what was dropped or repaired.
        known_events: the events that are kept, at least two.
    """
    users = _without_broken(log.users, "clicks: user_id", report)
    names = _without_broken(log.notes, "clicks: note_id", report)
    events = _without_broken(log.events, "clicks: event", report)
    user, note, event, time = users.codes, names.codes, events.codes, log.times
    rows: _Rows = np.arange(len(log), dtype=np.int32 if len(log) < 2**31 else np.int64)
    columns: dict[str, Coded] = {"user_id": users, "note_id": names, "event": events}

    def drop(
        bad: _Mask, problem: str, column: str, action: str = "rows dropped", example: str | None = None
    ) -> None:
        """Drop the bad ones among ``rows``, and report them."""
        nonlocal rows
        if not bad.any():
            return
        row = int(rows[bad.argmax()])
        shown = dict.fromkeys((*_SHOWN, column))
        example = example or ", ".join(f"{name} {_cell(columns, time, name, row)}" for name in shown)
        report.add(problem, f"clicks: {column}", int(bad.sum()), example, action)
        rows = rows[~bad]

    for column, codes, values in (("user_id", user, users.values), ("note_id", note, names.values)):
        drop(_of(codes[rows], _equal(values, ""), missing=True), "empty id", column)
    action = "rows dropped; --event =click counts them"
    drop(_of(event[rows], _equal(events.values, ""), missing=True), "missing event", "event", action)
    unknown = _of(event[rows], ~_is_in(events.values, pa.array(known_events)), missing=False)
    named = _counted(events.values, event[rows][unknown])
    name = shlex.quote(f"{named.partition(' (')[0]}=click")
    counting = f"{', '.join(known_events[:-1])} and {known_events[-1]}"
    action = f"rows dropped; {counting} count, and --event {name} counts others"
    drop(unknown, "unknown event", "event", action, named)
    drop(time[rows] == NO_TIME, "missing time", "timestamp")

    if not only_order(time[rows]):
        drop(time[rows] < first, f"before {_day(first)}", "timestamp")
        drop(time[rows] > last, f"after {_day(last)}", "timestamp")

    by_user = rows[np.argsort(user[rows], kind="stable")]  # users in order of appearance, as their codes are
    by_time = by_user
    if _late(user[by_user], time[by_user]).any():
        by_time = by_user[np.lexsort((time[by_user], user[by_user]))]
    repeated = np.zeros(len(log), np.bool_)
    repeated[_repeats(by_time, user, note, time, event)] = True
    drop(repeated[rows], "click twice", "timestamp")

    if max_user_clicks is not None:
        is_click = _of(event[rows], _equal(events.values, "click"), missing=False)
        bots = np.bincount(user[rows][is_click], minlength=len(users.values)) > max_user_clicks
        action = f"all rows of {np.count_nonzero(bots):,} users dropped; --user-limit raises the limit"
        drop(bots[user[rows]], f"user with over {max_user_clicks:,} clicks", "user_id", action)

    if notes is not None:
        known = _is_in(names.values, notes.column("note_id"))
        drop(~known[note[rows]], "click on an unknown note", "note_id")

    kept = np.zeros(len(log), np.bool_)
    kept[rows] = True
    by_user = by_user[kept[by_user]]
    late = _late(user[by_user], time[by_user])
    if late.any():
        example = users.values[int(user[by_user[1:][late.argmax()]])].as_py()
        problem, where = "time before the user's previous row", "clicks: timestamp"
        report.add(problem, where, int(late.sum()), f"user_id {example}", "sorted by time")
    del by_user, rows
    return ClickLog(users, names, time, events).take(by_time[kept[by_time]])


def _late(user: npt.NDArray[np.int32], time: Times) -> _Mask:
    """Tell of each row but the first whether it is before the user's previous row."""
    late: _Mask = (user[1:] == user[:-1]) & (time[1:] < time[:-1])
    return late


def _cell(columns: dict[str, Coded], time: Times, name: str, row: int) -> object:
    """Return a cell of the log for the report."""
    if name == "timestamp":
        return None if time[row] == NO_TIME else np.datetime64(int(time[row]), "us").astype(object)
    column = columns[name]
    code = int(column.codes[row])
    return None if code < 0 else column.values[code].as_py()


def _without_broken(column: Coded, where: str, report: Report) -> Coded:
    """Return a column without NUL characters; U+FFFD is only reported."""
    values, counts = column.values, column.counts()
    for character, problem, action in (
        ("\0", "NUL character", "taken out"),
        ("\ufffd", "broken UTF-8 (U+FFFD)", "kept"),
    ):
        bad = pc.match_substring(values, character).to_numpy(zero_copy_only=False)
        if bad.any():
            report.add(problem, where, int(counts[bad].sum()), values[int(bad.argmax())].as_py(), action)
    if pc.any(pc.match_substring(values, "\0")).as_py():
        return column.with_values(pc.replace_substring(values, "\0", ""))
    return column


def _of(codes: npt.NDArray[np.int32], values: _Mask, *, missing: bool) -> _Mask:
    """Return a property of values for rows; ``missing`` is that of rows without one."""
    mask: _Mask = np.append(values, np.bool_(missing))[codes]
    return mask


def _day(micro: int) -> str:
    return str(np.datetime64(micro, "us").astype("datetime64[D]"))


def _counted(names: pa.Array, rows: npt.NDArray[np.int32]) -> str:
    """Return the most frequent names, each with its number of rows."""
    counts = np.bincount(rows[rows >= 0], minlength=len(names))
    most = [place for place in np.argsort(-counts, kind="stable")[:_NAMED] if counts[place]]
    return ", ".join(f"{names[int(place)].as_py()} ({counts[place]:,})" for place in most)


def _equal(values: pa.Array, text: str) -> _Mask:
    mask: _Mask = pc.equal(values, text).to_numpy(zero_copy_only=False)
    return mask


def _is_in(values: pa.Array, allowed: pa.Array | pa.ChunkedArray) -> _Mask:
    mask: _Mask = pc.is_in(values, allowed).to_numpy(zero_copy_only=False)
    return mask


def _repeats(
    rows: _Rows,
    user: npt.NDArray[np.int32],
    note: npt.NDArray[np.int32],
    time: Times,
    event: npt.NDArray[np.int32],
) -> _Rows:
    """Return the rows that have the user, note, time and event of an earlier one.

    Args:
        rows: rows of the log by user and time; those of one user and time stand side by side.
        user: user of each row of the log.
        note: note of each row.
        time: time of each row.
        event: event of each row.
    """
    same = (user[rows[1:]] == user[rows[:-1]]) & (time[rows[1:]] == time[rows[:-1]])
    tied = np.zeros(len(rows), np.bool_)
    tied[1:] |= same
    tied[:-1] |= same
    rows = np.sort(rows[tied])
    keys = {"user": user[rows], "note": note[rows], "time": time[rows], "event": event[rows]}
    firsts = pl.DataFrame(keys).with_row_index("row").unique(list(keys), keep="first")["row"]
    repeated = np.ones(len(rows), np.bool_)
    repeated[firsts.to_numpy()] = False
    return rows[repeated]
