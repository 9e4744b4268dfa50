"""The guard: keys, limits, time, errors and the log."""

import asyncio
import json
import re
import threading
import time

import pytest

from notellm.serve.app import create_app
from notellm.serve.guard import Guard
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.metrics import Metrics
from tests.serve.small import PATIENCE, asking, served, told

READ, WRITE = "read-key-0123456789", "write-key-0123456789"
#: These posts ask and change nothing.
READING = {("post", f"/v1/{name}") for name in ("related", "tags", "rank", "recommend")}
OPEN = {"/health/live", "/health/ready"}


@pytest.fixture(scope="module")
def engine(places, tmp_path_factory):
    engine = places.copied(tmp_path_factory.mktemp("guard")).engine()
    yield engine
    engine.close()


def guarded(app, *, keys=None, **limits):
    """Return a guard in front of an application, and its counters."""
    metrics = Metrics()
    return Guard(app, keys=keys or Keys(), limits=Limits(**limits), metrics=metrics), metrics


class Clock:
    """A clock for rates alone; the clock of the event loop goes on."""

    def __init__(self, now):
        self._now = now

    def monotonic(self):
        return self._now[0]

    def __getattr__(self, name):
        return getattr(time, name)


async def echo(_, receive, send):
    """Answers with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await plain(str(size), send)


async def plain(text, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})


# -------------------------------------------------------------------- keys


def test_every_route_asks_for_the_key_that_it_needs(engine):
    """The routes come from the API's description, so no new route can be forgotten."""
    app = create_app(engine, keys=Keys([READ], [WRITE]), limits=Limits(wrong_keys=1_000), close=False)

    async def ask(client):
        described = (await client.get("/openapi.json", headers={"x-api-key": READ})).json()["paths"]
        routes = [(method, path) for path, methods in described.items() for method in methods]
        assert len(routes) > 15
        found = {}
        for method, path in routes:
            url = re.sub(r"\{\w+\}", "x", path)
            # No body: whoever gets by the guard is told so, and nothing is written.
            for name, key in (("none", None), ("wrong", "wrong-key-0123456789"), ("read", READ)):
                headers = {} if key is None else {"x-api-key": key}
                found[method, path, name] = (await client.request(method, url, headers=headers)).status_code
        return routes, found

    routes, found = asking(app, ask)
    for method, path in routes:
        refused = set() if path in OPEN else {401}
        assert {found[method, path, "none"], found[method, path, "wrong"]} <= (refused or {200})
        writes = method not in ("get", "head") and (method, path) not in READING
        assert (found[method, path, "read"] == 403) == writes, (method, path)
        assert found[method, path, "read"] < 500
    assert {(m, p) for m, p in routes if found[m, p, "read"] == 403} == {
        ("post", "/v1/notes"),
        ("post", "/v1/notes/remove"),
        ("put", "/v1/notes/{note_id}"),
        ("patch", "/v1/notes/{note_id}"),
        ("delete", "/v1/notes/{note_id}"),
        ("post", "/v1/clicks"),
        ("delete", "/v1/users/{user_id}"),
        ("post", "/v1/reload"),
    }


def test_a_write_key_reads_and_writes_however_it_is_given(engine):
    with served(engine, keys=Keys([READ], [WRITE]), close=False) as client:
        for headers in ({"X-API-Key": WRITE}, {"Authorization": f"Bearer {WRITE}"}):
            note = {"title": "Allowed"}
            assert client.put("/v1/notes/allowed", json=note, headers=headers).status_code == 200
            assert client.get("/v1/notes/allowed", headers=headers).json()["title"] == "Allowed"
            assert client.get("/metrics", headers=headers).status_code == 200
        for headers in ({"X-API-Key": READ}, {"Authorization": f"Bearer {READ}"}):
            assert client.get("/v1/notes/allowed", headers=headers).status_code == 200
            message = told(client.delete("/v1/notes/allowed", headers=headers), 403, "read_only")
            assert "may only read" in message
        none = client.get("/v1/notes/allowed")
        assert "Authorization: Bearer" in told(none, 401, "no_key")
        assert none.headers["www-authenticate"] == "Bearer"
        for header in (f"Basic {WRITE}", "Bearer", WRITE[:-1], f"Bearer {WRITE}x", "Bearer \xe4" * 9):
            answer = client.get("/v1/notes/allowed", headers=[(b"authorization", header.encode("latin-1"))])
            told(answer, 401, "no_key")
        told(client.get(f"/v1/notes/allowed?key={WRITE}"), 401, "no_key")
        assert client.get("/v1/state", headers={"X-API-Key": READ}).json()["keys"] is True


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {WRITE}", 200),
        (f"bearer {WRITE}", 200),
        (f"BEARER   {WRITE} ", 200),
        (f"Bearer{WRITE}", 401),
        (f"Token {WRITE}", 401),
        (WRITE, 401),
    ],
)
def test_the_scheme_of_a_key_may_be_written_in_any_case(header, status):
    app, _ = guarded(echo, keys=Keys(write=[WRITE]))

    async def ask(client):
        return (await client.get("/v1/x", headers={"authorization": header})).status_code

    assert asking(app, ask) == status


