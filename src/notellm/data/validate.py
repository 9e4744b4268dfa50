"""Clean raw notes and clicks by fixed rules, and report everything that was dropped or repaired.

Notes, in this order: rows with an empty id are dropped; NUL and U+FFFD characters are removed; of rows with
the same id the last stays; long texts are cut; topics lose white space, repeats, empty and long ones, and all
beyond ``max_topics``; notes without any text are dropped; a ``published_at`` out of range becomes null.

Clicks, in this order: rows with an empty id, an unknown event or no time are dropped, as are rows out of the
time range (unless the log keeps only the order), repeated rows, users with more than ``max_user_clicks``
clicks (bots), and rows on unknown notes. The rest is grouped by user in order of appearance and sorted by
time within a user.
"""

import shlex
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only, raw_clicks, raw_notes
from notellm.data.ids import codes
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES, TIME
from notellm.errors import ConfigError, DataError

EVENTS = ("view", "click")

_EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
_CHUNK = 1 << 22
_SHOWN = ("user_id", "note_id")
_NAMED = 5  # names of events that the report shows

_Mask = npt.NDArray[np.bool_]
_Codes = npt.NDArray[np.int32]


def validate(
    notes: pa.Table,
    clicks: pa.Table,
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
) -> tuple[pa.Table, pa.Table, Report]:
    """Clean notes and clicks, and report what was wrong.

    Args:
        notes: raw notes with the columns ``note_id`` and ``title`` or ``content``, and optionally other
            columns of ``NOTES``, in any types that ``notellm.data.convert`` can read.
        clicks: raw clicks with the columns ``user_id`` and ``note_id``, and optionally ``timestamp`` and
            ``event``. It may have no rows.
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
        Notes (schema ``NOTES``), clicks (schema ``CLICKS``), and the report.

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
    last = datetime.now(UTC) + timedelta(days=1) if latest is None else _utc(latest)
    if first >= last:
        raise ConfigError(f"earliest is {first}; it must be before latest, {last}")

    report = Report()
    frame = pl.DataFrame(raw_notes(notes, "notes", report))
    frame = _clean_note_ids(frame, report)
    lengths = {"title": max_title, "content": max_content, "category": max_title}
    frame = _clean_texts(frame, lengths, report)
    frame = _clean_topics(frame, max_topics, max_topic, report)
    frame = _drop_silent(frame, report)
    frame = _clean_published(frame, first, last, report)
    good_notes = _notes_table(frame)

    good_clicks = _clean_clicks(
        clicks,
        good_notes,
        first=first,
        last=last,
        max_user_clicks=max_user_clicks,
        report=report,
    )

    if strict and len(report):
        raise DataError(
            f"strict validation found {len(report)} kinds of problems; repair the data or validate "
            f"without strict\n{report}"
        )
    if not good_notes.num_rows:
        raise DataError(f"no note is left of {notes.num_rows}; see what was dropped\n{report}")
    if clicks.num_rows and not good_clicks.num_rows:
        raise DataError(_why_no_click(clicks, good_notes, report, read or Report()))
    return good_notes, good_clicks, report


def _why_no_click(clicks: pa.Table, notes: pa.Table, report: Report, read: Report) -> str:
    """Return the error for a log of which no click is left: the rule that dropped most, and the way out."""
    dropped = [each for each in report.problems if each.where.startswith("clicks")]
    most = max(dropped, key=lambda each: each.count)
    unreadable = next((each for each in read.problems if each.problem == "unreadable time"), None)
    if most.problem == "missing time" and unreadable is not None:
        why = (
            f"{unreadable.count:,} times cannot be read, as {unreadable.example!r}; --time-format says "
            f"how they are written"
        )
    elif most.problem == "click on an unknown note":
        why = (
            f"they are clicks on an unknown note, as {most.example}, where the notes have ids as "
            f"{notes['note_id'][0]}"
        )
        why += "; do both tables use the same note ids?"
    else:
        why = f"{most.count:,} were dropped by one rule: {most.problem}, as {most.example} ({most.action})"
    return f"no click is left of {clicks.num_rows:,}: {why}\n{read + report}"


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


# --- notes ---


def _clean_note_ids(frame: pl.DataFrame, report: Report) -> pl.DataFrame:
    where = "notes: note_id"
    with_nul = frame.filter(pl.col("note_id").str.contains("\0", literal=True))
    if with_nul.height:
        report.add("NUL character", where, with_nul.height, with_nul["note_id"][0], "taken out")
        frame = frame.with_columns(pl.col("note_id").str.replace_all("\0", "", literal=True))
    full = frame.filter(pl.col("note_id") != "")
    report.add("empty id", where, frame.height - full.height, "", "rows dropped")
    kept = full.unique("note_id", keep="last", maintain_order=True)
    if kept.height < full.height:
        repeated = full.filter(pl.col("note_id").is_duplicated())
        different = repeated.unique()
        extra_different = different.height - different["note_id"].n_unique()
        extra_same = full.height - kept.height - extra_different
        if extra_same:
            same = repeated.filter(repeated.is_duplicated())
            report.add("note twice, rows alike", where, extra_same, same["note_id"][0], "one row kept")
        if extra_different:
            example = different.filter(pl.col("note_id").is_duplicated())["note_id"].sort()[0]
            action = "the last row kept"
            report.add("note twice, rows differ", where, extra_different, example, action)
    return kept


def _clean_texts(frame: pl.DataFrame, limits: dict[str, int], report: Report) -> pl.DataFrame:
    for name, limit in limits.items():
        where = f"notes: {name}"
        frame = frame.with_columns(pl.col(name).fill_null("").str.strip_chars())
        for problem, character in (("NUL character", "\0"), ("broken UTF-8 (U+FFFD)", "\ufffd")):
            affected = frame.filter(pl.col(name).str.contains(character, literal=True))
            if affected.height:
                report.add(problem, where, affected.height, affected["note_id"][0], "characters taken out")
                clean = pl.col(name).str.replace_all(character, "", literal=True).str.strip_chars()
                frame = frame.with_columns(clean)
        long = frame.filter(pl.col(name).str.len_chars() > limit)
        if long.height:
            action = f"cut to {limit:,} characters"
            report.add("absurd length", where, long.height, long["note_id"][0], action)
            frame = frame.with_columns(pl.col(name).str.slice(0, limit).str.strip_chars_end())
    return frame


def _clean_topics(frame: pl.DataFrame, max_topics: int, max_topic: int, report: Report) -> pl.DataFrame:
    where = "notes: topics"
    topic = pl.col("topics")
    words = (
        frame.select(pl.int_range(pl.len()).alias("row"), "note_id", "topics")
        .explode("topics", empty_as_null=True)
        .filter(topic.is_not_null() | (pl.col("row").is_duplicated()))
    )

    def drop(bad: pl.Expr, problem: str, action: str) -> None:
        nonlocal words
        lost = words.filter(bad)
        if lost.height:
            row = lost.row(0, named=True)
            notes = lost["row"].n_unique()
            report.add(problem, where, notes, f"{row['note_id']}: {row['topics']}", action)
            words = words.filter(~bad)

    dirty = topic.str.contains("[\\x00\ufffd]")
    lost = words.filter(dirty)
    if lost.height:
        notes = lost["row"].n_unique()
        report.add("NUL or U+FFFD", where, notes, lost["note_id"][0], "characters taken out")
    words = words.with_columns(topic.str.replace_all("[\\x00\ufffd]", "").str.strip_chars().fill_null(""))
    drop(topic == "", "empty topic", "topic dropped")
    drop(topic.str.len_chars() > max_topic, f"topic over {max_topic} characters", "topic dropped")
    repeat = ~pl.struct("row", topic.str.to_lowercase()).is_first_distinct()
    drop(repeat, "topic twice", "the first kept")
    over = pl.int_range(pl.len()).over("row") >= max_topics
    drop(over, f"over {max_topics} topics", f"the first {max_topics} kept")
    lists = words.group_by("row", maintain_order=True).agg("topics")
    rows = pl.DataFrame({"row": pl.int_range(frame.height, eager=True)})
    joined = rows.join(lists, on="row", how="left", maintain_order="left")
    none = pl.Series([[]], dtype=pl.List(pl.String))
    return frame.with_columns(joined["topics"].fill_null(none).alias("topics"))


def _drop_silent(frame: pl.DataFrame, report: Report) -> pl.DataFrame:
    silent = (pl.col("title") == "") & (pl.col("content") == "") & (pl.col("topics").list.len() == 0)
    lost = frame.filter(silent)
    if lost.height:
        report.add("note without any text", "notes", lost.height, lost["note_id"][0], "dropped")
    return frame.filter(~silent)


def _clean_published(frame: pl.DataFrame, first: datetime, last: datetime, report: Report) -> pl.DataFrame:
    time = pl.col("published_at")
    for problem, bad in (
        (f"before {first:%Y-%m-%d}", time < first),
        (f"after {last:%Y-%m-%d}", time > last),
    ):
        affected = frame.filter(bad)
        if affected.height:
            row = affected.row(0, named=True)
            example = f"{row['note_id']}: {row['published_at']}"
            report.add(problem, "notes: published_at", affected.height, example, "taken as unknown")
            frame = frame.with_columns(pl.when(~bad).then(time).alias("published_at"))
    return frame


def _notes_table(frame: pl.DataFrame) -> pa.Table:
    # Small chunks, because the 32-bit offsets of a chunk of text limit it to 2 GiB.
    batches = frame.select(NOTES.names).to_arrow().to_batches(max_chunksize=1 << 14)
    return pa.Table.from_batches([batch.cast(NOTES) for batch in batches], NOTES)


# --- clicks ---


def _clean_clicks(
    clicks: pa.Table,
    notes: pa.Table,
    *,
    first: datetime,
    last: datetime,
    max_user_clicks: int | None,
    report: Report,
) -> pa.Table:
    # The work is done on integer codes; each distinct string is looked at once and written at the end.
    raw = raw_clicks(clicks, "clicks", report)
    users, user = _encode(raw.column("user_id"), "clicks: user_id", report)
    names, note = _encode(raw.column("note_id"), "clicks: note_id", report)
    events, event = _encode(raw.column("event"), "clicks: event", report)
    unknown_time = raw.column("timestamp").is_null().to_numpy()
    time = raw.column("timestamp").cast(pa.int64()).fill_null(0).to_numpy()
    rows = np.arange(raw.num_rows)

    def drop(
        bad: _Mask, problem: str, column: str, action: str = "rows dropped", example: str | None = None
    ) -> None:
        """Drop the bad ones among ``rows``, and report them."""
        nonlocal rows
        if not bad.any():
            return
        one = raw.slice(int(rows[bad.argmax()]), 1).to_pylist()[0]
        example = example or ", ".join(f"{name} {one[name]}" for name in dict.fromkeys((*_SHOWN, column)))
        report.add(problem, f"clicks: {column}", int(bad.sum()), example, action)
        rows = rows[~bad]

    drop((_equal(users, "")[user])[rows], "empty id", "user_id")
    drop((_equal(names, "")[note])[rows], "empty id", "note_id")
    drop(
        _equal(events, "")[event[rows]], "missing event", "event", "rows dropped; --event =click counts them"
    )
    unknown = ~_is_in(events, pa.array(EVENTS))
    names_of = _counted(events, event[rows][unknown[event[rows]]])
    name = shlex.quote(f"{names_of.partition(' (')[0]}=click")
    action = f"rows dropped; click and view count, and --event {name} counts others"
    drop(unknown[event[rows]], "unknown event", "event", action, names_of)
    drop(unknown_time[rows], "missing time", "timestamp")

    if not is_order_only(raw.select(["timestamp"]).take(rows)):
        drop(time[rows] < _micro(first), f"before {first:%Y-%m-%d}", "timestamp")
        drop(time[rows] > _micro(last), f"after {last:%Y-%m-%d}", "timestamp")

    drop(_repeats(user[rows], note[rows], time[rows], event[rows]), "click twice", "timestamp")

    is_click = _equal(events, "click")[event[rows]]
    clicks_of = np.bincount(user[rows][is_click], minlength=len(users))
    if max_user_clicks is not None:
        bots = clicks_of > max_user_clicks
        action = f"all rows of {np.count_nonzero(bots):,} users dropped; --user-limit raises the limit"
        drop(bots[user[rows]], f"user with over {max_user_clicks:,} clicks", "user_id", action)

    known = _is_in(names, notes.column("note_id"))
    drop(~known[note[rows]], "click on an unknown note", "note_id")

    rows = rows[np.argsort(user[rows], kind="stable")]
    late = (np.diff(user[rows]) == 0) & (np.diff(time[rows]) < 0)
    if late.any():
        example = users[int(user[rows[1:][late.argmax()]])].as_py()
        problem, where = "time before the user's previous row", "clicks: timestamp"
        report.add(problem, where, int(late.sum()), f"user_id {example}", "sorted by time")
        rows = rows[np.lexsort((time[rows], user[rows]))]

    tables = []
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        columns = [
            users.take(pa.array(user[part])),
            names.take(pa.array(note[part])),
            pa.array(time[part]).cast(TIME),
            events.take(pa.array(event[part])),
        ]
        tables.append(pa.table(columns, schema=CLICKS))
    return pa.concat_tables(tables) if tables else CLICKS.empty_table()


def _encode(column: pa.ChunkedArray, where: str, report: Report) -> tuple[pa.Array, _Codes]:
    """Return the distinct strings of a column in order of appearance, and each row's index of them."""
    index, unique = codes(column.fill_null(""))
    for character, problem, action in (
        ("\0", "NUL character", "taken out"),
        ("\ufffd", "broken UTF-8 (U+FFFD)", "kept"),
    ):
        bad = pc.match_substring(unique, character).to_numpy(zero_copy_only=False)
        if bad.any():
            example = unique[int(bad.argmax())].as_py()
            report.add(problem, where, int(bad[index].sum()), example, action)
            if character == "\0":
                clean = pc.replace_substring(unique, "\0", "").dictionary_encode()
                unique, index = clean.dictionary, clean.indices.to_numpy()[index]
    return unique, index


def _counted(names: pa.Array, rows: _Codes) -> str:
    """Return the most frequent names, each with its number of rows."""
    counts = np.bincount(rows, minlength=len(names))
    most = [place for place in np.argsort(-counts, kind="stable")[:_NAMED] if counts[place]]
    return ", ".join(f"{names[int(place)].as_py()} ({counts[place]:,})" for place in most)


def _equal(values: pa.Array, text: str) -> _Mask:
    mask: _Mask = pc.equal(values, text).to_numpy(zero_copy_only=False)
    return mask


def _is_in(values: pa.Array, allowed: pa.Array | pa.ChunkedArray) -> _Mask:
    mask: _Mask = pc.is_in(values, allowed).to_numpy(zero_copy_only=False)
    return mask


def _micro(time: datetime) -> int:
    """Return the exact number of microseconds since 1970."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _repeats(*keys: npt.NDArray[np.integer]) -> _Mask:
    """Tell which rows have the same keys as an earlier row."""
    frame = pl.DataFrame({str(i): key for i, key in enumerate(keys)})
    firsts = frame.with_row_index("row").unique(list(frame.columns), keep="first")["row"]
    mask = np.ones(frame.height, np.bool_)
    mask[firsts.to_numpy()] = False
    return mask
