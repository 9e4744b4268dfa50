"""The state of a store from which a renewal trains: its notes and its log, split at a moment.

    train   the clicks of the window before the newest ``test_days``, and the notes that were there then
    test    the clicks of those days, and all notes that can be shown now

A like counts as a click. A dislike counts as a view: the user saw the note and did not want it.
"""

from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.schema import CLICKS, NOTES, TIME
from notellm.data.split import Part, Split
from notellm.errors import DataError
from notellm.store.clicks import ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import visible_rows

#: What an event of the log is in training.
_EVENTS = {"view": "view", "click": "click", "like": "click", "dislike": "view"}


def take_snapshot(store: str, *, window_days: float, test_days: float) -> Split:
    """Read a store and its log, while a service may write to them, and split them in time.

    Args:
        store: the store.
        window_days: days of the log that count, up to its newest click.
        test_days: newest of these days, which are the test part.

    Returns:
        The parts "train" and "test"; "valid" is empty. Clicks are ascending by time.

    Raises:
        DataError: if the log has no click on a note of the store, or none before the test part.
        StorageError: if the store cannot be read.
    """
    rows = NoteStore.for_reading(store).read([*NOTES.names, "hidden", "expires_at"])
    notes = rows.select(NOTES.names).cast(NOTES)
    log = clicks_of_log(store)
    log = log.filter(_among(log["note_id"], notes["note_id"]))
    if not log.num_rows:
        raise DataError(
            f"the log of {store} has no click on its {notes.num_rows:,} notes; send clicks to the service "
            "(POST /v1/clicks), or import a log"
        )
    newest: datetime = log["timestamp"][-1].as_py()
    log = log.filter(_after(log["timestamp"], newest - timedelta(days=window_days)))
    cut = newest - timedelta(days=test_days)
    is_test = _after(log["timestamp"], cut)
    train, test = log.filter(pc.invert(is_test)), log.filter(is_test)
    if not train.num_rows:
        raise DataError(
            f"all {log.num_rows:,} clicks in the log of {store} are of its newest {test_days:g} days, so "
            "nothing is left to train on; wait until the log is longer, or lower test_days"
        )
    pool = visible_rows(rows).select(NOTES.names).cast(NOTES)
    is_late = pc.fill_null(_after(notes["published_at"], cut), False)
    was_there = pc.or_(pc.invert(is_late), _among(notes["note_id"], train["note_id"]))
    return Split(
        Part(notes.filter(was_there), train),
        Part(NOTES.empty_table(), CLICKS.empty_table()),
        Part(pool, test.filter(_among(test["note_id"], pool["note_id"]))),
    )


def clicks_of_log(store: str) -> pa.Table:
    """Return the log of a store as training takes it, schema CLICKS, ascending by time.

    Raises:
        StorageError: if it cannot be read.
    """
    names = CLICKS.names
    log = pa.Table.from_batches(ClickLog.for_reading(store).batches(names), schema=CLICKS)
    place = pc.index_in(log["event"], value_set=pa.array(list(_EVENTS)))
    event = pa.chunked_array(
        [pa.array(list(_EVENTS.values())).take(chunk) for chunk in place.chunks], pa.string()
    )
    log = log.set_column(names.index("event"), CLICKS.field("event"), event)
    return log.sort_by([(name, "ascending") for name in ("timestamp", "user_id", "note_id", "event")])


def _after(times: pa.ChunkedArray, moment: datetime) -> pa.ChunkedArray:
    return pc.greater(times, pa.scalar(moment, TIME))


def _among(ids: pa.ChunkedArray, others: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.is_in(ids, value_set=pc.unique(others))