def test_who_tries_keys_is_stopped_and_others_behind_the_same_proxy_are_not(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("notellm.serve.rates.time", Clock(now))
    app, metrics = guarded(echo, keys=Keys([READ], [WRITE]), wrong_keys=0.5)

    async def ask(client):
        async def get(key):
            return await client.get("/v1/x", headers={"x-api-key": key} if key else {})

        assert (await get(READ)).status_code == 200
        for i in range(5):
            told(await get(f"guess-{i}"), 401, "no_key")
        stopped = await get("guess-5")
        assert "too many wrong API keys" in told(stopped, 429, "wrong_keys")
        assert stopped.headers["retry-after"] == "3"
        told(await get(WRITE), 429, "wrong_keys")  # whether a guess is right is not told, either
        assert (await get(READ)).status_code == 200  # this one was right from there before
        told(await get(None), 401, "no_key")  # no key is no guess
        assert (await client.get("/health/live")).status_code == 200
        now[0] += 2
        assert (await get(WRITE)).status_code == 200
        told(await get("guess-6"), 401, "no_key")
        told(await get("guess-7"), 429, "wrong_keys")
        assert (await get(WRITE)).status_code == 200

    asking(app, ask)
    assert b'notellm_refused_total{reason="wrong_keys"} 3.0' in metrics.text()


def test_wrong_keys_of_one_address_stop_no_other():
    app, _ = guarded(echo, keys=Keys(write=[WRITE]), wrong_keys=0.1)

    def get(key, address):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/v1/x",
            "headers": [(b"x-api-key", key.encode())],
            "client": (address, 1),
        }
        asyncio.run(app(scope, nothing, send))
        return sent[0]["status"]

    async def nothing():
        return {"type": "http.request", "body": b"", "more_body": False}

    assert [get("guess", "192.0.2.1") for _ in range(3)] == [401, 429, 429]
    assert get("guess", "192.0.2.2") == 401
    assert get(WRITE, "192.0.2.3") == 200
    assert [get("guess", f"2001:db8::{i:x}") for i in range(1, 4)] == [401, 429, 429]  # one network
    assert get("guess", "2001:db8:0:1::1") == 401


def test_the_page_and_health_are_open_and_what_is_not_there_is_not(engine):
    with served(engine, keys=Keys(write=[WRITE]), close=False) as client:
        for path in ("/", "/page/app.js", "/health/live", "/health/ready"):
            assert client.get(path).status_code == 200
        for path in ("/metrics", "/openapi.json", "/v1/state", "/nothing", "/page", "/health", "/docs"):
            told(client.get(path), 401, "no_key")
        told(client.get("/page/../v1/state"), 401, "no_key")  # the client makes it /v1/state
        told(client.get("/page/%2e%2e/v1/state"), 404, "not_found")
        told(client.options("/v1/notes"), 401, "no_key")


# -------------------------------------------------------------------- limits


def test_a_body_is_taken_up_to_its_limit():
    app, _ = guarded(echo, body=1_000)

    async def pieces(count):
        for _ in range(count):
            yield b"x" * 100

    async def ask(client):
        for count in (0, 10):
            whole = await client.post("/v1/y", content=b"x" * 100 * count)
            chunked = await client.post("/v1/x", content=pieces(count))
            assert whole.text == chunked.text == str(100 * count)
        for body in (b"x" * 1_001, pieces(11), pieces(10_000)):
            message = told(await client.post("/v1/x", content=body), 413, "too_large")
            assert "more than 1,000 bytes" in message

    asking(app, ask)


