"""A simulated feed: the sample world, whose truth says what each user wants, and simple ways to fill it."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.impressions import click_histories
from notellm.data.sample.truth import note_id
from notellm.data.sample_world import SampleWorld, sample_world
from notellm.data.schema import NOTES, TIME

K = 10
DAY = timedelta(hours=12)  # of the log
_EXAMINED = 0.9  # of those who look at a place, how many look at the next one
_WANTED, _UNWANTED = 0.5, 0.03  # probability that a note that is looked at is clicked
_MAIN = 0.7  # share of the visits that follow the main interest of the day
_SEARCHES = 0.3  # share of the visits that begin with a search
_NEW_CONCEPTS = 16


@dataclass
class Feed:
    """A simulated feed: what there is before the days begin, and what happens on each of them.

    Attributes:
        world: the sample world.
        days: number of days.
        notes: rows of the notes that are there from the start.
        published: rows of the notes published on each day.
        log: the clicks before, schema CLICKS, times shifted.
        begin: when the first day begins.
        main: (days, users) main interest of each user on each day.
        visits: users who open the feed on each day, in order.
        seed: seed of everything that is drawn.
    """

    world: SampleWorld
    days: int
    notes: np.ndarray
    published: list[np.ndarray]
    log: pa.Table
    begin: datetime
    main: np.ndarray
    visits: list[np.ndarray]
    seed: int

    @classmethod
    def make(cls, *, days: int, visits: int, per_day: int, notes: int, seed: int) -> "Feed":
        """Draw a feed."""
        rng = np.random.default_rng(seed + 1_000)
        world = sample_world(notes=notes, users=600, clicks=24_000, bots=0, seed=seed)
        truth = world.truth
        pairs = {tuple(sorted((concept, int(other)))) for concept, other in enumerate(truth.complement)}
        chosen = rng.permutation(sorted(pairs))[: _NEW_CONCEPTS // 2]
        is_new = np.isin(truth.note_concept, chosen.ravel())
        late = rng.permutation(np.flatnonzero(is_new))[: per_day * days // 2]
        others = rng.permutation(np.flatnonzero(~is_new))
        early, more = np.split(others, [len(others) - (per_day * days - len(late))])
        published = np.array_split(rng.permutation(np.concatenate([late, more])), days)
        begin = datetime.now(UTC).replace(microsecond=0) - days * DAY
        log = world.clicks.filter(pc.is_in(world.clicks["note_id"], pa.array([note_id(i) for i in early])))
        shift = begin - pc.max(log["timestamp"]).as_py() - timedelta(minutes=1)
        times = pc.add(log["timestamp"], pa.scalar(shift)).cast(TIME)
        log = log.set_column(log.column_names.index("timestamp"), log.schema.field("timestamp"), times)

        users = len(truth.bots)
        turns = rng.integers(0, 2 * days, users)  # half of the users turn to something new within these days
        newly = rng.choice(chosen.ravel(), users)
        old = np.array(
            [next((i for i in row[::-1] if i not in chosen), row[0]) for row in truth.user_interests]
        )
        main = np.where(turns[None, :] <= np.arange(days)[:, None], newly[None, :], old[None, :])
        activity = rng.lognormal(0, 1.0, users)
        drawn = [rng.choice(users, visits, p=activity / activity.sum()) for _ in range(days)]
        return cls(world, days, early, published, log, begin, main, drawn, seed)

    def wants(self, day: int, user: int, visit: int) -> set[int]:
        """Return the concepts that a user wants at a visit."""
        draw = np.random.default_rng([self.seed, day, user, visit])
        truth = self.world.truth
        base = (
            int(self.main[day, user])
            if draw.random() < _MAIN
            else int(draw.choice(truth.user_interests[user]))
        )
        return {base, int(truth.complement[base])}

    def fits(self, row: int, user: int, wanted: Collection[int]) -> bool:
        """Return whether a note is of wanted concepts, and in the language of the user."""
        truth = self.world.truth
        return truth.note_concept[row] in wanted and truth.note_language[row] == truth.user_language[user]

    def searched(self, day: int, user: int, visit: int, unseen: Sequence[int]) -> int | None:
        """Return the note that a user finds and opens before looking at the feed, or None."""
        draw = np.random.default_rng([self.seed, day, user, visit, 1])
        if draw.random() >= _SEARCHES:
            return None
        wanted = self.wants(day, user, visit)
        found = [row for row in unseen if self.fits(row, user, wanted)]
        return int(draw.choice(found)) if found else None

    def histories(self) -> dict[int, set[int]]:
        """Return the notes that each user opened before the days begin."""
        return {
            int(user[1:]): {int(note[1:]) for note in opened}
            for user, opened in click_histories(self.log).items()
        }

    def clicked(self, day: int, user: int, visit: int, shown: Sequence[int]) -> list[bool]:
        """Return which of the shown notes the user clicks."""
        truth, wanted = self.world.truth, self.wants(day, user, visit)
        clicks = []
        for place, row in enumerate(shown):
            same = truth.note_language[row] == truth.user_language[user]
            chance = _EXAMINED**place * (_WANTED if self.fits(row, user, wanted) else _UNWANTED) * same
            clicks.append(bool(np.random.default_rng([self.seed, day, user, visit, row]).random() < chance))
        return clicks

    def time(self, day: int, part: float) -> datetime:
        """Return a moment of a day; part is 0 to 1."""
        return self.begin + (day + part) * DAY


@dataclass
class Outcome:
    """What became of one feed.

    Attributes:
        rates: click-through of each day.
        waits: for each note published, after how many days it was first shown; None if it never was.
        renewals: the decision of each renewal.
        seconds: how long each took.
    """

    rates: list[float] = field(default_factory=list)
    waits: list[int | None] = field(default_factory=list)
    renewals: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {"rates": self.rates, "waits": self.waits, "renewals": self.renewals, "seconds": self.seconds}


@dataclass(frozen=True)
class Visit:
    """A user opens the feed.

    Attributes:
        day: the day.
        user: the user.
        at: when.
        unseen: rows of the notes that are there and that the user has not seen, oldest first.
    """

    day: int
    user: int
    at: datetime
    unseen: list[int]


class Shows:
    """What decides which notes are shown; this one shows nothing and learns nothing."""

    def begin_day(self, day: int, rows: np.ndarray) -> None:
        """Publish the notes of a day."""

    def opened(self, visit: Visit, row: int) -> None:
        """Take a note that the user has found by a search."""

    def show(self, visit: Visit) -> list[int]:
        """Return the rows of the notes that the user sees."""
        raise NotImplementedError

    def visited(self, visit: Visit, rows: Sequence[int], clicks: Sequence[bool]) -> None:
        """Take which of the notes the user clicked."""

    def end_day(self) -> dict[str, Any] | None:
        """End a day; return the decision of a renewal, or None."""
        return None


class Popularity(Shows):
    """Shows the notes that most users clicked so far."""

    def __init__(self, feed: Feed) -> None:
        self._users: defaultdict[int, set[int]] = defaultdict(set)  # of each note
        for user, rows in feed.histories().items():
            for row in rows:
                self._users[row].add(user)

    def opened(self, visit: Visit, row: int) -> None:
        """Count a click."""
        self._users[row].add(visit.user)

    def show(self, visit: Visit) -> list[int]:
        """Return the most popular notes."""
        return sorted(visit.unseen, key=lambda row: -len(self._users[row]))[:K]

    def visited(self, visit: Visit, rows: Sequence[int], clicks: Sequence[bool]) -> None:
        """Count the clicks."""
        for row, is_click in zip(rows, clicks, strict=True):
            if is_click:
                self._users[row].add(visit.user)


class Knowing(Shows):
    """Shows notes of the user's main interest, then others, each in the order of publication."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def show(self, visit: Visit) -> list[int]:
        """Return the notes of the interest first."""
        main = int(self._feed.main[visit.day, visit.user])
        wanted = {main, int(self._feed.world.truth.complement[main])}
        return sorted(visit.unseen, key=lambda row: not self._feed.fits(row, visit.user, wanted))[:K]


