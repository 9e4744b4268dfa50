"""Recall on the latest clicks: which clicks count, how many are measured, and what is kept of them."""

import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from notellm.engine import latest_recall as module
from notellm.engine.latest_recall import LatestRecall, Offered, was_offered
from notellm.engine.users import LiveUsers
from notellm.errors import DataError
from notellm.store.clicks import Click
from notellm.store.rows import StoredNote

NOW = datetime.now(UTC)
PATIENCE = 30.0


@pytest.fixture
def make(monkeypatch):
    """A function that makes a measurement, which measures when a test says so and is closed at the end."""
    monkeypatch.setattr(module, "_PERIOD", 600.0)
    made = []

    def latest(measure=lambda _: True, **options):
        made.append(LatestRecall(measure, **options))
        return made[-1]

    yield latest
    for each in made:
        each.close()


def click(note="n1", *, user="u1", event="click", ago=timedelta(), request=""):
    return Click(user, note, event, NOW - ago, f"{user}-{note}", request)


def test_clicks_are_counted_by_origin_since_the_start_and_by_day(make):
    latest = make(lambda each: {"found": True, "missed": False}.get(each.note_id))
    latest.offer(
        [click("found"), click("missed", event="like"), click("found", request="r1"), click("other")]
    )
    assert latest.since_start() == {"list": Offered(0, 0), "elsewhere": Offered(0, 0)}
    latest.measure()
    expected = {"list": Offered(1, 1), "elsewhere": Offered(2, 1)}
    assert latest.since_start() == expected
    days = latest.by_day()
    assert (len(days), list(days)) == (7, sorted(days))
    assert days[NOW.date()] == expected


def test_neither_views_and_dislikes_nor_old_clicks_are_measured(make):
    asked: list[Click] = []
    latest = make(asked.append)
    latest.offer([click("a", event="view"), click("b", event="dislike"), click("c", ago=timedelta(days=2))])
    latest.offer([click("d", ago=timedelta(hours=23))])
    latest.measure()
    assert [each.note_id for each in asked] == ["d"]


def test_of_many_clicks_a_few_are_drawn_uniformly(make):
    drawn: Counter[str] = Counter()
    for seed in range(400):
        latest = make(lambda each: drawn.update([each.note_id]), seed=seed)
        latest.offer(click(f"n{i}") for i in range(7))
        latest.offer(click(f"n{i}") for i in range(7, 10))
        latest.measure()
        latest.measure()  # nothing waits any more
    assert drawn.total() == 400 * 5
    assert set(drawn) == {f"n{i}" for i in range(10)}
    assert all(140 <= count <= 260 for count in drawn.values()), drawn  # 200 +- 6 standard deviations


def test_a_click_does_not_wait_for_the_measuring_which_happens_by_itself(monkeypatch):
    monkeypatch.setattr(module, "_PERIOD", 0.01)
    go, inside = threading.Event(), threading.Event()

    def slow(_):
        inside.set()
        return go.wait(PATIENCE)

    latest = LatestRecall(slow)
    latest.offer([click()])
    assert inside.wait(PATIENCE)
    latest.offer([click("n2")])  # returns though one is being measured
    go.set()
    end = time.monotonic() + PATIENCE
    while latest.since_start()["elsewhere"].samples < 2:
        assert time.monotonic() < end
        time.sleep(0.005)
    latest.close()
    latest.offer([click("n3")])
    assert latest._timer is None


def test_a_measurement_that_fails_is_logged_and_stops_no_other(make, caplog):
    def measure(each):
        if each.note_id == "bad":
            raise RuntimeError("broken")
        return True

    latest = make(measure)
    latest.offer([click("bad"), click("good")])
    latest.measure()
    assert latest.since_start()["elsewhere"] == Offered(1, 1)
    assert "recall on a click was not measured" in caplog.text


