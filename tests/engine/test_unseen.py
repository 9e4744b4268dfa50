"""The counts of visible and unseen notes are those of a plain count, whatever is written and expires."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from notellm.engine import unseen as module
from notellm.engine.unseen import Unseen
from notellm.store.index import base
from notellm.store.known_ids import KnownIds
from notellm.store.rows import StoredNote, is_visible

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch):
    """A function that sets the minute by which notes expire."""
    now = [0]
    monkeypatch.setattr(base, "now", lambda: now[0])

    def set_to(minute):
        now[0] = int((START + timedelta(minutes=minute)).timestamp() * 1_000_000)

    set_to(0)
    return set_to


def note(note_id, *, hidden=False, expires=None):
    until = None if expires is None else START + timedelta(minutes=expires)
    return StoredNote(title="t", note_id=note_id, hidden=hidden, expires_at=until)


def test_hidden_and_expired_notes_do_not_count(clock):
    counted = Unseen(KnownIds(["old", "gone"]), [note("old"), note("new"), note("gone", hidden=True)])
    assert counted.counts() == (2, 1)
    counted.upsert([note("late", expires=5)])
    assert counted.counts() == (3, 2)
    clock(5)
    assert counted.counts() == (2, 1)
    counted.upsert([note("late", expires=9)])
    assert counted.counts() == (3, 2)
    counted.remove(["late", "never-there"])
    assert counted.counts() == (2, 1)


@pytest.mark.usefixtures("clock")
def test_where_the_training_is_unknown_only_the_visible_notes_are_known():
    assert Unseen(None, [note("a"), note("b", hidden=True)]).counts() == (1, None)


@pytest.mark.parametrize("seed", range(4))
def test_the_counts_are_those_of_a_plain_count(clock, monkeypatch, seed):
    monkeypatch.setattr(module, "_SPARE", 2)
    draw = np.random.default_rng(seed)
    trained = {f"n{i}" for i in range(0, 30, 2)}
    notes: dict[str, StoredNote] = {}
    counted = Unseen(KnownIds(trained))
    for minute in range(200):
        clock(minute)
        name = f"n{draw.integers(30)}"
        if draw.random() < 0.2:
            notes.pop(name, None)
            counted.remove([name])
        else:
            expires = int(minute + draw.integers(-3, 20)) if draw.random() < 0.6 else None
            notes[name] = replace(note(name, expires=expires), hidden=bool(draw.random() < 0.2))
            counted.upsert([notes[name]])
        if draw.random() < 0.5:
            shown = {each for each, kept in notes.items() if is_visible(kept)}
            assert counted.counts() == (len(shown), len(shown - trained))


def test_a_note_that_is_changed_again_and_again_takes_no_more_memory(clock, monkeypatch):
    monkeypatch.setattr(module, "_SPARE", 10)
    counted = Unseen(KnownIds(), [])
    for minute in range(1, 500):
        counted.upsert([note("n", expires=minute)])
    assert len(counted._expiring) <= 13
    clock(498)
    assert counted.counts() == (1, 1)
    clock(499)
    assert counted.counts() == (0, 0)
