"""The log of clicks: durable, each click once, bounded by age, and without a trace of forgotten users."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from notellm.errors import DataError, StorageError
from notellm.store import event_log
from notellm.store.clicks import CLICK_LOG, Click, ClickLog
from notellm.store.known_ids import KnownIds
from notellm.store.tables import remove_store

NOW = datetime.now(UTC)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


def ago(**how_long):
    return NOW - timedelta(**how_long)


def some(count, user="u1"):
    return [Click(user, f"n{i}", timestamp=ago(minutes=count - i)) for i in range(count)]


def notes_of(log):
    return log.read()["note_id"].to_pylist()


def test_clicks_are_read_back_by_time_after_reopening(place):
    log = ClickLog.open(place)
    assert len(log) == 0
    assert log.read().schema == CLICK_LOG
    log.append([Click("u1", "late", "like", NOW), Click("u2", "early", "view", ago(days=1), "c1", "r1")])
    log.close()
    again = ClickLog.open(place)
    assert again.read().to_pylist() == [
        {
            "click_id": "c1",
            "user_id": "u2",
            "note_id": "early",
            "timestamp": ago(days=1),
            "event": "view",
            "request_id": "r1",
        },
        {
            "click_id": again.read()["click_id"][1].as_py(),
            "user_id": "u1",
            "note_id": "late",
            "timestamp": NOW,
            "event": "like",
            "request_id": "",
        },
    ]
    assert again.report == []


@pytest.mark.parametrize("reopened", [False, True])
def test_the_same_click_is_written_once(place, reopened):
    log = ClickLog.open(place)
    named, timed = Click("u1", "n1", click_id="c1"), Click("u1", "n1", timestamp=NOW)
    assert [each is not None for each in log.append([named, timed])] == [True, True]
    if reopened:
        log.close()
        log = ClickLog.open(place)
    assert log.append([timed, named, Click("u9", "n9", click_id="c1")]) == [None, None, None]
    other = Click("u1", "n1", timestamp=NOW + timedelta(microseconds=1))
    first, second = log.append([other, other])
    assert first is not None
    assert second is None
    assert len(log) == 3


def test_without_id_and_time_every_click_is_another_one(place):
    log = ClickLog.open(place)
    log.append([Click("u1", "n1"), Click("u1", "n1")])
    log.append([Click("u1", "n1")])
    assert len(log) == 3


@pytest.mark.parametrize(
    ("click", "reason"),
    [
        (Click("u1", "n1", "bought"), "the event 'bought'; it must be one of view, click, like, dislike"),
        (Click("u1", "n1", timestamp=datetime(2026, 1, 1)), "needs a zone"),  # noqa: DTZ001 - the mistake
        (Click("u1", "n1", timestamp=NOW + timedelta(days=2)), "in the future"),
        (Click("u1", "n1", timestamp=ago(days=91)), "clicks are kept for 90 days"),
        (Click("", "n1"), "an id is any text"),
        (Click("u1", "n\n1"), "an id is any text"),
        (Click("u1", "n1", click_id=""), "an id is any text"),
    ],
)
def test_of_a_batch_with_a_mistake_nothing_is_written(place, click, reason):
    log = ClickLog.open(place)
    with pytest.raises(DataError, match=reason):
        log.append([*some(2), click])
    assert len(log) == 0


def test_old_clicks_go_when_the_log_is_tidied(place):
    log = ClickLog.open(place, max_age=None)
    log.append([Click("u1", "old", timestamp=ago(days=40)), Click("u1", "new", timestamp=ago(days=20))])
    log.close()
    log = ClickLog.open(place, max_age=timedelta(days=30))
    assert notes_of(log) == ["old", "new"]
    log.tidy()
    assert notes_of(log) == ["new"]
    log.close()
    assert notes_of(ClickLog.open(place)) == ["new"]


def test_it_is_tidied_now_and_then(place, monkeypatch):
    monkeypatch.setattr(event_log, "_TIDIED_AT", 5)
    log = ClickLog.open(place)
    for click in some(12):
        log.append([click])
    assert notes_of(log) == [f"n{i}" for i in range(12)]
    assert log._table.stats()["fragment_stats"]["num_fragments"] < 5


def test_clicks_are_acknowledged_though_tidying_fails(place, monkeypatch, caplog):
    monkeypatch.setattr(event_log, "_TIDIED_AT", 2)

    def fails(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr("notellm.store.upkeep.optimize", fails)
    log = ClickLog.open(place)
    for click in some(5):
        assert log.append([click]) != [None]
    log.close()
    assert caplog.text.count("not tidied") == 3
    assert len(ClickLog.open(place)) == 5


def test_a_forgotten_user_leaves_no_trace_in_any_file(place):
    log = ClickLog.open(place)
    for i in range(5):
        log.append([*some(3, user=f"kept-{i}"), Click("someone-private", f"n{i}", timestamp=ago(hours=i))])
    log.tidy()
    log.append([Click("someone-private", "n7")])
    assert log.forget("someone-private") == 6
    assert len(log) == 15
    files = [path for path in place.rglob("*") if path.is_file()]
    assert any(b"kept-3" in path.read_bytes() for path in files)
    assert not [path for path in files if b"someone-private" in path.read_bytes()]
    assert log.forget("someone-private") == 0
    log.append([Click("kept-1", "n9")])
    log.close()
    assert len(ClickLog.open(place)) == 16


def test_what_an_earlier_attempt_to_forget_left_is_removed_by_the_next_one(place, monkeypatch):
    log = ClickLog.open(place)
    log.append([*some(3, user="kept"), *some(2, user="someone-private")])

    def full(*_):
        raise OSError(28, "No space left on device")

    def holds():
        return [
            path for path in place.rglob("*") if path.is_file() and b"someone-private" in path.read_bytes()
        ]

    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            log.forget("someone-private")
    assert holds()
    assert log.forget("someone-private") == 0
    assert not holds()
    assert len(log) == 3


def test_a_user_of_a_failed_write_is_forgotten(place, monkeypatch):
    log = ClickLog.open(place)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            log.append(some(2, user="someone-private"))
    assert log.forget("someone-private") == 2
    assert len(log) == 0


def test_a_quote_in_the_id_of_a_forgotten_user_is_a_letter(place):
    log = ClickLog.open(place)
    log.append([Click("it's", "n1"), Click("x' OR user_id != '", "n2"), Click("u3", "n3")])
    assert log.forget("x' OR user_id != '") == 1
    assert log.forget("it's") == 1
    assert notes_of(log) == ["n3"]


def test_a_reader_sees_the_present_state_and_writes_nothing(place):
    assert len(ClickLog.for_reading(place)) == 0
    writer = ClickLog.open(place)
    writer.append(some(3))
    reader = ClickLog.for_reading(place)
    assert len(reader) == 3
    with pytest.raises(StorageError, match="opened for reading"):
        reader.append(some(1))
    with pytest.raises(StorageError, match="opened for reading"):
        reader.forget("u1")


def test_after_a_failed_flush_a_repeated_click_is_there_once(place, monkeypatch):
    log = ClickLog.open(place)
    log.append(some(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            log.append([Click("u2", "again", click_id="c1")])
    assert log.append([Click("u2", "again", click_id="c1")]) == [None]
    assert notes_of(log).count("again") == 1
    assert notes_of(ClickLog.open(place)).count("again") == 1


def test_a_torn_newest_version_gives_way_to_the_one_before(place):
    log = ClickLog.open(place)
    log.append(some(2))
    newest = max(
        (place / "clicks.lance" / "_versions").glob("*.manifest"), key=lambda path: path.stat().st_mtime_ns
    )
    log.append([Click("u2", "torn")])
    for path in (place / "clicks.lance" / "_versions").glob("*.manifest"):
        if path.stat().st_mtime_ns > newest.stat().st_mtime_ns:
            path.write_bytes(path.read_bytes()[:40])
    again = ClickLog.open(place)
    assert notes_of(again) == ["n0", "n1"]
    assert "the last acknowledged write is lost" in again.report[0]


def test_a_damaged_file_is_named_with_what_to_do(place):
    log = ClickLog.open(place)
    log.append(some(2))
    log.close()
    for path in (place / "clicks.lance" / "data").iterdir():
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(
        StorageError, match=r"has the checksum .* or remove clicks.lance and checksums_clicks"
    ):
        ClickLog.open(place)


@pytest.mark.slow
def test_no_acknowledged_click_is_lost_by_a_kill(place):
    """A process writes clicks, tells each that is acknowledged, and is killed."""
    program = f"""
