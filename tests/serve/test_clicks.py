"""Clicks over HTTP: recommendations count them at once, and a forgotten user is forgotten."""

from datetime import UTC, datetime, timedelta

import httpx2 as httpx
import pytest

from notellm.client import Client
from tests.serve.small import served

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def copied(places, tmp_path_factory):
    return places.copied(tmp_path_factory.mktemp("clicks"))


@pytest.fixture(scope="module")
def engine(copied):
    return copied.engine()


@pytest.fixture(scope="module")
def http(engine):
    with served(engine) as client:
        yield client


@pytest.fixture(scope="module")
def client(http):
    def ask(request):
        answer = http.request(
            request.method,
            str(request.url.raw_path.decode()),
            content=request.content,
            headers=request.headers,
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    with Client("http://service", transport=httpx.MockTransport(ask)) as client:
        yield client


def recommended(client, user, **options):
    return [note.note_id for note in client.recommend(user, **options).notes]


def test_the_next_recommendation_counts_a_click(client, engine):
    notes = list(engine.notes)
    assert client.recommend("new-1").basis.startswith("popular notes")
    answer = client.click([{"user_id": "new-1", "note_id": notes[3], "time": NOW}])
    assert answer == {"written": 1, "repeated": 0, "unknown_notes": []}
    found = client.recommend("new-1")
    assert found.basis.startswith("related to 1 opened note, ranked by")
    assert {(note.source, note.reason) for note in found.notes} == {("recall", notes[3])}
    assert notes[3] not in recommended(client, "new-1")
    assert recommended(client, "new-1", rerank=False) == recommended(
        client, None, history=[notes[3]], rerank=False
    )


def test_a_new_user_gets_popular_notes_and_the_newest_on_every_third_place(places, tmp_path):
    with served(places.copied(tmp_path).engine()) as http:

        def publish(note_id, **fields):
            body = {"title": f"Just now {note_id}", "category": "New", **fields}
            assert http.put(f"/v1/notes/{note_id}", json=body).status_code == 200

        def found(**body):
            answer = http.post("/v1/recommend", json={"user_id": "new", "k": 9, **body}).json()
            for place, note in enumerate(answer["recommended"], start=1):
                is_fresh = note["note_id"] in ("d2", "d5")
                assert note["source"] == ("fresh" if is_fresh else "popular"), place
            return answer["basis"], [note["note_id"] for note in answer["recommended"]]

        basis, popular = found(rerank=False)
        assert basis == "popular notes, not ranked"
        for days in (2, 5, 8, -1):  # one is too old, and one is not published yet
            publish(f"d{days}", published_at=(NOW - timedelta(days=days)).isoformat())
        publish("hidden", published_at=NOW.isoformat(), hidden=True)
        basis, mixed = found(rerank=False)
        assert basis == "popular and fresh notes, not ranked"
        assert mixed == [*popular[:2], "d2", *popular[2:4], "d5", *popular[4:7]]
        basis, ranked = found()
        assert basis == "popular and fresh notes, ranked for a typical user"
        assert (ranked[2], ranked[5]) == ("d2", "d5")
        assert found(k=2)[0].startswith("popular notes")
        *others, newest, older = found(filter={"categories": ["New"]}, rerank=False)[1]
        assert (set(others), newest, older) == ({"d8", "d-1"}, "d2", "d5")
        http.delete("/v1/notes/d2")
        http.post("/v1/clicks", json={"clicks": [{"user_id": "new", "note_id": "d5", "event": "view"}]})
        assert found(rerank=False) == ("popular notes, not ranked", popular)


def test_clicks_follow_the_history_that_the_ranker_remembers(client, engine):
    user, own = next((user, own) for user, own in engine.ranker.histories.items() if len(own) > 5)
    before = recommended(client, user, k=5)
    client.click([{"user_id": user, "note_id": before[0], "event": "like"}])
    after = client.recommend(user, k=50)
    assert before[0] not in [note.note_id for note in after.notes]
    assert not set(own) & {note.note_id for note in after.notes}
    assert f"related to {min(10, len(set(own)) + 1)} opened notes" in after.basis
    with_history = client.rank(list(before[1:]), user_id=user, history=[*dict.fromkeys(own), before[0]])
    assert client.rank(list(before[1:]), user_id=user) == with_history


@pytest.mark.parametrize("event", ["view", "dislike"])
def test_a_note_that_was_only_seen_does_not_come_back_and_brings_none(client, event):
    user = f"new-{event}"
    popular = recommended(client, user, k=3)
    client.click([{"user_id": user, "note_id": note_id, "event": event} for note_id in popular])
    found = client.recommend(user)
    assert found.basis.startswith("popular notes")
    assert not set(popular) & {note.note_id for note in found.notes}


def test_a_repeated_request_changes_nothing(client, engine):
    note = next(iter(engine.notes))
    clicks = [
        {"user_id": "new-2", "note_id": note, "click_id": "once"},
        {"user_id": "new-2", "note_id": note},
    ]
    assert client.click(clicks)["written"] == 2
    assert client.click(clicks[:1]) == {"written": 0, "repeated": 1, "unknown_notes": []}
    timed = [{"user_id": "new-2", "note_id": note, "event": "view", "time": NOW - timedelta(days=1)}]
    assert [client.click(timed)["written"] for _ in range(3)] == [1, 0, 0]


def test_a_thousand_clicks_fit_into_a_request_and_no_more(client, http):
    clicks = [
        {"user_id": f"many-{i % 7}", "note_id": f"n{i}", "time": (NOW - timedelta(seconds=i)).isoformat()}
        for i in range(1_000)
    ]
    assert client.click(clicks)["written"] == 1_000
    assert http.post("/v1/clicks", json={"clicks": [*clicks, clicks[0]]}).status_code == 422


def test_clicks_on_unknown_notes_are_kept_and_told(client):
    answer = client.click([{"user_id": "new-3", "note_id": "not-yet", "request_id": "r1"}])
    assert answer == {"written": 1, "repeated": 0, "unknown_notes": ["not-yet"]}
    assert client.recommend("new-3").basis.startswith("popular notes")
    client.publish("not-yet", title="Published after its first click")
    assert {note.reason for note in client.recommend("new-3").notes} == {"not-yet"}
    client.remove("not-yet")
    assert client.recommend("new-3").basis.startswith("popular notes")


@pytest.mark.parametrize(
    "click",
    [
        {"user_id": "", "note_id": "n1"},
        {"user_id": "u1"},
        {"user_id": "u1", "note_id": "n1", "event": "bought"},
        {"user_id": "u1", "note_id": "n\x00"},
        {"user_id": "u1", "note_id": "n1", "time": "yesterday"},
        {"user_id": "u1", "note_id": "n1", "time": (NOW + timedelta(days=3)).isoformat()},
        {"user_id": "u1", "note_id": "n1", "time": "1999-01-01T00:00:00Z"},
        {"user_id": "u1", "note_id": "n1", "click_id": ""},
        {"user_id": "u1", "note_id": "n1", "price": 3},
    ],
)
def test_of_a_request_with_a_mistake_no_click_is_written(http, click):
    good = {"user_id": "mistaken", "note_id": "n1"}
    answer = http.post("/v1/clicks", json={"clicks": [good, click]})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "invalid"
    assert http.get("/v1/users/mistaken").status_code == 404


def test_a_mistake_of_one_request_harms_no_other_that_came_with_it(engine):
    from notellm.store.clicks import Click

    good, bad = [Click("together", "n1", click_id="t1")], [Click("together", "n1", "bought")]
    first, second, third = engine.click([good, bad, good])
    assert (first.written, first.repeated) == (1, 0)
    assert "'bought'" in str(second)
    assert (third.written, third.repeated) == (0, 1)


def test_a_user_with_clicks_is_found_and_forgotten(http, client, engine, copied):
    note = next(iter(engine.notes))
    client.click([{"user_id": "private/person", "note_id": note}])
    assert http.get("/v1/users", params={"q": "private"}).json() == {
        "users": [{"user_id": "private/person", "opened": 1}]
    }
    path = "/v1/users/private%2Fperson"
    assert [each["note_id"] for each in http.get(path).json()["recent"]] == [note]
    assert client.forget_user("private/person") == {"clicks": 1, "lists": 0, "in_ranker": False}
    assert http.get(path).status_code == 404
    assert client.recommend("private/person").basis.startswith("popular notes")
    assert client.forget_user("private/person") == {"clicks": 0, "lists": 1, "in_ranker": False}
    files = [file for file in copied.store.rglob("*") if file.is_file()]
    assert not [file for file in files if b"private/person" in file.read_bytes()]


def test_forgetting_says_that_the_ranker_remembers(client, engine):
    user = list(engine.ranker.histories)[-1]
    client.click([{"user_id": user, "note_id": next(iter(engine.notes)), "event": "view"}])
    assert client.forget_user(user) == {"clicks": 1, "lists": 0, "in_ranker": True}


def test_clicks_outlive_the_service_and_a_reload(places, tmp_path):
    own = places.copied(tmp_path)
    note = None
    for round_ in range(2):
        engine = own.engine()
        note = note or next(iter(engine.notes))
        with served(engine) as http:
            if not round_:
                http.post("/v1/clicks", json={"clicks": [{"user_id": "u-1", "note_id": note}]})
            engine.reload()
            found = http.post("/v1/recommend", json={"user_id": "u-1"}).json()
        assert {each["reason"]["note_id"] for each in found["recommended"]} == {note}


def test_without_a_ranker_clicks_are_taken_and_users_forgotten(places, tmp_path):
    with served(places.copied(tmp_path).engine(ranker=None)) as http:
        clicks = {"clicks": [{"user_id": "u-1", "note_id": "n1"}]}
        assert http.post("/v1/clicks", json=clicks).json()["written"] == 1
        assert http.delete("/v1/users/u-1").json() == {"clicks": 1, "lists": 0, "in_ranker": False}
