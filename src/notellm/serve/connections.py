"""Limits on connections: their number, and the size and arrival time of a request's head (line and headers).

:class:`Connection` is uvicorn's protocol with limits that apply before any key is read. It answers

    408  the head does not arrive in time         414  path and query are too long
    400  the request is not HTTP                  431  the headers are too large or too many
    429  too many connections of one address      503  too many connections in total

If all are in use, the one that has waited longest without a complete request is closed for a new one.
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

#: Bytes that the parser gets at a time. No limit is exceeded by more than this.
_PIECE = 4 << 10
#: Requests of one connection that may wait for the one before them (pipelining, which few clients use).
_PIPELINED = 16
#: Seconds by which a connection outlives the time-outs of the guard, which gives a better answer.
_GRACE = 5.0
_LOGGED_EVERY = 10.0  # seconds between two lines of the log about refused connections


class Connections:
    """All connections of one server.

    Args:
        limits: the limits on connections and on heads.
        metrics: counts the refusals.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self._metrics = metrics
        self._most, self._most_per_address = limits.most_connections, limits.most_per_address
        self._open: dict[Connection, str] = {}  # connections with their origin
        self._of: Counter[str] = Counter()  # how many connections each origin has
        self._waiting: dict[Connection, None] = {}  # without a complete request, longest first
        self._unlogged: Counter[str] = Counter()  # refusals since the last line of the log
        self._sweeping: asyncio.TimerHandle | None = None
        self._logging: asyncio.TimerHandle | None = None
        metrics.gauge("notellm_connections", "Open connections", lambda: len(self._open))

    def protocol(self) -> "type[Connection]":
        """Return the class of these connections, for uvicorn's ``http`` setting."""
        return type("Connection", (Connection,), {"shared": self})

    def add(self, connection: "Connection") -> None:
        """Register a new connection.

        Raises:
            Refusal: if there are too many.
        """
        address = origin(connection.client[0]) if connection.client else ""
        if self._of[address] >= self._most_per_address:
            raise Refusal(
                429,
                "connections",
                f"{self._of[address]:,} connections of this address are open; close some, or raise "
                "--max-connections-per-address if the service is behind a proxy",
            )
        if len(self._open) >= self._most and not self._make_room():
            raise Refusal(503, "connections", f"{self._most:,} connections are open; try again soon")
        self._open[connection] = address
        self._of[address] += 1
        self._waiting[connection] = None
        if self._sweeping is None:
            self._sweep_later()

    def discard(self, connection: "Connection") -> None:
        """Forget a connection, if it is registered."""
        self._waiting.pop(connection, None)
        address = self._open.pop(connection, None)
        if address is not None:
            self._of[address] -= 1
            if not self._of[address]:
                del self._of[address]

    def busy(self, connection: "Connection") -> None:
        """Note that a connection has sent a complete head, so it is not closed to make room."""
        self._waiting.pop(connection, None)

    def idle(self, connection: "Connection") -> None:
        """Note that all requests of a connection are answered, so it may be closed to make room."""
        if connection in self._open:
            self._waiting[connection] = None

    def refused(self, reason: str) -> None:
        """Count a refusal. The log has one line for many of them, since anybody can cause them."""
        self._metrics.refused(reason)
        self._unlogged[reason] += 1
        if self._logging is None:
            self._logging = asyncio.get_running_loop().call_later(_LOGGED_EVERY, self.log_refusals)

    def log_refusals(self) -> None:
        """Log the refusals since the last such line, if there are any."""
        if self._logging is not None:
            self._logging.cancel()
            self._logging = None
        if self._unlogged:
            log.warning("connections refused", extra={"reasons": dict(self._unlogged)})
            self._unlogged.clear()

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
        """Close the connections whose time is over."""
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        for connection in list(self._open):
            connection.check(now)
        if self._open:
            self._sweep_later()


