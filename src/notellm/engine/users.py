"""What users did since the ranker was trained: the latest clicks of each, from the log of the store.

A user's history is what the ranker remembers, then the notes clicked or liked since, oldest first; a note
that was opened again counts where it was opened last. A disliked note is no history. All notes that the user
viewed, clicked, liked or disliked have been seen, and are not recommended.
"""

from bisect import insort
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter

import pyarrow as pa

from notellm.store.clicks import Click, ClickLog

#: Latest clicks of a user that are held in memory; older ones are in the log alone.
MOST = 200
_OPENED = ("click", "like")
_COLUMNS = ("user_id", "timestamp", "note_id", "event")
#: Time in microseconds since 1970, note and event of a click.
_Entry = tuple[int, str, str]
_first = itemgetter(0)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


@dataclass(frozen=True)
class Known:
    """What is known of a user.

    Attributes:
        history: notes that the user opened, oldest first.
        seen: all notes that the user has seen.
    """

    history: list[str]
    seen: frozenset[str]


class LiveUsers:
    """The latest clicks of all users. One thread changes them, any thread may read them.

    Attributes:
        opened: how many of these users opened each note, and did not dislike it last.
    """

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        self._entries: dict[str, list[_Entry]] = {}

    @classmethod
    def from_log(cls, log: ClickLog) -> "LiveUsers":
        """Read the latest clicks of each user from a log.

        Raises:
            StorageError: if it cannot be read.
        """
        users = cls()
        if not (batches := list(log.batches(_COLUMNS))):
            return users
        rows = pa.Table.from_batches(batches)
        rows = rows.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
        times = rows["timestamp"].cast(pa.int64()).to_pylist()
        entries = zip(times, rows["note_id"].to_pylist(), rows["event"].to_pylist(), strict=True)
        for user_id, group in groupby(zip(rows["user_id"].to_pylist(), entries, strict=True), _first):
            users._replace(user_id, [entry for _, entry in deque(group, MOST)])
        return users

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._entries))

    def add(self, clicks: Iterable[Click]) -> None:
        """Add clicks with their times."""
        for click in clicks:
            time = 0 if click.timestamp is None else _time_of(click.timestamp)
            entry = time, click.note_id, click.event
            entries = list(self._entries.get(click.user_id, ()))  # readers keep the former list
            insort(entries, entry)
            self._replace(click.user_id, entries[-MOST:])

    def forget(self, user_id: str) -> None:
        """Forget a user."""
        self._replace(user_id, [])

    def _replace(self, user_id: str, entries: list[_Entry]) -> None:
        """Replace what is known of a user; readers may keep the former list."""
        before, after = _opened(self._entries.get(user_id, ())), _opened(entries)
        self.opened.update(after - before)
        for note_id in before - after:
            self.opened[note_id] -= 1
            if not self.opened[note_id]:
                del self.opened[note_id]
        if entries:
            self._entries[user_id] = entries
        else:
            self._entries.pop(user_id, None)

    def latest(self) -> Iterator[tuple[str, datetime]]:
        """Yield each user and the time of the latest click."""
        for user_id, entries in self._entries.items():
            yield user_id, _EPOCH + entries[-1][0] * _MICROSECOND

    def known(self, user_id: str, before: Sequence[str] = (), *, until: datetime | None = None) -> Known:
        """Return what is known of a user.

        Args:
            user_id: the user, who may be unknown.
            before: the history that the ranker remembers, oldest first.
            until: leave out clicks of this time and later ones; None takes all.
        """
        entries = self._entries.get(user_id, [])
        if until is not None:
            end = _time_of(until)
            entries = [entry for entry in entries if entry[0] < end]
        disliked = _disliked(entries)
        opened = [*before, *(note_id for _, note_id, event in entries if event in _OPENED)]
        latest = list(dict.fromkeys(reversed(opened)))[::-1]
        seen = frozenset([*before, *(note_id for _, note_id, _ in entries)])
        return Known([note_id for note_id in latest if note_id not in disliked], seen)


def _disliked(entries: Sequence[_Entry]) -> set[str]:
    """Return the notes of which the last word is a dislike."""
    last_said = {note_id: event for _, note_id, event in entries if event in ("like", "dislike")}
    return {note_id for note_id, event in last_said.items() if event == "dislike"}


def _opened(entries: Sequence[_Entry]) -> set[str]:
    """Return the notes that were opened and not disliked."""
    return {note_id for _, note_id, event in entries if event in _OPENED} - _disliked(entries)


def _time_of(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND
