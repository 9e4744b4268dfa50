"""Connections: a real server on a loopback address, and plain sockets that misbehave."""

import asyncio
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from notellm.serve import connections
from notellm.serve.guard import Guard
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.metrics import Metrics
from tests.serve.small import PATIENCE, serving

KEY = "write-key-0123456789"
HEAD = b"GET /v1/x HTTP/1.1\r\nHost: a\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"
#: More than the buffers of both ends of a connection hold, so that a server that reads on is noticed.
MUCH = 32 << 20


class Echo:
    """An application that answers with the length of the body, or does what a test tells it to."""

    def __init__(self):
        self.size = 0
        self.headers: dict[bytes, bytes] = {}
        self.free = threading.Event()
        self.free.set()
        self.seen = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.seen.append((scope["method"], scope["path"]))
        body = (await receive()).get("body", b"")
        self.headers = dict(scope["headers"])
        if not self.free.is_set() and not scope["path"].startswith("/health/"):
            await asyncio.to_thread(self.free.wait, PATIENCE)
        text = b"x" * self.size or str(len(body)).encode()
        head = {"type": "http.response.start", "status": 200}
        await send({**head, "headers": [(b"content-length", str(len(text)).encode())]})
        await send({"type": "http.response.body", "body": text})


@contextmanager
def running(app=None, *, keys=None, **limits):
    """Give a client of a guarded application; its address and counters are attributes."""
    metrics = Metrics()
    guard = Guard(app or Echo(), keys=keys or Keys(), limits=Limits(**limits), metrics=metrics)
    with serving(guard) as client:
        client.place = (client.base_url.host, client.base_url.port)
        client.metrics = metrics
        yield client


def connect(client, source="127.0.0.1", *, buffer=None):
    """Open a connection from an address of this machine."""
    opened = socket.socket()
    if buffer is not None:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    opened.settimeout(PATIENCE)
    opened.bind((source, 0))
    opened.connect(client.place)
    return opened


def received(opened):
    """Read until the other side closes."""
    pieces = []
    try:
        while piece := opened.recv(65_536):
            pieces.append(piece)
    except (ConnectionResetError, BrokenPipeError):
        pass
    return b"".join(pieces)


def answer(opened):
    """Read status, headers and body of one answer on a connection that stays open."""
    reader = opened.makefile("rb", buffering=0)
    text = b""
    while not text.endswith(b"\r\n\r\n"):
        piece = reader.read(1)
        assert piece, f"the connection was closed after {text!r}"
        text += piece
    first, *lines = text.decode().splitlines()
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = b""
    while len(body) < int(headers["content-length"]):
        body += reader.read(int(headers["content-length"]) - len(body))
    return int(first.split()[1]), headers, body


def refusal(text):
    """Read an error that ends the connection, check its form, and return its status and code."""
    head, body = text.split(b"\r\n\r\n", 1)
    lines = head.decode().lower().splitlines()
    assert "connection: close" in lines
    assert "content-type: application/json" in lines
    assert "x-content-type-options: nosniff" in lines
    error = json.loads(body)["error"]
    assert set(error) == {"code", "message"}
    return int(lines[0].split()[1]), error["code"]


def poured(opened, begin, piece, *, most=MUCH):
    """Send until the other side closes; return how many bytes were sent, and the answer."""
    sent = 0
    try:
        opened.sendall(begin)
        while sent < most:
            opened.sendall(piece)
            sent += len(piece)
    except (ConnectionResetError, BrokenPipeError):
        pass
    return sent, received(opened)


