"""The HTTP API: its routes, and how they ask the engine.

    app = create_app(engine, keys=Keys(write=["..."]))          # any ASGI server runs it; run.py is ours

``service.py`` has the queues behind them. ``GET /openapi.json`` describes it all.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from notellm.data.note import Note
from notellm.engine.engine import Engine
from notellm.engine.requests import Change, Publish, RelatedQuery, Remove
from notellm.errors import NotellmError, NotFoundError
from notellm.serve import schemas
from notellm.serve.answers import (
    brief_json,
    error_answer,
    json_answer,
    note_json,
    reason_json,
    refusal,
    related_json,
    shortened,
)
from notellm.serve.guard import Guard, Keys
from notellm.serve.limits import Limits
from notellm.serve.quick import RelatedById
from notellm.serve.service import Service
from notellm.version import __version__

_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NOT_JSON = "the body is not JSON in UTF-8"
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": text}
    for status, text in {
        400: "The body is not JSON, or the request is not HTTP in UTF-8.",
        401: "No key, or a wrong one.",
        403: "The key may only read.",
        404: "A note, a user or the ranker is not there.",
        405: "The path is there, but not with this method.",
        408: "Headers or body did not arrive in time.",
        413: "The body is too large, holds too much, or is sent where none is taken.",
        414: "Path and query are too long.",
        422: "A value is not allowed.",
        429: "This key asks too often, too many wrong keys or too many connections come from this address; "
        "Retry-After says how long to wait.",
        431: "The headers are too large, or too many.",
        500: "It failed; the log says where.",
        503: "There is too much to do; Retry-After says how long to wait.",
        504: "It took too long.",
    }.items()
}


def create_app(
    engine: Engine,
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    close: bool = True,
    hosts: Collection[str] | None = None,
) -> Guard:
    """The ASGI application.

    Args:
        engine: what answers.
        keys: who may ask; None lets everybody.
        limits: what is taken on.
        close: close the engine at the end.
        hosts: names under which it may be addressed, as in `guard.Guard`; None allows all.
    """
    known = keys or Keys()
    service = Service(engine, keys=bool(known))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()
        if close:
            await asyncio.to_thread(engine.close)

    api = FastAPI(
        title="notellm",
        version=__version__,
        description="Related notes, topics and categories, ranking and recommendations.",
        lifespan=lifespan,
        docs_url=None,  # its page loads from another host
        redoc_url=None,
        redirect_slashes=False,
        responses=_ERRORS,
    )
    _handle_errors(api)
    _add_page(api)
    _add_state(api, service)
    _add_notes(api, service)
    _add_recall(api, service)
    _add_rank(api, service)
    return Guard(
        RelatedById(api, service), keys=known, limits=limits or Limits(), metrics=service.metrics, hosts=hosts
    )


# -------------------------------------------------------------------- routes


def _add_notes(api: FastAPI, service: Service) -> None:
    """Publish, read, change and remove notes."""
    one = "/v1/notes/{note_id:path}"
    Id = Annotated[schemas.NoteId, Path()]  # noqa: N806 - a type

    @api.get("/v1/notes", response_model=schemas.NotesAnswer, tags=["notes"])
    async def find(
        q: Annotated[str, Query(max_length=200, description="Part of a title; empty: the newest.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Find notes by a part of their title, newest first.

        This and reading a note by its id are for those who manage notes, so hidden and expired ones are among
        them. No other answer has any.
        """
        found = await asyncio.to_thread(service.engine.find, q, limit=limit)
        return json_answer({"notes": [note_json(note) for note in found]})

    @api.post("/v1/notes", response_model=schemas.PublishedAnswer, tags=["notes"])
    async def publish_many(body: schemas.NoteBatch) -> Response:
        """Publish notes together: all are durable and found by the next search, or none is written."""
        done = await service.write([Publish(note.stored(note.note_id)) for note in body.notes])
        new = sum(not written.existed for written in done)
        return json_answer({"published": len(done), "created": new})

    @api.post("/v1/notes/remove", response_model=schemas.RemovedAnswer, tags=["notes"])
    async def remove_many(body: schemas.NoteIdBatch) -> Response:
        """Remove notes together; ids that are not there are passed over."""
        done = await service.write([Remove(note_id) for note_id in dict.fromkeys(body.note_ids)])
        return json_answer({"removed": sum(written.existed for written in done)})

    @api.get(one, response_model=schemas.NoteWithId, tags=["notes"])
    async def read(note_id: Id) -> Response:
        """Read a note, a hidden or expired one, too."""
        return json_answer(note_json(service.engine.note(note_id)))

    @api.put(one, response_model=schemas.WrittenAnswer, tags=["notes"])
    async def publish(note_id: Id, body: schemas.NoteBody) -> Response:
        """Publish a note, or replace it: once this answers, it is durable and the next search finds it."""
        (done,) = await service.write([Publish(body.stored(note_id))])
        return json_answer({"note_id": note_id, "created": not done.existed})

    @api.patch(one, response_model=schemas.WrittenAnswer, tags=["notes"])
    async def change(note_id: Id, body: schemas.NoteChange) -> Response:
        """Change some fields of a note: hide it, let it expire, correct its title."""
        await service.write([Change(note_id, body.fields())])
        return json_answer({"note_id": note_id, "created": False})

    @api.delete(one, response_model=schemas.RemovedAnswer, tags=["notes"])
    async def remove(note_id: Id) -> Response:
        """Remove a note."""
        (done,) = await service.write([Remove(note_id)])
        if not done.existed:
            raise NotFoundError(f"there is no note {note_id!r}; it may be removed already")
        return json_answer({"removed": 1})