import itertools, sys
from notellm.store.clicks import Click, ClickLog
log = ClickLog.open({str(place)!r})
for i in itertools.count(len(log)):
    log.append([Click("u1", f"n{{i}}", click_id=f"c{{i}}")])
    print(i, flush=True)
"""
    told = 0
    for lines in (3, 5):
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(lines):
                told = int(process.stdout.readline())
            process.kill()
        log = ClickLog.open(place)
        assert {f"n{i}" for i in range(told + 1)} <= set(notes_of(log))
        assert len(set(notes_of(log))) == len(log)
        log.close()


def test_a_store_with_clicks_can_be_removed(place):
    log = ClickLog.open(place)
    log.append(some(3))
    log.close()
    remove_store(place)
    assert not place.exists()


def test_known_ids_are_known_before_and_after_they_are_sorted(monkeypatch):
    monkeypatch.setattr("notellm.store.known_ids._RECENT", 10)
    known = KnownIds()
    for start in range(0, 100, 7):
        known.add([f"c{i}" for i in range(start, start + 7)])
        assert all(f"c{i}" in known for i in range(start + 7))
        assert f"c{start + 7}" not in known
    assert "" not in KnownIds()
    more = KnownIds(f"c{i}" for i in range(50))
    assert all(f"c{i}" in more for i in range(50))
    assert "c50" not in more
