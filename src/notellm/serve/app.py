"""The ASGI application: routes and middleware put together.

    app = create_app(engine, keys=Keys(write=["..."]))   # any ASGI server can run it; ours is in run.py

``GET /openapi.json`` describes the whole API.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import FastAPI

from notellm.engine.engine import Engine
from notellm.serve.failures import ERRORS, handle_errors
from notellm.serve.guard import Guard
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.quick import RelatedById
from notellm.serve.routes.notes import add_note_routes
from notellm.serve.routes.page import add_page_routes
from notellm.serve.routes.rank import add_rank_routes
from notellm.serve.routes.reading import reading_posts
from notellm.serve.routes.recall import add_recall_routes
from notellm.serve.routes.state import add_state_routes
from notellm.serve.routes.users import add_user_routes
from notellm.serve.service import Service
from notellm.version import __version__


def create_app(
    engine: Engine,
    *,
    keys: Keys | None = None,
    limits: Limits | None = None,
    close: bool = True,
    hosts: Collection[str] | None = None,
) -> Guard:
    """Make the ASGI application of an engine.

    Args:
        engine: answers the requests.
        keys: the valid API keys; None lets everybody ask.
        limits: the limits of the service; None takes the defaults.
        close: close the engine when the application ends.
        hosts: names by which the service may be addressed, as in `guard.Guard`; None allows every name.
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
        docs_url=None,  # the page of FastAPI loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        responses=ERRORS,
    )
    handle_errors(api)
    add_page_routes(api)
    add_state_routes(api, service)
    add_note_routes(api, service)
    add_recall_routes(api, service)
    add_rank_routes(api, service)
    add_user_routes(api, service)
    return Guard(
        RelatedById(api, service),
        keys=known,
        limits=limits or Limits(),
        metrics=service.metrics,
        hosts=hosts,
        only_reads=reading_posts(api.routes),
    )
