"""Click-through of recommendations: how many notes that were shown were opened, by source and by position.

    click-through = notes clicked or liked in the list that showed them / notes shown

A click belongs to the hour of its list. A (list, note) counts once, however often it is opened. The latest
100,000 lists are held in memory to find those that clicks name, about 0.5 KB for a list of 20 notes. Counts
are held for each hour of the last 7 days, by 3 sources and 21 positions at most, and since the start.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from sys import intern
from threading import Lock
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.ids import codes
from notellm.store.clicks import Click, ClickLog
from notellm.store.shown import SHOWN_LOG, ShownList, ShownLog

#: Days of which :meth:`ClickThrough.last_days` tells.
DAYS = 7
#: The last position that is counted by itself; those after it are counted together.
LAST_POSITION = 20
#: Events that open a note.
OPENED = ("click", "like")
#: What became of a click that names a list: it counted; the note counted already; no list that is remembered
#: has this id; the list does not have the note; the list was another user's.
Outcome = Literal["counted", "repeated", "unknown_request", "unknown_note", "other_user"]
OUTCOMES: tuple[Outcome, ...] = ("counted", "repeated", "unknown_request", "unknown_note", "other_user")

#: Source and position of notes that are counted together.
Cell: TypeAlias = tuple[str, str]

_REMEMBERED = 100_000  # lists
_HOUR = 3600
_LATER = f"{LAST_POSITION + 1}+"
_COLUMNS = ("request_id", "user_id", "timestamp", "note_ids", "sources")


@dataclass(frozen=True)
class Rate:
    """Notes that were shown, and how many of them were opened."""

    shown: int
    clicked: int


@dataclass(slots=True)
class _Remembered:
    """A list that clicks may name; ``clicked`` has a bit for each position whose note was opened."""

    user_id: str
    hour: int
    note_ids: tuple[str, ...]
    sources: tuple[str, ...]
    clicked: int = 0


class ClickThrough:
    """The click-through of the lists of an engine. Threads may share it.

    Attributes:
        shown: notes shown since the start, by source and position.
        clicked: those of them that were opened since the start, whenever they were shown.
        outcomes: what became of the clicks since the start that name a list.
    """

    def __init__(self) -> None:
        self.shown: Counter[Cell] = Counter()
        self.clicked: Counter[Cell] = Counter()
        self.outcomes: Counter[Outcome] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._lists: dict[str, _Remembered] = {}  # oldest first
        self._patterns: dict[tuple[str, ...], tuple[str, ...]] = {}  # lists with equal sources share them
        self._hours: dict[int, tuple[Counter[Cell], Counter[Cell]]] = {}  # shown and clicked
        self._exposures: Counter[str] = Counter()  # how often each note of these lists was shown
        self._lock = Lock()

    @classmethod
    def from_logs(cls, shown: ShownLog, clicks: ClickLog) -> Self:
        """Read the last days from the logs of a store; nothing counts as shown since the start.

        Raises:
            StorageError: if a log cannot be read.
        """
        found = cls()
        since = datetime.now(UTC) - timedelta(days=DAYS)
        opened = _opened(clicks, since)
        names = pa.array(list(opened), pa.string())
        latest = SHOWN_LOG.empty_table().select(list(_COLUMNS))
        marks: dict[str, int] = {}
        for batch in shown.batches(_COLUMNS, since=since):
            lists = pa.Table.from_batches([batch])
            for hour, cell, count in _counted(lists):
                found._cells(hour)[0][cell] += count
            for row in lists.filter(pc.is_in(lists["request_id"], value_set=names)).to_pylist():
                marks[row["request_id"]] = mark = _mark(row, opened[row["request_id"]])
                cells = (cell for place, cell in enumerate(_cells_of(row["sources"])) if mark >> place & 1)
                found._cells(hour_of(row["timestamp"]))[1].update(cells)
            latest = pa.concat_tables([latest, lists]).sort_by("timestamp")
            latest = latest.slice(max(0, latest.num_rows - _REMEMBERED))
        columns = [latest[name].to_pylist() for name in _COLUMNS[:3]]
        columns += [_tuples(latest[name]) for name in _COLUMNS[3:]]
        for request_id, *rest in zip(*columns, strict=True):
            found._remember(request_id, *rest).clicked = marks.get(request_id, 0)
        return found

    def show(self, each: ShownList) -> None:
        """Count the notes of a list, and remember it."""
        cells = list(_cells_of(each.sources))
        note_ids, sources = tuple(map(_shared, each.note_ids)), tuple(map(_shared, each.sources))
        with self._lock:
            kept = self._remember(each.request_id, each.user_id, each.timestamp, note_ids, sources)
            self.shown.update(cells)
            self._cells(kept.hour)[0].update(cells)
            self._drop_old(kept.hour)

    def click(self, clicks: Iterable[Click]) -> None:
        """Count clicks and likes that name a list; others are passed over."""
        with self._lock:
            for click in clicks:
                if click.request_id and click.event in OPENED:
                    self.outcomes[self._count(click)] += 1

    def _count(self, click: Click) -> Outcome:
        """Count one click, if it counts."""
        if (each := self._lists.get(click.request_id)) is None:
            return "unknown_request"
        if each.user_id not in ("", click.user_id):
            return "other_user"
        if click.note_id not in each.note_ids:
            return "unknown_note"
        place = each.note_ids.index(click.note_id)
        if each.clicked >> place & 1:
            return "repeated"
        each.clicked |= 1 << place
        cell = each.sources[place], _label(place + 1)
        self.clicked[cell] += 1
        if each.hour in self._hours:
            self._hours[each.hour][1][cell] += 1
        return "counted"

    def forget(self, user_id: str) -> None:
        """Forget the lists of a user; what they counted stays, since it names nobody."""
        with self._lock:
            self._lists = {name: each for name, each in self._lists.items() if each.user_id != user_id}
            self._exposures = Counter(note_id for each in self._lists.values() for note_id in each.note_ids)

    def since_start(self) -> tuple[dict[Cell, int], dict[Cell, int], dict[Outcome, int]]:
        """Return copies of ``shown``, ``clicked`` and ``outcomes`` that belong together."""
        with self._lock:
            return dict(self.shown), dict(self.clicked), dict(self.outcomes)

    def last_days(self) -> tuple[dict[str, Rate], dict[str, Rate]]:
        """Return what was shown in the last days, by whole hours, and opened since.

        Returns:
            By source, the most shown first; and by position, ascending ("1" to "20", "21+").
        """
        totals: tuple[Counter[Cell], Counter[Cell]] = Counter(), Counter()
        with self._lock:
            self._drop_old(hour_of(datetime.now(UTC)))
            for hour in self._hours.values():
                for total, counts in zip(totals, hour, strict=True):
                    total.update(counts)
        sums: tuple[dict[str, list[int]], dict[str, list[int]]] = {}, {}
        for kind, total in enumerate(totals):
            for cell, count in total.items():
                for by, key in zip(sums, cell, strict=True):
                    by.setdefault(key, [0, 0])[kind] += count
        sources, positions = ({key: Rate(*pair) for key, pair in by.items()} for by in sums)
        order = [_label(position) for position in range(1, LAST_POSITION + 2)]
        return (
            dict(sorted(sources.items(), key=lambda item: (-item[1].shown, item[0]))),
            {key: positions[key] for key in order if key in positions},
        )

    def by_day(self) -> dict[date, Rate]:
        """Return what was shown on each of the last days, UTC, and opened since; the earliest day first."""
        today = datetime.now(UTC).date()
        sums = {today - timedelta(days=before): [0, 0] for before in reversed(range(DAYS))}
        with self._lock:
            for hour, counts in self._hours.items():
                if (pair := sums.get(datetime.fromtimestamp(hour * _HOUR, UTC).date())) is not None:
                    for kind, cells in enumerate(counts):
                        pair[kind] += cells.total()
        return {day: Rate(*pair) for day, pair in sums.items()}

    def _remember(
        self,
        request_id: str,
        user_id: str,
        time: datetime,
        note_ids: tuple[str, ...],
        sources: tuple[str, ...],
    ) -> _Remembered:
        sources = self._patterns.setdefault(sources, sources)
        each = _Remembered(_shared(user_id), hour_of(time), note_ids, sources)
        self._lists[request_id] = each
        if len(self._lists) > _REMEMBERED:
            dropped = self._lists.pop(next(iter(self._lists)))
            self._exposures.subtract(dropped.note_ids)
            for note_id in dropped.note_ids:
                if not self._exposures[note_id]:
                    del self._exposures[note_id]
        self._exposures.update(note_ids)
        return each

    def exposure(self, note_id: str) -> int:
        """Return how often a note was shown in the lists that are remembered."""
        return self._exposures[note_id]

    def _cells(self, hour: int) -> tuple[Counter[Cell], Counter[Cell]]:
        return self._hours.setdefault(hour, (Counter(), Counter()))

    def _drop_old(self, now: int) -> None:
        # Not only from the front: they are out of order after a clock has been set back.
        for hour in [hour for hour in self._hours if hour <= now - 24 * DAYS]:
            del self._hours[hour]


def _shared(text: str) -> str:
    """Return the one object of a text that everybody shares; a subclass, such as numpy's, has none."""
    return intern(str(text))


