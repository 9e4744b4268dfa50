"""A click log as integer codes: 17 bytes a row, and each distinct id once.

Reading and cleaning work on codes, so that a log of many millions of clicks fits into memory; its texts are
written out in pieces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm.data.ids import encoded
from notellm.data.schema import CLICKS, TIME

Codes = npt.NDArray[np.int32]
Times = npt.NDArray[np.int64]

#: The time of a row without one.
NO_TIME = np.iinfo(np.int64).min
_PIECE = 1 << 20
#: Microseconds of 1970, in which logs lie that keep only an order.
YEAR = 365 * 86_400_000_000


def only_order(times: Times) -> bool:
    """Tell whether there are times, and all of them lie in 1970."""
    known = times[times != NO_TIME]
    return bool(len(known)) and bool(known.min() >= 0) and bool(known.max() < YEAR)


@dataclass(frozen=True)
class Coded:
    """A column of texts as codes.

    Attributes:
        codes: int32 (n,), the place of each row's text in ``values``; -1 if it is missing.
        values: the distinct texts, in the order in which they first appear.
    """

    codes: Codes
    values: pa.Array

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Coded":
        """Encode a column of any type that Arrow can compare; the values keep its type."""
        chunks = encoded(column).chunks
        if not chunks:
            kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
            return cls(np.empty(0, np.int32), pa.array([], kind))
        codes: list[npt.NDArray[Any]] = [
            chunk.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False) for chunk in chunks
        ]
        coded = cls(np.concatenate(codes), chunks[0].dictionary)
        return coded._by_appearance() if pa.types.is_dictionary(column.type) else coded

    def _by_appearance(self) -> "Coded":
        """Return the same column, whose values stand in the order in which they first appear."""
        firsts = np.full(len(self.values) + 1, len(self.codes), np.int64)  # the last is that of missing texts
        step = 1 << 22
        for start in reversed(range(0, len(self.codes), step)):
            part = self.codes[start : start + step]
            firsts[part[::-1]] = np.arange(start + len(part) - 1, start - 1, -1)
        order = np.argsort(firsts[:-1], kind="stable")
        if (order == np.arange(len(order))).all():
            return self
        rank = np.empty(len(order) + 1, np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        rank[-1] = -1
        return Coded(rank[self.codes], self.values.take(pa.array(order)))

    def counts(self) -> npt.NDArray[np.int64]:
        """Return the number of rows of each value."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))

    def with_values(self, values: pa.Array) -> "Coded":
        """Return the column with other texts: null is missing, and equal ones are one."""
        distinct = values.dictionary_encode()
        places = distinct.indices.cast(pa.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
        places = np.append(places, np.int32(-1))  # for rows without a text
        return Coded(places[self.codes].astype(np.int32, copy=False), distinct.dictionary)

    def take(self, rows: npt.NDArray[Any]) -> "Coded":
        """Return some rows, chosen by place or by a mask."""
        return Coded(self.codes[rows], self.values)

    def array(self, start: int = 0, end: int | None = None) -> pa.Array:
        """Return rows as text."""
        codes = self.codes[start:end]
        return self.values.cast(pa.string()).take(pa.array(codes, mask=codes < 0))


@dataclass(frozen=True)
class ClickLog:
    """A click log as codes.

    Attributes:
        users: the user of each row.
        notes: the note of each row.
        times: int64 (n,), microseconds since 1970; ``NO_TIME`` if a row has none.
        events: the event of each row.
    """

    users: Coded
    notes: Coded
    times: Times
    events: Coded

    def __len__(self) -> int:
        return len(self.times)

    def take(self, rows: npt.NDArray[Any]) -> "ClickLog":
        """Return some rows, chosen by place or by a mask."""
        return ClickLog(
            self.users.take(rows), self.notes.take(rows), self.times[rows], self.events.take(rows)
        )

    def pieces(self, schema: pa.Schema = CLICKS) -> Iterator[pa.Table]:
        """Yield the rows as tables of a million rows, at least one.

        Args:
            schema: CLICKS, or the same with nulls.
        """
        for start in range(0, max(1, len(self)), _PIECE):
            columns = [self._cells(name, start, start + _PIECE) for name in schema.names]
            yield pa.table(columns, schema=schema)

    def column_pieces(self, name: str) -> Iterator[pa.ChunkedArray]:
        """Yield one column of the rows, a million at a time."""
        for start in range(0, len(self), _PIECE):
            yield pa.chunked_array([self._cells(name, start, start + _PIECE)])

    def _cells(self, name: str, start: int, end: int) -> pa.Array:
        if name == "timestamp":
            times = self.times[start:end]
            return pa.array(times, pa.int64(), mask=times == NO_TIME).cast(TIME)
        column = {"user_id": self.users, "note_id": self.notes, "event": self.events}[name]
        return column.array(start, end)

    def table(self, schema: pa.Schema = CLICKS) -> pa.Table:
        """Return all rows as one table."""
        return pa.concat_tables(self.pieces(schema))
