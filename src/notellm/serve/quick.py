"""GET /v1/related, which a feed asks most, without a framework around it.

FastAPI's reading of parameters and building of an answer take as long as the search itself. The API has the
same route, and answers what is refused or looks odd: another parameter, an id that is not there.
"""

from urllib.parse import unquote

from notellm.engine.requests import RelatedQuery
from notellm.errors import NotellmError
from notellm.serve.answers import refusal, related_json
from notellm.serve.guard import App, Receive, Scope, Send
from notellm.serve.schemas import MOST_RESULTS
from notellm.serve.service import Service

_PATH = "/v1/related"


class RelatedById:
    """ASGI middleware.

    Args:
        api: what answers all else.
        service: what is asked.
    """

    def __init__(self, api: App, service: Service) -> None:
        self._api = api
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        query = _plain_query(scope) if scope["type"] == "http" and scope["path"] == _PATH else None
        if query is None or query.note_id not in self._service.engine.notes:
            await self._api(scope, receive, send)
            return
        scope["notellm.route"] = _PATH
        try:
            found = await self._service.related_to(query)
        except NotellmError as error:
            await refusal(error, scope)(scope, receive, send)
            return
        body = related_json(found)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _plain_query(scope: Scope) -> RelatedQuery | None:
    """A question that holds a note's id and perhaps a number, and nothing else."""
    if scope["method"] != "GET":
        return None
    note_id, k = None, 10
    for part in scope["query_string"].split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"note_id" and note_id is None and b"+" not in value:
            note_id = unquote(value.decode("latin-1"))
        elif name == b"k" and value.isdigit() and len(value) <= 3 and 1 <= int(value) <= MOST_RESULTS:
            k = int(value)
        else:
            return None
    return None if note_id is None else RelatedQuery(note_id=note_id, k=k)
