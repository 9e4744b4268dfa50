"""Active users are those of the last days, and the ranker is asked about each once."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from notellm.engine import active_users as module
from notellm.engine.active_users import ActiveUsers
from notellm.engine.click_through import hour_of
from notellm.store.clicks import Click

NOW = datetime(2026, 1, 30, 12, 30, tzinfo=UTC)


class KnowsSome:
    """Stands for a ranker that knows some users, and remembers about whom it was asked."""

    def __init__(self, *users):
        self.users = set(users)
        self.asked: list[str] = []

    def knows_all(self, user_ids):
        self.asked += user_ids
        return np.array([user in self.users for user in user_ids], dtype=bool)


def knows(*users, kind=KnowsSome):
    """Return such a ranker, as one of any type."""
    return kind(*users)


@pytest.fixture
def clock(monkeypatch):
    """A function that sets the hours since NOW."""
    hours = [0.0]
    monkeypatch.setattr(module, "_this_hour", lambda: hour_of(NOW + timedelta(hours=hours[0])))

    def set_to(value):
        hours[0] = value

    return set_to


def click(user, *, hours=0.0, event="view"):
    return Click(user, "n1", event, NOW + timedelta(hours=hours), f"{user}-{hours}")


@pytest.mark.usefixtures("clock")
def test_the_ranker_is_asked_once_about_each_user():
    active, ranker = ActiveUsers(), knows("a")
    active.add([click("a"), click("b"), click("b", hours=-3), click("old", hours=-168)])
    assert active.counts(ranker) == (2, 1)
    active.add([click("b", hours=1), click("c")])
    assert active.counts(ranker) == (3, 2)
    assert sorted(ranker.asked) == ["a", "b", "c"]


@pytest.mark.usefixtures("clock")
def test_another_ranker_is_asked_about_all():
    active = ActiveUsers([("a", NOW), ("b", NOW)])
    first, second = knows("a", "b"), knows()
    assert active.counts(first) == (2, 0)
    assert active.counts(second) == (2, 2)
    assert active.counts(None) == (2, None)


def test_users_go_when_their_last_click_is_old_or_they_are_forgotten(clock):
    active, ranker = ActiveUsers(), knows()
    active.add([click("a"), click("b", hours=-100), click("c")])
    assert active.counts(ranker) == (3, 3)
    active.forget("c")
    active.forget("never-there")
    assert active.counts(ranker) == (2, 2)
    clock(68)
    assert active.counts(ranker) == (1, 1)
    active.add([click("b", hours=68)])
    clock(168)
    assert active.counts(ranker) == (1, 1)
    assert "a" not in active._latest


@pytest.mark.usefixtures("clock")
def test_a_user_who_is_forgotten_while_the_ranker_is_asked_is_not_counted():
    active = ActiveUsers([("a", NOW), ("b", NOW)])

    class Forgets(KnowsSome):
        def knows_all(self, user_ids):
            active.forget("a")
            return super().knows_all(user_ids)

    assert active.counts(knows(kind=Forgets)) == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_counts_are_those_of_a_plain_count(clock, seed):
    draw = np.random.default_rng(seed)
    active, ranker = ActiveUsers(), knows(*(f"u{i}" for i in range(0, 20, 2)))
    latest: dict[str, int] = {}
    for hour in range(0, 900, 3):
        clock(hour)
        user, ago = f"u{draw.integers(20)}", int(draw.integers(0, 200))
        active.add([click(user, hours=hour - ago)])
        latest[user] = max(latest.get(user, -1000), hour - ago)
        there = {name for name, time in latest.items() if time > hour - 168}
        assert active.counts(ranker) == (len(there), len(there - ranker.users))
