"""A short cut for GET /v1/related, the route that a feed asks most, around FastAPI.

FastAPI takes as long to read the parameters and to build the answer as the search itself takes. The API has
the
same route in full, and answers every request that is unusual: another parameter, or an unknown id.
"""

from urllib.parse import unquote

from notellm.engine.requests import RelatedQuery
from notellm.errors import NotellmError
from notellm.serve.answers import related_json
from notellm.serve.asgi import App, Receive, Scope, Send
from notellm.serve.failures import answer_of
from notellm.serve.schemas.common import MOST_RESULTS
from notellm.serve.service import Service

_PATH = "/v1/related"


class RelatedById:
    """ASGI middleware that answers plain questions for related notes itself.

    Args:
        api: the application that answers everything else.
        service: finds the related notes.
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
            related = await self._service.related_to(query)
        except NotellmError as error:
            await answer_of(error, scope)(scope, receive, send)
            return
        body = related_json(related)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _plain_query(scope: Scope) -> RelatedQuery | None:
    """Return the query of a request that has an id and perhaps a number, and nothing else; otherwise None."""
    if scope["method"] != "GET":
        return None
    note_id, k = None, RelatedQuery.k
    for part in scope["query_string"].split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"note_id" and note_id is None and b"+" not in value:
            note_id = unquote(value.decode("latin-1"))
        elif name == b"k" and value.isdigit() and len(value) <= 3 and 1 <= int(value) <= MOST_RESULTS:
            k = int(value)
        else:
            return None
    return None if note_id is None else RelatedQuery(note_id=note_id, k=k)
