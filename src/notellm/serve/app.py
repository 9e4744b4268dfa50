"""The HTTP API: its routes, and how they ask the engine.

    app = create_app(engine, keys=Keys(write=["..."]))          # any ASGI server runs it; run.py is ours

Reads by search and by model, writes, and ranking each have their own queue (``batching.py``), so a long
ranking does not hold up a search. ``GET /openapi.json`` describes it all.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from notellm import __version__
from notellm.errors import NotellmError, NotFoundError, StorageError
from notellm.pipeline.engine import (
    Change,
    Engine,
    Publish,
    Related,
    RelatedQuery,
    Remove,
    Tags,
    Write,
    Written,
)
from notellm.recall.prompt import Note
from notellm.serve import schemas
from notellm.serve.batching import Batcher, BusyError
from notellm.serve.guard import App, Guard, Keys, Limits, error_body, log
from notellm.serve.map import NoteMap
from notellm.serve.metrics import Metrics
from notellm.store.local import LocalIndex
from notellm.store.notes import StoredNote

#: Questions computed together, and questions that may wait, of each queue.
_RELATED, _WRITES, _TAGS, _RANKING = (64, 256), (64, 256), (16, 64), (8, 32)
#: A commit costs about as much for one write as for fifty: wait this long for company.
_WRITE_LINGER = 0.02

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
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorAnswer, "description": text}
    for status, text in {
        400: "The body is not JSON.",
        401: "No key, or a wrong one.",
        403: "The key may only read.",
        404: "A note, a user or the ranker is not there.",
        413: "The body is too large.",
        422: "A value is not allowed.",
        429: "This key asks too often; Retry-After says how long to wait.",
        503: "There is too much to do; Retry-After says how long to wait.",
        504: "It took too long.",
    }.items()
}


class Service:
    """An engine with its queues, counters and map.

    Args:
        engine: what answers.
        keys: whether any are needed is shown on the page.
    """

    def __init__(self, engine: Engine, *, keys: bool) -> None:
        self.engine = engine
        self.keys = keys
        self.metrics = Metrics()
        self.map = NoteMap(engine)
        self.reload_error: str | None = None
        self.reloading: asyncio.Task[None] | None = None
        self.related: Batcher[RelatedQuery, Related] = self._batcher("related", engine.related, _RELATED)
        self.writes: Batcher[list[Write], list[Written | NotellmError]] = self._batcher(
            "writes", self._apply, _WRITES, linger=_WRITE_LINGER
        )
        self.tags: Batcher[tuple[Note, int | None], Tags] = self._batcher("tags", self._tag, _TAGS)
        self.ranking: Batcher[Callable[[], Any], Any] = self._batcher("ranking", _each, _RANKING)
        self._batchers: list[Batcher[Any, Any]] = [self.related, self.writes, self.tags, self.ranking]
        for batcher in self._batchers:
            self.metrics.gauge(f"notellm_waiting_{batcher.name}", "Requests that wait", batcher.__len__)
        self.metrics.gauge("notellm_notes", "Notes in the store", lambda: len(engine.notes))

    def _batcher(
        self, name: str, compute: Callable[[list[Any]], Any], size: tuple[int, int], **options: float
    ) -> Batcher[Any, Any]:
        most, waiting = size
        return Batcher(name, compute, most=most, waiting=waiting, seen=self.metrics.batch, **options)

    def _apply(self, requests: list[list[Write]]) -> list[list[Written | NotellmError]]:
        outcomes = iter(self.engine.apply([write for own in requests for write in own]))
        return [[next(outcomes) for _ in own] for own in requests]

    def _tag(self, questions: list[tuple[Note, int | None]]) -> list[Tags]:
        answers: dict[int, Tags] = {}
        for count in {n for _, n in questions}:
            rows = [i for i, (_, n) in enumerate(questions) if n == count]
            written = self.engine.tags([questions[i][0] for i in rows], topics=count)
            answers.update(zip(rows, written, strict=True))
        return [answers[i] for i in range(len(questions))]

    async def write(self, writes: list[Write]) -> list[Written]:
        """Carry out writes.

        Raises:
            NotellmError: the first that could not be done.
        """
        outcomes = await self.writes.ask(writes)
        for outcome in outcomes:
            if isinstance(outcome, NotellmError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Written)]

    async def close(self) -> None:
        """Finish what was accepted."""
        if self.reloading is not None:
            await self.reloading
        for batcher in self._batchers:
            await batcher.close()

    async def reload(self, index: str | None) -> None:
        """Bring model, ranker and index anew; what goes wrong is kept for the state."""
        try:
            await asyncio.to_thread(self.engine.reload, index=index)
        except NotellmError as error:
            self.reload_error = str(error)
            log.error("reload failed", extra={"error": str(error)})
        else:
            self.reload_error = None
            log.info("reloaded", extra={"model": self.engine.fingerprint})

    def state(self) -> dict[str, Any]:
        """What the page shows of it."""
        engine, index, ranker = self.engine, self.engine.index, self.engine.ranker
        local = index if isinstance(index, LocalIndex) else None
        notes = list(engine.notes.values())
        running = self.reloading is not None and not self.reloading.done()
        return {
            "version": __version__,
            "ready": True,
            "keys": self.keys,
            "model": {
                "fingerprint": engine.fingerprint,
                "dim": engine.model.settings.dim,
                "backbone": engine.model.backbone.config.model_type,
                "categories": list(engine.model.settings.categories),
            },
            "ranker": None if ranker is None else {"users": len(ranker.histories)},
            "store": {"notes": len(notes), "hidden": sum(note.hidden for note in notes)},
            "index": {
                "kind": "milvus" if local is None else local.kind,
                "notes": len(index),
                "recall": local.recall["recall"] if local is not None and local.recall else None,
            },
            "reload": {"running": running, "error": self.reload_error},
            "traffic": self.metrics.traffic(),
        }


def create_app(
    engine: Engine, *, keys: Keys | None = None, limits: Limits | None = None, close: bool = True
) -> App:
    """The ASGI application.

    Args:
        engine: what answers.
        keys: who may ask; None lets everybody.
        limits: what is taken on.
        close: close the engine at the end.
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
    return Guard(api, keys=known, limits=limits or Limits(), metrics=service.metrics)


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
        """Find notes by a part of their title, newest first."""
        found = await asyncio.to_thread(service.engine.find, q, limit=limit)
        return _json({"notes": [_note(note) for note in found]})

    @api.post("/v1/notes", response_model=schemas.PublishedAnswer, tags=["notes"])
    async def publish_many(body: schemas.NoteBatch) -> Response:
        """Publish notes together: all are durable and found by the next search, or none is written."""
        done = await service.write([Publish(note.stored(note.note_id)) for note in body.notes])
        new = sum(not written.existed for written in done)
        return _json({"published": len(done), "created": new})

    @api.post("/v1/notes/remove", response_model=schemas.RemovedAnswer, tags=["notes"])
    async def remove_many(body: schemas.NoteIdBatch) -> Response:
        """Remove notes together; ids that are not there are passed over."""
        done = await service.write([Remove(note_id) for note_id in dict.fromkeys(body.note_ids)])
        return _json({"removed": sum(written.existed for written in done)})

    @api.get(one, response_model=schemas.NoteWithId, tags=["notes"])
    async def read(note_id: Id) -> Response:
        """Read a note, a hidden or expired one, too."""
        return _json(_note(service.engine.note(note_id)))

    @api.put(one, response_model=schemas.WrittenAnswer, tags=["notes"])
    async def publish(note_id: Id, body: schemas.NoteBody) -> Response:
        """Publish a note, or replace it: once this answers, it is durable and the next search finds it."""
        (done,) = await service.write([Publish(body.stored(note_id))])
        return _json({"note_id": note_id, "created": not done.existed})

    @api.patch(one, response_model=schemas.WrittenAnswer, tags=["notes"])
    async def change(note_id: Id, body: schemas.NoteChange) -> Response:
        """Change some fields of a note: hide it, let it expire, correct its title."""
        await service.write([Change(note_id, body.fields())])
        return _json({"note_id": note_id, "created": False})

    @api.delete(one, response_model=schemas.RemovedAnswer, tags=["notes"])
    async def remove(note_id: Id) -> Response:
        """Remove a note."""
        (done,) = await service.write([Remove(note_id)])
        if not done.existed:
            raise NotFoundError(f"there is no note {note_id!r}; it may be removed already")
        return _json({"removed": 1})


