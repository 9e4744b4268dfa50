"""What a renewal reads of a store."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from notellm.data.schema import CLICKS, NOTES
from notellm.errors import DataError
from notellm.renew.snapshot import opened_in_lists, take_snapshot
from notellm.store.clicks import Click, ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, rows_of

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)
VECTORS = np.eye(8, dtype=np.float32)


def store_of(folder, *notes):
    """A store of some notes."""
    NoteStore.create(folder, "model", [rows_of(list(notes), VECTORS[: len(notes)])], dim=8).close()
    return str(folder)


def note(note_id, days=None, **more):
    published = None if days is None else NOW - timedelta(days=days)
    return StoredNote(title=f"title of {note_id}", note_id=note_id, published_at=published, **more)


def click(store, *clicks):
    """Write clicks, each a user, a note, and how many days ago."""
    log = ClickLog.open(store)
    log.append([Click(user, note_id, timestamp=NOW - timedelta(days=days)) for user, note_id, days in clicks])
    log.close()


def rows(table):
    return list(
        zip(
            table["user_id"].to_pylist(),
            table["note_id"].to_pylist(),
            table["event"].to_pylist(),
            strict=True,
        )
    )


def test_the_log_is_split_at_the_newest_days_and_old_days_do_not_count(tmp_path):
    store = store_of(tmp_path / "store", note("a"), note("b"), note("c"))
    click(store, ("u", "a", 80), ("u", "b", 9), ("u", "c", 1), ("v", "a", 0.5), ("v", "b", 0))
    split = take_snapshot(store, tmp_path / "snapshot", now=NOW, progress=False, window_days=10, test_days=1)
    assert rows(split.train.clicks) == [
        ("u", "b", "click"),
        ("u", "c", "click"),
    ]  # one day before is training
    assert rows(split.test.clicks) == [("v", "a", "click"), ("v", "b", "click")]
    assert not split.valid.clicks.num_rows
    assert split.train.clicks.schema == CLICKS
    assert split.train.notes.schema == NOTES


def test_later_notes_are_not_trained_on_and_hidden_ones_are_not_compared_on(tmp_path):
    store = store_of(
        tmp_path / "store",
        note("old", 30),
        note("new", 0.5),
        note("clicked early", 0.5),
        note("hidden", 30, hidden=True),
        note("expired", 30, expires_at=NOW),
        note("undated"),
    )
    click(
        store,
        *[("u", "old", 5), ("u", "hidden", 5), ("u", "clicked early", 5)],
        *[("u", "new", 0.2), ("v", "hidden", 0.1), ("v", "old", 0)],
    )
    split = take_snapshot(store, tmp_path / "snapshot", now=NOW, progress=False, window_days=90, test_days=1)
    trained = set(split.train.notes["note_id"].to_pylist())
    assert trained == {"old", "clicked early", "hidden", "expired", "undated"}
    assert set(split.test.notes["note_id"].to_pylist()) == {"old", "new", "clicked early", "undated"}
    assert [note_id for _, note_id, _ in rows(split.test.clicks)] == ["new", "old"]
    assert {note_id for _, note_id, _ in rows(split.train.clicks)} == {"clicked early", "hidden", "old"}


def test_clicks_on_notes_that_the_store_does_not_have_do_not_count(tmp_path):
    store = store_of(tmp_path / "store", note("a"))
    click(store, ("u", "a", 5), ("u", "gone", 3), ("v", "a", 2), ("v", "gone", 0))
    split = take_snapshot(store, tmp_path / "snapshot", now=NOW, progress=False, window_days=90, test_days=1)
    assert rows(split.train.clicks) == [("u", "a", "click")]
    assert rows(split.test.clicks) == [("v", "a", "click")]


def test_an_empty_log_and_one_that_is_too_short_are_told(tmp_path):
    store = store_of(tmp_path / "store", note("a"))
    with pytest.raises(DataError, match="has no click of the last 90 days on its 1 notes"):
        take_snapshot(store, tmp_path / "snapshot", now=NOW, progress=False, window_days=90, test_days=1)
    click(store, ("u", "a", 0.5), ("v", "a", 0))
    with pytest.raises(DataError, match=r"all 2 clicks .* newest 1 days,.* lower test_days"):
        take_snapshot(store, tmp_path / "second", now=NOW, progress=False, window_days=90, test_days=1)


def test_a_clock_that_is_ahead_does_not_move_the_test_days(tmp_path):
    store = store_of(tmp_path / "store", note("a"), note("b"))
    click(store, ("u", "a", 2), ("u", "b", 0.7), ("v", "a", 0.1), ("v", "b", -1))
    split = take_snapshot(
        store, tmp_path / "snapshot", now=NOW, progress=False, window_days=90, test_days=0.5
    )
    assert rows(split.train.clicks) == [("u", "a", "click"), ("u", "b", "click")]
    assert rows(split.test.clicks) == [("v", "a", "click"), ("v", "b", "click")]


def test_what_users_opened_in_lists_is_told_apart(tmp_path):
    store = store_of(tmp_path / "store", note("a"), note("b"), note("c"), note("d"))
    click(store, ("u", "a", 5), ("v", "a", 1))
    log = ClickLog.open(store)
    events = (
        ("u", "b", "click", "r1"),
        ("u", "c", "view", "r1"),
        ("v", "d", "like", "r2"),
        ("v", "b", "click", ""),
    )
    log.append([Click(user, note_id, event, NOW, request_id=name) for user, note_id, event, name in events])
    log.close()
    take_snapshot(store, tmp_path / "snapshot", now=NOW, progress=False, window_days=90, test_days=1)
    assert opened_in_lists(tmp_path / "snapshot") == {("u", "b"), ("v", "d")}
