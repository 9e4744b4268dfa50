"""What training learns from a log with likes and dislikes: clicks and views of known notes.

A like is a click. A note about which a user's last word is a dislike was not enjoyed: the user's clicks,
likes and dislikes of it count as views. If the log has no views they are left out instead, since training
then draws the notes that a user did not enjoy, and views of disliked notes alone would take their place.
Rows on notes that the store does not have are left out, as are rows that equal an earlier one.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.problems import Report, Tally
from notellm.data.schema import CLICKS
from notellm.files import parquet_batches

_BATCH = 1 << 16
_SHOWN = ("user_id", "note_id")
_Mask = npt.NDArray[np.bool_]


def training_clicks(events: Path, note_ids: pa.ChunkedArray, report: Report) -> Iterator[pa.Table]:
    """Yield the clicks for training, schema CLICKS, in the order of the log.

    Args:
        events: Parquet file of a log (schema ``store.clicks.CLICK_LOG``), ascending by time.
        note_ids: ids of the notes that the store has.
        report: receives what was changed or left out, at the end.
    """
    has_views, disliked = _last_words(events)
    liked, not_enjoyed, unknown, repeated = Tally(), Tally(), Tally(), Tally()
    repeats = _Repeats()
    for batch in parquet_batches(events, _BATCH, CLICKS.names):
        rows = pa.Table.from_batches([batch]).select(CLICKS.names)
        is_unknown = ~_is_in(rows["note_id"], note_ids)
        unknown.add(rows, is_unknown, _SHOWN)
        rows = rows.filter(pa.array(~is_unknown))
        event = rows["event"]
        is_bad = _is_in(_pairs(rows), disliked) & ~_is(event, "view") | _is(event, "dislike")
        not_enjoyed.add(rows, is_bad, (*_SHOWN, "event"))
        liked.add(rows, _is(event, "like") & ~is_bad, _SHOWN)
        event = pc.if_else(pc.equal(event, "like"), "click", event)
        event = pc.if_else(pa.array(is_bad), "view", event)
        rows = rows.set_column(CLICKS.get_field_index("event"), CLICKS.field("event"), event)
        if not has_views:
            rows = rows.filter(pa.array(~is_bad))
        is_repeat = repeats.among(rows)
        repeated.add(rows, is_repeat, (*_SHOWN, "timestamp"))
        yield rows.filter(pa.array(~is_repeat))
    where = "clicks: event"
    report.add("like", where, liked.count, liked.example, "counts as a click")
    action = "counts as a view" if has_views else "left out, since the log has no views"
    report.add("note that the user dislikes", where, not_enjoyed.count, not_enjoyed.example, action)
    action = "left out of clicks.parquet"
    report.add("click twice", "clicks: timestamp", repeated.count, repeated.example, action)
    report.add("click on an unknown note", "clicks: note_id", unknown.count, unknown.example, action)


def _last_words(events: Path) -> tuple[bool, pa.Array]:
    """Return whether a log has views, and the pairs of users and notes whose last word is a dislike."""
    has_views = False
    disliked: set[str] = set()
    for batch in parquet_batches(events, _BATCH, [*_SHOWN, "event"]):
        rows = pa.Table.from_batches([batch])
        has_views = has_views or bool(_is(rows["event"], "view").any())
        said = rows.filter(pc.is_in(rows["event"], pa.array(["like", "dislike"])))
        for pair, event in zip(_pairs(said).to_pylist(), said["event"].to_pylist(), strict=True):
            if event == "dislike":
                disliked.add(pair)
            else:
                disliked.discard(pair)
    return has_views, pa.array(sorted(disliked), pa.string())


class _Repeats:
    """Finds rows that equal an earlier one, in rows ascending by time."""

    def __init__(self) -> None:
        self._time: int | None = None
        self._seen: set[tuple[str, str]] = set()  # pairs and events of the rows of this time

    def among(self, rows: pa.Table) -> _Mask:
        """Return which rows equal an earlier one, of these rows or of former ones."""
        repeated = np.zeros(rows.num_rows, np.bool_)
        times = rows["timestamp"].cast(pa.int64()).to_numpy()
        pairs, events = _pairs(rows), rows["event"]
        tied = np.zeros(rows.num_rows, np.bool_)
        tied[1:] = times[1:] == times[:-1]
        tied[:-1] |= tied[1:]
        tied[:1] |= times[:1] == self._time
        tied[-1:] = True  # the next rows may be of its time
        for row in np.flatnonzero(tied):
            if times[row] != self._time:
                self._time, self._seen = int(times[row]), set()
            key = pairs[int(row)].as_py(), events[int(row)].as_py()
            repeated[row] = key in self._seen
            self._seen.add(key)
        return repeated


def _pairs(rows: pa.Table) -> pa.ChunkedArray:
    """Return user and note of each row as one text; ids have no control characters."""
    return pc.binary_join_element_wise(rows["user_id"], rows["note_id"], "\0")


def _is(column: pa.ChunkedArray, text: str) -> _Mask:
    mask: _Mask = pc.equal(column, text).to_numpy()
    return mask


def _is_in(column: pa.ChunkedArray, values: pa.Array | pa.ChunkedArray) -> _Mask:
    mask: _Mask = pc.is_in(column, value_set=values).to_numpy()
    return mask
