"""Results that take long, each in a folder named by what it is made of.

    RUNS/NAME-DIGEST/   files of the result, and result.json, which is written last

The digest is that of everything the result depends on: options, fingerprints of the data, the library's code.
So a second experiment finds what is the same, and computes only what is missing. A folder without
``result.json`` belongs to a run that was killed, which continues there.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notellm.errors import DataError, StorageError
from notellm.experiment.circumstances import code_fingerprint, made_by
from notellm.experiment.memory import peak_mib, reset_peak
from notellm.files import read_json, write_json

_RESULT = "result.json"


@dataclass(frozen=True)
class Task:
    """A result to compute.

    Attributes:
        name: what it is, for people, as "NoteLLM, seed 0".
        kind: kind of its method; tasks of a kind take about as long as each other.
        made_of: everything that the result depends on, as JSON values.
        compute: computes the result in a folder, in which it continues after a kill, and returns its figures
            as JSON values.
        why_not: returns why it cannot be computed, None if it can; asked when its turn comes.
    """

    name: str
    kind: str
    made_of: Mapping[str, Any]
    compute: Callable[[Path], Mapping[str, Any]]
    why_not: Callable[[], str | None] = lambda: None

    def digest(self) -> str:
        """Return the digest of what the result is made of, 12 hexadecimal digits."""
        text = json.dumps({**self.made_of, "code": code_fingerprint()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Finished:
    """A result that was computed.

    Attributes:
        figures: what ``Task.compute`` returned.
        folder: the folder of its files.
        seconds: how long the last process that worked on it took.
        made_by: versions and machine, in words.
        peak_memory_mib: largest resident memory of that process meanwhile; None where it is not known.
    """

    figures: Mapping[str, Any]
    folder: Path
    seconds: float
    made_by: str = ""
    peak_memory_mib: float | None = None


class Cache:
    """The folder of all results.

    Args:
        folder: the folder; it is made when the first result is computed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def place(self, task: Task) -> Path:
        """Return the folder of a task's result."""
        digest = task.digest()
        # The same result may have been computed under another name.
        for found in sorted(self.folder.glob(f"*-{digest}")):
            return found
        name = re.sub(r"[^a-z0-9.]+", "-", task.name.lower()).strip("-")[:60]
        return self.folder / f"{name}-{digest}"

    def result(self, task: Task) -> Finished | None:
        """Return what became of a task; None if it is not finished.

        Raises:
            StorageError: if the result is damaged.
        """
        place = self.place(task)
        file = place / _RESULT
        if not file.is_file():
            return None
        try:
            found = read_json(file)
            seconds = float(found["seconds"])
            return Finished(
                dict(found["figures"]),
                place,
                seconds,
                str(found.get("made_by", "")),
                found.get("peak_memory_mib"),
            )
        except (DataError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(f"{file} is damaged; remove {place} to compute it again") from error

    def computed(self, task: Task) -> Finished:
        """Return what became of a task; compute it if it is not finished."""
        if (finished := self.result(task)) is not None:
            return finished
        place = self.place(task)
        place.mkdir(parents=True, exist_ok=True)
        is_measured = reset_peak()
        begin = time.monotonic()
        figures = dict(task.compute(place))
        finished = Finished(
            figures, place, time.monotonic() - begin, made_by(), peak_mib() if is_measured else None
        )
        about = {"task": task.name, "made_of": task.made_of, "made_by": finished.made_by}
        spent = {"seconds": finished.seconds, "peak_memory_mib": finished.peak_memory_mib}
        write_json({**about, **spent, "figures": figures}, place / _RESULT, replace=True)
        return finished