def memory():
    """Return the resident bytes of this process, in which the server runs as well."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def alive(client):
    assert client.get("/health/live").status_code == 200
    return True


def open_now(client):
    """Return how many connections the server counts as open."""
    return client.metrics.text().split(b"notellm_connections ")[-1].split(b"\n")[0]


def until(condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not come")


# -------------------------------------------------------------------- size


ENDLESS = {
    "small headers": (HEAD, b"a: b\r\n" * 10_000),
    "a header's value": (HEAD + b"a: ", b"x" * 65_536),
    "a header's name": (HEAD, b"x" * 65_536),
    "path": (b"GET /v1/", b"x" * 65_536),
    "query": (b"GET /v1/x?", b"x" * 65_536),
    "line breaks": (b"", b"\r\n" * 32_768),
    "a method": (b"GET", b"T" * 65_536),
    "headers after a body": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
        b"a: b\r\n" * 10_000,
    ),
    "a header after a body": (
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\na: ",
        b"x" * 65_536,
    ),
    "an extension of a chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;a=", b"x" * 65_536),
    "a body that was refused": (
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999\r\n\r\n",
        b"x" * 65_536,
    ),
    "a body without a key": (
        b"POST /v1/x HTTP/1.1\r\nHost: a\r\nX-API-Key: no\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000\r\n" + b"x" * 4_096 + b"\r\n",
    ),
    "a body where none is read": (
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1000\r\n" + b"x" * 4_096 + b"\r\n",
    ),
    "requests without reading an answer": (b"", LIVE * 1_000),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_what_never_ends_is_cut_off_and_takes_no_memory(what):
    begin, piece = ENDLESS[what]
    if b"/v1/x" in begin and b"X-API-Key" not in begin:
        begin = begin.replace(b"Host: a\r\n", b"Host: a\r\nX-API-Key: " + KEY.encode() + b"\r\n")
    with running(keys=Keys(write=[KEY])) as client:
        alive(client)
        before = memory()
        with ExitStack() as stack:
            for _ in range(3):
                opened = stack.enter_context(connect(client))
                sent, _ = poured(opened, begin, piece)
                assert sent < MUCH
                assert alive(client)
            assert memory() - before < 24 << 20
        assert client.metrics.traffic()["refused"] >= 3
        assert client.metrics.in_flight == client.metrics.arriving == 0


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (HEAD + b"a: b\r\n" * 100 + b"\r\n", 431, "headers"),
        (HEAD + b"a: " + b"x" * 33_000 + b"\r\n\r\n", 431, "headers"),
        (HEAD + b"".join(b"a: " + b"x" * 1_000 + b"\r\n" for _ in range(40)) + b"\r\n", 431, "headers"),
        (HEAD + b"a: " + b"x" * 60_000, 431, "headers"),
        (b"GET /v1/" + b"x" * 8_200 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "url"),
        (b"GET /v1/x?" + b"x" * 20_000, 414, "url"),
        (b"GET nowhere HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not_http"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", 400, "not_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not_http"),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "not_http"),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400, "not_http"),
        (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "not_http"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n", 400, "not_http"),
    ],
    ids=range(14),
)
def test_a_head_that_is_not_taken_is_told_why(request_, status, code):
    with running() as client, connect(client) as opened:
        opened.sendall(request_)
        assert refusal(received(opened)) == (status, code)
        assert alive(client)
        assert client.metrics.traffic()["refused"] == 1


def test_a_head_up_to_the_limits_is_taken_in_pieces_of_any_size():
    whole = b"GET /v1/" + b"x" * 8_180 + b" HTTP/1.1\r\nHost: a\r\n"
    whole += b"".join(b"name-%02d: " % i + b"v" * 230 + b"\r\n" for i in range(99)) + b"\r\n"
    assert 32_000 < len(whole) < 33_000
    with running() as client, connect(client) as opened:
        for size in (len(whole), 4_096, 1_000):
            for start in range(0, len(whole), size):
                opened.sendall(whole[start : start + size])
            assert answer(opened)[0] == 200
        for value in whole:  # byte by byte, as slowly as one may
            opened.send(bytes([value]))
        assert answer(opened)[0] == 200


def test_headers_after_a_body_are_read_past():
    app = Echo()
    with running(app) as client, connect(client) as opened:
        for _ in range(2):
            opened.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-API-Key: a\r\n\r\n")
            assert answer(opened)[::2] == (200, b"3")
            assert b"x-api-key" not in app.headers


def test_another_protocol_is_not_spoken_and_what_follows_is_no_request():
    """Behind a proxy that forwards the body, its bytes would be read as another client's request."""
    app = Echo()
    app.free.clear()
    with running(app) as client, connect(client) as opened:
        inner = b"GET /v1/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
        head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        opened.sendall(head + b"Content-Length: %d\r\n\r\n" % (2 * len(inner)) + inner)
        until(lambda: app.seen)
        opened.sendall(inner)
        alive(client)
        app.free.set()
        assert received(opened).startswith(b"HTTP/1.1 200 ")
        assert ("GET", "/v1/hidden") not in app.seen
        assert alive(client)


def test_a_few_requests_may_be_sent_ahead_and_are_answered_in_order():
    with running() as client, connect(client) as opened:
        bodies = [b"x" * i for i in range(12)]
        head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
        opened.sendall(b"".join(head % len(body) + body for body in bodies))
        assert [answer(opened)[2] for _ in bodies] == [b"%d" % i for i in range(12)]


