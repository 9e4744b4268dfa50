"""Unfinished runs: what a job was started with, so that it is gone on with only by the same."""

from pathlib import Path
from typing import Any

from notellm.errors import ConfigError
from notellm.files import read_json

#: In a run's working folder: the configuration and the fingerprints of the data.
STARTED = "started.json"


def check_resumable(run: Path, left: str, started: dict[str, Any], *, resume: bool) -> None:
    """Refuse to mix two runs.

    Args:
        run: the working folder of an unfinished run.
        left: what of it lies there, to name it.
        started: "config" and "data" of the run that wants to go on there.
        resume: whether it is meant to.

    Raises:
        ConfigError: it is not, or the run was started with other options or data.
    """
    if not resume:
        raise ConfigError(
            f"{run} holds an unfinished run ({left}): go on with --resume, "
            "or remove that folder to start anew"
        )
    before = read_json(run / STARTED)
    config, data = before["config"], before["data"]
    changed = [
        f"{name} was {config.get(name)!r}, is {value!r}"
        for name, value in started["config"].items()
        if config.get(name) != value
    ]
    changed += [f"other {name} data" for name, value in started["data"].items() if data.get(name) != value]
    if changed:
        raise ConfigError(
            f"the unfinished run in {run} was started differently ({'; '.join(changed)}): give the same "
            "options and data, or remove that folder to start anew"
        )
