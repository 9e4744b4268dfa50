"""Routes of users: what they did, who they are, and forgetting them."""

import asyncio
from typing import Annotated

from fastapi import FastAPI, Path, Query, Response

from notellm.serve.answers import brief_json, json_answer
from notellm.serve.schemas import rank as schemas
from notellm.serve.schemas.common import ListLimit, UserId
from notellm.serve.schemas.users import ClickBatch, ClickedAnswer, ForgottenAnswer
from notellm.serve.service import Service

_ONE = "/v1/users/{user_id:path}"


def add_user_routes(api: FastAPI, service: Service) -> None:
    """Add the routes of users to an application."""
    engine = service.engine
    Id = Annotated[UserId, Path()]  # noqa: N806 - a type

    @api.post("/v1/clicks", response_model=ClickedAnswer, tags=["users"])
    async def click(body: ClickBatch) -> Response:
        """Write what users did. Once this answers, it is durable, and recommendations count it.

        Either all clicks of the request are written, or none is.
        """
        clicked = await service.clicks.ask([each.click() for each in body.clicks])
        return json_answer(
            {
                "written": clicked.written,
                "repeated": clicked.repeated,
                "unknown_notes": clicked.unknown_notes,
            }
        )

    @api.get("/v1/users", response_model=schemas.UsersAnswer, tags=["users"])
    async def users(
        q: Annotated[str, Query(max_length=200, description="Part of a user's id.")] = "",
        limit: ListLimit = 20,
    ) -> Response:
        """Find users that the ranker or the log of clicks knows."""
        pairs = await asyncio.to_thread(engine.users, q, limit=limit)
        return json_answer({"users": [{"user_id": user, "opened": count} for user, count in pairs]})

    @api.get(_ONE, response_model=schemas.UserAnswer, tags=["users"])
    async def user(user_id: Id) -> Response:
        """Return the notes that a user opened last, without those that are hidden or expired now."""
        recent = [brief_json(note) for note in engine.opened(user_id)]
        return json_answer({"user_id": user_id, "recent": recent})

    @api.delete(_ONE, response_model=ForgottenAnswer, tags=["users"])
    async def forget(user_id: Id) -> Response:
        """Forget a user: remove all their clicks and all lists recommended to them from the store, for good.

        `in_ranker` says whether the ranker still remembers them; it does until another one is trained without
        them.
        """
        forgotten = await asyncio.to_thread(engine.forget_user, user_id)
        return json_answer(
            {"clicks": forgotten.clicks, "lists": forgotten.lists, "in_ranker": forgotten.in_ranker}
        )