# -------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "body", [b"Content-Length: 1\r\n\r\nx", b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/page/app.js"])
def test_where_nobody_needs_a_key_no_body_is_read(path, body):
    app = Echo()
    with running(app, keys=Keys(write=[KEY])) as client, connect(client) as opened:
        opened.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: a\r\n" + body)
        status, _, text = answer(opened)
        assert (status, json.loads(text)["error"]["code"]) == (413, "no_body")
        assert app.seen == []
        assert client.metrics.traffic()["refused"] == 1
        opened.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert answer(opened)[0] == 200


def test_slow_bodies_hold_no_place_of_those_that_are_worked_on():
    with ExitStack() as stack:
        client = stack.enter_context(running(together=2, body_seconds=1.0))
        slow = [stack.enter_context(connect(client)) for _ in range(20)]
        for opened in slow:
            opened.sendall(b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
        until(lambda: client.metrics.arriving == 20)
        assert client.metrics.in_flight == 0
        assert client.post("/v1/x", content=b"abc").text == "3"
        for opened in slow:
            assert refusal(received(opened)) == (408, "timeout")
        assert client.metrics.arriving == 0
        assert client.post("/v1/x", content=b"abc").text == "3"


def test_bodies_that_arrive_hold_so_much_memory_together_and_no_more():
    body = 20_000
    with ExitStack() as stack:
        client = stack.enter_context(running(body=body))
        head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % body
        slow = [stack.enter_context(connect(client)) for _ in range(70)]
        for opened in slow:
            opened.sendall(head + b"x" * (body - 1))
        until(lambda: client.metrics.arriving == 64)
        refused = [refusal(received(opened)) for opened in select.select(slow, (), (), PATIENCE)[0]]
        assert set(refused) == {(503, "busy")}
        assert client.get("/v1/x").status_code == 200


# -------------------------------------------------------------------- time


def quick(**limits):
    """A server with short time-outs of different lengths."""
    times = {"head_seconds": 0.2, "body_seconds": 0.4, "idle_seconds": 0.3, "seconds": 0.2}
    return running(**{**times, **limits})


def test_a_connection_that_says_nothing_is_closed():
    with quick() as client, connect(client) as opened:
        assert received(opened) == b""


def test_a_connection_is_closed_some_time_after_its_last_answer():
    with quick(idle_seconds=0.5) as client, connect(client) as opened:
        for _ in range(3):
            opened.sendall(LIVE)
            assert answer(opened)[0] == 200
        assert received(opened) == b""


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("piece", [b"", b"x"], ids=["silent", "drop by drop"])
def test_a_head_that_does_not_come_to_its_end_is_cut_off(piece, after):
    with quick() as client, connect(client) as opened:
        for _ in range(after):
            opened.sendall(LIVE)
            answer(opened)
        opened.sendall(HEAD + b"a: ")
        end = time.monotonic() + PATIENCE
        while not select.select([opened], (), (), 0.02)[0] and time.monotonic() < end:
            opened.sendall(piece)
        assert refusal(received(opened)) == (408, "timeout")
        assert alive(client)


@pytest.mark.parametrize("key", [KEY, "wrong"])
def test_a_body_that_does_not_come_to_its_end_is_cut_off(key):
    """Both if it is waited for and if it was refused before it arrived."""
    with quick(keys=Keys(write=[KEY])) as client, connect(client) as opened:
        head = f"POST /v1/x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\nContent-Length: 1000\r\n\r\n"
        opened.sendall(head.encode())
        if key != KEY:
            assert answer(opened)[0] == 401
        end = time.monotonic() + PATIENCE
        while not select.select([opened], (), (), 0.02)[0] and time.monotonic() < end:
            opened.sendall(b"x")
        rest = received(opened)
        assert rest == b"" if key != KEY else refusal(rest) == (408, "timeout")


def test_an_answer_that_nobody_reads_does_not_stay(monkeypatch):
    monkeypatch.setattr(connections, "_GRACE", 0.1)
    app = Echo()
    app.size = 16 << 20
    with quick(app=app, idle_seconds=PATIENCE) as client, connect(client, buffer=4_096) as opened:
        opened.sendall(HEAD + b"\r\n")
        until(lambda: app.seen)
        until(lambda: open_now(client) == b"0.0")
        assert len(received(opened)) < app.size
        assert b'notellm_refused_total{reason="answer_timeout"} 1.0' in client.metrics.text()
        app.size = 0
        assert client.get("/v1/x").status_code == 200


# -------------------------------------------------------------------- number


def test_one_address_has_so_many_connections_and_others_have_theirs():
    with ExitStack() as stack:
        client = stack.enter_context(running(connections=100, per_address=5))
        own = [stack.enter_context(connect(client, "127.0.0.2")) for _ in range(5)]
        until(lambda: open_now(client) == b"5.0")
        with connect(client, "127.0.0.2") as refused:
            assert refusal(received(refused)) == (429, "connections")
        assert alive(client)  # from 127.0.0.1
        own[0].close()
        until(lambda: open_now(client) == b"5.0")  # that of the client of this test is one
        with connect(client, "127.0.0.2") as opened:
            opened.sendall(LIVE)
            assert answer(opened)[0] == 200
        for opened in own[1:]:
            opened.sendall(LIVE)
            assert answer(opened)[0] == 200


@pytest.mark.parametrize(
    ("piece", "answered"),
    [
        (b"", False),
        (HEAD + b"a: ", False),
        (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx", True),
    ],
    ids=["nothing", "a head", "a refused body"],
)
def test_who_waits_longest_makes_room_for_a_new_connection(piece, answered):
    """None of these has a key, and sending part of a request does not protect a connection."""
    with ExitStack() as stack:
        client = stack.enter_context(running(keys=Keys(write=[KEY]), connections=4, per_address=4))
        waiting = [stack.enter_context(connect(client, f"127.0.0.{i + 2}")) for i in range(4)]
        for opened in waiting:
            opened.sendall(LIVE)
            answer(opened)
        waiting[0].sendall(LIVE)  # the first is now the one that was answered last
        answer(waiting[0])
        waiting[1].sendall(piece)
        if answered:
            assert answer(waiting[1])[0] == 401
            for opened in (waiting[2], waiting[3], waiting[0]):
                opened.sendall(LIVE)
                answer(opened)
        with connect(client, "127.0.0.9") as opened:
            opened.sendall(LIVE)
            assert answer(opened)[0] == 200
            assert received(waiting[1]) == b""
        for opened in (waiting[0], waiting[2], waiting[3]):
            opened.sendall(LIVE)
            assert answer(opened)[0] == 200


def test_requests_that_are_worked_on_make_no_room():
    app = Echo()
    app.free.clear()
    with ExitStack() as stack:
        client = stack.enter_context(running(app, connections=3, per_address=3))
        working = [stack.enter_context(connect(client)) for _ in range(3)]
        for opened in working:
            opened.sendall(HEAD + b"\r\n")
        until(lambda: len(app.seen) == 3)
        with connect(client) as refused:
            assert refusal(received(refused)) == (429, "connections")
        with connect(client, "127.0.0.2") as refused:
            assert refusal(received(refused)) == (503, "connections")
        app.free.set()
        assert [answer(opened)[0] for opened in working] == [200] * 3
        with connect(client, "127.0.0.2") as opened:
            opened.sendall(LIVE)
            assert answer(opened)[0] == 200


SERVER = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from notellm.serve.guard import Guard
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.metrics import Metrics
from notellm.serve.run import server
from tests.serve.test_connections import Echo
listening = socket.create_server(("127.0.0.1", 0), backlog=512)
print(listening.getsockname()[1], flush=True)
server(Guard(Echo(), keys=Keys(), limits=Limits(), metrics=Metrics())).run([listening])
"""


@pytest.mark.slow
def test_idle_connections_lock_nobody_out_where_few_files_may_be_open():
    """274 connections once did so in a process that may open 300 files."""
    child = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    try:
        assert child.stdout is not None
        place = ("127.0.0.1", int(child.stdout.readline()))
        with ExitStack() as stack:
            for i in range(400):
                opened = stack.enter_context(socket.socket())
                opened.settimeout(PATIENCE)
                opened.bind((f"127.0.1.{1 + i % 8}", 0))
                opened.connect(place)
                if i % 50 == 49:
                    with socket.create_connection(place, timeout=PATIENCE) as asking:
                        asking.sendall(LIVE)
                        assert answer(asking)[0] == 200
            files = len(list(Path(f"/proc/{child.pid}/fd").iterdir()))
            assert 172 <= files < 260
    finally:
        child.kill()
        child.communicate()


def test_what_is_refused_is_told_in_the_log_together(logged):
    with running() as client:
        for _ in range(5):
            with connect(client) as opened:
                opened.sendall(b"not HTTP\r\n\r\n")
                received(opened)
        with connect(client) as opened:
            opened.sendall(b"GET /" + b"x" * 9_000)
            received(opened)
    lines = [json.loads(line) for line in logged().splitlines()]
    (told,) = [line for line in lines if line["event"] == "connections refused"]
    assert told["reasons"] == {"not_http": 5, "url": 1}
    assert told["level"] == "warning"
