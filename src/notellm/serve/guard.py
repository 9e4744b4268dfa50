"""What stands before every request: keys, limits, time, metrics, log. Plain ASGI, since it costs little.

    400  path or query is not UTF-8      401  no key, or a wrong one
    403  a read key where a write key is needed, or another host name than the service's
    408  the body does not arrive        413  the body is too large, or is sent where none is taken
    429  this key asks more often than it may, or too many wrong keys come from one address
    503  too much is being done          504  it took too long

A request counts among those that are worked on once its body is there, so nobody holds a place by sending a
body slowly. How large the head of a request may be, and how many connections there are, is the matter of
`connections.py`.

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
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from notellm.errors import ConfigError
from notellm.serve.body import TooMuchError, check_amount
from notellm.serve.limits import Limits, origin
from notellm.serve.log import RequestLines, log
from notellm.serve.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Read by anybody: whether it lives, and the page, which is of no use without a key.
_OPEN = ("/health/", "/page/")
#: Posts that only read; every other method but GET and HEAD writes.
_READING_POSTS = frozenset({"/v1/related", "/v1/tags", "/v1/rank", "/v1/recommend"})
_REMEMBERED = 10_000  # clients whose rate is remembered
_WRONG_AT_ONCE = 10  # seconds' worth of wrong keys that one address may send at once
#: Bodies of the largest size that may be arriving at one time, in bytes together: they lie in memory before
#: anybody counts their requests.
_ARRIVING = 64


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
    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        retry_after: int | None = None,
        *,
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.close = retry_after, close


class _Buckets:
    """A rate for each of many clients: a bucket gets ``rate`` tokens a second and holds ``room`` of them."""

    def __init__(self, rate: float, room: float) -> None:
        self._rate = rate
        self._room = room
        self._tokens: dict[bytes, tuple[float, float]] = {}  # and when there were so many

    def __len__(self) -> int:
        return len(self._tokens)

    def wait(self, client: bytes) -> float:
        """Seconds until a client has a token; 0 where it has one."""
        return max(0.0, 1 - self._now(client, time.monotonic())) / self._rate

    def take(self, client: bytes) -> float:
        """Take a token where there is one, else say for how many seconds there is none."""
        now = time.monotonic()
        tokens = self._now(client, now)
        self._tokens.pop(client, None)
        if len(self._tokens) >= _REMEMBERED:
            del self._tokens[next(iter(self._tokens))]  # whoever asked longest ago
        self._tokens[client] = (tokens if tokens < 1 else tokens - 1, now)
        return max(0.0, 1 - tokens) / self._rate

    def _now(self, client: bytes, now: float) -> float:
        tokens, then = self._tokens.get(client, (self._room, now))
        return min(self._room, tokens + (now - then) * self._rate)


class Guard:
    """ASGI middleware.

    Args:
        app: what answers.
        keys: none asks for none.
        limits: what is taken on.
        metrics: where all is counted.
        hosts: names under which the service may be addressed, without port, an IPv6 address in brackets;
            None allows all. Without keys, a page of another site could otherwise reach a service on this
            machine by a name that points to it.
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
        self.limits = limits
        self.metrics = metrics
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._keys = keys
        self._rates = None if limits.rate is None else _Buckets(limits.rate, max(1.0, limits.rate))
        self._wrong = _Buckets(limits.wrong_keys, max(1.0, limits.wrong_keys * _WRONG_AT_ONCE))
        self._right: dict[tuple[bytes, bytes], None] = {}  # addresses, and keys that were right from there
        self._bytes_arriving = 0
        self._names = itertools.count()
        self._run = secrets.token_hex(4)
        self._lines = RequestLines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._lines.write()  # the service has ended
            return
        begin = time.perf_counter()
        name = scope["notellm.request"] = f"{self._run}-{next(self._names):x}"
        answer = _Answer(send, name)
        reason = None
        counted = False
        try:
            counts = self._admit(scope)
            body = await self._body(scope, receive)
            if counts:
                self._check_room()
                self.metrics.in_flight += 1
                counted = True
            async with asyncio.timeout(self.limits.seconds):
                await self._app(scope, body, answer)
        except _Refused as refused:
            reason = refused.code
            await answer.refuse(refused)
        except TimeoutError:
            reason = "timeout"
            text = f"this took longer than {self.limits.seconds:g} seconds; ask again, or for less"
            await answer.refuse(_Refused(504, reason, text, 1))
        except Exception as error:  # noqa: BLE001 - nothing of a request may end without an answer
            # The log has where it happened, without the message, which may quote a note.
            where = "".join(traceback.format_tb(error.__traceback__))
            about = {"request": name, "error": type(error).__name__, "traceback": where}
            log.error("failed", extra=about)
            await answer.refuse(_Refused(500, "failed", f"this failed; the log has more under {name}"))
        finally:
            self.metrics.in_flight -= counted
        route = str(scope.get("notellm.route") or getattr(scope.get("route"), "path", "none"))
        seconds = time.perf_counter() - begin
        self.metrics.request(scope["method"], route, answer.status, seconds, reason)
        if log.isEnabledFor(logging.INFO):
            self._lines.add(name, scope["method"], route, answer.status, seconds)

    # ---------------------------------------------------------------- who may ask

    def _admit(self, scope: Scope) -> bool:
        """Whether a request that may be answered counts among those that are worked on.

        Raises:
            _Refused: it may not be answered.
        """
        path: str = scope["path"]
        if "\n" in path:  # a route's pattern passes over one at its end: another note would be meant
            raise _Refused(404, "not_found", "there is nothing at a path with a line break")
        _check_utf_8(scope)
        headers = dict(scope["headers"])
        if self._hosts is not None:
            name = headers.get(b"host", b"").decode("latin-1").lower()
            if re.sub(r":\d*$", "", name) not in self._hosts:
                raise _Refused(403, "host", f"address this service as {' or '.join(sorted(self._hosts))}")
        if path == "/" or path.startswith(_OPEN):
            if headers.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in headers:
                raise _Refused(413, "no_body", "nothing here reads a body; send none")
            return False
        client = scope.get("client")
        address = origin(str(client[0])).encode() if client else b""
        asking = address
        if self._keys:
            key = _key_of(headers)
            asking = _digest(key)
            read, write = self._check_key(key, (address, asking))
            if not read:
                raise _Refused(401, "no_key", "give a valid API key: Authorization: Bearer KEY")
            writes = scope["method"] not in ("GET", "HEAD") and path not in _READING_POSTS
            if writes and not write:
                raise _Refused(403, "read_only", "this key may only read; give one that may write")
        self._check_room()
        if self._rates is not None:
            seconds = self._rates.take(asking)
            if seconds:
                wait = int(seconds) + 1
                text = f"this is more than {self.limits.rate:g} requests a second; wait {wait} s"
                raise _Refused(429, "rate", text, wait)
        return True

    def _check_key(self, key: bytes, who: tuple[bytes, bytes]) -> tuple[bool, bool]:
        """Whether a key may read, and whether it may write.

        Where too many wrong keys came from an address, one that was never right from there is not even looked
        at, so that nothing is learned by guessing on. Others behind the same proxy are not shut out by that.

        Raises:
            _Refused: too many wrong keys came from there.
        """
        address, _ = who
        if who not in self._right:
            seconds = self._wrong.wait(address)
            if key and seconds:
                wait = int(seconds) + 1
                raise _Refused(
                    429, "wrong_keys", f"too many wrong API keys came from here; wait {wait} s", wait
                )
        read, write = self._keys.check(key)
        if read:
            if len(self._right) >= _REMEMBERED and who not in self._right:
                del self._right[next(iter(self._right))]
            self._right[who] = None
        elif key:  # to give none is no guess: a page that is opened for the first time does so
            self._wrong.take(address)
        return read, write

    def _check_room(self) -> None:
        if self.metrics.in_flight >= self.limits.together:
            text = f"{self.metrics.in_flight} requests are being answered; ask again in a moment"
            raise _Refused(503, "busy", text, 1)

    # ---------------------------------------------------------------- bodies

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read whole before anything is done, since then its size and its time are known.

        Raises:
            _Refused: it is too large, holds too much, or does not arrive in time.
        """
        headers = dict(scope["headers"])
        announced = b"content-length" in headers or b"transfer-encoding" in headers
        if not announced and scope["method"] in ("GET", "HEAD"):
            return receive  # HTTP/2 need not announce a body, so the other methods are looked at
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.body:
            raise self._too_large()
        body = bytearray()
        self.metrics.arriving += 1
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                if not await self._gather(receive, body):
                    return _replay([{"type": "http.disconnect"}], receive)  # whoever asked has gone
        except TimeoutError:
            text = f"the body took longer than {self.limits.body_seconds:g} seconds; send it at once"
            raise _Refused(408, "timeout", text, close=True) from None
        finally:
            self.metrics.arriving -= 1
            self._bytes_arriving -= len(body)
        try:
            whole = bytes(body)
            check_amount(whole)
        except TooMuchError as error:
            raise _Refused(413, "too_much", str(error)) from error
        return _replay([{"type": "http.request", "body": whole, "more_body": False}], receive)

    async def _gather(self, receive: Receive, body: bytearray) -> bool:
        """Receive a whole body into ``body``; whether it came to its end."""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return False
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) + len(piece) > self.limits.body:
                raise self._too_large()
            if more and self._bytes_arriving + len(piece) > _ARRIVING * self.limits.body:
                raise _Refused(
                    503, "busy", "too many bodies are arriving; ask again in a moment", 1, close=True
                )
            body += piece
            self._bytes_arriving += len(piece)
        return True

    def _too_large(self) -> _Refused:
        text = f"the body has more than {self.limits.body:,} bytes, which are allowed; send less"
        return _Refused(413, "too_large", text)


def _key_of(headers: MutableMapping[bytes, bytes]) -> bytes:
    """The API key of a request; empty where there is none."""
    key = headers.get(b"x-api-key", b"").strip()
    if key:
        return key
    scheme, _, token = headers.get(b"authorization", b"").strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""  # RFC 7235: a scheme in any case


def _check_utf_8(scope: Scope) -> None:
    """Refuse a path or query whose bytes are not UTF-8: the server would read all such ids as one.

    Raises:
        _Refused: it is not UTF-8.
    """
    query: bytes = scope.get("query_string", b"")
    try:
        if "\ufffd" in scope["path"]:  # the character itself, or what stands for bytes that are no UTF-8
            # A server need not give the bytes; then nobody can tell the two apart.
            unquote_to_bytes(scope.get("raw_path") or b"\xff").decode()
        if b"%" in query or not query.isascii():
            unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise _Refused(400, "not_utf_8", "path or query is not UTF-8; encode ids as UTF-8") from None


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
        if why.close:
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": why.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def error_body(code: str, message: str) -> bytes:
    """The body of an answer that is an error."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()
