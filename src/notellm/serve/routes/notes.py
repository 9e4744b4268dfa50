"""Routes that publish, read, change and remove notes."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from notellm.engine.requests import Change, Publish, Remove
from notellm.errors import NotFoundError
from notellm.serve.answers import json_answer, note_json
from notellm.serve.schemas import notes as schemas
from notellm.serve.schemas.common import ListLimit, NoteId
from notellm.serve.service import Service

_ONE = "/v1/notes/{note_id:path}"


def add_note_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of notes to an application."""
    Id = Annotated[NoteId, Path()]  # noqa: N806 - a type

    @api.get("/v1/notes", response_model=schemas.NotesAnswer, tags=["notes"])
    async def find(
        q: Annotated[
            str, Query(max_length=200, description="Part of a title; empty: the newest notes.")
        ] = "",
        limit: ListLimit = 20,
    ) -> Response:
        """Find notes by a part of their title, newest first.

        This route and the one that reads a single note are for those who manage notes, so they also answer
        with hidden and expired notes. No other route does.
        """
        notes = await asyncio.to_thread(service.engine.find, q, limit=limit)
        return json_answer({"notes": [note_json(note) for note in notes]})

    @api.post("/v1/notes", response_model=schemas.PublishedAnswer, tags=["notes"])
    async def publish_many(body: schemas.NoteBatch) -> Response:
        """Publish notes together: either all are durable and found by the next search, or none is written."""
        written = await service.write([Publish(note.stored(note.note_id)) for note in body.notes])
        created = sum(not one.existed for one in written)
        return json_answer({"published": len(written), "created": created})

    @api.post("/v1/notes/remove", response_model=schemas.RemovedAnswer, tags=["notes"])
    async def remove_many(body: schemas.NoteIdBatch) -> Response:
        """Remove notes together; ids that do not exist are ignored."""
        written = await service.write([Remove(note_id) for note_id in dict.fromkeys(body.note_ids)])
        return json_answer({"removed": sum(one.existed for one in written)})

    @api.get(_ONE, response_model=schemas.NoteWithId, tags=["notes"])
    async def read(note_id: Id) -> Response:
        """Read a note, even if it is hidden or expired."""
        return json_answer(note_json(service.engine.note(note_id)))

    @api.put(_ONE, response_model=schemas.WrittenAnswer, tags=["notes"])
    async def publish(note_id: Id, body: schemas.NoteBody) -> Response:
        """Publish or replace a note. Once this answers, the note is durable and the next search finds it."""
        (written,) = await service.write([Publish(body.stored(note_id))])
        return json_answer({"note_id": note_id, "created": not written.existed})

    @api.patch(_ONE, response_model=schemas.WrittenAnswer, tags=["notes"])
    async def change(note_id: Id, body: schemas.NoteChange) -> Response:
        """Change some fields of a note: hide it, let it expire, correct its title."""
        await service.write([Change(note_id, body.fields())])
        return json_answer({"note_id": note_id, "created": False})

    @api.delete(_ONE, response_model=schemas.RemovedAnswer, tags=["notes"])
    async def remove(note_id: Id) -> Response:
        """Remove a note."""
        (written,) = await service.write([Remove(note_id)])
        if not written.existed:
            raise NotFoundError(f"there is no note {note_id!r}; it may have been removed already")
        return json_answer({"removed": 1})