def hour_of(time: datetime) -> int:
    """Return the hour of a time, as whole hours since 1970."""
    return int(time.timestamp()) // _HOUR


def _label(position: int) -> str:
    """Return what a position, from 1, is counted as."""
    return str(position) if position <= LAST_POSITION else _LATER


def _cells_of(sources: Iterable[str]) -> Iterator[Cell]:
    return ((source, _label(place)) for place, source in enumerate(sources, start=1))


# -------------------------------------------------------------------- reading the logs


def _opened(clicks: ClickLog, since: datetime) -> dict[str, set[tuple[str, str]]]:
    """Return for each list that clicks and likes name the users and notes of these clicks."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for batch in clicks.batches(("request_id", "user_id", "note_id", "event"), since=since):
        is_open = pc.is_in(batch["event"], value_set=pa.array(OPENED))
        rows = batch.filter(pc.and_(is_open, pc.not_equal(batch["request_id"], "")))
        for request_id, *pair in zip(*(column.to_pylist() for column in rows.columns[:3]), strict=True):
            found[request_id].add((pair[0], pair[1]))
    return found


def _mark(row: dict[str, Any], opened: Iterable[tuple[str, str]]) -> int:
    """Return a list's ``clicked``, by the users and notes of the clicks that name it."""
    mark = 0
    for user_id, note_id in opened:
        if row["user_id"] in ("", user_id) and note_id in row["note_ids"]:
            mark |= 1 << row["note_ids"].index(note_id)
    return mark


