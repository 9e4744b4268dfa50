"""Let a running service switch to the models that are now in its directories, by its HTTP API."""

import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

from notellm.errors import DataError
from notellm.renew.models import Models

_PAUSE = 0.5  # seconds between two looks at the state


class Api(Protocol):
    """What is asked of a service, as ``notellm.client.Client`` does. Its errors are NotellmErrors."""

    def state(self) -> dict[str, Any]:
        """Return the state of the service."""

    def reload(self) -> None:
        """Let the service load its model and ranker again."""

    def remove(self, *note_ids: str) -> int:
        """Remove notes; return how many there were."""


class Service:
    """A service that can be told to reload.

    Args:
        api: the client of the service.
        url: its address, for messages.
        wait: waits for some seconds.
    """

    def __init__(self, api: Api, url: str, *, wait: Callable[[float], None] = time.sleep) -> None:
        self.url = url
        self._api = api
        self._wait = wait

    def state(self) -> dict[str, Any]:
        """Return the answer of ``GET /v1/state``.

        Raises:
            DataError: if the service is none of notellm.
            NotellmError: if it cannot be reached, or refuses.
        """
        state = self._api.state()
        if not {"model", "ranker", "reload"} <= state.keys():
            raise DataError(f"{self.url} is no service of notellm; give the address of notellm serve")
        return state

    def check_key(self) -> None:
        """Refuse a key that may only read, before the long work.

        Raises:
            NotellmError: if the service cannot be reached, or refuses the key.
        """
        self._api.remove(f"no-note-{uuid.uuid4().hex}")  # a write that changes nothing

    def check_models(self, serving: Models) -> None:
        """Refuse models that are not those of the service.

        Raises:
            DataError: if the service has another model, or a ranker that is not named.
            NotellmError: as :meth:`state`.
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
            NotellmError: if the service cannot be reached, or refuses.
        """
        self._idle()  # a reload that is running may have read the former models
        self._api.reload()
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
