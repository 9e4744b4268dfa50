"""Click-through is counted alike as clicks come and from the logs, against a plain count."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from notellm.engine import click_through as module
from notellm.engine.click_through import ClickThrough, Rate
from notellm.store.clicks import Click, ClickLog
from notellm.store.shown import ShownList, ShownLog

NOW = datetime.now(UTC)
SOURCES = ("recall", "popular", "fresh")


def shown(request_id, *sources, user="u1", time=NOW, notes=None):
    notes = notes or [f"n{i}" for i in range(1, len(sources) + 1)]
    return ShownList(request_id, user, time, notes, sources, "model", "basis")


def opened(request_id, note, event="click", user="u1"):
    return Click(user, note, event, NOW, request_id=request_id)


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "store").mkdir()
    return ShownLog.open(tmp_path / "store"), ClickLog.open(tmp_path / "store")


def test_notes_are_counted_by_source_and_position():
    through = ClickThrough()
    through.show(shown("r1", "popular", "popular", "fresh"))
    through.show(shown("r2", *["recall"] * 23))
    through.click([opened("r1", "n3"), opened("r1", "n1", "like"), opened("r2", "n1"), opened("r2", "n22")])
    by_source, by_position = through.last_days()
    assert by_source == {"recall": Rate(23, 2), "popular": Rate(2, 1), "fresh": Rate(1, 1)}
    assert list(by_source) == ["recall", "popular", "fresh"]
    assert list(by_position) == [*(str(i) for i in range(1, 21)), "21+"]
    assert by_position["1"] == Rate(2, 2)
    assert by_position["3"] == Rate(2, 1)
    assert by_position["21+"] == Rate(3, 1)
    shown_notes, clicked_notes, outcomes = through.since_start()
    assert shown_notes["recall", "21+"] == 3
    assert clicked_notes == {
        ("fresh", "3"): 1,
        ("popular", "1"): 1,
        ("recall", "1"): 1,
        ("recall", "21+"): 1,
    }
    assert outcomes == {
        "counted": 4,
        "repeated": 0,
        "unknown_request": 0,
        "unknown_note": 0,
        "other_user": 0,
    }


@pytest.mark.parametrize(
    ("click", "outcome"),
    [
        (opened("r1", "n1", "like"), "repeated"),
        (opened("r9", "n1"), "unknown_request"),
        (opened("r1", "n9"), "unknown_note"),
        (opened("r1", "n2", user="u2"), "other_user"),
        (opened("r1", "n2", "view"), None),
        (opened("r1", "n2", "dislike"), None),
        (opened("", "n2"), None),
    ],
)
def test_a_click_that_does_not_count_is_counted_for_what_it_is(click, outcome):
    through = ClickThrough()
    through.show(shown("r1", "recall", "recall"))
    through.click([opened("r1", "n1")])
    before = through.since_start()
    through.click([click])
    after = through.since_start()
    assert after[:2] == before[:2]
    more = {name: after[2][name] - count for name, count in before[2].items()}
    assert {name for name, count in more.items() if count} == ({outcome} if outcome else set())
    assert through.last_days()[0] == {"recall": Rate(2, 1)}


def test_of_a_list_of_nobody_any_user_opens_notes():
    through = ClickThrough()
    through.show(shown("r1", "popular", "popular", user=""))
    through.click([opened("r1", "n1", user="u7"), opened("r1", "n1", user="u8")])
    assert through.last_days()[0] == {"popular": Rate(2, 1)}


def test_memory_is_bounded_and_old_hours_go(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    through = ClickThrough()
    for i in range(5):
        through.show(shown(f"r{i}", "recall"))
    through.click([opened("r1", "n1"), opened("r2", "n1")])
    assert through.since_start()[2]["unknown_request"] == 1
    assert through.since_start()[2]["counted"] == 1
    late = ClickThrough()
    late.show(shown("old", "fresh", time=NOW - timedelta(days=8)))
    late.show(shown("new", "recall"))
    late.click([opened("old", "n1")])
    assert late.last_days()[0] == {"recall": Rate(1, 0)}
    assert late.since_start()[1] == {("fresh", "1"): 1}


def test_a_forgotten_user_s_lists_are_named_by_no_click():
    through = ClickThrough()
    through.show(shown("r1", "recall"))
    through.show(shown("r2", "recall", user="u2"))
    through.forget("u1")
    through.click([opened("r1", "n1"), opened("r2", "n1", user="u2")])
    assert through.since_start()[2]["unknown_request"] == 1
    assert through.last_days()[0] == {"recall": Rate(2, 1)}


@pytest.mark.parametrize("seed", range(4))
def test_from_the_logs_the_same_is_counted_as_while_it_happened(logs, seed, monkeypatch):
    """And the same as a plain count over lists and clicks."""
    monkeypatch.setattr("notellm.store.event_log._BATCH", 7)
    draw = np.random.default_rng(seed)
    lists = [
        shown(
            f"r{i}",
            *draw.choice(SOURCES, draw.integers(1, 25)),
            user=str(draw.choice(["", "u1", "u2"])),
            time=NOW - timedelta(hours=float(draw.uniform(0, 160))),
        )
        for i in range(30)
    ]
    clicks = [
        Click(
            f"u{draw.integers(1, 4)}",
            f"n{draw.integers(1, 28)}",
            str(draw.choice(["view", "click", "like", "dislike"])),
            NOW,
            f"c{i}",
            f"r{draw.integers(0, 33)}" if draw.random() < 0.9 else "",
        )
        for i in range(400)
    ]
    live = ClickThrough()
    for each in sorted(lists, key=lambda each: each.timestamp):
        live.show(each)
    live.click(clicks)
    shown_log, click_log = logs
    for start in range(0, 30, 8):
        shown_log.append(lists[start : start + 8])
    click_log.append(clicks)
    read = ClickThrough.from_logs(shown_log, click_log)
    assert read.last_days() == live.last_days()
    assert read.since_start()[0] == {}

    by_source = {source: [0, 0] for source in SOURCES}
    for each in lists:
        of_list = [c for c in clicks if c.request_id == each.request_id and c.event in ("click", "like")]
        hit = {c.note_id for c in of_list if each.user_id in ("", c.user_id)}
        for note, source in zip(each.note_ids, each.sources, strict=True):
            by_source[source][0] += 1
            by_source[source][1] += note in hit
    assert read.last_days()[0] == {source: Rate(*pair) for source, pair in by_source.items()}

    days = read.by_day()
    assert list(days) == sorted(days)
    assert (len(days), max(days)) == (7, datetime.now(UTC).date())
    assert days == live.by_day()
    dated = {day: [0, 0] for day in days}
    for each in lists:
        hit = {
            c.note_id
            for c in clicks
            if c.request_id == each.request_id
            and c.event in ("click", "like")
            and each.user_id in ("", c.user_id)
        }
        if (pair := dated.get(each.timestamp.date())) is not None:
            pair[0] += len(each.note_ids)
            pair[1] += len(hit & set(each.note_ids))
    assert days == {day: Rate(*pair) for day, pair in dated.items()}

    # What was opened before is remembered: the same clicks count no more.
    before = live.last_days()
    for through in (read, live):
        through.click(clicks)
        assert through.last_days() == before


def test_lists_older_than_the_window_are_not_read(logs):
    shown_log, click_log = logs
    shown_log.append([shown("old", "fresh", time=NOW - timedelta(days=8)), shown("new", "recall")])
    read = ClickThrough.from_logs(shown_log, click_log)
    assert read.last_days()[0] == {"recall": Rate(1, 0)}
    read.click([opened("old", "n1")])
    assert read.since_start()[2]["unknown_request"] == 1


def test_old_hours_go_also_after_a_clock_was_set_back():
    through = ClickThrough()
    through.show(shown("r1", "recall", time=NOW + timedelta(hours=1)))
    through.show(shown("r2", "fresh", time=NOW - timedelta(days=8)))
    assert through.last_days()[0] == {"recall": Rate(1, 0)}
