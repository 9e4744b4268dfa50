"""Routes of the web page, whose files are part of the package and are read once."""

from importlib import resources

from fastapi import FastAPI, Response
from starlette.exceptions import HTTPException

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


def add_page_routes(api: FastAPI) -> None:
    """Add the routes of the web page to an application."""
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
