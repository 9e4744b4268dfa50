"""The state and the metrics say how far the serving models are behind, and both say the same."""

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from notellm.data.sample_world import sample_world
from notellm.engine import latest_recall
from notellm.recall.model import NoteLLM
from notellm.recall.trained_notes import TRAINED_NOTES, trained_notes_file
from notellm.renew.decision import stays
from notellm.renew.work import WorkFolder
from tests.conftest import SMALL
from tests.serve.small import NOTES, served


@pytest.fixture
def place(places, tmp_path, monkeypatch):
    """A service whose model a test may change; clicks are measured when the test says so."""
    monkeypatch.setattr(latest_recall, "_PERIOD", 600.0)
    shutil.copytree(places.model, tmp_path / "model")
    return replace(places.copied(tmp_path), model=tmp_path / "model")


def drift(http):
    return http.get("/v1/state").json()["drift"]


def metric(http, name, labels=""):
    """Return the value of a metric; None if it has none."""
    found = re.search(rf"^{name}{re.escape(labels)} (\S+)$", http.get("/metrics").text, re.MULTILINE)
    return None if found is None else float(found[1])


def test_notes_that_the_model_has_not_seen(place):
    with served(place.engine()) as http:
        assert drift(http)["notes"] == {"visible": NOTES, "unseen": 0, "share": 0.0}
        for name in ("new-1", "new-2"):
            http.put(f"/v1/notes/{name}", json={"title": "published after the training"})
        http.patch("/v1/notes/new-2", json={"hidden": True})
        assert drift(http)["notes"] == {"visible": NOTES + 1, "unseen": 1, "share": round(1 / 121, 6)}
        assert metric(http, "notellm_visible_notes") == NOTES + 1
        assert metric(http, "notellm_unseen_notes") == 1
        http.post("/v1/notes/remove", json={"note_ids": ["new-1"]})
        assert metric(http, "notellm_unseen_notes") == 0
        http.put("/v1/notes/new-3", json={"title": "published after the training"})
    with served(place.engine()) as http:
        assert metric(http, "notellm_unseen_notes") == 1


def test_a_model_that_does_not_say_its_notes_has_no_such_figure(place):
    NoteLLM.from_pretrained(place.model).save_pretrained(place.model)
    with served(place.engine()) as http:
        assert drift(http)["notes"] == {"visible": NOTES, "unseen": None, "share": None}
        assert metric(http, "notellm_visible_notes") == NOTES
        assert metric(http, "notellm_unseen_notes") is None


def test_users_whom_the_ranker_does_not_know(place):
    engine = place.engine()
    known = next(iter(engine.ranker.histories))
    with served(engine) as http:
        assert drift(http)["users"] == {"active": 0, "unknown": 0, "share": None}
        clicks = [{"user_id": user, "note_id": "n1", "event": "view"} for user in (known, "stranger")]
        http.post("/v1/clicks", json={"clicks": clicks})
        assert drift(http)["users"] == {"active": 2, "unknown": 1, "share": 0.5}
        assert (metric(http, "notellm_active_users"), metric(http, "notellm_unknown_users")) == (2, 1)
    with served(place.engine(ranker=None)) as http:  # the log tells of them after a restart
        assert drift(http)["users"] == {"active": 2, "unknown": None, "share": None}
        assert metric(http, "notellm_unknown_users") is None
        http.delete("/v1/users/stranger")
        assert metric(http, "notellm_active_users") == 1


