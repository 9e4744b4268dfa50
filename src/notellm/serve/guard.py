"""What stands before every request: keys, limits, time, metrics, log. Plain ASGI, since it costs little.

    401  no key, or a wrong one          403  a read key where a write key is needed
    413  the body is too large           429  this key asks more often than it may
    503  too much is being done          504  it took too long

The log has one JSON line a request: method, the route's template, status, milliseconds. Never a text of a
note, an id, a query or a key.
"""

import asyncio
import hashlib
import hmac
import itertools
import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from notellm.errors import ConfigError
from notellm.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("notellm.serve")

#: Read by anybody: whether it lives, and the page, which is of no use without a key.
_OPEN = ("/health/", "/page/")
#: Posts that only read; every other method but GET and HEAD writes.
_READING_POSTS = frozenset({"/v1/related", "/v1/tags", "/v1/rank", "/v1/recommend"})
_BUCKETS = 10_000  # clients whose rate is remembered


@dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes:
        body: bytes of a request's body.
        together: requests that are worked on or wait at one time.
        seconds: of one request, reading its body included.
        rate: requests a second of one key, in the long run; as many at once; None has no limit.

    Raises:
        ConfigError: one is not positive.
    """

    body: int = 1 << 20
    together: int = 256
    seconds: float = 30.0
    rate: float | None = None

    def __post_init__(self) -> None:
        for name in ("body", "together", "seconds", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # so that "not a number" is refused, too
                raise ConfigError(f"{name} is {value}; it must be above 0")


class Keys:
    """API keys; only their digests are kept, and all are compared, so that time tells nothing.

    Args:
        read: keys that may read.
        write: keys that may read and write.

    Raises:
        ConfigError: a key is shorter than 16 characters, not what a header carries, or one is in both.
    """

    def __init__(self, read: Collection[str] = (), write: Collection[str] = ()) -> None:
        for key in (*read, *write):
            if len(key) < 16:
                raise ConfigError(
                    f"an API key has {len(key)} characters; use at least 16, such as those of: "
                    'python -c "import secrets; print(secrets.token_urlsafe(24))"'
                )
            if not (key.isascii() and key.isprintable()) or " " in key:
                raise ConfigError(
                    "an API key has a space or a character that is not ASCII, which a header cannot carry; "
                    "use letters, digits, - and _"
                )
        if set(read) & set(write):
            raise ConfigError(
                "a key is given for reading and for writing; a write key reads, too: give it once"
            )
        self._digests = [(_digest(key.encode()), False) for key in read]
        self._digests += [(_digest(key.encode()), True) for key in write]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def check(self, given: bytes) -> tuple[bool, bool]:
        """Whether a key may read, and whether it may write."""
        digest = _digest(given)
        read = write = False
        for known, writes in self._digests:
            same = hmac.compare_digest(known, digest)
            read |= same
            write |= same and writes
        return read, write


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class _Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


class Guard:
    """ASGI middleware.

    Args:
        app: what answers.
        keys: none asks for none.
        limits: what is taken on.
        metrics: where all is counted.
        hosts: names under which the service may be addressed; None allows all. Without keys, a page of
            another site could otherwise reach a service on this machine by a name that points to it.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        limits: Limits,
        metrics: Metrics,
        hosts: Collection[str] | None = None,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._keys = keys
        self._limits = limits
        self._metrics = metrics
        self._buckets: dict[bytes, tuple[float, float]] = {}
        self._names = itertools.count()
        self._run = secrets.token_hex(4)
        self._lines = _RequestLines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._lines.write()  # the service has ended
            return
        begin = time.perf_counter()
        name = f"{self._run}-{next(self._names):x}"
        answer = _Answer(send, name)
        reason = None
        try:
            counted = self._admit(scope)
        except _Refused as refused:
            reason = refused.code
            await answer.refuse(refused)
        else:
            self._metrics.in_flight += counted
            try:
                async with asyncio.timeout(self._limits.seconds):
                    body = await self._body(scope, receive)
                    await self._app(scope, body, answer)
            except _Refused as refused:
                reason = refused.code
                await answer.refuse(refused)
            except TimeoutError:
                reason = "timeout"
                text = f"this took longer than {self._limits.seconds:g} seconds; ask again, or for less"
                await answer.refuse(_Refused(504, reason, text, 1))
            except Exception as error:  # noqa: BLE001 - nothing of a request may end without an answer
                # The log has where it happened, without the message, which may quote a note.
                where = "".join(traceback.format_tb(error.__traceback__))
                about = {"request": name, "error": type(error).__name__, "traceback": where}
                log.error("failed", extra=about)  # noqa: TRY400 - it would have the message
                await answer.refuse(_Refused(500, "failed", f"this failed; the log has more under {name}"))
            finally:
                self._metrics.in_flight -= counted
        route = str(scope.get("notellm.route") or getattr(scope.get("route"), "path", "none"))
        seconds = time.perf_counter() - begin
        self._metrics.request(scope["method"], route, answer.status, seconds, reason)
        if log.isEnabledFor(logging.INFO):
            self._lines.add(name, scope["method"], route, answer.status, seconds)

    def _admit(self, scope: Scope) -> int:
        """Whether a request is taken on, and whether it counts among those worked on."""
        path: str = scope["path"]
        if "\n" in path:  # a route's pattern passes over one at its end: another note would be meant
            raise _Refused(404, "not_found", "there is nothing at a path with a line break")
        headers = dict(scope["headers"])
        if self._hosts is not None:
            name = headers.get(b"host", b"").decode("latin-1")
            if re.sub(r":\d*$", "", name) not in self._hosts:
                raise _Refused(403, "host", f"address this service as {' or '.join(sorted(self._hosts))}")
        if path == "/" or path.startswith(_OPEN):
            return 0
        key = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if self._keys:
            read, write = self._keys.check(key)
            if not read:
                raise _Refused(401, "no_key", "give a valid API key: Authorization: Bearer KEY")
            writes = scope["method"] not in ("GET", "HEAD") and path not in _READING_POSTS
            if writes and not write:
                raise _Refused(403, "read_only", "this key may only read; give one that may write")
        if self._metrics.in_flight >= self._limits.together:
            text = f"{self._metrics.in_flight} requests are being answered; ask again in a moment"
            raise _Refused(503, "busy", text, 1)
        if self._limits.rate is not None:
            client = scope.get("client") or ("",)
            self._spend(_digest(key) if self._keys else str(client[0]).encode(), self._limits.rate)
        return 1

    def _spend(self, client: bytes, rate: float) -> None:
        """Take a token of a client's bucket, which holds a second's worth, at least one."""
        now = time.monotonic()
        room = max(1.0, rate)
        tokens, then = self._buckets.pop(client, (room, now))
        tokens = min(room, tokens + (now - then) * rate)
        if len(self._buckets) >= _BUCKETS:
            del self._buckets[next(iter(self._buckets))]  # whoever asked longest ago
        self._buckets[client] = (max(0.0, tokens - 1), now)
        if tokens < 1:
            wait = int((1 - tokens) / rate) + 1
            raise _Refused(429, "rate", f"this is more than {rate:g} requests a second; wait {wait} s", wait)

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read whole before anything is done, since then its size and its time are known."""
        headers = dict(scope["headers"])
        announced = b"content-length" in headers or b"transfer-encoding" in headers
        if not announced and scope["method"] in ("GET", "HEAD"):
            return receive  # HTTP/2 need not announce a body, so the other methods are looked at
        most = self._limits.body
        refused = _Refused(
            413, "too_large", f"the body has more than {most:,} bytes, which are allowed; send less"
        )
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise refused
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return _replay([message], receive)  # whoever asked has gone
            size += len(message.get("body", b""))
            if size > most:
                raise refused
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                return _replay(
                    [{"type": "http.request", "body": b"".join(pieces), "more_body": False}], receive
                )


def _replay(messages: Iterable[MutableMapping[str, Any]], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def again() -> MutableMapping[str, Any]:
        for message in waiting:
            return message
        return await receive()

    return again


class _Answer:
    """Passes an answer on, with the headers that all have, and remembers its status."""

    def __init__(self, send: Send, name: str) -> None:
        self._send = send
        self._headers = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
        self.status = 0
        self._ended = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        await self._send(message)

    async def refuse(self, why: _Refused) -> None:
        """Answer by an error, unless an answer has begun."""
        if self.status:
            return
        body = error_body(why.code, why.message)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if why.retry_after is not None:
            headers.append((b"retry-after", str(why.retry_after).encode()))
        if why.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await self({"type": "http.response.start", "status": why.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def error_body(code: str, message: str) -> bytes:
    """The body of an answer that is an error."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()


