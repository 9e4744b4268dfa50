"""Routes of recall: related notes, and tags."""

from typing import Annotated

from fastapi import FastAPI, Query, Response

from notellm.data.note import Note
from notellm.engine.requests import RelatedQuery
from notellm.serve.answers import json_answer, related_json, tags_json
from notellm.serve.routes.reading import only_reads
from notellm.serve.schemas import recall as schemas
from notellm.serve.schemas.common import MOST_RESULTS, NoteId
from notellm.serve.service import Service


def add_recall_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of recall to an application."""

    @api.get("/v1/related", response_model=schemas.RelatedAnswer, tags=["recall"])
    async def related_by_id(
        note_id: Annotated[NoteId, Query()],
        k: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = RelatedQuery.k,
    ) -> Response:
        """Return the notes related to a stored note."""
        related = await service.related_to(RelatedQuery(note_id=note_id, k=k))
        return Response(related_json(related), media_type="application/json")

    @api.post("/v1/related", response_model=schemas.RelatedAnswer, tags=["recall"])
    @only_reads
    async def related(body: schemas.RelatedBody) -> Response:
        """Return the notes related to a stored note or to a text, with filters and variety."""
        query = RelatedQuery(
            note_id=body.note_id,
            note=None if body.note_id is not None else Note(body.title, body.content, tuple(body.topics)),
            k=body.k,
            where=body.filter.filter(),
            near_duplicates=body.near_duplicates,
            diversity=body.diversity,
            lexical=body.lexical,
        )
        return Response(related_json(await service.related_to(query)), media_type="application/json")

    @api.post("/v1/tags", response_model=schemas.TagsAnswer, tags=["recall"])
    @only_reads
    async def tags(body: schemas.TagsBody) -> Response:
        """Return category and topics of a text, with probabilities and the notes that speak for them."""
        return json_answer(tags_json(await service.tags.ask(body.query())))
