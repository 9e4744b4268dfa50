"""Let a running service switch to the models that are now in its directories, by its HTTP API."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from notellm.errors import ConfigError, StorageError

_TIMEOUT = 60.0  # seconds that one answer may take
_PAUSE = 0.5  # seconds between two looks at the state
_SCHEMES = ("http://", "https://")


class Service:
    """A service that can be told to reload.

    Args:
        url: its address, such as "http://127.0.0.1:8000".
        key: an API key that may write; "" where none is needed.

    Raises:
        ConfigError: if the address is not one of HTTP.
    """

    def __init__(self, url: str, key: str = "") -> None:
        if not url.startswith(_SCHEMES):
            raise ConfigError(f"the url of the service is {url!r}; it must begin with http:// or https://")
        self.url = url.rstrip("/")
        self._key = key

    def state(self) -> dict[str, Any]:
        """Return the answer of ``GET /v1/state``.

        Raises:
            StorageError: if the service cannot be reached, or refuses.
        """
        return self._ask("GET", "/v1/state")

    def reload(self, *, wait: Callable[[float], None] = time.sleep) -> str | None:
        """Let the service reload, and wait until it has; return why it could not, or None.

        Args:
            wait: waits for some seconds.

        Raises:
            StorageError: if the service cannot be reached, or refuses.
        """
        self._idle(wait)  # a reload that is running may have read the former models
        self._ask("POST", "/v1/reload", {})
        error: str | None = self._idle(wait)["error"]
        return error

    def _idle(self, wait: Callable[[float], None]) -> dict[str, Any]:
        """Wait until no reload is running, and return how the last one ended."""
        while (reload := self.state()["reload"])["running"]:
            wait(_PAUSE)
        result: dict[str, Any] = reload
        return result

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310 - checked
        try:
            with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - checked above
                result: dict[str, Any] = json.load(answer)
                return result
        except HTTPError as error:
            raise StorageError(
                f"{method} {self.url}{path} was refused: {error.code} {_told(error)}"
            ) from error
        except (URLError, TimeoutError, ConnectionError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise StorageError(
                f"the service {self.url} cannot be reached ({reason}); is it running?"
            ) from error


def _told(error: HTTPError) -> str:
    """Return the message of a refusal."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return error.reason
