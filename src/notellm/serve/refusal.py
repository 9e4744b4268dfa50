"""The refusal of a request before any route sees it, and the JSON body of every error."""

import json


class Refusal(Exception):  # noqa: N818 - it is an answer to the client, not an error of this program
    """A request is refused.

    Attributes:
        status: the HTTP status of the answer.
        code: what kind of error it is, such as "rate"; clients may compare it.
        message: the value met, what is allowed, and the fix.
        retry_after: seconds after which the client may ask again; None sends no such header.
        close: whether the connection is closed after the answer.
    """

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


def error_body(code: str, message: str) -> bytes:
    """Return the JSON body of an error: ``{"error": {"code": ..., "message": ...}}``."""
    return json.dumps({"error": {"code": code, "message": message}}).encode()
