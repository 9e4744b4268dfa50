"""Recall on the latest clicks: how often recall offers what users then open, had it been asked before.

    recall = samples whose note is among the candidates of the user's history before the click / samples

Samples are at most 5 clicks or likes, drawn uniformly, of every 5 seconds, measured in the background, so no
click and no recommendation waits. Only the first opening of a visible note by a user with a history counts.
Clicks that name a list ("list") are apart from others ("elsewhere"): most lists were made by recall, so their
clicks were offered nearly always. Figures are held by day for the last days, and are lost when the engine is
closed.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from threading import Lock, Timer
from typing import Literal, TypeAlias

import numpy as np

from notellm.engine.click_through import DAYS, OPENED
from notellm.engine.users import LiveUsers
from notellm.errors import DataError
from notellm.recommend.recommender import Recommender
from notellm.store.clicks import Click
from notellm.store.rows import StoredNote, is_visible

log = logging.getLogger("notellm.engine")

#: Where a click came from: a list that it names, or anywhere else.
Origin = Literal["list", "elsewhere"]
ORIGINS: tuple[Origin, ...] = ("list", "elsewhere")

_PERIOD = 5.0  # seconds from the first click that waits to the measuring
_SAMPLES = 5  # clicks of a period that are measured
_LATEST = timedelta(days=1)  # older clicks, such as those of an import, are not measured


@dataclass(frozen=True)
class Offered:
    """Clicks that were sampled, and how many of their notes recall would have offered."""

    samples: int
    found: int


_Counts: TypeAlias = Counter[tuple[Origin, bool]]


class LatestRecall:
    """Measures a sample of the clicks that arrive. Threads may share it.

    Args:
        measure: says whether recall would have offered the note of a click; None if the click does not count.
        seed: seed of the sample.

    Attributes:
        since: when the measuring began.
    """

    def __init__(self, measure: Callable[[Click], bool | None], *, seed: int = 0) -> None:
        self.since = datetime.now(UTC)
        self._measure = measure
        self._draw = np.random.default_rng(seed)
        self._waiting: list[Click] = []
        self._arrived = 0  # clicks of this period, from which those that wait were drawn
        self._days: dict[date, _Counts] = {}
        self._total: _Counts = Counter()
        self._timer: Timer | None = None  # runs while clicks wait
        self._is_closed = False
        self._lock = Lock()  # held for moments
        self._measuring = Lock()

    def offer(self, clicks: Iterable[Click]) -> None:
        """Let some of the clicks be measured soon; they have their times."""
        first = datetime.now(UTC) - _LATEST
        with self._lock:
            for click in clicks:
                if click.event not in OPENED or click.timestamp is None or click.timestamp < first:
                    continue
                self._arrived += 1
                if len(self._waiting) < _SAMPLES:
                    self._waiting.append(click)
                elif (place := int(self._draw.integers(self._arrived))) < _SAMPLES:
                    self._waiting[place] = click
            if self._waiting and self._timer is None and not self._is_closed:
                self._timer = Timer(_PERIOD, self._measure_in_background)
                self._timer.daemon = True
                self._timer.start()

    def measure(self) -> None:
        """Measure the clicks that wait."""
        with self._lock:
            clicks, self._waiting, self._arrived = self._waiting, [], 0
        for click in clicks:
            with self._measuring:
                if self._is_closed:
                    return
                try:
                    found = self._measure(click)
                except Exception:  # whatever one click meets, the next ones are measured
                    log.exception("recall on a click was not measured")
                    continue
            if found is not None:
                self._count(click, found)

    def since_start(self) -> dict[Origin, Offered]:
        """Return what was measured since :attr:`since`."""
        with self._lock:
            return _offered(self._total)

    def by_day(self) -> dict[date, dict[Origin, Offered]]:
        """Return what was measured on each of the last days, UTC; the earliest day first."""
        today = datetime.now(UTC).date()
        days = [today - timedelta(days=before) for before in reversed(range(DAYS))]
        with self._lock:
            return {day: _offered(self._days.get(day, Counter())) for day in days}

    def close(self) -> None:
        """Measure no more; what is measured at this moment is waited for, since it uses the index."""
        with self._measuring, self._lock:
            self._is_closed = True
            self._waiting = []
            if self._timer is not None:
                self._timer.cancel()

    def _count(self, click: Click, found: bool) -> None:
        now = datetime.now(UTC)
        day = min(click.timestamp or now, now).astimezone(UTC).date()  # a client's clock may be ahead
        origin: Origin = "list" if click.request_id else "elsewhere"
        with self._lock:
            self._total[origin, found] += 1
            self._days.setdefault(day, Counter())[origin, found] += 1
            for old in [each for each in self._days if each <= now.date() - timedelta(days=DAYS)]:
                del self._days[old]

    def _measure_in_background(self) -> None:
        with self._lock:
            self._timer = None
        self.measure()


def was_offered(
    recommender: Recommender | None, users: LiveUsers, notes: Mapping[str, StoredNote], click: Click
) -> bool | None:
    """Return whether recall offers the note of a click from what the user had opened before.

    Args:
        recommender: searches the candidates; None if there is none.
        users: the latest clicks of each user, with this one.
        notes: all notes.
        click: the click, with its time.

    Returns:
        None if the click does not count: the note is not there or not visible, the user opened it before, or
        had opened nothing that is there.
    """
    note = notes.get(click.note_id)
    if recommender is None or note is None or not is_visible(note):
        return None
    remembered = recommender.ranker.histories.get(click.user_id, ())
    before = users.known(click.user_id, remembered, until=click.timestamp)
    if click.note_id in before.history:
        return None
    try:
        # A view comes before most clicks, and must not keep the note from being offered.
        offered = recommender.candidates(before.history, exclude=before.seen - {click.note_id})
    except DataError:  # a note of the history was removed at this moment
        return None
    return click.note_id in offered if offered else None


def _offered(counts: _Counts) -> dict[Origin, Offered]:
    return {
        origin: Offered(counts[origin, True] + counts[origin, False], counts[origin, True])
        for origin in ORIGINS
    }
