"""The guard: ASGI middleware that every request passes before a route sees it.

    400  the path or the query is not UTF-8   401  the key is missing or wrong
    403  the key may only read, or the service is addressed by a name that is not its own
    408  the body does not arrive in time     413  the body is too large, or none is accepted
    429  too many requests of one key, or too many wrong keys from one address
    503  too many requests at one time        504  the request took too long

A request takes a place once its body has arrived, so a client that sends a body slowly holds none.
"""

import asyncio
import itertools
import logging
import re
import secrets
import time
import traceback
from collections.abc import Callable, Collection
from urllib.parse import unquote_to_bytes

from notellm.serve.asgi import App, Message, Receive, Scope, Send
from notellm.serve.body import BodyReader
from notellm.serve.keys import KeyCheck, Keys, digest_of, key_of
from notellm.serve.limits import Limits, origin
from notellm.serve.log import RequestLines, log
from notellm.serve.metrics import Metrics
from notellm.serve.rates import TokenBuckets
from notellm.serve.refusal import Refusal, error_body

#: Paths that need no key: health, and the page, which shows nothing without a key.
_OPEN = ("/health/", "/page/")


def _writes(_: str) -> bool:
    return False


class Guard:
    """ASGI middleware that checks keys and limits, answers failures, counts requests and writes the log.

    The log has one JSON line per request: method, the route's template, status, milliseconds. It never has a
    text of a note, an id, a query or a key.

    Args:
        app: the application behind the guard.
        keys: the valid API keys; if there are none, everybody may ask.
        limits: the limits of the service.
        metrics: counts every request.
        hosts: names by which the service may be addressed, without the port, an IPv6 address in brackets;
            None allows every name. Without keys, a page of another site could otherwise reach a service on
            this machine through a name that points to it.
        only_reads: says of a path whether a POST to it only reads, so that a read key is enough. All other
            methods except GET and HEAD write.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        limits: Limits,
        metrics: Metrics,
        hosts: Collection[str] | None = None,
        only_reads: Callable[[str], bool] = _writes,
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self._app = app
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._only_reads = only_reads
        self._keys = KeyCheck(keys, limits.wrong_keys) if keys else None
        self._rates = None if limits.rate is None else TokenBuckets(limits.rate, max(1.0, limits.rate))
        self._bodies = BodyReader(limits, metrics)
        self._numbers = itertools.count()
        self._run = secrets.token_hex(4)
        self._lines = RequestLines()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            self._lines.write()  # the service has ended
            return
        begin = time.perf_counter()
        name = scope["notellm.request"] = f"{self._run}-{next(self._numbers):x}"
        answer = _Answer(send, name)
        reason = None
        counted = False
        try:
            counts = self._admit(scope)
            body = await self._bodies.read(scope, receive)
            if counts:
                self._check_room()
                self.metrics.in_flight += 1
                counted = True
            async with asyncio.timeout(self.limits.seconds):
                await self._app(scope, body, answer)
        except Refusal as refusal:
            reason = refusal.code
            await answer.refuse(refusal)
        except TimeoutError:
            reason = "timeout"
            text = f"this took longer than {self.limits.seconds:g} seconds; ask again, or ask for less"
            await answer.refuse(Refusal(504, reason, text, 1))
        except Exception as error:  # noqa: BLE001 - every request gets an answer, whatever goes wrong
            # The log has the traceback without the error's message, which may quote a note.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("failed", extra={"request": name, "error": type(error).__name__, "traceback": where})
            text = f"the request failed; the service's log has more under {name}"
            await answer.refuse(Refusal(500, "failed", text))
        finally:
            self.metrics.in_flight -= counted
        route = str(scope.get("notellm.route") or getattr(scope.get("route"), "path", "none"))
        seconds = time.perf_counter() - begin
        self.metrics.request(scope["method"], route, answer.status, seconds, reason)
        if log.isEnabledFor(logging.INFO):
            self._lines.add(name, scope["method"], route, answer.status, seconds)

    def _admit(self, scope: Scope) -> bool:
        """Return whether the request counts among those that are worked on.

        Raises:
            Refusal: if the request may not be answered.
        """
        path: str = scope["path"]
        if "\n" in path:  # a route's pattern ignores a line break at the end: it would find another note
            raise Refusal(404, "not_found", "no path with a line break exists")
        _check_utf_8(scope)
        headers = dict(scope["headers"])
        if self._hosts is not None:
            name = headers.get(b"host", b"").decode("latin-1").lower()
            if re.sub(r":\d*$", "", name) not in self._hosts:
                raise Refusal(403, "host", f"address this service as {' or '.join(sorted(self._hosts))}")
        if path == "/" or path.startswith(_OPEN):
            if headers.get(b"content-length", b"0").strip(b"0") or b"transfer-encoding" in headers:
                raise Refusal(413, "no_body", "nothing reads a body at this path; send none")
            return False
        client = scope.get("client")
        address = origin(str(client[0])).encode() if client else b""
        asking = address
        if self._keys is not None:
            key = key_of(headers)
            asking = digest_of(key)
            read, write = self._keys.check(key, asking, address)
            if not read:
                raise Refusal(401, "no_key", "give a valid API key: Authorization: Bearer KEY")
            if not write and not self._is_reading(scope["method"], path):
                raise Refusal(403, "read_only", "this key may only read; give one that may write")
        self._check_room()
        if self._rates is not None:
            seconds = self._rates.take(asking)
            if seconds:
                wait = int(seconds) + 1
                text = f"this is more than {self.limits.rate:g} requests a second; wait {wait} s"
                raise Refusal(429, "rate", text, wait)
        return True

    def _is_reading(self, method: str, path: str) -> bool:
        return method in ("GET", "HEAD") or (method == "POST" and self._only_reads(path))

    def _check_room(self) -> None:
        if self.metrics.in_flight >= self.limits.together:
            text = f"{self.metrics.in_flight} requests are being answered; ask again in a moment"
            raise Refusal(503, "busy", text, 1)


def _check_utf_8(scope: Scope) -> None:
    """Refuse a path or query that is not UTF-8: the server would read all such ids as the same one.

    Raises:
        Refusal: if it is not UTF-8.
    """
    query: bytes = scope.get("query_string", b"")
    try:
        if (
            "\ufffd" in scope["path"]
        ):  # this character itself, or the replacement for bytes that are not UTF-8
            # A server need not give the raw bytes. Without them nobody can tell the two apart.
            unquote_to_bytes(scope.get("raw_path") or b"\xff").decode()
        if b"%" in query or not query.isascii():
            unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise Refusal(400, "not_utf_8", "the path or the query is not UTF-8; encode ids as UTF-8") from None


class _Answer:
    """Passes an answer on, adds the headers that every answer has, and remembers its status."""

    def __init__(self, send: Send, name: str) -> None:
        self._send = send
        self._headers = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        body = error_body(refusal.code, refusal.message)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if refusal.retry_after is not None:
            headers.append((b"retry-after", str(refusal.retry_after).encode()))
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if refusal.close:
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})
