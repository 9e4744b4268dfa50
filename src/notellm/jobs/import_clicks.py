"""Import a log of clicks into the log of a store: a click file, or the events of an exported store.

A click file is read and cleaned as ``notellm prepare`` does; likes and dislikes stay what they are. Clicks
get the id that the log makes of user, note, event and time, and exported ones keep theirs, so a click that
the log has is not written again: an import may be repeated, also after it was killed. What the log refuses
is left out, and counted: clicks that are too old or in the future, and ids that are not allowed.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm.data.ids import RULE, refused_ids
from notellm.data.log import only_order
from notellm.data.problems import Report, Tally
from notellm.data.read import read_log
from notellm.data.schema import CLICKS, TIME
from notellm.data.validate import clean_log
from notellm.errors import ConfigError, DataError
from notellm.files import parquet_batches
from notellm.jobs.folders import EVENTS_FILE
from notellm.jobs.prepare_options import LogOptions
from notellm.progress import progress_bar
from notellm.store.age import MAX_AGE, MOST_DAYS
from notellm.store.clicks import CLICK_LOG, EVENTS, Click, ClickLog
from notellm.store.lance import lock_for_writing, unlock
from notellm.store.notes import NoteStore

#: Clicks that are written to a store in one commit.
BATCH = 8_192
_AHEAD = timedelta(days=1)  # as the log allows
_MARGIN = timedelta(minutes=5)  # by which clicks that are nearly too old count as such: writing takes time
_SHOWN = ("user_id", "note_id")


@dataclass(frozen=True)
class Written:
    """What became of a batch of clicks.

    Attributes:
        new: number of clicks that the log did not have.
        unknown_notes: notes of the clicks that the store does not have.
    """

    new: int
    unknown_notes: frozenset[str]


#: Writes a batch of clicks, all of them or none.
Write = Callable[[list[Click]], Written]


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Attributes:
        written: number of clicks that the log did not have.
        repeated: number of clicks that it had already.
        report: what reading and cleaning found, and what was left out.
    """

    written: int
    repeated: int
    report: Report


@contextmanager
def log_of(uri: str | Path) -> Iterator[Write]:
    """Open the log of a store that no other process writes to; give the function that writes to it.

    Raises:
        StorageError: if there is no store, it is damaged, or another process writes to it.
    """
    notes = frozenset(NoteStore.for_reading(uri).read(["note_id"])["note_id"].to_pylist())
    lock = lock_for_writing(
        str(uri), remedy="stop it first, or give the address of its service with --url instead of the store"
    )
    try:
        log = ClickLog.open(uri, max_age=None)  # how long clicks are kept is for the service to say

        def write(clicks: list[Click]) -> Written:
            new = sum(click is not None for click in log.append(clicks))
            return Written(new, frozenset(click.note_id for click in clicks) - notes)

        try:
            yield write
        finally:
            log.close()
    finally:
        unlock(lock)


