"""The state of a store from which a renewal trains: an export of the store, split at a moment.

    train   the clicks before the newest ``test_days``, and the notes that were there then
    test    the clicks of those days, and all notes that can be shown now

What likes and dislikes are in training is said in ``jobs/training_clicks.py``.
"""

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.schema import CLICKS, NOTES, TIME
from notellm.data.split import Part, Split
from notellm.errors import DataError
from notellm.files import parquet_batches
from notellm.jobs.export_store import export_store
from notellm.jobs.folders import EVENTS_FILE, load_dataset, load_stored_notes
from notellm.store.rows import visible_rows

_ROWS = 1 << 16  # of the log, read at once


def take_snapshot(
    store: str, folder: Path, *, now: datetime, window_days: float, test_days: float, progress: bool = True
) -> Split:
    """Export a store, while a service may write to it, and split the export in time.

    Args:
        store: the store.
        folder: where the export goes; one that is there is not made again.
        now: when the renewal was begun. Clicks that claim to be later do not move the test days, since one
            wrong clock would leave too few users in them.
        window_days: days up to now whose clicks count.
        test_days: newest days of the log, which are the test part.
        progress: show progress bars.

    Returns:
        The parts "train" and "test"; "valid" is empty. Clicks are ascending by time.

    Raises:
        DataError: if the log has no click on a note of the store, or none before the test part.
        StorageError: if the store cannot be read, or the export not written.
    """
    if not folder.is_dir():
        export_store(store, folder, days=window_days, progress=progress)
    rows, log = load_stored_notes(folder), load_dataset(folder).clicks
    if not log.num_rows:
        raise DataError(
            f"the log of {store} has no click of the last {window_days:g} days on its {rows.num_rows:,} "
            "notes; send clicks to the service, or import a log: notellm store import"
        )
    newest: datetime = log["timestamp"][-1].as_py()
    cut = min(newest, now) - timedelta(days=test_days)
    is_test = _after(log["timestamp"], cut)
    train, test = log.filter(pc.invert(is_test)), log.filter(is_test)
    if not train.num_rows:
        raise DataError(
            f"all {log.num_rows:,} clicks in the log of {store} are of its newest {test_days:g} days, so "
            "nothing is left to train on; wait until the log is longer, or lower test_days"
        )
    notes, pool = rows.select(NOTES.names), visible_rows(rows).select(NOTES.names)
    is_late = pc.fill_null(_after(notes["published_at"], cut), False)
    was_there = pc.or_(pc.invert(is_late), _among(notes["note_id"], train["note_id"]))
    return Split(
        Part(notes.filter(was_there), train),
        Part(NOTES.empty_table(), CLICKS.empty_table()),
        Part(pool, test.filter(_among(test["note_id"], pool["note_id"]))),
    )


def opened_in_lists(folder: Path) -> set[tuple[str, str]]:
    """Return the users of a snapshot with the notes that they opened in lists that were recommended to them.

    Args:
        folder: the exported store.

    Raises:
        DataError: if its log cannot be read.
    """
    names = ("user_id", "note_id", "event", "request_id")
    found: set[tuple[str, str]] = set()
    for batch in parquet_batches(folder / EVENTS_FILE, _ROWS, names):
        is_opened = pc.is_in(batch["event"], value_set=pa.array(["click", "like"]))
        rows = batch.filter(pc.and_(is_opened, pc.not_equal(batch["request_id"], "")))
        found.update(zip(rows["user_id"].to_pylist(), rows["note_id"].to_pylist(), strict=True))
    return found


def _after(times: pa.ChunkedArray, moment: datetime) -> pa.ChunkedArray:
    return pc.greater(times, pa.scalar(moment, TIME))


def _among(ids: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(ids, value_set=pc.unique(others))
