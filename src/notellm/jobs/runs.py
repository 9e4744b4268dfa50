"""The working folder of a training run, ``OUTPUT.run``: what it was started with, and what is unfinished.

A run is continued only with the options and the data that it was started with. Nothing in a folder of that
name is touched unless ``started.json`` shows that notellm made it.
"""

import shutil
from pathlib import Path
from typing import Any

from notellm.errors import ConfigError, StorageError
from notellm.files import read_json

#: In a run's working folder: the configuration and the fingerprints of the data.
STARTED = "started.json"
#: Codes that a ranker's run has fitted; a step of tuning that it has finished.
FITTED, TUNED = "fitted_codes", "tuned"
_UNFINISHED = (FITTED, "checkpoint-*", "*/checkpoint-*", f"*/{TUNED}")


def check_run_folder(run: Path) -> None:
    """Refuse to work in a folder that notellm did not make.

    Args:
        run: the working folder of a run that is about to begin or to be continued.

    Raises:
        StorageError: it is a file, or holds something but no ``started.json``.
    """
    if run.exists() and not run.is_dir():
        raise StorageError(f"{run} is a file, but the run needs a folder of that name; move the file away")
    # A kill while `started.json` was written leaves its hidden workspace alone.
    held = [] if not run.is_dir() else [path for path in run.iterdir() if not path.name.endswith(".part")]
    if held and not (run / STARTED).is_file():
        raise StorageError(
            f"{run} is not the working folder of a notellm run (it has no {STARTED}); "
            "move it away, or choose another output"
        )


def unfinished_parts(run: Path) -> list[Path]:
    """What a run keeps until its result is written: fitted codes, checkpoints, finished steps."""
    return [path for pattern in _UNFINISHED for path in sorted(run.glob(pattern))]


def discard_unfinished(run: Path) -> None:
    """Remove what a run keeps until its result is written; its logs and ``started.json`` stay.

    Raises:
        StorageError: the folder was not made by notellm.
    """
    check_run_folder(run)
    for path in unfinished_parts(run):
        shutil.rmtree(path, ignore_errors=True)


def check_resumable(run: Path, left: str, started: dict[str, Any], *, resume: bool) -> None:
    """Refuse to mix two runs.

    Args:
        run: the working folder of an unfinished run.
        left: what of it lies there, to name it.
        started: "config" and "data" of the run that wants to continue there.
        resume: whether it is meant to.

    Raises:
        ConfigError: it is not, or the run was started with other options or data.
        StorageError: what it was started with cannot be read.
    """
    if not resume:
        raise ConfigError(
            f"{run} holds an unfinished run ({left}): continue it with --resume, "
            "or remove that folder to start anew"
        )
    before = read_json(run / STARTED)
    if not (isinstance(before, dict) and all(isinstance(before.get(n), dict) for n in ("config", "data"))):
        raise StorageError(f"{run / STARTED} is damaged; remove {run} to start anew")
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
