"""Over HTTP a recommendation has an id, sources and positions, and clicks that name it give click-through."""

import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from notellm.errors import ConfigError, StorageError
from notellm.store.shown import ShownLog
from tests.serve.small import served


@pytest.fixture
def place(places, tmp_path):
    return places.copied(tmp_path)


def recommended(http, **body):
    answer = http.post("/v1/recommend", json={"k": 6, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def click(http, user, note_id, request_id, event="click"):
    body = {"user_id": user, "note_id": note_id, "request_id": request_id, "event": event}
    assert http.post("/v1/clicks", json={"clicks": [body]}).status_code == 200


def figures(http, name):
    """Return the values of a counter by its labels, which are in the order of their names."""
    lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return {tuple(re.findall(r'"(.*?)"', labels)): float(value) for labels, value in lines}


def test_clicks_that_name_a_list_are_counted_by_source_and_position(place):
    engine = place.engine()
    with served(engine) as http:
        before = http.get("/v1/state").json()["click_through"]
        assert (before["days"], before["by_source"], before["by_position"]) == (7, [], [])
        assert [(row["shown"], row["clicked"]) for row in before["by_day"]] == [(0, 0)] * 7
        first = recommended(http, user_id="new")
        notes = first["recommended"]
        assert [note["position"] for note in notes] == [1, 2, 3, 4, 5, 6]
        assert {note["source"] for note in notes} == {"popular"}
        for event in ("view", "click", "like"):
            click(http, "new", notes[1]["note_id"], first["request_id"], event)
        second = recommended(http, user_id="new")
        assert second["request_id"] != first["request_id"]
        assert {note["source"] for note in second["recommended"]} == {"recall"}
        click(http, "new", second["recommended"][0]["note_id"], second["request_id"])
        click(http, "new", "n1", "never-given")
        assert figures(http, "notellm_recommended_notes_total") == {
            (str(i), source): 1.0 for source in ("popular", "recall") for i in range(1, 7)
        }
        assert figures(http, "notellm_clicked_notes_total") == {("2", "popular"): 1.0, ("1", "recall"): 1.0}
        assert figures(http, "notellm_list_clicks_total") == {
            ("counted",): 2.0,
            ("repeated",): 1.0,
            ("unknown_request",): 1.0,
            ("unknown_note",): 0.0,
            ("other_user",): 0.0,
        }
        assert figures(http, "notellm_lost_lists_total") == {(): 0.0}
        through = http.get("/v1/state").json()["click_through"]
        assert sorted(through["by_source"], key=lambda row: str(row["source"])) == [
            {"source": "popular", "shown": 6, "clicked": 1, "rate": 0.166667},
            {"source": "recall", "shown": 6, "clicked": 1, "rate": 0.166667},
        ]
        assert through["by_position"][1] == {"position": "2", "shown": 2, "clicked": 1, "rate": 0.5}
        assert sum(row["shown"] for row in through["by_day"]) == 12
        assert sum(row["clicked"] for row in through["by_day"]) == 2
    with served(place.engine()) as http:
        assert http.get("/v1/state").json()["click_through"] == through
        assert figures(http, "notellm_recommended_notes_total") == {}
    rows = ShownLog.for_reading(place.store).read().to_pylist()
    assert [(row["request_id"], row["user_id"]) for row in rows] == [
        (each["request_id"], "new") for each in (first, second)
    ]
    assert rows[0]["note_ids"] == [note["note_id"] for note in notes]
    assert rows[1]["sources"] == ["recall"] * 6
    assert {row["model"] for row in rows} == {engine.fingerprint}


def test_a_list_that_no_user_sees_is_not_recorded(place):
    with served(place.engine()) as http:
        assert recommended(http, user_id="new", record=False)["request_id"] is None
        assert figures(http, "notellm_recommended_notes_total") == {}
    assert len(ShownLog.for_reading(place.store)) == 0


def test_the_library_records_lists_too_and_without_a_user_they_are_nobody_s(place):
    engine = place.engine()
    history = [next(iter(engine.notes))]
    found = engine.recommend(history=history, k=4)
    assert engine.recommend(history=history, k=4, record=False).request_id is None
    engine.close()
    (row,) = ShownLog.for_reading(place.store).read().to_pylist()
    assert (row["request_id"], row["user_id"]) == (found.request_id, "")
    assert row["note_ids"] == found.note_ids


def test_a_note_that_was_removed_leaves_a_gap_in_the_positions(place, monkeypatch):
    engine = place.engine()
    recommend = engine.recommend

    def removed(*args, **options):
        result = recommend(*args, **options)
        engine._state.live.notes.pop(result.note_ids[1])
        return result

    monkeypatch.setattr(engine, "recommend", removed)
    with served(engine) as http:
        assert [note["position"] for note in recommended(http)["recommended"]] == [1, 3, 4, 5, 6]


def test_a_forgotten_user_s_lists_are_gone_from_every_file(place):
    with served(place.engine()) as http:
        for user in ("private/person", "private/person", "kept-person", None):
            recommended(http, user_id=user)
        answer = http.delete("/v1/users/private%2Fperson").json()
        assert answer == {"clicks": 0, "lists": 2, "in_ranker": False}
        files = [file for file in place.store.rglob("*") if file.is_file()]
        assert any(b"kept-person" in file.read_bytes() for file in files)
        assert not [file for file in files if b"private/person" in file.read_bytes()]
        assert http.delete("/v1/users/").status_code in (200, 404)
    assert sorted(ShownLog.for_reading(place.store).read()["user_id"].to_pylist()) == ["", "kept-person"]


def test_a_reader_gets_recommendations_though_lists_cannot_be_written(place, monkeypatch):
    engine = place.engine()

    def full(*_):
        raise OSError(28, "No space left on device")

    with served(engine) as http, monkeypatch.context() as broken:
        broken.setattr("notellm.store.durable.os.fsync", full)
        request = recommended(http, user_id="new")["request_id"]
        with pytest.raises(StorageError, match="No space left"):
            engine.shown.flush()
        assert recommended(http, user_id="new")["request_id"]
        assert figures(http, "notellm_list_write_failures_total")[()] >= 1
        assert figures(http, "notellm_waiting_lists") == {(): 2.0}
    assert request in ShownLog.for_reading(place.store).read()["request_id"].to_pylist()


@pytest.mark.slow
def test_a_kill_loses_only_lists_of_the_last_moment(place):
    program = f"""
import os
from notellm.engine.engine import Engine
engine = Engine.open({str(place.store)!r}, {str(place.model)!r}, ranker={str(place.ranker)!r})
first = engine.recommend("u1", k=3)
engine.shown.flush()
engine.recommend("u1", k=3)
print(first.request_id, flush=True)
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr[-1000:]
    kept = ShownLog.for_reading(place.store).read()["request_id"].to_pylist()
    assert kept[0] == done.stdout.strip()
    engine = place.engine()
    assert engine.shown.click_through.last_days()[0]["popular"].shown == 3 * len(kept)
    engine.close()


def test_a_service_that_explores_shows_each_fresh_note_a_few_times(place, monkeypatch):
    monkeypatch.setattr("notellm.recommend.fresh.ENOUGH", 2)
    engine = place.engine(explore=0.34)
    now = datetime.now(UTC).isoformat()
    with served(engine) as http:
        known = list(engine.notes)[:3]
        for i in range(3):
            body = {"title": f"a very fresh note {i}", "published_at": now}
            assert http.put(f"/v1/notes/fresh-{i}", json=body).status_code in (200, 201)
        shown = []
        for _ in range(4):
            answer = recommended(http, history=known)
            fresh = [note["position"] for note in answer["recommended"] if note["source"] == "fresh"]
            assert fresh in ([3, 6], [3], [])
            shown += [note["note_id"] for note in answer["recommended"] if note["source"] == "fresh"]
        assert sorted(shown) == [f"fresh-{i}" for i in range(3) for _ in range(2)]
    with pytest.raises(ConfigError, match=r"explore is 1\.5; it must be a share"):
        place.engine(explore=1.5)
