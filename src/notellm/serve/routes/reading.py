"""Routes that only read although their method is POST, because their question is too long for a URL."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.routing import BaseRoute, Route

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_MARK = "only_reads"


def only_reads(endpoint: _Endpoint) -> _Endpoint:
    """Mark the function of a POST route as one that changes nothing, so that a read key may ask it.

    The mark stands below the decorator that adds the route. Without it a POST needs a write key.
    """
    setattr(endpoint, _MARK, True)
    return endpoint


def reading_posts(routes: Sequence[BaseRoute]) -> Callable[[str], bool]:
    """Return a function that says of a path whether a POST to it only reads.

    Of several routes whose pattern fits a path the first one answers, so the first one decides.
    """
    posts = [
        (route.path_regex, hasattr(route.endpoint, _MARK))
        for route in routes
        if isinstance(route, Route) and "POST" in (route.methods or ())
    ]

    def only_reads_at(path: str) -> bool:
        return next((reads for pattern, reads in posts if pattern.match(path)), False)

    return only_reads_at