def _tuples(column: pa.ChunkedArray) -> Iterator[tuple[str, ...]]:
    """Yield the lists of a column, in which equal texts are one object."""
    numbers, names = codes(pc.list_flatten(column))
    texts, flat = [_shared(name) for name in names.to_pylist()], numbers.tolist()
    start = 0
    for length in pc.list_value_length(column).to_pylist():
        yield tuple(map(texts.__getitem__, flat[start : start + length]))
        start += length


def _counted(lists: pa.Table) -> Iterator[tuple[int, Cell, int]]:
    """Yield the number of notes of some lists by hour and cell."""
    lengths = pc.list_value_length(lists["sources"]).to_numpy()
    sources, names = codes(pc.list_flatten(lists["sources"]))
    hours = np.repeat(lists["timestamp"].cast(pa.int64()).to_numpy() // (_HOUR * 1_000_000), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.minimum(np.arange(len(hours)) - starts, LAST_POSITION) + 1
    shape = (len(names), LAST_POSITION + 2)
    kinds = (hours * shape[0] + sources) * shape[1] + places
    for kind, count in zip(*np.unique(kinds, return_counts=True), strict=True):
        rest, place = divmod(int(kind), shape[1])
        hour, source = divmod(rest, shape[0])
        yield hour, (names[source].as_py(), _label(place)), int(count)
