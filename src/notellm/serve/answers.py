"""Answers as bytes: how notes are written as JSON."""

import json
from collections.abc import Mapping
from json.encoder import encode_basestring as _text
from typing import Any

from fastapi import Response

from notellm.engine.requests import ExplainedTag, Related, Tags
from notellm.store.rows import StoredNote


def json_answer(value: Any, *, status: int = 200) -> Response:
    """Return a JSON value as an answer."""
    # The values are made here and fit their schema. Validating them would cost more than the search.
    return Response(json.dumps(value, ensure_ascii=False).encode(), status, media_type="application/json")


def note_json(note: StoredNote) -> dict[str, Any]:
    """Return a whole note, as `schemas.notes.NoteWithId` describes it."""
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
    """Return what a list shows of a note."""
    return {"note_id": note.note_id, "title": note.display_title, "category": note.category}


def reason_json(notes: Mapping[str, StoredNote], note_id: str | None) -> dict[str, str] | None:
    """Return the opened note behind a recommendation, or None for a popular or an unknown note."""
    note = None if note_id is None else notes.get(note_id)
    return None if note is None else {"note_id": note.note_id, "title": note.display_title}


def tags_json(tags: Tags) -> dict[str, Any]:
    """Return tags, as `schemas.recall.TagsAnswer` describes them."""
    return {
        "category": None if tags.category is None else tags.category.name,
        "category_probability": None if tags.category is None else _rounded(tags.category.probability),
        "categories": [
            {"name": tag.name, "probability": _rounded(tag.probability)} for tag in tags.categories
        ],
        "topics": [tag.name for tag in tags.topics],
        "topic_details": [_topic_json(tag) for tag in tags.topics],
        "more_topics": [_topic_json(tag) for tag in tags.more_topics],
        "not_learnt": tags.not_learnt,
        "reasons": dict(tags.reasons),
    }


def _topic_json(tag: ExplainedTag) -> dict[str, Any]:
    neighbours = [{"note_id": note.note_id, "title": note.display_title} for note in tag.neighbours]
    return {"name": tag.name, "probability": _rounded(tag.probability), "neighbours": neighbours}


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


def related_json(related: Related) -> bytes:
    """Return related notes, as `schemas.recall.RelatedAnswer` describes them.

    The JSON is put together here because an encoder takes longer for ten small objects than the search that
    found them.
    """
    words = ["null"] * len(related.notes)
    if related.lexical is not None:
        words = [f"{score:.6f}" for score in related.lexical]
    parts = zip(related.notes, related.scores, related.cosines, words, strict=True)
    rows = ", ".join(
        f'{{"note_id": {_text(note.note_id)}, "score": {score:.6f}, "cosine": {cosine:.6f}, '
        f'"lexical": {lexical}, "title": {_text(note.display_title)}, "category": {_text(note.category)}}}'
        for note, score, cosine, lexical in parts
    )
    return f'{{"related": [{rows}]}}'.encode()