class Connection(HttpToolsProtocol):
    """One connection. uvicorn makes it from the class that :meth:`Connections.protocol` returns.

    The guard receives the body of a request (`guard.py`). What a client sends of a body after its answer is
    thrown away here, within the limits of size and time of a body.
    """

    shared: Connections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = self.shared.limits
        self._phase = "new"  # then in turns "head", "body" and "idle": the part of a request that is arriving
        self._since = self.loop.time()  # the time at which the phase began
        self._closing: float | None = None  # the time since which it is being closed
        self._unanswered = 0  # requests with a complete head and without an answer
        self._kept = 0  # bytes outside of bodies that the parser keeps
        self._headers = self._header_bytes = 0
        self._discarded = 0  # bytes of a body that arrived after its answer
        self._ignoring = False  # whatever arrives is ignored from now on

    # ---------------------------------------------------------------- what uvicorn calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Register the connection, or refuse it immediately."""
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
        """Parse what has arrived in pieces, so that no limit is exceeded by more than one piece."""
        self._unset_keepalive_if_required()
        for start in range(0, len(data), _PIECE):
            if self._ignoring or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE]
            self._kept += len(piece)
            try:
                self.parser.feed_data(piece)
                self._check_size(len(piece))
            except httptools.HttpParserUpgrade:
                # The service speaks no other protocol, so it answers this request in HTTP. What follows may
                # be of the other protocol; to read it as a request would be dangerous behind a proxy.
                self._ignoring = True
                self.cycle.keep_alive = False
            except httptools.HttpParserError as error:
                refused = error.__context__
                if not isinstance(refused, Refusal):
                    refused = Refusal(400, "not_http", "this is not a request of HTTP/1.1")
                self._refuse(refused)
            except Refusal as refused:
                self._refuse(refused)

    def _check_size(self, received: int) -> None:
        """Refuse what has grown too large while the parser reported nothing."""
        if self._kept > self._limits.head_bytes:
            raise self._too_large()
        if self._phase == "body" and self.cycle.response_complete:
            self._discarded += received
            if self._discarded > max(self._limits.body, self._limits.head_bytes):
                raise Refusal(413, "too_large", "the body continues after it was refused")

    def _too_large(self) -> Refusal:
        return Refusal(
            431,
            "headers",
            f"the headers have more than {self._limits.head_bytes:,} bytes, which is the limit; send less",
        )

    def on_message_begin(self) -> None:
        """Handle the beginning of a request."""
        self._enter("head")
        self._headers = self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Handle a part of path and query."""
        if len(self.url) + len(url) > self._limits.url:
            raise Refusal(
                414, "url", f"path and query have more than {self._limits.url:,} bytes, which is the limit"
            )
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Handle a header, before or after the body."""
        self._headers += 1
        self._header_bytes += len(name) + len(value) + 4
        if self._headers > self._limits.headers:
            raise Refusal(
                431, "headers", f"there are more than {self._limits.headers} headers, which is the limit"
            )
        if self._header_bytes > self._limits.head_bytes:
            raise self._too_large()
        if self._phase == "head":  # headers after the body are ignored
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Handle the end of the head: the request is passed to the application."""
        if len(self.pipeline) >= _PIPELINED:
            raise Refusal(429, "pipelined", f"more than {_PIPELINED} requests wait on this connection")
        super().on_headers_complete()  # raises an error if the URL is not valid
        self._enter("body")
        self._unanswered += 1
        self._discarded = 0
        self.shared.busy(self)

    def on_body(self, body: bytes) -> None:
        """Handle a part of the body."""
        self._kept = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Handle the end of the body."""
        self._enter("idle")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Handle the end of an answer."""
        self._unanswered -= 1
        if self._phase == "idle":
            self._since = self.loop.time()
        if not self._unanswered:
            self.shared.idle(self)  # even if the rest of a refused body is still arriving
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Do nothing: `check` closes idle connections."""

    # ---------------------------------------------------------------- limits

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._since = self.loop.time()
        self._kept = 0

    def check(self, now: float) -> None:
        """Close the connection if its time is over.

        Args:
            now: the time of the event loop.
        """
        limits = self._limits
        if self.transport.is_closing():
            self._closing = now if self._closing is None else self._closing
            if now - self._closing > limits.seconds:  # the client may take this long to read the answer
                self.transport.abort()
            return
        waited = now - self._since
        answering = self._unanswered or self.transport.get_write_buffer_size()
        if answering and (self._phase == "idle" or self.flow.read_paused):
            # The guard has ended the request by now, so only an answer that nobody reads can be left.
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
        """Answer with an error and close; if an answer has begun or was given, only close."""
        self._ignoring = True
        self.shared.refused(refused.code)
        # The client can read an error only if no other answer has begun.
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
