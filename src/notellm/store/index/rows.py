"""The rows of an index held in memory: which note each row belongs to, and its attributes for filters.

Each note has one row. A note whose vector changes gets a new row, and its former row is dead: it stays in
the arrays (and in a graph), but no search returns it. The vectors themselves belong to the index.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.store.index import base
from notellm.store.index.filters import Filter, microseconds

#: They stand for a null in the columns of times.
_UNKNOWN_TIME, _NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Column:
    """An array that grows. Its capacity is doubled, so adding n rows one by one takes O(n) time.

    Args:
        dtype: type of the values.
        shape: shape of one row; a row is one number if it is left out.
    """

    def __init__(self, dtype: Any, *shape: int) -> None:
        self._buffer = np.zeros((16, *shape), dtype=dtype)
        self._count = 0

    @property
    def values(self) -> np.ndarray:
        """The rows, as a view."""
        return self._buffer[: self._count]

    def grow(self, rows: int) -> None:
        """Add rows of zeros."""
        needed = self._count + rows
        if needed > len(self._buffer):
            capacity = max(needed, 2 * len(self._buffer))
            buffer = np.zeros((capacity, *self._buffer.shape[1:]), dtype=self._buffer.dtype)
            buffer[: self._count] = self.values
            self._buffer = buffer
        self._count = needed

    def keep(self, rows: np.ndarray) -> None:
        """Keep only these rows, in this order."""
        self._buffer = np.ascontiguousarray(self.values[rows])
        self._count = len(rows)


class Attributes:
    """The attributes of some notes, as arrays and lists in the order of the notes.

    Args:
        entries: table with the schema ``base.entries_schema``.
    """

    def __init__(self, entries: pa.Table) -> None:
        self.categories: list[str] = entries.column("category").to_pylist()
        self.topics = base.text_tuples(entries.column("topics"))
        self.published = _times(entries.column("published_at"), _UNKNOWN_TIME)
        self.expires = _times(entries.column("expires_at"), _NEVER)
        self.hidden = entries.column("hidden").to_numpy().astype(bool)


class Allowed:
    """The rows that a search may return.

    Args:
        mask: bool (n,), whether each row may be returned.
        until: time at which one of the rows expires, in microseconds since 1970.
    """

    def __init__(self, mask: np.ndarray, until: int = _NEVER) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self.until = until

    @cached_property
    def bits(self) -> np.ndarray:
        """The mask as a bitmap, lowest bit first; computed when it is first needed."""
        return np.packbits(self.mask, bitorder="little")


class Rows:
    """Ids and attributes of the rows of an index.

    Attributes:
        ids: the note id of each row; for a dead row its former note.
        row_of: the row of each note.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.row_of: dict[str, int] = {}
        self._alive = Column(bool)
        self._hidden = Column(bool)
        self._category = Column(np.int32)
        self._published = Column(np.int64)
        self._expires = Column(np.int64)
        self._columns = (self._alive, self._hidden, self._category, self._published, self._expires)
        self._categories: dict[str, int] = {}
        self._topics: dict[int, tuple[str, ...]] = {}  # of the rows that have any
        self._rows_of_topic: defaultdict[str, list[int]] = defaultdict(list)
        self._visible: Allowed | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # ---------------------------------------------------------------- writing

    def append(self, note_ids: Sequence[str], attributes: Attributes, chosen: np.ndarray) -> None:
        """Give notes new rows; the former rows of these notes are dead.

        Args:
            note_ids: the notes.
            attributes: attributes of a batch of notes.
            chosen: positions of the notes in that batch.
        """
        first = len(self.ids)
        self._kill([self.row_of[i] for i in note_ids if i in self.row_of])
        self.add_dead(note_ids)
        self.revive(np.arange(first, first + len(note_ids)), note_ids, attributes, chosen)

    def add_dead(self, note_ids: Sequence[str]) -> None:
        """Add rows that no note uses yet."""
        for column in self._columns:
            column.grow(len(note_ids))
        self.ids.extend(note_ids)

    def revive(
        self, rows: np.ndarray, note_ids: Sequence[str], attributes: Attributes, chosen: np.ndarray
    ) -> None:
        """Give dead rows to notes.

        Args:
            rows: int64 (n,), the rows.
            note_ids: the note of each row.
            attributes: attributes of a batch of notes.
            chosen: positions of the notes in that batch.
        """
        self._alive.values[rows] = True
        self.row_of.update(zip(note_ids, rows.tolist(), strict=True))
        for row, i in zip(rows.tolist(), chosen, strict=True):
            if attributes.topics[i]:
                self._topics[row] = attributes.topics[i]
                for topic in attributes.topics[i]:
                    self._rows_of_topic[topic].append(row)
        self.write(rows, attributes, chosen)

    def write(self, rows: np.ndarray, attributes: Attributes, chosen: np.ndarray) -> None:
        """Replace all attributes of rows but their topics; the arguments are those of :meth:`revive`."""
        names = [attributes.categories[i] for i in chosen]
        codes = [self._categories.setdefault(name, len(self._categories)) for name in names]
        self._category.values[rows] = codes
        self._published.values[rows] = attributes.published[chosen]
        self._expires.values[rows] = attributes.expires[chosen]
        self._hidden.values[rows] = attributes.hidden[chosen]
        self._visible = None

    def remove(self, note_ids: Collection[str]) -> None:
        """Remove notes; their rows are dead."""
        self._kill([self.row_of.pop(note_id) for note_id in note_ids if note_id in self.row_of])

    def _kill(self, rows: Sequence[int]) -> None:
        self._alive.values[rows] = False
        self._visible = None

    def compact(self) -> np.ndarray:
        """Drop dead rows, and return the former numbers of the rows that are kept, int64 (n,)."""
        alive = np.flatnonzero(self._alive.values)
        new_row = np.full(len(self.ids), -1, dtype=np.int64)
        new_row[alive] = np.arange(len(alive))
        for column in self._columns:
            column.keep(alive)
        self.ids = [self.ids[row] for row in alive]
        self.row_of = {note_id: row for row, note_id in enumerate(self.ids)}
        topics_of_row = self._topics.items()
        self._topics = {int(new_row[row]): topics for row, topics in topics_of_row if new_row[row] >= 0}
        self._rows_of_topic = defaultdict(list)
        for row, topics in self._topics.items():
            for topic in topics:
                self._rows_of_topic[topic].append(row)
        self._visible = None
        return alive

    # ---------------------------------------------------------------- reading

    def dead_share(self) -> float:
        """Return the share of rows that belong to replaced or removed notes, 0 to 1."""
        return 1 - len(self.row_of) / len(self.ids) if self.ids else 0.0

    def topics(self, row: int) -> tuple[str, ...]:
        """Return the topics of a row."""
        return self._topics.get(row, ())

    def allowed(self, where: Filter | None) -> Allowed:
        """Return the rows that a search with this filter may return now."""
        visible = self.visible()
        if where is None or where.is_empty:
            return visible
        return Allowed(visible.mask & self._passes(where))

    def visible(self) -> Allowed:
        """Return the rows that are neither dead, hidden nor expired; kept until that may have changed."""
        now = base.now()
        if self._visible is None or now >= self._visible.until:
            mask = self._alive.values & ~self._hidden.values & (self._expires.values > now)
            expiries = self._expires.values[mask]
            self._visible = Allowed(mask, int(expiries.min()) if len(expiries) else _NEVER)
        return self._visible

    def _passes(self, where: Filter) -> np.ndarray:
        """Return which rows meet the conditions of a filter, bool (n,)."""
        mask = np.ones(len(self.ids), dtype=bool)
        if where.categories:
            codes = [self._categories[name] for name in where.categories if name in self._categories]
            mask &= np.isin(self._category.values, codes)
        if where.topics:
            tagged = np.zeros(len(mask), dtype=bool)
            for topic in where.topics:
                tagged[self._rows_of_topic.get(topic, [])] = True
            mask &= tagged
        published = self._published.values
        if where.published_after is not None:
            mask &= published >= microseconds(where.published_after)
        if where.published_before is not None:
            mask &= (published < microseconds(where.published_before)) & (published != _UNKNOWN_TIME)
        if where.allow is not None:
            listed = np.zeros(len(mask), dtype=bool)
            listed[self._rows_among(where.allow)] = True
            mask &= listed
        mask[self._rows_among(where.deny)] = False
        return mask

    def _rows_among(self, note_ids: Collection[str]) -> list[int]:
        return [self.row_of[note_id] for note_id in note_ids if note_id in self.row_of]


def _times(column: pa.ChunkedArray, missing: int) -> np.ndarray:
    """Return times as int64 microseconds since 1970, with ``missing`` for nulls."""
    times: np.ndarray = pc.fill_null(column.cast(pa.int64()), missing).to_numpy().astype(np.int64)
    return times