def test_a_body_that_nothing_announces_has_the_limit_too():
    """HTTP/2 has neither content-length nor transfer-encoding."""
    app, _ = guarded(echo, body=1_000)
    sent = []

    async def run(size):
        messages = [
            {"type": "http.request", "body": b"x" * size, "more_body": True},
            {"type": "http.request"},
        ]

        async def receive():
            return messages.pop(0)

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": [], "client": ("a", 1)}
        await app(scope, receive, send)

    asyncio.run(run(1_000))
    asyncio.run(run(1_001))
    assert [message["status"] for message in sent if "status" in message] == [200, 413]


def test_a_body_is_refused_by_the_length_it_announces(engine):
    """The body is refused before a byte of it is read."""
    with served(engine, limits=Limits(body=2_000), close=False) as client:
        note = {"title": "x" * 1_500}
        assert client.put("/v1/notes/long", json=note).status_code == 200
        told(client.put("/v1/notes/long", json={"title": "a", "content": "x" * 2_000}), 413, "too_large")
        told(client.put("/v1/notes/long", content=(b"x" * 100 for _ in range(30))), 413, "too_large")
        assert client.get("/v1/notes/long").json()["title"] == "x" * 1_500


@pytest.mark.parametrize("method", ["PUT", "POST", "GET"])
def test_a_body_that_holds_too_much_never_reaches_the_application(method):
    seen = []

    async def look(_, receive, send):
        seen.append(await receive())
        await plain("", send)

    app, metrics = guarded(look)
    fields = json.dumps({f"f{i}": 0 for i in range(60_000)}).encode()
    assert len(fields) < 1 << 20

    async def ask(client):
        answer = await client.request(method, "/v1/x", content=fields)
        message = told(answer, 413, "too_much")
        assert "60,000 fields" in message
        assert "allowed are 4,096" in message

    asking(app, ask)
    assert not seen
    assert metrics.in_flight == 0


