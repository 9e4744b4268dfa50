"""The users who did something in the last days, and how many of them a ranker does not know.

A user is held by the hour of the latest click, so counting looks at no click. The ranker is asked about users
who are new here when they are counted, all together, since each question costs it a look at all its users.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from threading import Lock
from weakref import ReferenceType, ref

from notellm.engine.click_through import DAYS, hour_of
from notellm.rank.scorer import Ranker
from notellm.store.clicks import Click

_HOURS = 24 * DAYS


class ActiveUsers:
    """The users of the last days. Threads may share it.

    Args:
        latest: users and the time of the latest click of each.
    """

    def __init__(self, latest: Iterable[tuple[str, datetime]] = ()) -> None:
        self._hours: dict[int, set[str]] = {}  # the users whose latest click is of each hour
        self._latest: dict[str, int] = {}
        self._unknown: set[str] = set()  # those that the ranker does not know
        self._unasked: set[str] = set()  # those that it was not asked about
        self._ranker: ReferenceType[Ranker] | None = None  # the one that was asked
        self._lock = Lock()
        self._see(latest)

    def add(self, clicks: Iterable[Click]) -> None:
        """Add what users did, views too, each with its time."""
        self._see((each.user_id, each.timestamp) for each in clicks if each.timestamp is not None)

    def forget(self, user_id: str) -> None:
        """Forget a user."""
        with self._lock:
            if (hour := self._latest.pop(user_id, None)) is not None:
                self._hours[hour].discard(user_id)
            self._unknown.discard(user_id)
            self._unasked.discard(user_id)

    def counts(self, ranker: Ranker | None) -> tuple[int, int | None]:
        """Return how many users were active in the last days, by whole hours, and how many are unknown.

        Args:
            ranker: the ranker that knows users; None if there is none, and then the second number is None.
        """
        with self._lock:
            self._drop_old(_this_hour())
            if ranker is not None and (self._ranker is None or self._ranker() is not ranker):
                self._ranker, self._unknown, self._unasked = ref(ranker), set(), set(self._latest)
            asked = list(self._unasked)
        if ranker is None:
            return len(self._latest), None
        known = ranker.knows_all(asked) if asked else ()  # clicks do not wait for it
        unknown = {user for user, is_known in zip(asked, known, strict=True) if not is_known}
        with self._lock:
            self._unasked.difference_update(asked)
            self._unknown |= unknown & self._latest.keys()  # others were forgotten meanwhile
            return len(self._latest), len(self._unknown)

    def _see(self, users: Iterable[tuple[str, datetime]]) -> None:
        now = _this_hour()
        with self._lock:
            self._drop_old(now)
            for user_id, time in users:
                hour = hour_of(time)
                before = self._latest.get(user_id)
                if hour <= now - _HOURS or (before is not None and before >= hour):
                    continue
                if before is None:
                    self._unasked.add(user_id)
                else:
                    self._hours[before].discard(user_id)
                self._latest[user_id] = hour
                self._hours.setdefault(hour, set()).add(user_id)

    def _drop_old(self, now: int) -> None:
        """Drop users whose latest click is too old; there are few hours to look at."""
        for hour in [hour for hour in self._hours if hour <= now - _HOURS]:
            for user_id in self._hours.pop(hour):
                del self._latest[user_id]
                self._unknown.discard(user_id)
                self._unasked.discard(user_id)


def _this_hour() -> int:
    return hour_of(datetime.now(UTC))
