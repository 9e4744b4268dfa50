"""Let a running service switch to the models that are now in its directories, by its HTTP API."""

import json
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from notellm.errors import ConfigError, DataError, StorageError
from notellm.renew.models import Models

_TIMEOUT = 60.0  # seconds that one answer may take
_PAUSE = 0.5  # seconds between two looks at the state
_BUSY = (429, 503)  # statuses of a service that asks to wait
_REPEATS, _LONGEST_WAIT = 8, 30.0  # of a request that a busy service puts off; seconds
_SCHEMES = ("http://", "https://")


class Service:
    """A service that can be told to reload.

    Args:
        url: its address, such as "http://127.0.0.1:8000".
        key: an API key that may write; "" where none is needed.
        wait: waits for some seconds.

    Raises:
        ConfigError: if the address is not one of HTTP.
    """

    def __init__(self, url: str, key: str = "", *, wait: Callable[[float], None] = time.sleep) -> None:
        if not url.startswith(_SCHEMES):
            raise ConfigError(f"the url of the service is {url!r}; it must begin with http:// or https://")
        self.url = url.rstrip("/")
        self._key = key
        self._wait = wait

    def state(self) -> dict[str, Any]:
        """Return the answer of ``GET /v1/state``.

        Raises:
            StorageError: if the service cannot be reached, refuses, or is none of notellm.
        """
        state = self._ask("GET", "/v1/state")
        if not (isinstance(state, dict) and {"model", "ranker", "reload"} <= state.keys()):
            raise StorageError(f"{self.url} is no service of notellm; give the address of notellm serve")
        return state

    def check_key(self) -> None:
        """Refuse a key that may only read, before the long work.

        Raises:
            StorageError: if the service cannot be reached, or refuses the key.
        """
        # To remove no notes is a request that a key that may write gets no further with than 422.
        self._ask("POST", "/v1/notes/remove", {"note_ids": []}, fine=422)

    def check_models(self, serving: Models) -> None:
        """Refuse models that are not those of the service.

        Raises:
            DataError: if the service has another model, or a ranker that is not named.
            StorageError: as :meth:`state`.
        """
        state = self.state()
        if (has := state["model"]["fingerprint"]) != (named := serving.fingerprint()):
            raise DataError(
                f"the service {self.url} has the model {has}, but {serving.model} is {named}; give the model "
                "that serves, or the address of the service that has it"
            )
        if state["ranker"] is not None and serving.ranker is None:
            raise DataError(
                f"the service {self.url} has a ranker, which belongs to its model and has to be renewed with "
                "it; name its directory with --ranker"
            )

    def reload(self, serving: Models) -> str | None:
        """Let the service reload, and wait until it has; return why it has not these models, or None.

        Args:
            serving: the models that are to serve now.

        Raises:
            StorageError: if the service cannot be reached, or refuses.
        """
        self._idle()  # a reload that is running may have read the former models
        self._ask("POST", "/v1/reload", {})
        state = self._idle()
        error: str | None = state["reload"]["error"]
        if error is None and state["model"]["fingerprint"] != serving.fingerprint():
            return (
                f"it has reloaded the model {state['model']['fingerprint']} from another directory than "
                f"{serving.model}; name the directory that it was started with"
            )
        return error

    def _idle(self) -> dict[str, Any]:
        """Wait until no reload is running, and return the state then."""
        while (state := self.state())["reload"]["running"]:
            self._wait(_PAUSE)
        return state

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, fine: int = 200) -> Any:
        """Return the answer to a request, which waits while the service is busy.

        Args:
            method: the method.
            path: the path.
            body: the body; None for none.
            fine: status of a refusal that is what is wanted; the answer is None then.
        """
        for left in range(_REPEATS, -1, -1):
            try:
                return self._answer(method, path, body)
            except HTTPError as error:
                if error.code == fine:
                    return None
                if error.code in _BUSY and left:
                    self._wait(_seconds(error))
                    continue
                raise StorageError(
                    f"{method} {self.url}{path} was refused: {error.code} {_told(error)}"
                ) from error
            except (URLError, TimeoutError, ConnectionError, HTTPException, ValueError) as error:
                reason = getattr(error, "reason", error)
                raise StorageError(
                    f"the service {self.url} cannot be reached ({reason}); is it running?"
                ) from error
        raise AssertionError  # the last repetition returns or raises

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data=data, headers=headers, method=method)  # noqa: S310 - checked
        with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - checked above
            return json.load(answer)


def _seconds(error: HTTPError) -> float:
    """Return how long a busy service asks to wait."""
    try:
        return min(float(error.headers.get("Retry-After", 1)), _LONGEST_WAIT)
    except ValueError:
        return 1.0


def _told(error: HTTPError) -> str:
    """Return the message of a refusal."""
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return error.reason