def import_clicks(
    path: str | Path,
    write: Write,
    *,
    batch: int = BATCH,
    max_age: timedelta = MAX_AGE,
    options: LogOptions | None = None,
    columns: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Imported:
    """Read clicks and write them in batches.

    Args:
        path: a click file, a folder of parts or a pattern, as ``notellm prepare --clicks`` takes it; or an
            exported store, or its ``events.parquet``.
        write: writes a batch, such as :func:`log_of` gives.
        batch: number of clicks in a batch.
        max_age: older clicks are left out.
        options: how a click file is read and cleaned.
        columns: the file's name of each column that is named differently, by our name.
        progress: show a progress bar.

    Raises:
        DataError: if the file cannot be read, lacks a column, or has no times.
        ConfigError: if an option is not allowed, or options of a click file are given for exported events.
        StorageError: if the file is absent, or clicks could not be written. What was written stays; repeat
            the import.
    """
    if not 0 < (days := max_age / timedelta(days=1)) <= MOST_DAYS:
        raise ConfigError(f"click_days is {days:g}; it must be above 0 and at most {MOST_DAYS:,}")
    source = Path(path) / EVENTS_FILE if (Path(path) / EVENTS_FILE).is_file() else Path(path)
    if _is_log(source):
        if columns or options not in (None, LogOptions()):
            raise ConfigError(
                f"{source} is the log of a store, which is read as it is; leave out options of reading"
            )
        total, pieces, report = pq.read_metadata(source).num_rows, _events(source, batch), Report()
    else:
        total, pieces, report = _cleaned(source, batch, options or LogOptions(), columns or {})
    left_out = _LeftOut(max_age)
    unknown = Tally()
    written = given = 0
    with progress_bar(total=total, unit="click", desc="clicks", disable=not progress) as bar:
        for piece in pieces:
            rows = left_out.without(piece)
            clicks = [
                Click(user, note, event, time, click_id, request)
                for click_id, user, note, time, event, request in zip(
                    *(rows[name].to_pylist() for name in CLICK_LOG.names), strict=True
                )
            ]
            if clicks:
                result = write(clicks)
                written, given = written + result.new, given + len(clicks)
                is_unknown = np.array([click.note_id in result.unknown_notes for click in clicks])
                unknown.add(rows, is_unknown, _SHOWN)
            bar.update(piece.num_rows)
    report += left_out.report()
    report.add(
        "click on an unknown note", "clicks: note_id", unknown.count, unknown.example, "kept", informs=True
    )
    return Imported(written, given - written, report)


def _is_log(path: Path) -> bool:
    """Tell whether a file has the columns of the log of a store."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):  # the reader of click files says what is wrong
        return False
    return bool(schema.names == CLICK_LOG.names and schema.types == CLICK_LOG.types)


def _events(path: Path, batch: int) -> Iterator[pa.Table]:
    """Yield the rows of an exported log."""
    for rows in parquet_batches(path, batch):
        for name in CLICK_LOG.names:
            if rows.column(name).null_count:
                raise DataError(f"{path} has a row without {name}, which the log of a store needs; add it")
        yield pa.Table.from_batches([rows])


def _cleaned(
    path: Path, batch: int, options: LogOptions, columns: Mapping[str, str]
) -> tuple[int, Iterator[pa.Table], Report]:
    """Return the number of rows of a click file after cleaning, the rows, and the report."""
    read = read_log(path, options=options.of("clicks", columns))
    if only_order(read.log.times):
        raise DataError(
            f"{path} does not say when the clicks were made, but only their order, and the log of a store "
            "needs their times; say which column has them: --column timestamp=THE_FILES_NAME"
        )
    log, found = clean_log(read.log, EVENTS, max_user_clicks=options.user_limit or None)

    def pieces() -> Iterator[pa.Table]:
        for piece in log.pieces(CLICKS):
            for start in range(0, piece.num_rows, batch):
                rows = piece.slice(start, batch)
                count = rows.num_rows
                rows = rows.append_column("click_id", pa.nulls(count, pa.string()))
                yield rows.append_column("request_id", pa.array([""] * count))

    return len(log), pieces(), read.report + found


class _LeftOut:
    """Rows that the log would refuse, which are left out and counted."""

    def __init__(self, max_age: timedelta) -> None:
        self._max_age = max_age
        self._old, self._ahead, self._ids, self._events = Tally(), Tally(), Tally(), Tally()

    def without(self, rows: pa.Table) -> pa.Table:
        """Return the rows that the log takes; columns of CLICK_LOG, where ``click_id`` may be null."""
        now = datetime.now(UTC)
        oldest = pa.scalar(now - self._max_age + _MARGIN, TIME)
        rows = self._filtered(rows, _mask(pc.less(rows["timestamp"], oldest)), self._old, "timestamp")
        latest = pa.scalar(now + _AHEAD, TIME)
        rows = self._filtered(rows, _mask(pc.greater(rows["timestamp"], latest)), self._ahead, "timestamp")
        unknown = ~_mask(pc.is_in(rows["event"], value_set=pa.array(EVENTS)))
        rows = self._filtered(rows, unknown, self._events, "event")
        refused = refused_ids(rows["request_id"]) & _mask(pc.not_equal(rows["request_id"], ""))
        for name in ("click_id", "user_id", "note_id"):
            refused |= refused_ids(rows[name])
        return self._filtered(rows, refused, self._ids, "click_id")

    def _filtered(self, rows: pa.Table, bad: npt.NDArray[np.bool_], tally: Tally, shown: str) -> pa.Table:
        tally.add(rows, bad, (*_SHOWN, shown))
        return rows.filter(pa.array(~bad)) if bad.any() else rows

    def report(self) -> Report:
        """Return what was left out."""
        report = Report()
        days = self._max_age / timedelta(days=1)
        for problem, column, tally, action in (
            (f"older than {days:g} days", "timestamp", self._old, "left out; --click-days says how old"),
            ("time in the future", "timestamp", self._ahead, "left out"),
            ("unknown event", "event", self._events, f"left out; known are {', '.join(EVENTS)}"),
            ("id that is not allowed", "click_id", self._ids, f"left out; an id is {RULE}"),
        ):
            report.add(problem, f"clicks: {column}", tally.count, tally.example, action)
        return report


def _mask(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    mask: npt.NDArray[np.bool_] = column.to_numpy()
    return mask