def test_who_asks_too_often_waits_and_others_do_not(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr("notellm.serve.rates.time", Clock(now))
    app, metrics = guarded(echo, keys=Keys([READ], [WRITE]), rate=2)

    async def ask(client):
        async def get(key=READ, path="/v1/x"):
            return await client.get(path, headers={"x-api-key": key})

        assert [(await get()).status_code for _ in range(2)] == [200, 200]
        refused = await get()
        assert "more than 2 requests a second" in told(refused, 429, "rate")
        assert refused.headers["retry-after"] == "1"
        assert (await get(WRITE)).status_code == 200  # another key
        assert (await get(path="/health/live")).status_code == 200
        now[0] += 0.5
        assert (await get()).status_code == 200  # one half second, one request
        assert (await get()).status_code == 429
        now[0] += 1_000
        assert [(await get()).status_code for _ in range(3)] == [200, 200, 429]  # nothing is saved up

    asking(app, ask)
    assert metrics.traffic()["refused"] == 3


def test_a_slow_rate_says_how_long_to_wait(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("notellm.serve.rates.time", Clock(now))
    app, _ = guarded(echo, rate=0.1)

    async def ask(client):
        assert (await client.get("/v1/x")).status_code == 200
        refused = await client.get("/v1/x")
        wait = int(refused.headers["retry-after"])
        assert 10 <= wait <= 11
        now[0] += wait
        assert (await client.get("/v1/x")).status_code == 200

    asking(app, ask)


def test_a_place_is_taken_once_the_body_is_there():
    gate = asyncio.Event()
    begun = asyncio.Semaphore(0)

    async def slow(_, receive, send):
        await receive()
        await plain("done", send)

    app, metrics = guarded(slow, together=1)

    async def body():
        yield b"x"
        begun.release()
        await gate.wait()
        yield b"y"

    async def ask(client):
        first = [asyncio.create_task(client.post("/v1/x", content=body())) for _ in range(3)]
        for _ in first:
            await begun.acquire()
        assert (metrics.arriving, metrics.in_flight) == (3, 0)
        assert (await client.get("/v1/x")).status_code == 200
        gate.set()
        statuses = [(await task).status_code for task in first]
        assert set(statuses) <= {200, 503}
        assert 200 in statuses
        assert metrics.arriving == metrics.in_flight == 0

    asking(app, ask)


def test_too_many_at_one_time_are_refused():
    gate = asyncio.Event()
    begun = asyncio.Semaphore(0)

    async def slow(_, __, send):
        begun.release()
        await gate.wait()
        await plain("done", send)

    app, metrics = guarded(slow, together=2)

    async def ask(client):
        first = [asyncio.create_task(client.get("/v1/x")) for _ in range(2)]
        for _ in first:
            await begun.acquire()
        refused = await client.get("/v1/x")
        assert "2 requests are being answered" in told(refused, 503, "busy")
        assert refused.headers["retry-after"] == "1"
        assert metrics.in_flight == 2
        gate.set()
        assert [(await task).status_code for task in first] == [200, 200]
        assert metrics.in_flight == 0
        assert (await client.get("/v1/x")).status_code == 200

    asking(app, ask)


def test_what_takes_too_long_is_ended():
    ended = []

    async def forever(*_):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    app, metrics = guarded(forever, seconds=0.01)

    async def ask(client):
        answer = await client.get("/v1/x")
        assert "longer than 0.01 seconds" in told(answer, 504, "timeout")
        assert answer.headers["retry-after"] == "1"

    asking(app, ask)
    assert ended == [1]
    assert metrics.in_flight == 0


def test_a_body_that_does_not_come_is_waited_for_no_longer():
    app, metrics = guarded(echo, body_seconds=0.01)

    async def never():
        yield b"x"
        await asyncio.Event().wait()

    async def ask(client):
        answer = await client.post("/v1/x", content=never())
        assert "body took longer than 0.01 seconds" in told(answer, 408, "timeout")
        assert answer.headers["connection"] == "close"

    asking(app, ask)
    assert metrics.arriving == metrics.in_flight == 0


def test_who_goes_away_in_the_middle_of_a_body_frees_the_place():
    seen = []

    async def look(_, receive, __):
        seen.append((await receive())["type"])

    app, metrics = guarded(look)
    messages = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    async def send(_):
        raise AssertionError

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/x",
        "headers": [(b"content-length", b"9")],
        "client": ("a", 1),
    }
    asyncio.run(app(scope, receive, send))
    assert seen == ["http.disconnect"]
    assert metrics.in_flight == 0


# -------------------------------------------------------------------- failures and the log

MARK = "Zanzibarquartz"  # in every text, id and query of the test of the log


@pytest.mark.usefixtures("logged")
def test_what_fails_unexpectedly_is_an_answer_without_a_traceback(engine, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError(MARK)

    ways = [
        ("GET", "/v1/notes", None, "find"),
        ("POST", "/v1/related", {"title": "a"}, "related"),
        ("POST", "/v1/tags", {"title": "a"}, "tags"),
        ("POST", "/v1/recommend", {}, "recommend"),
        ("PUT", "/v1/notes/broken", {"title": "a"}, "apply"),
    ]
    for name in {name for *_, name in ways}:
        monkeypatch.setattr(engine, name, broken)
    with served(engine, close=False) as client:
        for method, path, body, _ in ways:
            answer = client.request(method, path, json=body)
            message = told(answer, 500, "failed")
            assert MARK not in answer.text
            assert "ZeroDivisionError" not in answer.text
            assert answer.headers["x-request-id"] in message
        monkeypatch.undo()
        assert client.get("/v1/notes").status_code == 200
        assert client.get("/v1/state").json()["traffic"]["failed"] == len(ways)


def test_the_log_is_json_and_holds_nothing_of_what_was_asked(engine, monkeypatch, logged):
    key = f"{MARK}-write-key"

    def broken(*_, **__):
        raise RuntimeError(f"cannot read {MARK}")

    options = {"keys": Keys(write=[key]), "limits": Limits(body=20_000), "close": False}
    with served(engine, **options) as client:
        client.headers["x-api-key"] = key
        note = {"title": MARK, "content": MARK, "topics": [MARK], "category": MARK}
        assert client.put(f"/v1/notes/{MARK}", json=note).status_code == 200
        assert client.get(f"/v1/notes/{MARK}").status_code == 200
        assert client.get("/v1/notes", params={"q": MARK}).json()["notes"]
        assert client.get("/v1/related", params={"note_id": MARK}).status_code == 200
        assert client.post("/v1/related", json={"title": MARK}).status_code == 200
        assert client.post("/v1/tags", json={"title": MARK}).status_code == 200
        assert client.post("/v1/recommend", json={"history": ["x" + MARK]}).status_code == 404
        click = {"user_id": MARK, "note_id": MARK, "click_id": MARK}
        assert client.post("/v1/clicks", json={"clicks": [click]}).status_code == 200
        assert client.post("/v1/recommend", json={"user_id": MARK}).status_code == 200
        assert client.delete(f"/v1/users/{MARK}").status_code == 200
        assert client.get(f"/v1/users/{MARK}").status_code == 404
        assert client.get("/v1/related", params={"note_id": MARK, "k": MARK}).status_code == 422
        assert client.get(f"/{MARK}").status_code == 404
        assert client.request(MARK, f"/v1/notes/{MARK}").status_code == 400  # no method of HTTP
        assert client.post("/v1/notes", content=MARK).status_code == 422
        # Not so large that what arrives after the answer is a reason of its own to end the connection.
        large = MARK * (25_000 // len(MARK))
        assert client.post("/v1/related", json={"title": large}).status_code == 413
        assert client.get("/v1/state", headers={"x-api-key": MARK}).status_code == 401
    monkeypatch.setattr(engine, "related", broken)
    monkeypatch.setattr(engine, "tags", broken)
    with served(engine, **options) as client:
        client.headers["x-api-key"] = key
        failed = [
            client.post("/v1/related", json={"title": MARK}),
            client.post("/v1/tags", json={"title": MARK}),
        ]
        assert [answer.status_code for answer in failed] == [500, 500]
        assert client.delete(f"/v1/notes/{MARK}").status_code == 200
    text = logged()
    assert MARK not in text
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 19
    (refused,) = [line for line in lines if line["level"] == "warning"]
    assert refused["event"] == "connections refused"
    assert refused["reasons"] == {"not_http": 1}
    for line in requests:
        assert set(line) == {"time", "level", "event", "request", "method", "route", "status", "ms"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert len({line["request"] for line in requests}) == len(requests)
    routes = {line["route"] for line in requests}
    assert {"/v1/notes/{note_id}", "/v1/related", "none"} <= {r.replace(":path", "") for r in routes}
    errors = {line["request"]: line for line in lines if line["level"] == "error"}
    assert {answer.headers["x-request-id"] for answer in failed} == set(errors)
    for line in errors.values():
        assert line["error"] == "RuntimeError"
        assert "in broken" in line["traceback"]


def test_every_answer_has_an_id_and_is_not_to_be_guessed_at(engine):
    with served(engine, keys=Keys(write=[WRITE]), close=False) as client:
        answers = [client.get(path) for path in ("/", "/health/live", "/v1/state", "/nothing", "/page/x.js")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    assert all(answer.headers["x-content-type-options"] == "nosniff" for answer in answers)


def test_many_at_one_time_over_sockets_are_all_counted(engine):
    answers: list[int] = []
    with served(engine, close=False) as client:

        def ask():
            answers.extend(client.get("/v1/related?note_id=n0000001&k=3").status_code for _ in range(10))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        state = client.get("/v1/state").json()["traffic"]
    assert answers == [200] * 40
    assert state["requests"]["related"] == 40
    assert state["in_flight"] == 1  # the one that asks
    assert state["refused"] == state["failed"] == 0


def test_a_server_that_gives_no_bytes_of_the_path_lets_no_two_ids_be_one():
    """The raw path is optional in ASGI. Without it, nobody knows which bytes were replaced."""

    async def answer(_, __, send):
        await plain("", send)

    app, _ = guarded(answer)
    statuses = []

    async def send(message):
        statuses.append(message.get("status"))

    async def run(path, **more):
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": [], **more}
        await app(scope, None, send)

    for more in ({}, {"raw_path": None}):
        asyncio.run(run("/v1/notes/a\ufffd", **more))
        asyncio.run(run("/v1/notes/a", **more))
    assert [status for status in statuses if status] == [400, 200, 400, 200]


def test_other_protocols_pass_by():
    seen = []

    async def app(scope, *_):
        seen.append(scope["type"])

    guard, _ = guarded(app, keys=Keys(write=[WRITE]))
    asyncio.run(guard({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
