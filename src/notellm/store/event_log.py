"""A durable log of events on LanceDB beside the notes of a store: what its kinds of logs share.

A log is one table, which serves all models of a store; every row belongs to a user. Rows are flushed to disk
before a write returns, a torn newest version gives way to the one before, rows older than ``max_age`` are
dropped when the log is tidied, and a forgotten user is removed from every file. ``clicks.py`` and
``shown.py`` have the kinds. The process that may write to the store may write to its logs.
"""

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow as pa

from notellm.errors import StorageError
from notellm.store import upkeep
from notellm.store.age import MAX_AGE
from notellm.store.durable import TableFiles
from notellm.store.lance import connect, quoted, storage_errors

log = logging.getLogger("notellm.store")

_TIDIED_AT = 500  # writes after which a log is tidied
_BATCH = 65_536  # rows read at once


class EventLog:
    """The events of one kind in a store; created by :meth:`open` or :meth:`for_reading`.

    A kind is a subclass. It says its table, and writes with :meth:`_write`.

    Attributes:
        NAME: name of the table.
        SCHEMA: columns of the table; ``user_id`` and ``timestamp`` are among them.
        WHAT: what messages call the events.
        uri: the store.
        max_age: how long events are kept; None keeps all.
        report: what was repaired when the log was opened, in sentences; usually empty.
    """

    NAME: ClassVar[str]
    SCHEMA: ClassVar[pa.Schema]
    WHAT: ClassVar[str]

    def __init__(
        self, uri: str, files: TableFiles | None, *, max_age: timedelta | None, writable: bool
    ) -> None:
        self.uri = uri
        self.max_age = max_age
        self.report: list[str] = []
        self._files = files  # None in object storage
        self._writable = writable
        self._table: Any = None  # None until the first event
        self._writes = 0
        self._is_in_doubt = False  # whether the log may have events of a write that failed

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(cls, uri: str | Path, *, sync: bool = True, max_age: timedelta | None = MAX_AGE) -> Self:
        """Open the log of a store for writing; it need not exist.

        The caller is the one process that writes to the store (``NoteStore.open``). A torn version gives way
        to the one before, as in the store.

        Args:
            uri: the store.
            sync: flush every write to disk before it is answered.
            max_age: how long events are kept; None keeps all.

        Raises:
            StorageError: if the log is damaged or cannot be read.
        """
        store = str(uri)
        files = cls._files_of(store, sync=sync)
        opened = cls(store, files, max_age=max_age, writable=True)
        if cls._exists(store, files):
            if files is not None:
                with storage_errors(store):
                    opened.report = files.settle(opened._try)
                for sentence in opened.report:
                    log.warning("%s", sentence)
            with storage_errors(store):
                opened._table = connect(store).open_table(cls.NAME)
            opened._keep()
            opened._learn()
        return opened

    @classmethod
    def for_reading(cls, uri: str | Path) -> Self:
        """Open the present state of a log, while another process may write to it; writing is refused.

        Raises:
            StorageError: if it is damaged or cannot be read.
        """
        store = str(uri)
        files = cls._files_of(store)
        opened = cls(store, files, max_age=None, writable=False)
        if cls._exists(store, files):
            if files is not None and (trouble := files.trouble()) is not None and not trouble.torn:
                raise files.damaged(trouble)
            with storage_errors(store):
                opened._table = connect(store).open_table(cls.NAME)
        return opened

    def close(self) -> None:
        """Join small files, so that the next start is fast."""
        if self._writable and self._writes:
            self._try_to_tidy()
        if self._files is not None:
            self._files.close()

    def _try(self, number: int) -> None:
        with storage_errors(self.uri):
            connect(self.uri).open_table(self.NAME, version=number).to_arrow()

    def _keep(self) -> None:
        if self._files is not None:
            with storage_errors(self.uri):
                self._files.keep(self._table.version)

    # ---------------------------------------------------------------- writing

    def _write(self, rows: pa.Table) -> None:
        """Write rows in one commit, after :meth:`_settle`."""
        self._is_in_doubt = True
        with storage_errors(self.uri):
            if self._table is None:
                self._table = connect(self.uri).create_table(self.NAME, rows, schema=self.SCHEMA)
            else:
                self._table.add(rows)
        self._keep()
        self._is_in_doubt = False
        self._writes += 1
        if self._writes >= _TIDIED_AT:
            self._try_to_tidy()

    def _learn(self) -> None:
        """Learn what a kind has to know of the rows of the table, which was opened or may have changed."""

    def forget(self, user_id: str) -> int:
        """Remove all events of a user, from all files of the log; return how many there were.

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
                    self.NAME, others.to_batches(_BATCH), schema=self.SCHEMA, mode="overwrite"
                )
        # Also without an event: an earlier attempt may have failed after it.
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
        """Drop events that are too old, join small files, and remove files of earlier versions.

        Raises:
            StorageError: if this could not be completed; repeat it.
        """
        self._check_writable()
        if self._table is None:
            return
        if self.max_age is not None:
            with storage_errors(self.uri):
                self._table.delete(f"timestamp < {_moment(datetime.now(UTC) - self.max_age)}")
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
            log.warning("%s were not tidied, which will be tried again later: %s", self.WHAT, error)

    def _check_writable(self) -> None:
        if not self._writable:
            raise StorageError(
                f"{self.WHAT} of {self.uri} were opened for reading; use {type(self).__name__}.open"
            )

    def _settle(self) -> None:
        """After a failed write find out whether the log has its events all the same, and flush them."""
        if not self._is_in_doubt:
            return
        with storage_errors(self.uri):
            if self._table is None and self._exists(self.uri, self._files):
                self._table = connect(self.uri).open_table(self.NAME)
            if self._table is not None:
                self._table.checkout_latest()
        if self._table is not None:
            self._keep()
            self._learn()
        self._is_in_doubt = False

    # ---------------------------------------------------------------- reading

    def __len__(self) -> int:
        if self._table is None:
            return 0
        with storage_errors(self.uri):
            return int(self._table.count_rows())

    def batches(
        self, columns: Sequence[str] | None = None, *, since: datetime | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of the log in batches, in no particular order.

        Args:
            columns: names of columns; None for all.
            since: the earliest time of a row, with a time zone; None for all rows.

        Raises:
            StorageError: if they cannot be read.
        """
        if self._table is None:
            return
        with storage_errors(self.uri):
            rows = self._table.search().select(list(columns or self.SCHEMA.names))
            if since is not None:
                rows = rows.where(f"timestamp >= {_moment(since)}")
            yield from rows.limit(None).to_batches(_BATCH)

    def read(self) -> pa.Table:
        """Return all rows of the log, schema ``SCHEMA``, ascending by time.

        Raises:
            StorageError: if they cannot be read.
        """
        if self._table is None:
            return self.SCHEMA.empty_table()
        return pa.Table.from_batches(self.batches(), schema=self.SCHEMA).sort_by("timestamp")

    # ---------------------------------------------------------------- files

    @classmethod
    def _files_of(cls, store: str, *, sync: bool = True) -> TableFiles | None:
        """Return the files of a local log; None in object storage."""
        if "://" in store:
            return None
        name = cls.NAME
        remedy = f"remove {name}.lance and checksums_{name}.jsonl there, which loses {cls.WHAT}"
        return TableFiles(Path(store), name, name, sync=sync, remedy=remedy)

    @classmethod
    def _exists(cls, store: str, files: TableFiles | None) -> bool:
        with storage_errors(store):
            if files is not None:
                return files.table.is_dir() and files.exists()
            return cls.NAME in connect(store).list_tables(limit=10_000).tables


def _moment(time: datetime) -> str:
    """Return a time as LanceDB's conditions have it."""
    return f"TIMESTAMP '{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'"
