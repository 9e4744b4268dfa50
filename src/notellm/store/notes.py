"""The durable store of notes and vectors, on LanceDB: a local directory, or object storage by its URI.

    store = NoteStore.open("store", model.fingerprint())
    store.write(rows)                 # durable when it returns
    store.delete(["n7"])
    table = store.read()

One LanceDB table, named by the model's fingerprint, holds notes together with their vectors, so no note is
without its vector or has the vector of another model. One process writes at a time: a local store has a lock
file; in object storage the user has to see to it.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from filelock import FileLock

from notellm.errors import DataError, StorageError
from notellm.store import tables, upkeep
from notellm.store.durable import TableFiles
from notellm.store.lance import among, lock_for_writing, storage_errors, unlock
from notellm.store.rows import (
    StoredNote,
    check_new_rows,
    check_stored_vectors,
    rows_of,
    rows_schema,
)

log = logging.getLogger("notellm.store")

_BATCH = 1_000  # ids in one condition
#: Weight of the writes after which the store is tidied. A write that looks up ids weighs `_LOOKUP_WEIGHT`,
#: since many small files slow it down; appending is hardly slowed down, and weighs 1.
_TIDIED_AT, _LOOKUP_WEIGHT = 500, 5
_LONGEST_WAIT = 16  # times as long as usual until the next attempt, while tidying fails


class NoteStore:
    """Notes and vectors of one model; created by :meth:`open`, :meth:`for_reading` or :meth:`create`.

    Attributes:
        uri: the store.
        model: fingerprint of the model that made the vectors.
        dim: number of dimensions of the vectors.
        report: what was repaired when the store was opened, in sentences; usually empty.
    """

    def __init__(
        self, uri: str, model: str, table: Any, lock: FileLock | None, files: TableFiles | None
    ) -> None:
        self.uri = uri
        self.model = model
        self.dim: int = table.schema.field("vector").type.list_size
        self.report: list[str] = []
        self._table = table
        self._lock = lock
        self._files = files  # None in object storage
        self._is_only_table = False  # whether there is certainly no table of another model
        self._untidy: int | None = 0  # weight of the writes since tidying; None if opened for reading
        self._tidied_at = _TIDIED_AT

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(cls, uri: str | Path, model: str, *, sync: bool = True) -> Self:
        """Open the notes of one model for writing.

        Every file of a local store is compared with its checksum. If the newest version is torn, as after a
        power failure, the version before takes its place; ``report`` and a warning in the log say so.

        Args:
            uri: a local directory, or a URI of object storage that LanceDB accepts ("s3://bucket/path").
            model: fingerprint of the model.
            sync: flush every write to disk before it is answered. Without it writes are faster, and a power
                failure loses the last ones.

        Raises:
            StorageError: if there is no store, it is damaged, or another process writes to it.
            DataError: if it has no vectors of this model.
        """
        store = str(uri)
        models = _models_of(store)
        if model not in models:
            raise DataError(
                f"the store {store} has no vectors of the model {model}, but of {', '.join(models)}; "
                "vectors of two models do not mix: embed its notes again with notellm store build"
            )
        lock = lock_for_writing(store)
        try:
            files = tables.table_files(store, model, sync=sync)
            report = tables.repair(store, model, files)
            with storage_errors(store):
                opened = cls(store, model, tables.open_table(store, model), lock, files)
            opened.report = report
            if (repaired := upkeep.repair_index(opened._table, files, store)) is not None:
                report.append(repaired)
            opened._keep()  # an earlier process may have been killed before it flushed its last commit
        except BaseException:
            unlock(lock)
            raise
        return opened

    @classmethod
    def for_reading(cls, uri: str | Path) -> Self:
        """Open the present state of a store while another process may write to it; writing is refused.

        Args:
            uri: as for :meth:`open`.

        Raises:
            StorageError: if there is no store, or it is damaged.
        """
        store = str(uri)
        model = _models_of(store)[-1]
        files = tables.table_files(store, model)
        report: list[str] = []
        if files is not None and (trouble := files.trouble()) is not None:
            if not trouble.torn:
                raise files.damaged(trouble)
            report = tables.repair_for_reading(store, model)
        with storage_errors(store):
            opened = cls(store, model, tables.open_table(store, model), None, files)
        opened.report = report
        opened._untidy = None
        return opened

    @classmethod
    def create(
        cls, uri: str | Path, model: str, rows: Iterable[pa.Table], *, dim: int, sync: bool = True
    ) -> Self:
        """Create a store with these rows, or the table of another model in an existing store.

        The table is visible only when it is complete.

        Args:
            uri: as for :meth:`open`.
            model: fingerprint of the model; its former table is replaced.
            rows: tables with the schema ``rows.rows_schema``; an id occurs once in all of them.
            dim: number of dimensions of the vectors.
            sync: as for :meth:`open`.

        Raises:
            StorageError: if the store cannot be written, or another process writes to it.
            DataError: if an id is not allowed (``data.ids``), or a vector has a number that is not finite or
                a length other than 1.
            Exception: what ``rows`` raises.
        """
        store = str(uri)
        if "://" not in store:
            with storage_errors(store):
                Path(store).mkdir(parents=True, exist_ok=True)
        lock = lock_for_writing(store)
        replaces = False
        try:
            replaces = model in tables.versions(store)
            if replaces:
                tables.repair(store, model, tables.table_files(store, model))
            else:
                tables.drop(store, model)  # an incomplete table would be in the way
            table = tables.create_table(store, model, rows, dim)
            created = cls(store, model, table, lock, tables.table_files(store, model, sync=sync))
            created._keep()
        except BaseException:
            if not replaces:
                with suppress(StorageError):
                    tables.drop(store, model)
            unlock(lock)
            raise
        return created

    def prove(self, count: int, encode: Callable[[list[StoredNote]], np.ndarray]) -> None:
        """Verify a new table by reading it from disk, before tables of other models are dropped.

        Args:
            count: number of notes that it must hold.
            encode: computes the vectors of notes, (n, dim) float32; it embeds some of the notes once more.

        Raises:
            StorageError: if the table does not hold what it should.
        """
        tables.verify_table(self.uri, self.model, self.dim, count, encode)

    def drop_others(self) -> None:
        """Remove the tables of other models: from now on they would miss what is written to this one.

        Raises:
            StorageError: if one cannot be removed, or this model's table is gone.
        """
        self._is_only_table = False
        tables.drop_others(self.uri, self.model)
        self._is_only_table = True

    def discard(self) -> None:
        """Close the store and remove this model's table.

        Raises:
            StorageError: if it cannot be removed.
        """
        self._untidy = 0
        self.close()
        tables.drop(self.uri, self.model)

    def close(self) -> None:
        """Join small files, so that the next start is fast, and let other processes write."""
        if self._untidy:
            self._tidy()
        if self._files is not None:
            self._files.close()
        unlock(self._lock)
        self._lock = None

    def _keep(self) -> None:
        """Flush the newest version to disk."""
        if self._files is not None:
            with storage_errors(self.uri):
                self._files.keep(self._table.version)

    # ---------------------------------------------------------------- writing

    def write(self, rows: pa.Table, *, new: bool = False) -> None:
        """Add or replace notes in one commit: all of them, or none if there is an error.

        Args:
            rows: table with the schema ``rows.rows_schema``; each id once.
            new: the caller knows that the store has none of these ids. They are not looked up then, which is
                faster.

        Raises:
            DataError: if the rows do not belong into this store, an id is not allowed (``data.ids``), or a
                vector has a length other than 1.
            StorageError: if the rows could not be written, or not be flushed to disk. In the latter case the
                store may have them all the same: :meth:`get` tells.
        """
        self._check_writable()
        if not rows.num_rows:
            return
        check_new_rows(rows, self.dim)
        rows = rows.cast(rows_schema(self.dim))
        self._before_write()
        with storage_errors(self.uri):
            if new:
                self._table.add(rows)
            else:
                merge = self._table.merge_insert("note_id")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)
        self._after_write(1 if new else _LOOKUP_WEIGHT)

    def upsert(self, notes: Sequence[StoredNote], vectors: np.ndarray) -> None:
        """Add or replace notes with their vectors, (n, dim) float32, see :meth:`write`."""
        self.write(rows_of(notes, vectors))

    def delete(self, note_ids: Collection[str]) -> None:
        """Remove notes. Ids that the store does not have are ignored."""
        self._change(note_ids, self._table.delete)

    def hide(self, note_ids: Collection[str], *, hidden: bool = True) -> None:
        """Leave notes out of all answers, or let them back in. Unknown ids are ignored."""
        self._change(note_ids, lambda where: self._table.update(where=where, values={"hidden": hidden}))

    def expire(self, note_ids: Collection[str], at: datetime | None) -> None:
        """Set the time from which notes are left out of all answers; None if they never expire.

        Raises:
            DataError: if the time has no time zone.
        """
        if at is not None and at.tzinfo is None:
            raise DataError(f"the time {at.isoformat()} needs a time zone, such as +00:00")
        self._change(note_ids, lambda where: self._table.update(where=where, values={"expires_at": at}))

    def _change(self, note_ids: Collection[str], change: Callable[[str], Any]) -> None:
        """Change the rows of notes; ``change`` is called with conditions in SQL."""
        self._check_writable()
        names = list(dict.fromkeys(note_ids))
        if names:
            self._before_write()
        for start in range(0, len(names), _BATCH):
            with storage_errors(self.uri):
                change(among(names[start : start + _BATCH]))
            self._after_write(_LOOKUP_WEIGHT)

    def _check_writable(self) -> None:
        if self._untidy is None:
            raise StorageError(f"the store {self.uri} was opened for reading; open it with NoteStore.open")

    def _before_write(self) -> None:
        """Drop tables of other models, which would miss the write."""
        if not self._is_only_table:
            self.drop_others()

    def _after_write(self, weight: int) -> None:
        """Flush a write to disk, and tidy the store now and then.

        Every write leaves a small file that later writes have to look through.
        """
        self._keep()
        self._untidy = (self._untidy or 0) + weight
        if self._untidy >= self._tidied_at:
            self._tidy()

    def _tidy(self) -> None:
        """Tidy the store. A failure leaves the store as it was, so it is only logged."""
        try:
            self.optimize()
        except StorageError as error:
            self._tidied_at = min(2 * self._tidied_at, _LONGEST_WAIT * _TIDIED_AT)
            log.warning("the store was not tidied, which will be tried again later: %s", error)
        else:
            self._tidied_at = _TIDIED_AT
        self._untidy = 0

    def optimize(self) -> None:
        """Join small files, update the index of ids, and drop files of earlier versions.

        Files of earlier versions are removed only when the files that replace them are on disk.

        Raises:
            StorageError: if this could not be completed; the notes are unchanged.
        """
        self._check_writable()
        upkeep.optimize(self._table, self._files, self.uri)
        self._keep()
        if self._files is not None:
            with storage_errors(self.uri):
                self._files.tidy()

    def check_disk(self) -> None:
        """Write and remove a small file.

        Raises:
            StorageError: if the disk does not accept it.
        """
        if self._files is not None:
            upkeep.check_disk(self._files, self.uri)

    # ---------------------------------------------------------------- reading

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of all notes, including hidden and expired ones.

        Args:
            columns: names of columns; None returns all of them.

        Raises:
            StorageError: if the rows cannot be read, or a vector has a length other than 1.
        """
        with storage_errors(self.uri):
            if columns is None:
                rows: pa.Table = self._table.to_arrow()
            else:
                rows = self._table.search().select(list(columns)).limit(None).to_arrow()
        if "vector" in rows.column_names:
            check_stored_vectors(rows, self.dim, self.uri)
        return rows.replace_schema_metadata()

    def batches(self, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of all notes in batches of at most ``rows`` rows; vectors are not checked."""
        with storage_errors(self.uri):
            yield from self._table.search().select(list(columns)).limit(None).to_batches(rows)

    def get(self, note_ids: Collection[str]) -> pa.Table:
        """Return the rows of notes, in any order. Ids that the store does not have are ignored."""
        names = list(dict.fromkeys(note_ids))
        if self._untidy is not None:
            with storage_errors(self.uri):
                self._table.checkout_latest()  # a failed write may be in the store all the same
        schema = rows_schema(self.dim)
        pieces = [schema.empty_table()]
        for start in range(0, len(names), _BATCH):
            with storage_errors(self.uri):
                query = self._table.search().where(among(names[start : start + _BATCH]))
                piece = query.limit(_BATCH).to_arrow()
            pieces.append(piece.select(schema.names).cast(schema))
        return pa.concat_tables(pieces)

    def __len__(self) -> int:
        with storage_errors(self.uri):
            return int(self._table.count_rows())


def _models_of(store: str) -> list[str]:
    """Return the models of an existing store.

    Raises:
        StorageError: if there is no store.
    """
    models = tables.versions(store)
    if not models:
        raise StorageError(f"{store} is not a store of notes; make one: notellm store build")
    return models