def _add_recall(api: FastAPI, service: Service) -> None:
    """Related notes and tags."""

    @api.get("/v1/related", response_model=schemas.RelatedAnswer, tags=["recall"])
    async def related_by_id(
        note_id: Annotated[schemas.NoteId, Query()],
        k: Annotated[int, Query(ge=1, le=schemas.MOST_RESULTS)] = 10,
    ) -> Response:
        """Notes related to a known one."""
        found = await service.related_to(RelatedQuery(note_id=note_id, k=k))
        return Response(related_json(found), media_type="application/json")

    @api.post("/v1/related", response_model=schemas.RelatedAnswer, tags=["recall"])
    async def related(body: schemas.RelatedBody) -> Response:
        """Notes related to a known one or to a text, by filters, without near-duplicates, with variety."""
        query = RelatedQuery(
            note_id=body.note_id,
            note=None if body.note_id is not None else Note(body.title, body.content, tuple(body.topics)),
            k=body.k,
            where=body.filter.filter(),
            near_duplicates=body.near_duplicates,
            diversity=body.diversity,
        )
        found = await service.related_to(query)
        return Response(related_json(found), media_type="application/json")

    @api.post("/v1/tags", response_model=schemas.TagsAnswer, tags=["recall"])
    async def tags(body: schemas.TagsBody) -> Response:
        """The category and topics that the model writes of a text."""
        found = await service.tags.ask((body.note(), body.n))
        return json_answer({"category": found.category, "topics": found.topics})


