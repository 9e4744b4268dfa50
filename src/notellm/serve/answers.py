"""Answers as bytes: notes as JSON, and errors in their one form."""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as _text
from typing import Any

from fastapi import Response

from notellm.errors import NotellmError, NotFoundError, StorageError
from notellm.pipeline.engine import Related
from notellm.serve.batching import BusyError
from notellm.serve.guard import error_body, log
from notellm.store.notes import StoredNote


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


def reason_json(notes: Mapping[str, StoredNote], note_id: str | None) -> dict[str, str] | None:
    """The opened note behind a recommendation; none for a popular note, or where it is gone."""
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


def refusal(error: NotellmError) -> Response:
    """One of our errors, with the status that says whose it is."""
    if isinstance(error, BusyError):
        return error_answer(503, "busy", str(error), {"Retry-After": str(error.retry_after)})
    if isinstance(error, StorageError):
        log.error("storage", extra={"error": str(error)})
        return error_answer(503, "storage", str(error), {"Retry-After": "5"})
    if isinstance(error, NotFoundError):
        return error_answer(404, "not_found", str(error))
    return error_answer(422, "invalid", str(error))


def error_answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error as an answer; what a client sent may hold what UTF-8 cannot write."""
    clean = message.encode("utf-8", "replace").decode()
    return Response(error_body(code, clean), status, dict(headers or {}), media_type="application/json")
