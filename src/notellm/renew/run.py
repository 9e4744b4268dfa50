"""Renew the models of a store, step by step; each step is kept, so a killed renewal goes on where it was.

    snapshot -> recall -> ranker -> comparison, decision -> exchange, switch

``work.py`` describes the folder in which this happens.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from notellm.artifacts.manifest import MANIFEST
from notellm.artifacts.write import write_folder
from notellm.data.split import Split
from notellm.errors import ConfigError, DataError, NotellmError, StorageError
from notellm.jobs.build_store import build_store
from notellm.jobs.recall_model import saved_config
from notellm.recall.model import NoteLLM
from notellm.record import read_record
from notellm.renew.comparison import compare, queries_of
from notellm.renew.decision import Decision, decide, stays
from notellm.renew.exchange import check_exchange, complete, go_back, settle, take_over
from notellm.renew.forgotten import forget_users, forgotten_since
from notellm.renew.models import Models
from notellm.renew.options import RenewOptions
from notellm.renew.service import Service
from notellm.renew.snapshot import opened_in_lists, take_snapshot
from notellm.renew.training import train_model, train_ranker
from notellm.renew.work import WorkFolder
from notellm.store.lance import is_locked, lock_for_writing, unlock
from notellm.store.notes import NoteStore
from notellm.store.tables import versions

_STEPS = 5


@dataclass(frozen=True)
class Renewed:
    """The outcome of a renewal.

    Attributes:
        decision: whether the new models took over, and why.
        file: the JSON file in which the decision is kept.
    """

    decision: Decision
    file: Path


class Renewal:
    """Renews the models that serve a store.

    Args:
        store: the store, whose log is trained on.
        serving: the models that serve it.
        work: the working folder.
        service: the running service; None if the store is not served now.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.
        say: prints a line.
    """

    def __init__(
        self,
        store: str,
        serving: Models,
        work: Path,
        *,
        service: Service | None = None,
        trust_remote_code: bool = False,
        progress: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self._store = store
        self._serving = serving
        self._work = WorkFolder(work)
        self._service = service
        self._trusts = trust_remote_code
        self._progress = progress
        self._say = say
        self._seconds: dict[str, float] = {}

    def renew(self, options: RenewOptions, *, candidate: Models | None = None) -> Renewed:
        """Train on the log, compare with the serving models, and let the new ones serve if not worse.

        Args:
            options: options of the renewal.
            candidate: models that were trained elsewhere, to be compared instead of newly trained ones;
                without a ranker one is trained if the serving model has one. They are copied.

        Raises:
            ConfigError: if the candidate has a ranker, and no ranker serves.
            DataError: if the vectors of the store, or the service, are of another model than the serving one,
                or the log is too short to train on.
            StorageError: if another renewal is running, another process writes to a store for which no
                service is named, the directories cannot change places, or something cannot be read or
                written.
            NotellmError: if a model cannot be opened, or the service cannot be reached, or refuses.
        """
        if candidate is not None and candidate.ranker is not None and self._serving.ranker is None:
            raise ConfigError(
                f"the candidate has the ranker {candidate.ranker}, but no ranker is named that serves; name "
                "it, or leave the ranker of the candidate out"
            )
        self._check_places()
        with self._work.locked():
            if complete(self._serving, self._work):
                self._say("an unfinished way back to the former models is completed first")
                self._end_way_back()
            self._check_reach()
            check_exchange(self._serving, self._work)
            try:
                decision = self._decided(options, candidate)
            except DataError:  # it will not be otherwise with the same snapshot
                self._work.clear()
                raise
            if decision.takes_over:
                decision = self._taken_over(decision)
            return Renewed(decision, self._work.finish(decision))

    def back(self) -> None:
        """Let the former models serve again; the present ones become the former ones.

        Raises:
            ConfigError: if the last renewal exchanged a ranker, too, and none is named.
            NotFoundError: if there are no former models.
            StorageError: if the former models cannot serve; the present ones stay then.
            NotellmError: as :meth:`renew`.
        """
        self._check_places()
        with self._work.locked():
            self._check_reach()
            if not complete(self._serving, self._work):
                if self._serving.ranker is None and "ranker" in self._work.exchanged():
                    raise ConfigError(
                        "the last renewal that took over exchanged a ranker as well, which belongs to its "
                        "model; name it with --ranker"
                    )
                check_exchange(self._serving, self._work)
                go_back(self._serving, self._work)
            self._end_way_back()

    # ---------------------------------------------------------------- the steps

    def _end_way_back(self) -> None:
        """Let the service or the store switch to the former models; undo the exchange if that fails."""
        error = self._switch()
        if error is not None:
            go_back(self._serving, self._work)
        settle(self._work)
        if error is not None:
            raise StorageError(f"the former models cannot serve, so nothing has changed: {error}")
        self._work.clear()  # what was decided about the models that have gone

    def _check_places(self) -> None:
        """Refuse places that do not exist, before anything is made there."""
        if not versions(self._store):
            raise StorageError(f"{self._store} is no store; give the store that the models serve")
        if self._work.journal.is_file():
            return  # a killed exchange has left one of the directories away
        for kind, path in self._serving.all().items():
            if not path.is_dir():
                raise StorageError(f"there is no {kind} {path}; give the directory of the {kind} that serves")

    def _check_reach(self) -> None:
        """Refuse a store that cannot be switched in the end, before the long work."""
        if self._service is None:
            unlock(lock_for_writing(self._store, remedy="name its service with --url, or stop it first"))
            return
        self._service.state()
        self._service.check_key()
        if "://" not in self._store and not is_locked(self._store):
            raise StorageError(
                f"no process has the store {self._store} open, so the service {self._service.url} serves "
                "another one; give its store, or the address of the service of this one"
            )

    def _decided(self, options: RenewOptions, candidate: Models | None) -> Decision:
        """Train and compare, or return the decision of a renewal that was killed after it."""
        if (made := self._work.decision()) is not None:
            about = self._work.decided_about()
            if about["store"] != self._store or about["serving"].keys() != self._serving.all().keys():
                raise ConfigError(
                    f"the renewal in {self._work.path}, which is decided and not finished, is of the store "
                    f"{about['store']} and its {' and '.join(about['serving'])}; finish it first, with the "
                    "same store and directories"
                )
            self._say("an unfinished renewal goes on after its decision")
            return made
        started = {
            "store": self._store,
            "options": asdict(options),
            "serving": self._serving.identities(),
            "candidate": None if candidate is None else candidate.identities(),
        }
        goes_on = self._work.begin(started)
        if goes_on:
            self._say(
                f"an unfinished renewal goes on, with the log of {self._work.begun():%Y-%m-%d %H:%M} UTC"
            )
        elif goes_on is None:
            self._say("an unfinished renewal was begun with other options or models; a new one begins")
        decision = self._compared(options, candidate)
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        self._work.decide(decision, {**started, "at": at, "seconds": self._seconds})
        return decision

    def _compared(self, options: RenewOptions, candidate: Models | None) -> Decision:
        """Train the models that are not there yet, and compare them with those that serve."""
        serving, renewed = self._serving, self._work.models(self._serving)
        made_by = NoteStore.for_reading(self._store).model
        if made_by != serving.fingerprint():
            raise DataError(
                f"the store {self._store} has vectors of the model {made_by}, but {serving.model} is "
                f"{serving.fingerprint()}; give the model that serves it"
            )
        if self._service is not None:
            self._service.check_models(serving)
        with self._step(1, "snapshot of the store"):
            snapshot = self._snapshot(options)
        clicks = snapshot.train.clicks.num_rows, snapshot.test.clicks.num_rows
        self._say(
            f"      {snapshot.train.notes.num_rows:,} notes and {clicks[0]:,} clicks to train on, "
            f"{clicks[1]:,} clicks of the newest {options.test_days:g} days to compare on"
        )
        # Hidden ones count on both sides.
        notes: int = read_record(self._work.snapshot)["data"]["notes"]["rows"]
        trained = serving.trained_notes()
        if notes < options.least_notes * trained:
            return stays(
                f"the store has {notes:,} notes, and the serving model was trained on {trained:,}: fewer "
                f"than {100 * options.least_notes:g} % are left; if that is right, lower least_notes"
            )
        queries = queries_of(
            snapshot,
            opened_in_lists(self._work.snapshot),
            users=options.users,
            least=options.least_users,
            seed=options.seed,
        )
        if len(queries.relevant) < options.least_users:
            return stays(
                f"{len(queries.relevant):,} users opened notes before the newest {options.test_days:g} days "
                f"and others in them, too few to compare on ({options.least_users:,} are needed); raise "
                "test_days, or lower least_users"
            )
        shared: dict[str, Any] = {"trust_remote_code": self._trusts, "progress": self._progress}
        with self._step(2, "recall"):
            _copy(candidate, renewed)
            train_model(snapshot.train, renewed.model, serving, options, **shared)
        before, after = (saved_config(each.model).dim for each in (serving, renewed))
        if before != after:
            return stays(
                f"the vectors of the new model have {after} dimensions, those that serve {before}: a model "
                "of another size is no renewal; build another store with it"
            )
        if renewed.ranker is not None:
            with self._step(3, "ranker"):
                train_ranker(snapshot.train, renewed.model, renewed.ranker, serving, options, **shared)
        with self._step(4, f"comparison on {len(queries.relevant):,} of {queries.found:,} users"):
            figures = compare(serving, renewed, snapshot, queries, seed=options.seed, **shared)
        margin = options.list_margin if queries.from_lists else options.margin
        return decide(figures, margin=margin, from_lists=queries.from_lists)

    def _snapshot(self, options: RenewOptions) -> Split:
        """Return the snapshot of the renewal, which is taken once."""
        return take_snapshot(
            self._store,
            self._work.snapshot,
            now=self._work.begun(),
            window_days=options.window_days,
            test_days=options.test_days,
            progress=self._progress,
        )

    def _taken_over(self, decision: Decision) -> Decision:
        """Exchange the models, and let the service or the store switch to them; go back if that fails."""
        renewed = self._work.models(self._serving)
        if renewed.model.is_dir():  # else they were exchanged before a kill
            if self._serving.identities() != self._work.decided_about()["serving"]:
                places = " or ".join(map(str, self._serving.all().values()))
                return stays(
                    f"{places} was replaced meanwhile, so the new models were compared with others than "
                    "those that are there now; renew again"
                )
            if renewed.ranker is not None and (gone := forgotten_since(self._work.snapshot, self._store)):
                count = forget_users(renewed.ranker, gone, trust_remote_code=self._trusts)
                self._say(f"      forgotten meanwhile, and not in the new ranker: {count:,} users")
            take_over(self._serving, self._work)
        with self._step(5, "the new models take over"):
            try:
                error = self._switch()
            except NotellmError as unknown:
                raise StorageError(
                    f"{unknown}; the new models are in {self._serving.model}, and whether they serve is not "
                    "known: give the same command again when the service runs, or without its address when "
                    "it is stopped"
                ) from unknown
        if error is None:
            return decision
        go_back(self._serving, self._work)
        settle(self._work)
        return stays(f"the new models cannot serve, so the former ones are back: {error}")

    def _switch(self) -> str | None:
        """Let the service switch to the models in its directories; return why it could not, or None.

        A store that is not served gets the vectors of the model here.

        Raises:
            NotellmError: if it is not known whether the service has switched.
        """
        if self._service is not None:
            return self._service.reload(self._serving)
        try:
            model = NoteLLM.from_saved(self._serving.model, trust_remote_code=self._trusts)
            build_store(self._store, model, progress=self._progress)
        except NotellmError as error:
            return str(error)
        return None

    @contextmanager
    def _step(self, number: int, what: str) -> Iterator[None]:
        """Say which step runs, and keep how long it took."""
        self._say(f"[{number}/{_STEPS}] {what}")
        start = time.perf_counter()
        yield
        self._seconds[what.split(" ", 1)[0]] = round(time.perf_counter() - start, 2)


def _copy(candidate: Models | None, renewed: Models) -> None:
    """Copy models that were trained elsewhere into the working folder, if there are any."""
    if candidate is None:
        return
    places = renewed.all()
    for kind, source in candidate.all().items():
        if kind in places and not places[kind].is_dir():
            with write_folder(places[kind], kind) as aside:
                shutil.copytree(source, aside, dirs_exist_ok=True)
                (aside / MANIFEST).unlink(missing_ok=True)  # the copy gets its own; folders in it keep theirs
