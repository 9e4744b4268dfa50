"""The working folder of renewals: what a renewal was begun with, its snapshot, new models and decision.

renewal.json    what the unfinished renewal was begun with
snapshot/       the exported store
model/ ranker/  new models; those that did not take over stay until the next renewal
decision.json   the decision of the unfinished renewal, then decisions/TIME.json
exchange.json   the journal of an exchange
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from notellm.artifacts.replace import remove_folder
from notellm.errors import StorageError
from notellm.files import read_json, write_json
from notellm.jobs.runs import check_run_folder
from notellm.renew.decision import Decision
from notellm.renew.models import Models

_STARTED, _DECISION, _DECISIONS, _SNAPSHOT, _JOURNAL = (
    "renewal.json",
    "decision.json",
    "decisions",
    "snapshot",
    "exchange.json",
)


class WorkFolder:
    """The working folder of renewals, which need not exist yet.

    Args:
        path: the folder.

    Attributes:
        snapshot: where the snapshot of the store goes.
        journal: the journal of an exchange.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.snapshot = path / _SNAPSHOT
        self.journal = path / _JOURNAL

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only renewal in the folder, which is made if it is not there.

        Raises:
            StorageError: if another renewal is running in it, or it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(f"another renewal is running in {self.path}; wait until it is done") from error
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"cannot work in {self.path}: {reason}; name another folder") from error
        try:
            yield
        finally:
            lock.release()

    def models(self, serving: Models) -> Models:
        """Return where the new models go: a ranker if there is one that serves."""
        return Models(self.path / "model", None if serving.ranker is None else self.path / "ranker")

    def begin(self, started: Mapping[str, Any]) -> bool | None:
        """Begin a renewal, or go on with the unfinished one if it was begun with the same.

        Args:
            started: what the renewal is begun with, JSON values.

        Returns:
            Whether an unfinished one goes on; None if there was one that was begun with something else.
        """
        is_unfinished = (self.path / _STARTED).is_file()
        if is_unfinished and read_json(self.path / _STARTED) == started:
            return True
        self.clear()
        write_json(started, self.path / _STARTED)
        return None if is_unfinished else False

    def decision(self) -> Decision | None:
        """Return the decision of an unfinished renewal, without its figures; None if there is none yet."""
        if not (self.path / _DECISION).is_file():
            return None
        told = read_json(self.path / _DECISION)
        return Decision(told["takes_over"], told["reasons"], {})

    def decide(self, decision: Decision, about: Mapping[str, Any]) -> None:
        """Keep the decision of the renewal, with what is to be known about it, among that its time "at"."""
        write_json({**decision.to_json(), **about}, self.path / _DECISION, replace=True)

    def finish(self, decision: Decision) -> Path:
        """End the renewal; return the file in which its decision is kept."""
        told = read_json(self.path / _DECISION)
        told |= {"takes_over": decision.takes_over, "reasons": list(decision.reasons)}
        kept = self.path / _DECISIONS / f"{told['at'].replace(':', '')}.json"
        write_json(told, kept, replace=True)
        for name in (_STARTED, _DECISION):
            (self.path / name).unlink()
        return kept

    def clear_models(self) -> None:
        """Remove new models that did not take over."""
        for kind in ("model", "ranker"):
            remove_folder(self.path / kind, kind)

    def clear(self) -> None:
        """Remove what an earlier renewal left: models, unfinished trainings, snapshot and decision.

        Raises:
            StorageError: if something there is not notellm's to remove.
        """
        self.clear_models()
        remove_folder(self.snapshot, "dataset")
        for name in ("model.run", "ranker.run"):
            if (run := self.path / name).is_dir():
                check_run_folder(run)
                shutil.rmtree(run, ignore_errors=True)
        for name in (_DECISION, _STARTED):
            (self.path / name).unlink(missing_ok=True)
