"""Impressions as integer codes, to compare rows and histories of parts with millions of entries."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_ENTRIES = 1 << 21  # entries of histories that are compared at once


class ImpressionRows:
    """The rows of impressions as integer codes, by part.

    Args:
        tables: impressions by part.

    Attributes:
        order_only: whether times can be compared within a user only.
        users: (rows,) code of the user.
        notes: (rows,) code of the note.
        times: (rows,) microseconds.
        keys: (rows,) number of the user, the note and the time; equal for equal rows.
    """

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._tables = tables
        whole = pa.concat_tables([each.drop_columns(["history"]) for each in tables.values()])
        self.order_only = bool(whole.num_rows) and is_order_only(whole)
        self._note_ids = whole["note_id"].unique()
        self._user_count = pc.count_distinct(whole["user_id"]).as_py()
        user = pc.index_in(whole["user_id"], value_set=whole["user_id"].unique()).to_numpy().astype(np.int64)
        note = pc.index_in(whole["note_id"], value_set=self._note_ids).to_numpy().astype(np.int64)
        time = whole["timestamp"].cast(pa.int64()).to_numpy()
        pair = user * len(self._note_ids) + note
        _, moment = np.unique(time, return_inverse=True)
        _, place = np.unique(pair, return_inverse=True)
        key = place * (int(moment.max(initial=0)) + 1) + moment
        ends = np.cumsum([table.num_rows for table in tables.values()])[:-1]
        self.users, self.notes, self.times, self.keys = (
            dict(zip(tables, np.split(each, ends), strict=True)) for each in (user, note, time, key)
        )
        # When each user first liked each note, by pair.
        liked = whole["label"].to_numpy(zero_copy_only=False).astype(bool)
        order = np.lexsort((time[liked], pair[liked]))
        self._liked, first = np.unique(pair[liked][order], return_index=True)
        self._liked_at = time[liked][order][first]

    def newest(self, name: str) -> Ints:
        """Return the time of the newest row of a part for each user, (users,); of all users if comparable."""
        newest = np.full(self._user_count, np.iinfo(np.int64).min)
        if not self.order_only:
            newest[:] = self.times[name].max()
        np.maximum.at(newest, self.users[name], self.times[name])
        return newest

    def wrong_histories(self, name: str) -> tuple[Mask, Mask]:
        """Return which histories of a part hold their own note, and which one that was liked later."""
        count = self._tables[name].num_rows
        own, future = np.zeros((2, count), np.bool_)
        for flat, row in _histories(self._tables[name]["history"]):
            held = pc.fill_null(pc.index_in(flat, value_set=self._note_ids), -1).to_numpy().astype(np.int64)
            own[row[held == self.notes[name][row]]] = True
            dated = self._liked_after(self.users[name][row], held, self.times[name][row])
            future[row[dated]] = True
        return own, future

    def _liked_after(self, user: Ints, note: Ints, time: Ints) -> Mask:
        """Return whether each user liked a note only after a time, (n,); not if nobody knows when."""
        if not len(self._liked):
            return np.zeros(len(user), np.bool_)
        key = user * len(self._note_ids) + note
        place = np.minimum(np.searchsorted(self._liked, key), len(self._liked) - 1)
        found: Mask = (note >= 0) & (self._liked[place] == key) & (self._liked_at[place] > time)
        return found


def _histories(column: pa.ChunkedArray) -> Iterator[tuple[pa.Array, Ints]]:
    """Yield the entries of some histories and the rows that they are of."""
    first = 0
    for chunk in column.chunks:
        lengths = pc.list_value_length(chunk).to_numpy().astype(np.int64)
        step = max(1, _ENTRIES // max(1, int(lengths.max(initial=0))))
        for start in range(0, len(chunk), step):
            part = slice(start, start + step)
            row = np.repeat(first + np.arange(len(chunk))[part], lengths[part])
            yield pc.list_flatten(chunk.slice(start, step)), row
        first += len(chunk)
