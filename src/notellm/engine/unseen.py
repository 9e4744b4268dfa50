"""How many of the visible notes a model was not trained on, kept up to date while notes come and go.

A note is known by its id: one whose text has changed since the training counts as seen. Of the training only
8 bytes a note are held (`KnownIds`), of each visible note its id and when it expires.
"""

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from threading import Lock

from notellm.store.index import base
from notellm.store.index.filters import microseconds
from notellm.store.known_ids import KnownIds
from notellm.store.rows import StoredNote

_NEVER = 1 << 63  # later than every time
_SPARE = 1_000  # outdated times of expiry that are kept besides as many as there are notes


class Unseen:
    """Counts visible notes, and those of them that are new to a model. Threads may share it.

    Args:
        trained: the notes that the model was trained on; None if that is not known.
        notes: the first notes.
    """

    def __init__(self, trained: KnownIds | None, notes: Iterable[StoredNote] = ()) -> None:
        self._trained = trained
        self._visible: dict[str, int] = {}  # when each expires
        self._unseen: set[str] = set()
        self._expiring: list[tuple[int, str]] = []  # a heap; what `_visible` does not say is outdated
        self._lock = Lock()
        self.upsert(notes)

    def upsert(self, notes: Iterable[StoredNote]) -> None:
        """Add notes, or replace them."""
        now = base.now()
        with self._lock:
            for note in notes:
                self._drop(note.note_id)
                expires = _NEVER if note.expires_at is None else microseconds(note.expires_at)
                if note.hidden or expires <= now:
                    continue
                self._visible[note.note_id] = expires
                if expires != _NEVER:
                    heappush(self._expiring, (expires, note.note_id))
                if self._trained is not None and note.note_id not in self._trained:
                    self._unseen.add(note.note_id)
            if len(self._expiring) > 2 * len(self._visible) + _SPARE:
                self._expiring = [(time, name) for name, time in self._visible.items() if time != _NEVER]
                heapify(self._expiring)

    def remove(self, note_ids: Iterable[str]) -> None:
        """Remove notes; unknown ones are ignored."""
        with self._lock:
            for note_id in note_ids:
                self._drop(note_id)

    def counts(self) -> tuple[int, int | None]:
        """Return how many notes are visible now, and how many of these are new to the model, if known."""
        now = base.now()
        with self._lock:
            while self._expiring and self._expiring[0][0] <= now:
                time, note_id = heappop(self._expiring)
                if self._visible.get(note_id) == time:
                    self._drop(note_id)
            return len(self._visible), None if self._trained is None else len(self._unseen)

    def _drop(self, note_id: str) -> None:
        self._visible.pop(note_id, None)
        self._unseen.discard(note_id)
