"""Request bodies: they are received whole, within limits of size, of time, and of what their JSON holds.

How long it takes to read and validate JSON depends on its fields and values rather than on its bytes, and no
other request is answered meanwhile. So what makes a body expensive is counted before anything parses it.
"""

import asyncio
from collections.abc import Iterable

import numpy as np

from notellm.errors import DataError
from notellm.serve.asgi import Message, Receive, Scope
from notellm.serve.limits import Limits
from notellm.serve.metrics import Metrics
from notellm.serve.refusal import Refusal

#: What one body may hold. The largest body that a route accepts, 256 notes with 100 topics each, has 2,305
#: fields, 514 lists and objects, and 27,648 values.
MOST_FIELDS, MOST_NESTED, MOST_VALUES = 4_096, 1_024, 32_768
#: All bodies that are being received may together have this many times the bytes of the largest one. They are
#: in memory before their requests are counted.
_ARRIVING = 64


class TooMuchError(DataError):
    """A body holds more fields, values, or lists and objects than are read."""


class BodyReader:
    """Receives the bodies of requests.

    Args:
        limits: the size of a body, and the time in which it has to arrive.
        metrics: counts the bodies that are being received.
    """

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._bytes_arriving = 0

    async def read(self, scope: Scope, receive: Receive) -> Receive:
        """Receive a whole body, and return a function that gives it to the application.

        Raises:
            Refusal: if the body is too large, holds too much, or does not arrive in time.
        """
        headers = dict(scope["headers"])
        announced = b"content-length" in headers or b"transfer-encoding" in headers
        if not announced and scope["method"] in ("GET", "HEAD"):
            return receive  # with other methods a body may come unannounced: HTTP/2 needs neither header
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limits.body:
            raise self._too_large()
        body = bytearray()
        self._metrics.arriving += 1
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                if not await self._gather(receive, body):
                    return _replay([{"type": "http.disconnect"}], receive)  # the client has gone
        except TimeoutError:
            text = f"the body took longer than {self._limits.body_seconds:g} seconds; send it at once"
            raise Refusal(408, "timeout", text, close=True) from None
        finally:
            self._metrics.arriving -= 1
            self._bytes_arriving -= len(body)
        try:
            whole = bytes(body)
            check_amount(whole)
        except TooMuchError as error:
            raise Refusal(413, "too_much", str(error)) from error
        return _replay([{"type": "http.request", "body": whole, "more_body": False}], receive)

    async def _gather(self, receive: Receive, body: bytearray) -> bool:
        """Receive a whole body into ``body``; return whether it is complete."""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return False
            piece = message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) + len(piece) > self._limits.body:
                raise self._too_large()
            if more and self._bytes_arriving + len(piece) > _ARRIVING * self._limits.body:
                text = "too many bodies are arriving; ask again in a moment"
                raise Refusal(503, "busy", text, 1, close=True)
            body += piece
            self._bytes_arriving += len(piece)
        return True

    def _too_large(self) -> Refusal:
        text = f"the body has more than {self._limits.body:,} bytes, which is the limit; send less"
        return Refusal(413, "too_large", text)


def check_amount(body: bytes) -> None:
    """Refuse a body that would take long to read, whatever is in it.

    Args:
        body: JSON, or anything else, which is refused later.

    Raises:
        TooMuchError: if it holds too much.
    """
    # These characters mean nothing inside strings, so a body that has few of them anywhere needs no closer
    # look.
    if _is_little(body.count(b":"), body.count(b"[") + body.count(b"{"), body.count(b",")):
        return
    plain = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")  # now every quote begins or ends a string
    characters = np.frombuffer(plain, dtype=np.uint8)
    outside = characters[np.cumsum(characters == ord('"'), dtype=np.int32) % 2 == 0]
    counts = np.bincount(outside, minlength=256)
    fields, values = int(counts[ord(":")]), int(counts[ord(",")])
    nested = int(counts[ord("[")] + counts[ord("{")])
    if not _is_little(fields, nested, values):
        raise TooMuchError(
            f"the body has {fields:,} fields, {nested:,} lists and objects and {values + 1:,} values; "
            f"allowed are {MOST_FIELDS:,}, {MOST_NESTED:,} and {MOST_VALUES:,}: send less at a time"
        )


def _is_little(fields: int, nested: int, values: int) -> bool:
    return fields <= MOST_FIELDS and nested <= MOST_NESTED and values < MOST_VALUES


def _replay(messages: Iterable[Message], receive: Receive) -> Receive:
    """Return a function that gives these messages first, and then what ``receive`` gives."""
    waiting = iter(messages)

    async def again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return again
