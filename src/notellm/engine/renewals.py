"""The newest decision of ``notellm renew`` beside a model, as its files say it.

    MODEL.renewal/decisions/TIME.json    {"at", "takes_over", "reasons", "figures", ...}

The folder is looked at whenever the decision is asked for, and a file is read once.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from notellm.errors import NotellmError
from notellm.files import read_json

log = logging.getLogger("notellm.engine")

#: What the name of a model's working folder of renewals ends in, and its folder of decisions.
ENDING, DECISIONS = ".renewal", "decisions"
_PARTS = ("serving", "renewed", "difference")


@dataclass(frozen=True)
class Renewal:
    """The outcome of a renewal.

    Attributes:
        at: when it was decided, with a time zone.
        took_over: whether the new models took over.
        reasons: why they did, or did not, in sentences.
        figures: by kind of list and name of figure, the means of "serving", "renewed" and "difference", as
            shares; empty if nothing was compared.
    """

    at: datetime
    took_over: bool
    reasons: Sequence[str]
    figures: Mapping[str, Mapping[str, Mapping[str, float]]]


class Renewals:
    """The decisions beside a model. Threads may share it.

    Args:
        model: the model directory, which need not have any.
    """

    def __init__(self, model: str | Path) -> None:
        path = Path(model).resolve()
        self._folder = path.with_name(path.name + ENDING) / DECISIONS
        self._name = ""
        self._newest: Renewal | None = None
        self._lock = Lock()

    def newest(self) -> Renewal | None:
        """Return the newest decision; None if there is none, or it cannot be read, which is logged once."""
        with self._lock:
            try:
                name = max((file.name for file in self._folder.glob("*.json")), default="")
            except OSError:
                name = ""
            if name != self._name:
                self._name, self._newest = name, _read(self._folder / name) if name else None
            return self._newest


def _read(file: Path) -> Renewal | None:
    try:
        told: dict[str, Any] = read_json(file)
        figures = {
            kind: {
                name: {part: float(each[part][name]["mean"]) for part in _PARTS}
                for name in each["difference"]
            }
            for kind, each in told["figures"].items()
        }
        at = datetime.fromisoformat(told["at"]).astimezone(UTC)
        return Renewal(at, bool(told["takes_over"]), [str(each) for each in told["reasons"]], figures)
    except (NotellmError, AttributeError, KeyError, TypeError, ValueError) as error:
        log.warning("the decision of a renewal %s cannot be read: %r", file, error)
        return None
