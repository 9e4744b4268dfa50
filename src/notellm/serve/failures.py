"""Errors as answers: one JSON form, a status that says whose error it is, and no path of this machine."""

import os
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from notellm.errors import ConfigError, DataError, ModelError, NotellmError, NotFoundError, StorageError
from notellm.serve.asgi import Scope
from notellm.serve.batching import BusyError
from notellm.serve.log import log
from notellm.serve.refusal import error_body
from notellm.serve.schemas.common import ErrorAnswer

_NOT_JSON = "the body is not JSON in UTF-8"
_NAMED = 5  # wrong fields that one answer names
#: What a client is told instead of a message that may name files of this machine.
_KINDS: tuple[tuple[type[NotellmError], str], ...] = (
    (StorageError, "the store, or a file, cannot be read or written"),
    (ModelError, "the model or the ranker cannot be used"),
    (ConfigError, "a setting is not allowed"),
    (DataError, "data do not fit together or are damaged"),
)
#: The errors that every route may answer, for the OpenAPI description.
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "The body is not JSON, or the request is not HTTP in UTF-8.",
        401: "The key is missing or wrong.",
        403: "The key may only read.",
        404: "A note, a user or the ranker does not exist.",
        405: "The path exists, but not with this method.",
        408: "The headers or the body did not arrive in time.",
        413: "The body is too large, holds too much, or is sent to a path that accepts none.",
        414: "The path and the query are too long.",
        422: "A value is not allowed.",
        429: "This key asks too often, or too many wrong keys or connections come from this address; "
        "Retry-After says how long to wait.",
        431: "The headers are too large, or too many.",
        500: "The request failed; the log says where.",
        503: "The service is busy, or cannot write; Retry-After says how long to wait.",
        504: "The request took too long.",
    }.items()
}


def error_answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as an answer."""
    clean = message.encode("utf-8", "replace").decode()  # a message may repeat what UTF-8 cannot write
    return Response(error_body(code, clean), status, dict(headers or {}), media_type="application/json")


def answer_of(error: NotellmError, scope: Scope) -> Response:
    """Return the answer for an error of this library, with the status that says whose error it is.

    Args:
        error: what went wrong.
        scope: the scope of the request, which has the id under which the log has more.
    """
    if isinstance(error, BusyError):
        return error_answer(503, "busy", str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, StorageError):
        name = str(scope.get("notellm.request", "storage"))
        log.error("storage", extra={"request": name, "error": str(error)})
        text = f"{without_paths(error)}; ask again later: the log has more under {name}"
        return error_answer(503, "storage", text, {"Retry-After": "5"})
    if isinstance(error, NotFoundError):
        return error_answer(404, "not_found", str(error))
    if isinstance(error, DataError | ConfigError):
        return error_answer(422, "invalid", str(error))
    name = str(scope.get("notellm.request", "failed"))
    log.error("failed", extra={"request": name, "error": f"{type(error).__name__}: {error}"})
    return error_answer(500, "failed", f"{without_paths(error)}; the log has more under {name}")


def without_paths(error: NotellmError) -> str:
    """Describe an error to a client without naming any path of this machine.

    The reason that the operating system gave, such as "No space left on device", is part of the description.
    """
    kind = next((text for type_, text in _KINDS if isinstance(error, type_)), "this failed")
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if number is None and (match := re.search(r"os error (\d{1,5})\b", str(cause))):  # written by Rust
            number = int(match[1])
        if number is not None:
            return f"{kind} ({os.strerror(number)})"
        cause = cause.__cause__
    return kind


def handle_errors(api: FastAPI) -> None:
    """Let an application answer all errors in the one JSON form."""

    @api.exception_handler(NotellmError)
    async def library_error(request: Request, error: NotellmError) -> Response:
        return answer_of(error, request.scope)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        raise error  # the guard answers and logs it

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = []
        for problem in error.errors()[:_NAMED]:
            if problem["type"] == "json_invalid":
                return error_answer(400, "not_json", f"{_NOT_JSON}: {problem['ctx']['error']}")
            if problem["loc"] == ("body",) and isinstance(problem["input"], bytes):
                kind = _shortened(request.headers.get("content-type", "missing"))
                return error_answer(422, "invalid", f"Content-Type is {kind}; it must be application/json")
            where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
            where = _shortened(where)  # the name of an unknown field is the client's
            text = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {text}" if where else text)
        return error_answer(422, "invalid", "; ".join(problems))

    @api.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        codes = {400: "not_json", 404: "not_found", 405: "method", 409: "conflict"}
        headers = dict(error.headers or {})
        text = _NOT_JSON if error.status_code == 400 else str(error.detail)
        return error_answer(error.status_code, codes.get(error.status_code, "http"), text, headers)


def _shortened(text: str, most: int = 100) -> str:
    """Return a text of a client, cut to what an answer may repeat of it."""
    return text if len(text) <= most else f"{text[:most]}…"