def _add_recall(api: FastAPI, service: Service) -> None:
    """Related notes and tags."""

    @api.get("/v1/related", response_model=schemas.RelatedAnswer, tags=["recall"])
    async def related_by_id(
        note_id: Annotated[schemas.NoteId, Query()],
        k: Annotated[int, Query(ge=1, le=schemas.MOST_RESULTS)] = 10,
    ) -> Response:
        """Notes related to a known one."""
        return _related(await service.related.ask(RelatedQuery(note_id=note_id, k=k)))

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
        return _related(await service.related.ask(query))

    @api.post("/v1/tags", response_model=schemas.TagsAnswer, tags=["recall"])
    async def tags(body: schemas.TagsBody) -> Response:
        """The category and topics that the model writes of a text."""
        found = await service.tags.ask((body.note(), body.n))
        return _json({"category": found.category, "topics": found.topics})


def _add_rank(api: FastAPI, service: Service) -> None:
    """Ranking and recommendations."""
    engine = service.engine

    @api.post("/v1/rank", response_model=schemas.RankAnswer, tags=["rank"])
    async def rank(body: schemas.RankBody) -> Response:
        """Order candidates by how likely a user is to enjoy them."""
        found = await service.ranking.ask(
            lambda: engine.rank(body.user_id, body.candidates, history=body.history)
        )
        pairs = zip(found.note_ids, found.scores.tolist(), strict=True)
        ranked = [{"note_id": note_id, "score": score} for note_id, score in pairs]
        return _json({"basis": found.basis, "ranked": ranked})

    @api.post("/v1/recommend", response_model=schemas.RecommendAnswer, tags=["rank"])
    async def recommend(body: schemas.RecommendBody) -> Response:
        """Notes for a user, none of which the user has opened, each with its reason."""
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
        recommended = [
            {**_brief(notes[note_id]), "score": score, "reason": _reason(notes, reason)}
            for note_id, score, reason in zip(
                found.note_ids, found.scores.tolist(), found.reasons, strict=True
            )
            if note_id in notes
        ]
        return _json({"basis": found.basis, "recommended": recommended})

    @api.get("/v1/users", response_model=schemas.UsersAnswer, tags=["rank"])
    async def users(
        q: Annotated[str, Query(max_length=200, description="Part of a user's id.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Find users the ranker knows."""
        found = await asyncio.to_thread(engine.users, q, limit=limit)
        return _json({"users": [{"user_id": user, "opened": count} for user, count in found]})

    @api.get("/v1/users/{user_id:path}", response_model=schemas.UserAnswer, tags=["rank"])
    async def user(user_id: Annotated[str, Path(max_length=512)]) -> Response:
        """What a user opened last."""
        return _json({"user_id": user_id, "recent": [_brief(note) for note in engine.opened(user_id)]})


def _add_state(api: FastAPI, service: Service) -> None:
    """Health, metrics, state, the map, and bringing a new model."""

    @api.get("/health/live", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def live() -> Response:
        """Whether the process answers at all."""
        return _json({"live": True})

    @api.get("/health/ready", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def ready() -> Response:
        """Whether it takes requests: a store is open, a model and an index answer."""
        return _json({"ready": len(service.engine.index) == len(service.engine.notes)})

    @api.get("/metrics", tags=["state"], responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters and times, as Prometheus reads them."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/v1/state", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def state() -> Response:
        """Model, index and traffic."""
        return _json(await asyncio.to_thread(service.state))

    @api.get("/v1/map", response_model=schemas.MapAnswer, tags=["state"])
    async def note_map() -> Response:
        """The notes in two dimensions; computed when it is first asked for."""
        return _json(await asyncio.to_thread(service.map.answer))

    @api.post("/v1/reload", response_model=schemas.ReloadAnswer, status_code=202, tags=["state"])
    async def reload(body: schemas.ReloadBody) -> Response:
        """Read model and ranker again from where they came and build the index anew; see /v1/state.

        All else goes on meanwhile, with what answered before until the new one is complete.
        """
        if service.reloading is not None and not service.reloading.done():
            raise HTTPException(409, "a reload goes on already; GET /v1/state says when it is done")
        service.reloading = asyncio.create_task(service.reload(body.index))
        answer = {"model": service.engine.fingerprint, "index": body.index or "as before"}
        return _json(answer, status=202)


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


# -------------------------------------------------------------------- answers


def _json(value: Any, *, status: int = 200) -> Response:
    # The answers are built here from values that are what their schema says: checking them again would cost
    # more than the search does.
    return Response(json.dumps(value, ensure_ascii=False).encode(), status, media_type="application/json")


def _note(note: StoredNote) -> dict[str, Any]:
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


def _brief(note: StoredNote) -> dict[str, Any]:
    return {"note_id": note.note_id, "title": _title(note), "category": note.category}


def _title(note: StoredNote) -> str:
    return note.title or note.content[:120]


def _related(found: Related) -> Response:
    pairs = zip(found.notes, found.scores, strict=True)
    return _json({"related": [{**_brief(note), "score": round(score, 6)} for note, score in pairs]})


def _reason(notes: Mapping[str, StoredNote], note_id: str | None) -> dict[str, str] | None:
    note = None if note_id is None else notes.get(note_id)
    return None if note is None else {"note_id": note.note_id, "title": _title(note)}


def _each(questions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Answers one after the other: a ranking shares nothing with that of another user."""
    answers: list[Any] = []
    for question in questions:
        try:
            answers.append(question())
        except Exception as error:  # noqa: BLE001 - it belongs to the one who asked
            answers.append(error)
    return answers


# -------------------------------------------------------------------- errors


def _handle_errors(api: FastAPI) -> None:
    @api.exception_handler(NotellmError)
    async def ours(_: Request, error: NotellmError) -> Response:
        if isinstance(error, BusyError):
            return _error(503, "busy", str(error), {"Retry-After": str(error.retry_after)})
        if isinstance(error, StorageError):
            log.error("storage", extra={"error": str(error)})
            return _error(503, "storage", str(error), {"Retry-After": "5"})
        if isinstance(error, NotFoundError):
            return _error(404, "not_found", str(error))
        return _error(422, "invalid", str(error))

    @api.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        said = []
        for problem in error.errors()[:5]:
            where = ".".join(str(part) for part in problem["loc"] if part not in ("body", "query", "path"))
            said.append(f"{where}: {problem['msg']}" if where else str(problem["msg"]))
        return _error(422, "invalid", "; ".join(said))

    @api.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        codes = {400: "not_json", 404: "not_found", 405: "method", 409: "conflict"}
        headers = dict(error.headers or {})
        return _error(error.status_code, codes.get(error.status_code, "http"), str(error.detail), headers)


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    clean = message.encode("utf-8", "replace").decode()
    return Response(error_body(code, clean), status, dict(headers or {}), media_type="application/json")
