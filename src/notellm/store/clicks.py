"""The durable log of what users did: views, clicks, likes and dislikes, on LanceDB beside the notes.

    log = ClickLog.open("store")
    log.append([Click("user-7", "n1", "click", time)])     # durable when it returns
    table = log.read()

One table, ``clicks``, serves all models of a store. A click has an id, and one whose id the log has is not
written again, so a client may repeat a request whose answer was lost. Clicks older than ``max_age`` are
dropped when the log is tidied. The process that may write to the store may write to its log.
"""

import hashlib
import logging
import shutil
import uuid
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from notellm.data.ids import check_ids
from notellm.data.schema import TIME
from notellm.errors import DataError, StorageError
from notellm.store import upkeep
from notellm.store.durable import TableFiles
from notellm.store.known_ids import KnownIds
from notellm.store.lance import connect, quoted, storage_errors

log = logging.getLogger("notellm.store")

#: What a user can do with a note, as the log calls it.
EVENTS = ("view", "click", "like", "dislike")
#: One row per click; ``request_id`` names the recommendations that the note was shown in, "" for none.
CLICK_LOG = pa.schema(
    [
        pa.field("click_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
    ]
)
NAME = "clicks"
#: How long clicks are kept unless told otherwise.
MAX_AGE = timedelta(days=90)

_AHEAD = timedelta(days=1)  # how far a client's clock may be ahead
_TIDIED_AT = 500  # writes after which the log is tidied
_BATCH = 65_536  # rows read at once


@dataclass(frozen=True, slots=True)
class Click:
    """Something that a user did with a note.

    Attributes:
        user_id: the user.
        note_id: the note; it need not be in the store.
        event: "view" (shown and looked at), "click" (opened), "like" or "dislike".
        timestamp: when, with a time zone; None for now.
        click_id: id of the click. None is made from user, note, event and time, so that the same click with
            its time is one; without a time every click is another one.
        request_id: the recommendations in which the note was shown; "" for none.
    """

    user_id: str
    note_id: str
    event: str = "click"
    timestamp: datetime | None = None
    click_id: str | None = None
    request_id: str = ""

    def complete(self, now: datetime) -> "Click":
        """Return the click with its time and its id."""
        if self.click_id is not None:
            return replace(self, timestamp=self.timestamp or now)
        if self.timestamp is None:
            return replace(self, timestamp=now, click_id=uuid.uuid4().hex)
        said = "\0".join((self.user_id, self.note_id, self.event, self.timestamp.astimezone(UTC).isoformat()))
        return replace(self, click_id=hashlib.blake2b(said.encode(), digest_size=16).hexdigest())


class ClickLog:
    """The clicks of a store; created by :meth:`open` or :meth:`for_reading`.

    Attributes:
        uri: the store.
        max_age: how long clicks are kept; None keeps all.
        report: what was repaired when the log was opened, in sentences; usually empty.
    """

    def __init__(
        self, uri: str, files: TableFiles | None, *, max_age: timedelta | None, writable: bool
    ) -> None:
        self.uri = uri
        self.max_age = max_age
        self.report: list[str] = []
        self._files = files  # None in object storage
        self._writable = writable
        self._table: Any = None  # None until the first click
        self._known = KnownIds()
        self._writes = 0
        self._is_in_doubt = False  # whether the log may have clicks of a write that failed

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(cls, uri: str | Path, *, sync: bool = True, max_age: timedelta | None = MAX_AGE) -> Self:
        """Open the log of a store for writing; it need not exist.

        The caller is the one process that writes to the store (``NoteStore.open``). A torn version gives way
        to the one before, as in the store.

        Args:
            uri: the store.
            sync: flush every write to disk before it is answered.
            max_age: how long clicks are kept; None keeps all.

        Raises:
            StorageError: if the log is damaged or cannot be read.
        """
        store = str(uri)
        files = _files(store, sync=sync)
        opened = cls(store, files, max_age=max_age, writable=True)
        if _exists(store, files):
            if files is not None:
                with storage_errors(store):
                    opened.report = files.settle(opened._try)
                for sentence in opened.report:
                    log.warning("%s", sentence)
            with storage_errors(store):
                opened._table = connect(store).open_table(NAME)
            opened._keep()
            opened._learn_ids()
        return opened

    @classmethod
    def for_reading(cls, uri: str | Path) -> Self:
        """Open the present state of a log, while another process may write to it; writing is refused.

        Raises:
            StorageError: if it is damaged or cannot be read.
        """
        store = str(uri)
        files = _files(store)
        opened = cls(store, files, max_age=None, writable=False)
        if _exists(store, files):
            if files is not None and (trouble := files.trouble()) is not None and not trouble.torn:
                raise files.damaged(trouble)
            with storage_errors(store):
                opened._table = connect(store).open_table(NAME)
        return opened

    def close(self) -> None:
        """Join small files, so that the next start is fast."""
        if self._writable and self._writes:
            self._try_to_tidy()
        if self._files is not None:
            self._files.close()

    def _try(self, number: int) -> None:
        with storage_errors(self.uri):
            connect(self.uri).open_table(NAME, version=number).to_arrow()

    def _keep(self) -> None:
        if self._files is not None:
            with storage_errors(self.uri):
                self._files.keep(self._table.version)

    # ---------------------------------------------------------------- writing

    def append(self, clicks: Sequence[Click], *, checked: bool = False) -> list[Click | None]:
        """Write clicks in one commit: all of them, or none if there is an error.

        Args:
            clicks: the clicks.
            checked: whether they have passed :meth:`check` already.

        Returns:
            The clicks as they were written, with id and time; None for one that the log has already.

        Raises:
            DataError: if an event or an id is not allowed, or a time has no zone, lies in the future, or is
                older than ``max_age``. Then no click is written.
            StorageError: if they could not be written; repeat the same clicks.
        """
        self._check_writable()
        now = datetime.now(UTC)
        complete = [click.complete(now) for click in clicks]
        if not checked:
            self.check(clicks)
        self._settle()
        new: list[Click | None] = []
        ids = set()
        for click in complete:
            is_known = click.click_id in ids or str(click.click_id) in self._known
            new.append(None if is_known else click)
            ids.add(click.click_id)
        written = [click for click in new if click is not None]
        if written:
            rows = pa.table(
                {name: [getattr(click, name) for click in written] for name in CLICK_LOG.names},
                schema=CLICK_LOG,
            )
            self._is_in_doubt = True
            with storage_errors(self.uri):
                if self._table is None:
                    self._table = connect(self.uri).create_table(NAME, rows, schema=CLICK_LOG)
                else:
                    self._table.add(rows)
            self._keep()
            self._is_in_doubt = False
            self._known.add([str(click.click_id) for click in written])
            self._writes += 1
            if self._writes >= _TIDIED_AT:
                self._try_to_tidy()
        return new

    def forget(self, user_id: str) -> int:
        """Remove all clicks of a user, from all files of the log; return how many there were.

        The log is written anew, since a deleted row stays in its file.

        Raises:
            StorageError: if this could not be completed; repeat it.
        """
        self._check_writable()
        self._settle()
        if self._table is None:
            return 0
        with storage_errors(self.uri):
            count = int(self._table.count_rows(f"user_id = {quoted(user_id)}"))
            if count:
                others = self._table.search().where(f"user_id != {quoted(user_id)}").limit(None)
                self._table = connect(self.uri).create_table(
                    NAME, others.to_batches(_BATCH), schema=CLICK_LOG, mode="overwrite"
                )
        # Also without a click: an earlier attempt may have failed after it.
        self._keep()
        with storage_errors(self.uri), warnings.catch_warnings():
            # LanceDB warns that readers of an earlier version fail: that version has the user.
            warnings.simplefilter("ignore", UserWarning)
            self._table.optimize(cleanup_older_than=timedelta(0), delete_unverified=self._files is not None)
        self._keep()
        if self._files is not None:
            with storage_errors(self.uri):
                self._files.tidy()
                shutil.rmtree(self._files.aside, ignore_errors=True)
        return count

    def tidy(self) -> None:
        """Drop clicks that are too old, join small files, and remove files of earlier versions.

        Raises:
            StorageError: if this could not be completed; repeat it.
        """
        self._check_writable()
        if self._table is None:
            return
        if self.max_age is not None:
            before = (datetime.now(UTC) - self.max_age).strftime("%Y-%m-%d %H:%M:%S.%f")
            with storage_errors(self.uri):
                self._table.delete(f"timestamp < TIMESTAMP '{before}'")
            self._keep()
        upkeep.optimize(self._table, self._files, self.uri)
        self._keep()
        if self._files is not None:
            with storage_errors(self.uri):
                self._files.tidy()
        self._writes = 0

    def _try_to_tidy(self) -> None:
        """Tidy the log. A failure leaves it as it was, so it is only told, and tried again later."""
        self._writes = 0
        try:
            self.tidy()
        except StorageError as error:
            log.warning("the clicks were not tidied, which will be tried again later: %s", error)

    def check(self, clicks: Sequence[Click]) -> None:
        """Refuse clicks that :meth:`append` would refuse.

        Raises:
            DataError: as :meth:`append`.
        """
        now = datetime.now(UTC)
        given = [each for click in clicks for each in (click.user_id, click.note_id, click.click_id)]
        given += [click.request_id or None for click in clicks]
        check_ids(pa.array([each for each in given if each is not None], pa.string()))
        for click in clicks:
            if (problem := self._problem(click, now)) is not None:
                raise DataError(f"the click of {click.user_id!r} on the note {click.note_id!r} has {problem}")

    def _problem(self, click: Click, now: datetime) -> str | None:
        if click.event not in EVENTS:
            return f"the event {click.event!r}; it must be one of {', '.join(EVENTS)}"
        if (time := click.timestamp) is None:
            return None
        said = f"the time {time.isoformat()}"
        if time.tzinfo is None:
            return f"{said}, which needs a zone, such as +00:00"
        if time > now + _AHEAD:
            return f"{said}, in the future"
        if self.max_age is not None and time < now - self.max_age:
            return f"{said}; clicks are kept for {self.max_age.days} days"
        return None

    def _check_writable(self) -> None:
        if not self._writable:
            raise StorageError(f"the clicks of {self.uri} were opened for reading; use ClickLog.open")

    def _settle(self) -> None:
        """After a failed write find out whether the log has its clicks all the same, and flush them."""
        if not self._is_in_doubt:
            return
        with storage_errors(self.uri):
            if self._table is None and _exists(self.uri, self._files):
                self._table = connect(self.uri).open_table(NAME)
            if self._table is not None:
                self._table.checkout_latest()
        if self._table is not None:
            self._keep()
            self._learn_ids()
        self._is_in_doubt = False

    # ---------------------------------------------------------------- reading

    def __len__(self) -> int:
        if self._table is None:
            return 0
        with storage_errors(self.uri):
            return int(self._table.count_rows())

    def batches(self, columns: Sequence[str] = tuple(CLICK_LOG.names)) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the log in batches, in no particular order.

        Raises:
            StorageError: if they cannot be read.
        """
        if self._table is None:
            return
        with storage_errors(self.uri):
            yield from self._table.search().select(list(columns)).limit(None).to_batches(_BATCH)

    def read(self) -> pa.Table:
        """Return all clicks, schema ``CLICK_LOG``, ascending by time.

        Raises:
            StorageError: if they cannot be read.
        """
        rows = pa.Table.from_batches(self.batches(), schema=CLICK_LOG) if self._table is not None else None
        return CLICK_LOG.empty_table() if rows is None else rows.sort_by("timestamp")

    def _learn_ids(self) -> None:
        """Know the ids of all clicks of the log."""
        self._known = KnownIds(each for batch in self.batches(["click_id"]) for each in batch[0].to_pylist())


def _files(store: str, *, sync: bool = True) -> TableFiles | None:
    """Return the files of a local log; None in object storage."""
    if "://" in store:
        return None
    remedy = "remove clicks.lance and checksums_clicks.jsonl there, which loses the clicks"
    return TableFiles(Path(store), NAME, NAME, sync=sync, remedy=remedy)


def _exists(store: str, files: TableFiles | None) -> bool:
    with storage_errors(store):
        if files is not None:
            return files.table.is_dir() and files.exists()
        return NAME in connect(store).list_tables(limit=10_000).tables
