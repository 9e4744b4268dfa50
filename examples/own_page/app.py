"""A web page of your own on top of the service.

    notellm serve store --model model --ranker ranker          # with NOTELLM_READ_KEYS and NOTELLM_WRITE_KEYS
    NOTELLM_KEY=... python examples/own_page/app.py --service http://127.0.0.1:8000

Browsers must not hold the keys of the service. So the page talks to this small backend, which has a key,
knows who the user is (here: a name in a cookie), and passes on only what the page needs: recommendations, the
notes related to one, and clicks.
"""

import argparse
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Cookie, FastAPI, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from notellm.client import Client

PAGE = Path(__file__).with_name("page.html")


class Opened(BaseModel):
    """A note that the user opened, and the list that showed it."""

    note_id: str
    request_id: str | None = None


Visitor = Annotated[str | None, Cookie(alias="user")]


def make_app(client: Client) -> FastAPI:
    """Return the backend."""
    app = FastAPI(title="Own page")

    @app.get("/", response_class=HTMLResponse)
    def page(response: Response, user: Visitor = None) -> str:
        """The page; a visitor gets a name."""
        if user is None:
            response.set_cookie("user", f"visitor-{secrets.token_hex(8)}", httponly=True, samesite="lax")
        return PAGE.read_text(encoding="utf-8")

    @app.get("/feed")
    def feed(user: Visitor = None) -> dict[str, Any]:
        """What is recommended to the visitor."""
        found = client.recommend(user or "visitor", k=12)
        return {"request_id": found.request_id, "notes": [_short(note) for note in found.notes]}

    @app.get("/related/{note_id}")
    def related(note_id: str) -> list[dict[str, Any]]:
        """The notes related to one."""
        return [_short(note) for note in client.related(note_id, k=6)]

    @app.post("/opened", status_code=204)
    def opened(click: Opened, user: Visitor = None) -> None:
        """Report a click, so that the next list counts it."""
        named = {} if click.request_id is None else {"request_id": click.request_id}
        client.click([{"user_id": user or "visitor", "note_id": click.note_id, "event": "click", **named}])

    return app


def _short(note: Any) -> dict[str, Any]:
    return {"note_id": note.note_id, "title": note.title, "category": note.category}


def main(serve: Callable[..., None] = uvicorn.run) -> None:
    """Serve the page."""
    parser = argparse.ArgumentParser(description="A page of one's own on top of the service.")
    parser.add_argument("--service", default="http://127.0.0.1:8000", help="address of notellm serve")
    parser.add_argument("--port", type=int, default=8080)
    chosen = parser.parse_args()
    with Client(chosen.service, key=os.environ.get("NOTELLM_KEY")) as client:
        serve(make_app(client), host="127.0.0.1", port=chosen.port)


if __name__ == "__main__":
    main()
