"""Connections: how many there are, how large the head of a request is, and how long it may take to arrive.

uvicorn has no limit on any of these, and its HTTP parser keeps whatever a client sends until the head of a
request is complete. :class:`Connection` is uvicorn's protocol with limits, which hold before any key is read:

    408  the head of a request does not arrive in time     414  path and query are too long
    400  it is not HTTP                                    431  headers are too large or too many
    429  too many connections of one address               503  too many connections in all

The body of a request is the guard's matter (`guard.py`), except where the answer has been given already: what
a client sends after it is thrown away, as long and as much as a body may take.

Where all connections are taken, the one that has waited longest without a complete request makes room for a
new one. So neither idle connections nor those that send their headers slowly lock anybody out.
"""

import asyncio
from collections import Counter
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from notellm.serve.limits import Limits, origin
from notellm.serve.log import log
from notellm.serve.metrics import Metrics
from notellm.serve.refusal import Refusal, error_body

#: Bytes that the parser is given at a time: no limit is passed by more than this.
_PIECE = 4 << 10
#: Requests of one connection that may wait for the one before them (pipelining; hardly any client does it).
_PIPELINED = 16
#: Seconds by which a connection outlives the time-outs of the guard, which gives the better answer.
_GRACE = 5.0
_SAID_EVERY = 10.0  # seconds between two lines of the log about refused connections


class Connections:
    """All connections of one server.

    Args:
        limits: how many there may be, and for how long.
        metrics: where refusals are counted.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._most, self._most_per_address = limits.most_connections, limits.most_per_address
        self._open: dict[Connection, str] = {}  # and the origin of each
        self._of: Counter[str] = Counter()  # connections of each origin
        self._waiting: dict[Connection, None] = {}  # without a complete request, who has waited longest first
        self._said: Counter[str] = Counter()  # refusals since the last line of the log
        self._sweeping: asyncio.TimerHandle | None = None
        self._saying: asyncio.TimerHandle | None = None
        metrics.gauge("notellm_connections", "Open connections", lambda: len(self._open))

    def protocol(self) -> "type[Connection]":
        """A class of connections that belong here, for uvicorn's ``http`` setting."""
        return type("Connection", (Connection,), {"shared": self})

    def add(self, connection: "Connection") -> None:
        """Take a new connection.

        Raises:
            Refusal: there are too many.
        """
        address = origin(connection.client[0]) if connection.client else ""
        if self._of[address] >= self._most_per_address:
            raise Refusal(
                429,
                "connections",
                f"{self._of[address]:,} connections of this address are open; close some, or raise "
                "--max-connections-per-address where a proxy stands before this service",
            )
        if len(self._open) >= self._most and not self._make_room():
            raise Refusal(503, "connections", f"{self._most:,} connections are open; try again soon")
        self._open[connection] = address
        self._of[address] += 1
        self._waiting[connection] = None
        if self._sweeping is None:
            self._sweep_later()

    def discard(self, connection: "Connection") -> None:
        """Forget a connection, where it is known."""
        self._waiting.pop(connection, None)
        address = self._open.pop(connection, None)
        if address is not None:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]

    def busy(self, connection: "Connection") -> None:
        """A connection has brought a complete head: it does not make room for another one."""
        self._waiting.pop(connection, None)

    def idle(self, connection: "Connection") -> None:
        """All requests of a connection are answered, so it makes room for another one."""
        if connection in self._open:
            self._waiting[connection] = None

    def refused(self, reason: str) -> None:
        """Count a refusal; the log has one line for many, since anybody can cause them."""
        self._metrics.refused(reason)
        self._said[reason] += 1
        if self._saying is None:
            self._saying = asyncio.get_running_loop().call_later(_SAID_EVERY, self.say)

    def say(self) -> None:
        """Write a line about the refusals since the last one, where there are any."""
        if self._saying is not None:
            self._saying.cancel()
            self._saying = None
        if self._said:
            log.warning("connections refused", extra={"reasons": dict(self._said)})
            self._said.clear()

    def _make_room(self) -> bool:
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        self.refused("made_room")
        self.discard(longest)
        longest.transport.abort()
        return True

    def _sweep_later(self) -> None:
        limits = self.limits
        shortest = min(limits.head_seconds, limits.body_seconds, limits.idle_seconds, limits.seconds)
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(min(1.0, shortest / 4), self._sweep)

    def _sweep(self) -> None:
        """Close what has had its time."""
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            connection.check(now)
        if self._open:
            self._sweep_later()