def _add_rank(api: FastAPI, service: Service) -> None:
    """Ranking and recommendations."""
    engine = service.engine

    @api.post("/v1/rank", response_model=schemas.RankAnswer, tags=["rank"])
    async def rank(body: schemas.RankBody) -> Response:
        """Order candidates by how likely a user is to enjoy them.

        Candidates that are hidden or expired are left out, and named in `left_out`: a feed that learned of
        its candidates a moment ago still gets its answer. A candidate that is not there at all is a mistake.
        """
        found = await service.ranking.ask(
            lambda: engine.rank(body.user_id, body.candidates, history=body.history)
        )
        pairs = zip(found.note_ids, found.scores.tolist(), strict=True)
        ranked = [{"note_id": note_id, "score": score} for note_id, score in pairs]
        kept = set(found.note_ids)
        left_out = [note_id for note_id in body.candidates if note_id not in kept]
        return json_answer({"basis": found.basis, "ranked": ranked, "left_out": left_out})

    @api.post("/v1/recommend", response_model=schemas.RecommendAnswer, tags=["rank"])
    async def recommend(body: schemas.RecommendBody) -> Response:
        """Notes for a user, none of which the user has opened, each with its reason.

        Hidden and expired notes are neither recommended nor named as a reason.
        """
        found = await service.ranking.ask(
            lambda: engine.recommend(
                body.user_id,
                history=body.history,
                k=body.k,
                exclude=body.exclude,
                per_note=body.per_note,
                rerank=body.rerank,
                where=body.filter.filter(),
            )
        )
        notes = engine.notes
        rows = zip(found.note_ids, found.scores.tolist(), found.reasons, strict=True)
        recommended = [
            {**brief_json(note), "score": score, "reason": reason_json(notes, reason)}
            for note_id, score, reason in rows
            if (note := notes.get(note_id)) is not None  # it may have been removed since
        ]
        return json_answer({"basis": found.basis, "recommended": recommended})

    @api.get("/v1/users", response_model=schemas.UsersAnswer, tags=["rank"])
    async def users(
        q: Annotated[str, Query(max_length=200, description="Part of a user's id.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Find users the ranker knows."""
        found = await asyncio.to_thread(engine.users, q, limit=limit)
        return json_answer({"users": [{"user_id": user, "opened": count} for user, count in found]})

    @api.get("/v1/users/{user_id:path}", response_model=schemas.UserAnswer, tags=["rank"])
    async def user(user_id: Annotated[str, Path(max_length=512)]) -> Response:
        """What a user opened last, without notes that are hidden or expired now."""
        return json_answer(
            {"user_id": user_id, "recent": [brief_json(note) for note in engine.opened(user_id)]}
        )


def _add_state(api: FastAPI, service: Service) -> None:
    """Health, metrics, state, the map, and bringing a new model."""

    @api.get("/health/live", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def live() -> Response:
        """Whether the process answers at all."""
        return json_answer({"live": True})

    unready = {"content": {"application/json": {}}, "description": "It is not ready; `reason` says why."}

    @api.get(
        "/health/ready",
        tags=["state"],
        responses={200: {"content": {"application/json": {}}}, 503: unready},
    )
    async def ready() -> Response:
        """Whether it takes requests: the index answers, and the store can be written.

        A `reason` says what is wrong where it is not ready: the last write failed, for instance, or the disk
        of the store is nearly full.
        """
        reason = await service.not_ready()
        if reason is None:
            return json_answer({"ready": True})
        return json_answer({"ready": False, "reason": reason}, status=503)

    @api.get("/metrics", tags=["state"], responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters and times, as Prometheus reads them."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/v1/state", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def state() -> Response:
        """Model, index and traffic."""
        # Counters change in this thread, so they are read here.
        return json_answer(await asyncio.to_thread(service.state, service.metrics.traffic()))

    @api.get("/v1/map", response_model=schemas.MapAnswer, tags=["state"])
    async def note_map() -> Response:
        """The visible notes in two dimensions; computed when it is first asked for."""
        return json_answer(await asyncio.to_thread(service.map.answer))

    @api.post(
        "/v1/reload",
        response_model=schemas.ReloadAnswer,
        status_code=202,
        tags=["state"],
        responses={409: {"model": schemas.ErrorAnswer, "description": "A reload goes on already."}},
    )
    async def reload(request: Request, body: schemas.ReloadBody) -> Response:
        """Read model and ranker again from where they came and build the index anew; see /v1/state.

        All else goes on meanwhile, with what answered before until the new one is complete.
        """
        if service.reloading is not None and not service.reloading.done():
            raise HTTPException(409, "a reload goes on already; GET /v1/state says when it is done")
        name = str(request.scope.get("notellm.request", "reload"))
        service.reloading = asyncio.create_task(service.reload(body.index, name))
        answer = {"model": service.engine.fingerprint, "index": body.index or "as before"}
        return json_answer(answer, status=202)


def _add_page(api: FastAPI) -> None:
    """The web page, from the package; read once."""
    folder = resources.files("notellm.serve") / "page"
    files = {
        file.name: file.read_bytes() for file in folder.iterdir() if file.name.rsplit(".", 1)[-1] in _TYPES
    }

    def answer(name: str) -> Response:
        return Response(
            files[name],
            media_type=_TYPES[name.rsplit(".", 1)[-1]],
            headers={
                "Content-Security-Policy": _POLICY,
                "Referrer-Policy": "no-referrer",
                "Cache-Control": "no-cache",
            },
        )

    @api.get("/", include_in_schema=False)
    async def index() -> Response:
        return answer("index.html")

    @api.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no page {name!r}")
        return answer(name)


def _handle_errors(api: FastAPI) -> None:
    @api.exception_handler(NotellmError)
    async def ours(request: Request, error: NotellmError) -> Response:
        return refusal(error, request.scope)

    @api.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        raise error  # the guard answers and logs it

    @api.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        said = []
        for problem in error.errors()[:5]:
            if problem["type"] == "json_invalid":
                return error_answer(400, "not_json", f"{_NOT_JSON}: {problem['ctx']['error']}")
            if problem["loc"] == ("body",) and isinstance(problem["input"], bytes):
                kind = shortened(request.headers.get("content-type", "missing"))
                return error_answer(422, "invalid", f"Content-Type is {kind}; it must be application/json")
            where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
            where = shortened(where)  # a field that is not allowed has the name that the client gave it
            text = problem["msg"].removeprefix("Value error, ")
            said.append(f"{where}: {text}" if where else text)
        return error_answer(422, "invalid", "; ".join(said))

    @api.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        codes = {400: "not_json", 404: "not_found", 405: "method", 409: "conflict"}
        headers = dict(error.headers or {})
        text = _NOT_JSON if error.status_code == 400 else str(error.detail)
        return error_answer(error.status_code, codes.get(error.status_code, "http"), text, headers)