def test_closing_waits_for_what_is_measured_and_leaves_out_the_rest(make):
    go, inside, closed = threading.Event(), threading.Event(), threading.Event()
    asked = []

    def slow(each):
        asked.append(each.note_id)
        inside.set()
        assert go.wait(PATIENCE)
        assert not closed.is_set()
        return True

    def close():
        latest.close()
        closed.set()

    latest = make(slow)
    latest.offer([click("n1"), click("n2")])
    threads = [threading.Thread(target=latest.measure)]
    threads[0].start()
    assert inside.wait(PATIENCE)
    threads.append(threading.Thread(target=close))
    threads[1].start()
    assert not closed.wait(0.05)
    go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert closed.is_set()
    latest.measure()
    assert asked[0] == "n1"


class Days(datetime):
    """A clock that a test sets."""

    today_is = NOW

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return cls.today_is.astimezone(tz)


def test_days_that_are_over_go(make, monkeypatch):
    latest = make()
    monkeypatch.setattr(module, "datetime", Days)
    for day in range(10):
        monkeypatch.setattr(Days, "today_is", NOW + timedelta(days=day))
        latest.offer([click(f"n{day}", ago=timedelta(days=-day))])
        latest.measure()
    assert [each["elsewhere"].samples for each in latest.by_day().values()] == [1] * 7
    assert len(latest._days) == 7
    assert latest.since_start()["elsewhere"] == Offered(10, 10)


# -------------------------------------------------------------------- which clicks recall would have offered


class Recall:
    """Stands for a recommender that offers some notes."""

    def __init__(self, *offered, histories=None):
        self.ranker = self
        self.histories = histories or {}
        self.offered = list(offered)
        self.asked: list[tuple[list[str], set[str]]] = []

    def candidates(self, history, *, exclude):
        self.asked.append((list(history), set(exclude)))
        return self.offered if history else []


def offering(*offered, kind=Recall, **options):
    """Return such a recommender, as one of any type."""
    return kind(*offered, **options)


NOTES = {name: StoredNote(title=name, note_id=name) for name in ("a", "b", "c", "d")}


def users_with(*clicks):
    users = LiveUsers()
    users.add(clicks)
    return users


def test_what_the_user_opened_before_decides_and_a_view_of_the_note_does_not_bar_it():
    before = [click("a", ago=timedelta(hours=2)), click("c", event="view", ago=timedelta(hours=1))]
    seen, later = click("b", event="view", ago=timedelta(minutes=1)), click("d", ago=timedelta(minutes=-1))
    users = users_with(*before, seen, click("b"), later)
    recall = offering("b", "x", histories={"u1": ["z"]})
    assert was_offered(recall, users, NOTES, click("b")) is True
    assert recall.asked == [(["z", "a"], {"z", "a", "c"})]
    assert was_offered(offering("x"), users, NOTES, click("b")) is False


@pytest.mark.parametrize(
    ("clicks", "asked"),
    [
        pytest.param([click("b")], click("b"), id="no history"),
        pytest.param([click("b", ago=timedelta(hours=1))], click("b"), id="opened before"),
        pytest.param([click("a", ago=timedelta(hours=1))], click("unknown"), id="no such note"),
        pytest.param([click("a", ago=timedelta(hours=1))], click("hidden"), id="hidden"),
    ],
)
def test_a_click_that_does_not_count(clicks, asked):
    notes = NOTES | {"hidden": StoredNote(title="h", note_id="hidden", hidden=True)}
    assert was_offered(offering("b", "hidden", "unknown"), users_with(*clicks, asked), notes, asked) is None


def test_without_a_recommender_and_beside_a_removal_nothing_counts():
    users = users_with(click("a", ago=timedelta(hours=1)), click("b"))
    assert was_offered(None, users, NOTES, click("b")) is None

    class Removed(Recall):
        def candidates(self, *_, **__):
            raise DataError("a note was removed")

    assert was_offered(offering(kind=Removed), users, NOTES, click("b")) is None
