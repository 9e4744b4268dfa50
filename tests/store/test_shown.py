"""The log of recommended lists: each list once, also after a failed write, and none of a forgotten user."""

from datetime import UTC, datetime, timedelta

import pytest

from notellm.errors import StorageError
from notellm.store.shown import SHOWN_LOG, ShownList, ShownLog
from notellm.store.tables import remove_store

NOW = datetime.now(UTC)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def some(count, user="u1", first=0):
    notes, sources = ["n1", "n2"], ["recall", "fresh"]
    return [
        ShownList(f"r-{user}-{i}", user, NOW - timedelta(days=i), notes, sources, "model", "basis")
        for i in range(first, first + count)
    ]


def full(*_):
    raise OSError(28, "No space left on device")


def ids_of(log):
    return log.read()["request_id"].to_pylist()


def test_lists_are_read_back_by_time_after_reopening(place):
    log = ShownLog.open(place)
    assert log.read().schema == SHOWN_LOG
    log.append(some(2))
    log.append([])
    log.close()
    again = ShownLog.for_reading(place)
    assert len(again) == 2
    assert ids_of(again) == ["r-u1-1", "r-u1-0"]
    assert again.read().to_pylist()[1] == {
        "request_id": "r-u1-0",
        "user_id": "u1",
        "timestamp": NOW,
        "note_ids": ["n1", "n2"],
        "sources": ["recall", "fresh"],
        "model": "model",
        "basis": "basis",
    }
    with pytest.raises(StorageError, match=r"lists of .* were opened for reading; use ShownLog.open"):
        again.append(some(1))


def test_only_rows_since_a_time_are_read_if_one_is_given(place):
    log = ShownLog.open(place)
    log.append(some(5))
    since = NOW - timedelta(days=2)
    found = [row for batch in log.batches(["timestamp"], since=since) for row in batch[0].to_pylist()]
    assert sorted(found) == [NOW - timedelta(days=days) for days in (2, 1, 0)]


@pytest.mark.parametrize("between", ["nothing", "a user is forgotten"])
def test_lists_of_a_failed_write_are_there_once(place, monkeypatch, between):
    log = ShownLog.open(place)
    log.append(some(1, "u0"))
    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            log.append(some(2))
    if between != "nothing":
        assert log.forget("somebody else") == 0
    log.append([*some(2), *some(1, "u2")])
    wanted = ["r-u0-0", "r-u1-0", "r-u1-1", "r-u2-0"]
    assert sorted(ids_of(log)) == wanted
    log.append(some(1, "u3"))
    log.close()
    assert sorted(ids_of(ShownLog.open(place))) == [*wanted, "r-u3-0"]


def test_a_forgotten_user_leaves_no_trace_in_any_file(place):
    log = ShownLog.open(place)
    log.append([*some(2, "kept"), *some(2, "someone-private")])
    log.append(some(1, "someone-private", first=7))
    assert log.forget("someone-private") == 3
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any(b"r-kept-1" in path.read_bytes() for path in files)
    assert not [path for path in files if b"someone-private" in path.read_bytes()]
    log.close()
    assert sorted(ids_of(ShownLog.open(place))) == ["r-kept-0", "r-kept-1"]


def test_old_lists_go_when_the_log_is_tidied(place):
    log = ShownLog.open(place, max_age=timedelta(days=2.5))
    log.append(some(5))
    log.tidy()
    assert ids_of(log) == ["r-u1-2", "r-u1-1", "r-u1-0"]


def test_a_damaged_file_says_what_to_remove_and_what_that_loses(place):
    log = ShownLog.open(place)
    log.append(some(2))
    log.close()
    for path in (place / "shown.lance" / "data").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(
        StorageError,
        match=r"remove shown\.lance and checksums_shown.jsonl there, which loses",
    ):
        ShownLog.open(place)


def test_a_store_with_lists_can_be_removed(place):
    log = ShownLog.open(place)
    log.append(some(3))
    log.close()
    remove_store(place)
    assert not place.exists()