class Connection(HttpToolsProtocol):
    """One connection; made by uvicorn from what :meth:`Connections.protocol` gives it."""

    shared: Connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = self.shared.limits
        self._phase = "new"  # then "head", "body" and "idle" in turns: what of a request is arriving
        self._since = self.loop.time()  # when the phase began
        self._closing: float | None = None  # since when it is being closed
        self._unanswered = 0  # requests whose head is complete
        self._loose = 0  # bytes of a head, or of what lies around a body, that the parser has kept
        self._headers = self._header_bytes = 0
        self._discarded = 0  # bytes of a body that came after its answer
        self._deaf = False  # what arrives is not looked at any more

    # ---------------------------------------------------------------- what uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it at once."""
        super().connection_made(transport)
        try:
            self.shared.add(self)
        except Refusal as refused:
            self._refuse(refused)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.shared.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Give the parser what has arrived, in pieces, so that no limit is passed by more than a piece."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _PIECE):
            if self._deaf or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE]
            self._loose += len(piece)
            try:
                self.parser.feed_data(piece)
                self._check_size(len(piece))
            except httptools.HttpParserUpgrade:
                # Another protocol is not spoken here. The request is answered in HTTP, and what follows is
                # of the other protocol: to read it as a request would be dangerous behind a proxy.
                self._deaf = True
                self.cycle.keep_alive = False
            except httptools.HttpParserError as error:
                refused = error.__context__
                if not isinstance(refused, Refusal):
                    refused = Refusal(400, "not_http", "this is not a request of HTTP/1.1")
                self._refuse(refused)
            except Refusal as refused:
                self._refuse(refused)

    def _check_size(self, received: int) -> None:
        """Refuse what has grown too large without the parser having told of it."""
        if self._loose > self._limits.head_bytes:
            raise self._too_large()
        if self._phase == "body" and self.cycle.response_complete:
            self._discarded += received
            if self._discarded > max(self._limits.body, self._limits.head_bytes):
                raise Refusal(413, "too_large", "the body goes on after it was refused")

    def _too_large(self) -> Refusal:
        return Refusal(
            431,
            "headers",
            f"the headers have more than {self._limits.head_bytes:,} bytes, which are allowed; send less",
        )

    def on_message_begin(self) -> None:
        """A request begins."""
        self._enter("head")
        self._headers = self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of path and query."""
        if len(self.url) + len(url) > self._limits.url:
            raise Refusal(
                414, "url", f"path and query have more than {self._limits.url:,} bytes, which are allowed"
            )
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, before or after the body."""
        self._headers += 1
        self._header_bytes += len(name) + len(value) + 4
        if self._headers > self._limits.headers:
            raise Refusal(
                431, "headers", f"there are more than {self._limits.headers} headers, which are allowed"
            )
        if self._header_bytes > self._limits.head_bytes:
            raise self._too_large()
        if self._phase == "head":  # a header after the body says nothing that is read here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there, so the request is given to the application."""
        if len(self.pipeline) >= _PIPELINED:
            raise Refusal(429, "pipelined", f"more than {_PIPELINED} requests wait on this connection")
        super().on_headers_complete()  # fails where the URL is none
        self._enter("body")
        self._unanswered += 1
        self._discarded = 0
        self.shared.busy(self)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._loose = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is there."""
        self._enter("idle")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A request is answered."""
        self._unanswered -= 1
        if self._phase == "idle":
            self._since = self.loop.time()
        if not self._unanswered:
            self.shared.idle(self)  # also where the rest of a refused body is still coming
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing: `check` closes what is idle."""

    # ---------------------------------------------------------------- limits

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._since = self.loop.time()
        self._loose = 0

    def check(self, now: float) -> None:
        """Close the connection where its time is over.

        Args:
            now: the event loop's time.
        """
        limits = self._limits
        if self.transport.is_closing():
            self._closing = now if self._closing is None else self._closing
            if now - self._closing > limits.seconds:  # who does not read the answer keeps it open until then
                self.transport.abort()
            return
        waited = now - self._since
        answering = self._unanswered or self.transport.get_write_buffer_size()
        if answering and (self._phase == "idle" or self.flow.read_paused):
            # The guard has ended the request before, so what is left is an answer that nobody reads.
            if waited > limits.seconds + limits.body_seconds + _GRACE:
                self.shared.refused("answer_timeout")
                self.transport.abort()
        elif self._phase == "head":
            if waited > limits.head_seconds:
                text = f"the headers took longer than {limits.head_seconds:g} seconds; send them at once"
                self._refuse(Refusal(408, "timeout", text))
        elif self._phase == "body":
            if waited > limits.body_seconds + _GRACE * bool(self._unanswered):
                self.shared.refused("body_timeout")
                self.transport.abort()
        elif waited > (limits.head_seconds if self._phase == "new" else limits.idle_seconds):
            self.transport.close()

    def _refuse(self, refused: Refusal) -> None:
        """Answer by an error and close; where an answer is under way, or has been given, only close."""
        self._deaf = True
        self.shared.refused(refused.code)
        # Only where no answer has begun can this one be told from it.
        begun = self._unanswered > 1 or (self._unanswered == 1 and self._phase != "body")
        if begun or (self._phase == "body" and self.cycle.response_started):
            self.transport.abort()
            return
        body = error_body(refused.code, refused.message)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        if refused.status in (429, 503):
            headers.append((b"retry-after", b"1"))
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(STATUS_LINE[refused.status] + head + b"\r\n" + body)
        self.transport.close()