def simulate(feed: Feed, shows: Shows, after_day: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Run the days of a feed; ``after_day`` is called with what became of it so far, without waits."""
    outcome = Outcome()
    first: dict[int, int] = {}  # the day on which a note was first shown
    there: list[int] = feed.notes.tolist()
    seen = feed.histories()
    for day in range(feed.days):
        shows.begin_day(day, feed.published[day])
        there += feed.published[day].tolist()
        shown_count = clicks_count = 0
        for number, user in enumerate(feed.visits[day].tolist()):
            at = feed.time(day, (number + 1) / (len(feed.visits[day]) + 1))
            known = seen.setdefault(user, set())
            visit = Visit(day, user, at, [row for row in there if row not in known])
            found = feed.searched(day, user, number, visit.unseen)
            if found is not None:
                known.add(found)
                visit.unseen.remove(found)
                shows.opened(visit, found)
            rows = shows.show(visit)
            clicks = feed.clicked(day, user, number, rows)
            known.update(rows)
            for row in rows:
                first.setdefault(row, day)
            shown_count += len(rows)
            clicks_count += sum(clicks)
            shows.visited(visit, rows, clicks)
        outcome.rates.append(clicks_count / max(1, shown_count))
        start = time.perf_counter()
        if (decision := shows.end_day()) is not None:
            outcome.renewals.append(decision)
            outcome.seconds.append(time.perf_counter() - start)
        print(f"  day {day + 1}: click-through {100 * outcome.rates[-1]:.2f} %", flush=True)
        after_day(outcome)
    for day, published in enumerate(feed.published):
        outcome.waits += [first[row] - day if row in first else None for row in published.tolist()]
    return outcome


def notes_at(feed: Feed, rows: np.ndarray, published: datetime | None = None) -> pa.Table:
    """Return notes of the world; those from before the first day have no time of publication."""
    some = feed.world.notes.take(pa.array(np.sort(rows)))
    place = NOTES.get_field_index("published_at")
    times = pa.array([published] * len(rows), TIME)
    return some.set_column(place, NOTES.field(place), times)
