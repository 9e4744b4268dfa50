"""Recommended lists are recorded without waiting for the disk, and written once, whatever fails meanwhile."""

import threading
import time

import numpy as np
import pytest

from notellm.engine import tracing
from notellm.engine.click_through import ClickThrough
from notellm.engine.tracing import ShownLists
from notellm.errors import StorageError
from notellm.recommend.recommender import Recommendations
from notellm.store.clicks import Click
from notellm.store.shown import ShownLog

PATIENCE = 30.0


@pytest.fixture
def place(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def lists(place, monkeypatch):
    """Lists that are written only when a test says so."""
    monkeypatch.setattr(tracing, "_PERIOD", 600.0)
    monkeypatch.setattr(tracing, "_RETRY", 600.0)
    opened = ShownLists(ShownLog.open(place), ClickThrough())
    yield opened
    opened.close()


def found(*note_ids):
    scores = np.zeros(len(note_ids), np.float32)
    return Recommendations(
        list(note_ids), scores, [None] * len(note_ids), ["popular"] * len(note_ids), "popular notes"
    )


def full(*_):
    raise OSError(28, "No space left on device")


def written(place):
    return ShownLog.for_reading(place).read()


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lists_wait_in_memory_and_are_written_together(place, lists):
    ids = [lists.record("u1", found("n1", "n2"), "model"), lists.record(None, found("n3"), "model")]
    assert (lists.waiting, len(written(place))) == (2, 0)
    lists.flush()
    assert lists.waiting == 0
    rows = written(place).to_pylist()
    assert [row["request_id"] for row in rows] == ids
    assert len(set(ids)) == 2
    assert [(row["user_id"], row["note_ids"]) for row in rows] == [("u1", ["n1", "n2"]), ("", ["n3"])]
    assert {(row["model"], row["basis"]) for row in rows} == {("model", "popular notes")}


def test_they_are_written_soon_by_themselves_and_at_the_end(place, monkeypatch):
    monkeypatch.setattr(tracing, "_PERIOD", 0.01)
    lists = ShownLists(ShownLog.open(place), ClickThrough())
    lists.record("u1", found("n1"), "model")
    wait_for(lambda: not lists.waiting)
    assert len(written(place)) == 1
    monkeypatch.setattr(tracing, "_PERIOD", 600.0)
    lists.record("u1", found("n1"), "model")
    lists.close()
    assert len(written(place)) == 2
    lists.record("u1", found("n1"), "model")
    lists.flush()
    assert len(written(place)) == 2  # another process may write to the store now
    wait_for(lambda: not [each for each in threading.enumerate() if isinstance(each, threading.Timer)])


def test_a_recommendation_does_not_wait_for_the_disk(place, lists, monkeypatch):
    go, inside = threading.Event(), threading.Event()
    append = ShownLog.append

    def slow(log, rows):
        inside.set()
        assert go.wait(PATIENCE)
        append(log, rows)

    monkeypatch.setattr(ShownLog, "append", slow)
    lists.record("u1", found("n1"), "model")
    writer = threading.Thread(target=lists.flush)
    writer.start()
    assert inside.wait(PATIENCE)
    lists.record("u2", found("n2"), "model")  # returns though the disk is busy
    lists.click_through.click([Click("u2", "n2", request_id="unknown")])
    assert lists.waiting == 2
    go.set()
    writer.join()
    assert lists.waiting == 1
    lists.flush()
    assert written(place)["user_id"].to_pylist() == ["u1", "u2"]


def test_lists_that_cannot_be_written_are_kept_and_tried_again(place, monkeypatch, caplog):
    monkeypatch.setattr(tracing, "_PERIOD", 0.01)
    monkeypatch.setattr(tracing, "_RETRY", 0.02)
    caplog.set_level("INFO", "notellm")
    lists = ShownLists(ShownLog.open(place), ClickThrough())
    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        lists.record("u1", found("n1"), "model")
        wait_for(lambda: lists.failures >= 3)
        lists.record("u2", found("n2"), "model")
    wait_for(lambda: not lists.waiting)
    assert written(place)["user_id"].to_pylist() == ["u1", "u2"]
    lists.close()
    assert caplog.text.count("wait, since they cannot be written") == 1
    assert caplog.text.count("are written again; 0 were lost") == 1


def test_waiting_lists_are_bounded_and_the_lost_ones_counted(place, lists, monkeypatch):
    monkeypatch.setattr(tracing, "_MOST_WAITING", 3)
    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        lists.record("u0", found("n1"), "model")
        with pytest.raises(StorageError, match="No space left"):
            lists.flush()
        for i in range(1, 6):
            lists.record(f"u{i}", found("n1"), "model")
    assert (lists.waiting, lists.lost, lists.failures) == (3, 3, 1)
    lists.flush()
    # The first one was on its way to the disk when it failed, so it is there all the same.
    assert set(written(place)["user_id"].to_pylist()) == {"u0", "u3", "u4", "u5"}


def test_at_the_end_lists_that_cannot_be_written_are_told(place, monkeypatch, caplog):
    lists = ShownLists(ShownLog.open(place), ClickThrough())
    lists.record("u1", found("n1"), "model")
    with monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        lists.close()
    assert "the last 1 recommended lists were not written: " in caplog.text


def test_a_user_is_forgotten_in_memory_and_on_disk(place, lists):
    lists.record("private", found("n1"), "model")
    lists.record("kept", found("n1"), "model")
    lists.flush()
    request = lists.record("private", found("n2"), "model")
    assert lists.forget("private") == 2
    assert lists.forget("") == 0
    assert lists.waiting == 0
    assert written(place)["user_id"].to_pylist() == ["kept"]
    lists.click_through.click([Click("private", "n2", request_id=request)])
    assert lists.click_through.since_start()[2]["unknown_request"] == 1


@pytest.mark.parametrize("user_id", [None, "", "a\nb", "x" * 513, "\ud800"])
def test_a_list_for_an_id_that_no_click_can_have_is_nobody_s(place, lists, user_id):
    lists.record(user_id, found("n1"), "model")
    lists.flush()
    assert written(place)["user_id"].to_pylist() == [""]


def test_threads_that_recommend_and_write_lose_and_repeat_nothing(place, lists):
    ids: list[str] = []

    def recommend(user):
        for _ in range(40):
            ids.append(lists.record(user, found("n1"), "model"))  # noqa: PERF401 - threads append together

    threads = [threading.Thread(target=recommend, args=(f"u{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        lists.flush()
    lists.flush()
    assert sorted(written(place)["request_id"].to_pylist()) == sorted(ids)
    assert lists.click_through.since_start()[0] == {("popular", "1"): 160}
