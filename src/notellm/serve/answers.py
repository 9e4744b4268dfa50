"""Answers as bytes: notes as JSON, and errors in their one form."""

import json
import os
import re
from collections.abc import Mapping
from json.encoder import encode_basestring as _text
from typing import Any

from fastapi import Response

from notellm.engine.requests import Related
from notellm.errors import ConfigError, DataError, ModelError, NotellmError, NotFoundError, StorageError
from notellm.serve.batching import BusyError
from notellm.serve.guard import Scope, error_body
from notellm.serve.log import log
from notellm.store.rows import StoredNote


def json_answer(value: Any, *, status: int = 200) -> Response:
    """A JSON value as an answer."""
    # The answers are built here from values that are what their schema says: checking them again would cost
    # more than the search does.
    return Response(json.dumps(value, ensure_ascii=False).encode(), status, media_type="application/json")


def note_json(note: StoredNote) -> dict[str, Any]:
    """A whole note, as `schemas.NoteWithId` describes it."""
    return {
        "note_id": note.note_id,
        "title": note.title,
        "content": note.content,
        "topics": list(note.topics),
        "category": note.category,
        "published_at": None if note.published_at is None else note.published_at.isoformat(),
        "hidden": note.hidden,
        "expires_at": None if note.expires_at is None else note.expires_at.isoformat(),
    }


def brief_json(note: StoredNote) -> dict[str, Any]:
    """A note in a list."""
    return {"note_id": note.note_id, "title": shown_title(note), "category": note.category}


def shown_title(note: StoredNote) -> str:
    """The title, or where there is none the beginning of the content."""
    return note.title or note.content[:120]


def shortened(text: str, most: int = 100) -> str:
    """A text of a client's, cut to what an answer may repeat of it."""
    return text if len(text) <= most else f"{text[:most]}…"


def reason_json(notes: Mapping[str, StoredNote], note_id: str | None) -> dict[str, str] | None:
    """The opened note behind a recommendation; none for a popular note, or where it may not be shown."""
    note = None if note_id is None else notes.get(note_id)
    return None if note is None else {"note_id": note.note_id, "title": shown_title(note)}


def related_json(found: Related) -> bytes:
    """Related notes, as `schemas.RelatedAnswer` describes them.

    Written by hand, since an encoder takes longer for ten small objects than the search that found them.
    """
    pairs = zip(found.notes, found.scores, strict=True)
    rows = ", ".join(
        f'{{"note_id": {_text(note.note_id)}, "score": {score:.6f}, "title": {_text(shown_title(note))}, '
        f'"category": {_text(note.category)}}}'
        for note, score in pairs
    )
    return f'{{"related": [{rows}]}}'.encode()


def refusal(error: NotellmError, scope: Scope) -> Response:
    """One of our errors, with the status that says whose it is.

    Args:
        error: what went wrong.
        scope: the request's, which has the id under which the log has more.
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


#: What a client is told instead of a text that may name files of this machine.
_KINDS: tuple[tuple[type[NotellmError], str], ...] = (
    (StorageError, "the store, or a file, cannot be read or written"),
    (ModelError, "the model or the ranker cannot be used"),
    (ConfigError, "a setting is not allowed"),
    (DataError, "data do not fit together or are damaged"),
)


def without_paths(error: NotellmError) -> str:
    """What kind of failure an error is, for a client, who is told no path of this machine.

    The system's own reason, such as "No space left on device", is named where there is one.
    """
    kind = next((text for own, text in _KINDS if isinstance(error, own)), "this failed")
    cause: BaseException | None = error
    while cause is not None:
        number = cause.errno if isinstance(cause, OSError) else None
        if number is None and (found := re.search(r"os error (\d{1,5})\b", str(cause))):  # as Rust writes it
            number = int(found[1])
        if number is not None:
            return f"{kind} ({os.strerror(number)})"
        cause = cause.__cause__
    return kind


def error_answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer; what a client sent may hold what UTF-8 cannot write."""
    clean = message.encode("utf-8", "replace").decode()
    return Response(error_body(code, clean), status, dict(headers or {}), media_type="application/json")