class _RequestLines:
    """The log's lines of requests, a few at a time: one write each would cost a tenth of a quick request."""

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def add(self, name: str, method: str, route: str, status: int, seconds: float) -> None:
        """Write a line within a moment."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(0.1, self.write)
        # Nothing in here needs an escape: the method is the one thing that a client chooses.
        method = method if method.isalpha() and method.isascii() else "other"
        self._waiting.append(
            f'{{"time": "{_time(time.time())}", "level": "info", "event": "request", "request": "{name}", '
            f'"method": "{method}", "route": "{route}", "status": {status}, "ms": {seconds * 1e3:.2f}}}\n'
        )

    def write(self) -> None:
        """Write what waits."""
        text, self._waiting = "".join(self._waiting), []
        for handler in log.handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream.write(text)
                handler.flush()


def _time(seconds: float) -> str:
    whole = int(seconds)
    if _second[0] != whole:
        _second[:] = [whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))]
    return f"{_second[1]}.{int(1e3 * (seconds - whole)):03d}Z"


_second: list[Any] = [0, ""]  # the one that was written last, and its text


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what was given as ``extra``."""

    _own = frozenset(vars(logging.makeLogRecord({})))

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line; a traceback is one of its fields."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in self._own}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send the service's log to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    uvicorn = logging.getLogger("uvicorn")  # warns of what is not HTTP
    uvicorn.setLevel(max(level, logging.WARNING))
    log.setLevel(level)
    for logger in (log, uvicorn):
        logger.handlers[:] = [handler]
        logger.propagate = False
