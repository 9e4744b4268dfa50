"""The notes of an engine by their time of publication, kept in order while notes come and go."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from datetime import datetime

from notellm.store.index.filters import microseconds
from notellm.store.rows import StoredNote


class Newest:
    """Notes in the order of their publication. One thread changes it, any thread may read it.

    Args:
        notes: the notes; those without a time of publication are left out.
    """

    def __init__(self, notes: Iterable[StoredNote] = ()) -> None:
        self._times = {note.note_id: microseconds(note.published_at) for note in notes if note.published_at}
        self._order = sorted((time, note_id) for note_id, time in self._times.items())

    def upsert(self, notes: Iterable[StoredNote]) -> None:
        """Add notes, or replace them."""
        for note in notes:
            time = None if note.published_at is None else microseconds(note.published_at)
            if self._times.get(note.note_id) == time:
                continue
            self.remove([note.note_id])
            if time is not None:
                self._times[note.note_id] = time
                insort(self._order, (time, note.note_id))

    def remove(self, note_ids: Iterable[str]) -> None:
        """Remove notes; unknown ones are ignored."""
        for note_id in note_ids:
            if (time := self._times.pop(note_id, None)) is not None:
                del self._order[bisect_left(self._order, (time, note_id))]

    def between(self, first: datetime, last: datetime) -> Iterator[str]:
        """Yield the notes that were published from one time to another, newest first."""
        start, end = (microseconds(first), ""), (microseconds(last), "\U0010ffff")
        part = self._order[bisect_left(self._order, start) : bisect_right(self._order, end)]
        return (note_id for _, note_id in reversed(part))