def test_recall_on_the_latest_clicks(place):
    engine = place.engine()
    first = next(iter(engine.notes))
    near = engine.recommend(history=[first], k=20, record=False, rerank=False, recall_k=100).note_ids[0]
    reached = set(engine._state.live.recommender.candidates([first]))
    far = next(note_id for note_id in engine.notes if note_id not in reached and note_id != first)
    with served(engine) as http:

        def click(user, note, **more):
            http.post("/v1/clicks", json={"clicks": [{"user_id": user, "note_id": note, **more}]})

        click("a", first)
        click("a", near)
        click("b", first)
        click("b", far, request_id="some-list")
        engine._state.latest_recall.measure()
        found = drift(http)["recall"]
        assert (found["candidates"], len(found["by_day"])) == (100, 7)
        assert datetime.fromisoformat(found["since"]) <= datetime.now(UTC)
        by_origin = {
            origin: [sum(day[origin][part] for day in found["by_day"]) for part in ("samples", "found")]
            for origin in ("elsewhere", "list")
        }
        assert by_origin == {"elsewhere": [1, 1], "list": [1, 0]}
        assert {day["elsewhere"]["rate"] for day in found["by_day"]} == {None, 1.0}
        for origin, (samples, hits) in by_origin.items():
            assert metric(http, "notellm_recall_samples_total", f'{{origin="{origin}"}}') == samples
            assert metric(http, "notellm_recall_found_total", f'{{origin="{origin}"}}') == hits


def test_the_age_of_the_model_is_that_of_its_files_and_a_reload_of_the_same_model_is_no_new_one(place):
    engine = place.engine()
    before = engine.drift()
    assert before.written_at is not None
    assert timedelta() < datetime.now(UTC) - before.written_at < timedelta(hours=3)
    engine.reload()
    after = engine.drift()
    assert (after.written_at, after.serves_since) == (before.written_at, before.serves_since)
    with served(engine) as http:
        told = drift(http)["model"]
        assert told == {
            "written_at": before.written_at.isoformat(),
            "serves_since": before.serves_since.isoformat(),
        }
        written = metric(http, "notellm_model_written_timestamp_seconds")
        assert written == pytest.approx(before.written_at.timestamp())
        since = metric(http, "notellm_model_serving_since_timestamp_seconds")
        assert since == pytest.approx(before.serves_since.timestamp())


def test_another_model_begins_to_serve_with_its_own_notes(place):
    engine = place.engine(ranker=None)
    before = engine.drift()
    notes = sample_world(notes=NOTES, users=30, clicks=700, bots=0, seed=4).notes.slice(0, 100)
    other = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16, seed=9)
    other.save_pretrained(place.model, extra={TRAINED_NOTES: trained_notes_file(notes)})
    engine.reload()
    after = engine.drift()
    assert (before.unseen_notes, after.unseen_notes, after.visible_notes) == (0, NOTES - 100, NOTES)
    assert after.serves_since > before.serves_since
    engine.close()


def test_the_newest_decision_of_a_renewal(place):
    work = WorkFolder(place.model.with_name("model.renewal"))
    with served(place.engine()) as http:
        assert drift(http)["renewal"] is None
        assert metric(http, "notellm_renewal_took_over") is None
        work.path.mkdir()
        work.begin({})
        work.decide(stays("too few users"), {"at": "2026-11-30T04:00:00+00:00"})
        work.finish(stays("too few users"))
        assert drift(http)["renewal"] == {
            "at": "2026-11-30T04:00:00+00:00",
            "took_over": False,
            "reasons": ["too few users"],
            "figures": [],
        }
        assert metric(http, "notellm_renewal_took_over") == 0
        at = datetime(2026, 11, 30, 4, tzinfo=UTC).timestamp()
        assert metric(http, "notellm_renewal_decided_timestamp_seconds") == at


def test_readiness_and_free_space_are_metrics(place, monkeypatch):
    monkeypatch.setattr("notellm.serve.service._READY_FOR", 0.0)
    with served(place.engine()) as http:
        assert metric(http, "notellm_ready") == 1
        assert metric(http, "notellm_store_free_bytes") > 0
        with monkeypatch.context() as broken:

            def gone(_):
                raise OSError(5, "Input/output error")

            broken.setattr("notellm.engine.health.shutil.disk_usage", gone)
            assert metric(http, "notellm_ready") == 0
            assert metric(http, "notellm_store_free_bytes") is None
        assert metric(http, "notellm_ready") == 1
