"""Routes of the service itself: health, metrics, state, the map, and reloading."""

import asyncio

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from notellm.serve.answers import json_answer
from notellm.serve.schemas import state as schemas
from notellm.serve.schemas.common import ErrorAnswer
from notellm.serve.service import Service


def add_state_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of the service itself to an application."""

    @api.get("/health/live", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def live() -> Response:
        """Say that the process answers at all."""
        return json_answer({"live": True})

    unready = {"content": {"application/json": {}}, "description": "Not ready; `reason` says why."}

    @api.get(
        "/health/ready",
        tags=["state"],
        responses={200: {"content": {"application/json": {}}}, 503: unready},
    )
    async def ready() -> Response:
        """Say whether the service takes requests: the index answers, and the store can be written.

        If it does not, `reason` says what is wrong: for instance that the last write failed, or that the disk
        of the store is nearly full.
        """
        reason = await service.not_ready()
        if reason is None:
            return json_answer({"ready": True})
        return json_answer({"ready": False, "reason": reason}, status=503)

    @api.get("/metrics", tags=["state"], responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return counters and times in the format of Prometheus."""
        return Response(await service.metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/v1/state", tags=["state"], responses={200: {"content": {"application/json": {}}}})
    async def state() -> Response:
        """Describe readiness, model, index and traffic."""
        reason = await service.not_ready()
        traffic = service.metrics.traffic()  # read here, since the counters change in this thread
        return json_answer(await asyncio.to_thread(service.state, traffic, reason))

    @api.get("/v1/map", response_model=schemas.MapAnswer, tags=["state"])
    async def note_map() -> Response:
        """Return the visible notes in two dimensions; they are computed when they are first asked for."""
        return json_answer(await asyncio.to_thread(service.map.answer))

    @api.post(
        "/v1/reload",
        response_model=schemas.ReloadAnswer,
        status_code=202,
        tags=["state"],
        responses={409: {"model": ErrorAnswer, "description": "A reload is already running."}},
    )
    async def reload(request: Request, body: schemas.ReloadBody) -> Response:
        """Load model and ranker again and rebuild the index; /v1/state says when it is done.

        Requests are answered all the while, by the former model and index until the new ones are complete.
        """
        if service.reloading is not None and not service.reloading.done():
            raise HTTPException(409, "a reload is already running; GET /v1/state says when it is done")
        name = str(request.scope.get("notellm.request", "reload"))
        service.reloading = asyncio.create_task(service.reload(body.index, name))
        answer = {"model": service.engine.fingerprint, "index": body.index or "as before"}
        return json_answer(answer, status=202)
