"""The working folder of renewals: what a renewal was begun with, its snapshot, new models and decision.

renewal.json    what the unfinished renewal was begun with, and when
snapshot/       the exported store, which has clicks of users: removed when the renewal is finished
model/ ranker/  new models; those that did not take over stay until the next renewal
decision.json   the decision of the unfinished renewal, then decisions/TIME.json
exchange.json   the journal of an exchange
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from notellm.artifacts.replace import remove_folder
from notellm.engine.renewals import DECISIONS
from notellm.errors import StorageError
from notellm.files import read_json, write_json
from notellm.jobs.runs import remove_run
from notellm.renew.decision import Decision
from notellm.renew.models import Models

_STARTED, _DECISION, _SNAPSHOT, _JOURNAL = "renewal.json", "decision.json", "snapshot", "exchange.json"


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
            Whether an unfinished one goes on; None if there was one that was begun with something else. When
            each was begun is kept, and does not count.
        """
        is_unfinished = (self.path / _STARTED).is_file()
        if is_unfinished and {**read_json(self.path / _STARTED), "at": None} == {**started, "at": None}:
            return True
        self.clear()
        write_json({**started, "at": datetime.now(UTC).isoformat()}, self.path / _STARTED)
        return None if is_unfinished else False

    def begun(self) -> datetime:
        """Return when the unfinished renewal was begun."""
        return datetime.fromisoformat(read_json(self.path / _STARTED)["at"])

    def decision(self) -> Decision | None:
        """Return the decision of an unfinished renewal, without its figures; None if there is none yet."""
        # Without the beginning it is what a kill has left of a renewal that was finished.
        if not all((self.path / name).is_file() for name in (_STARTED, _DECISION)):
            return None
        told = read_json(self.path / _DECISION)
        return Decision(told["takes_over"], told["reasons"], {})

    def decided_about(self) -> Mapping[str, Any]:
        """Return what the unfinished renewal that is decided was begun with."""
        started: dict[str, Any] = read_json(self.path / _STARTED)
        return started

    def decide(self, decision: Decision, about: Mapping[str, Any]) -> None:
        """Keep the decision of the renewal, with what is to be known about it, among that its time "at"."""
        write_json({**decision.to_json(), **about}, self.path / _DECISION, replace=True)

    def finish(self, decision: Decision) -> Path:
        """End the renewal; return the file in which its decision is kept."""
        told = read_json(self.path / _DECISION)
        told |= {"takes_over": decision.takes_over, "reasons": list(decision.reasons)}
        kept = self.path / DECISIONS / f"{told['at'].replace(':', '')}.json"
        write_json(told, kept, replace=True)
        self._clear_data()
        for name in (_STARTED, _DECISION):
            (self.path / name).unlink(missing_ok=True)
        return kept

    def exchanged(self) -> Collection[str]:
        """Return the kinds that the last renewal which took over has exchanged; none if there was none."""
        kinds: Collection[str] = ()
        for file in sorted((self.path / DECISIONS).glob("*.json")):
            if (told := read_json(file))["takes_over"]:
                kinds = told["serving"].keys()
        return kinds

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
        self._clear_data()
        for name in (_DECISION, _STARTED):
            (self.path / name).unlink(missing_ok=True)

    def _clear_data(self) -> None:
        """Remove the snapshot and the working folders of trainings."""
        remove_folder(self.snapshot, "dataset")
        for name in ("model.run", "ranker.run"):
            remove_run(self.path / name)
