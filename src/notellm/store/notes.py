"""The durable store of notes and vectors, on LanceDB: a local directory, or object storage by its URI.

    store = NoteStore.open("store", model.fingerprint())
    store.write(rows)                 # when it returns, the rows outlive the process
    store.delete(["n7"])
    table = store.read()

One LanceDB table, named by the model's fingerprint, holds notes and their vectors together: a write is one
commit, so a note without its vector, or with the vector of another model, cannot be seen. A second table is
there only while a model is replaced; before the first write to one of them, the other is removed. One process
writes at a time (a lock file in a local directory; object storage has none, so see to it yourself).

In a local directory a write is flushed to disk before it is answered, and every file has a checksum, which is
verified when the store is opened (``durable.py``). Object storage does both by itself.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from notellm.artifacts.parquet import RECORD_KEY
from notellm.artifacts.workspace import sync_folder
from notellm.data.note import Note
from notellm.data.schema import NOTES, TIME
from notellm.errors import DataError, MissingDependencyError, NotellmError, StorageError
from notellm.files import json_text
from notellm.record import make_record
from notellm.store.durable import TableFiles, free_name
from notellm.store.index import base
from notellm.store.manifest import DATA
from notellm.vectors import vector_matrix

log = logging.getLogger("notellm.store")

_PREFIX = "notes_"
_LOCK = ".writer.lock"
_IDS_TOGETHER = 1_000  # in one condition
_ROWS_TOGETHER = 16_384  # in one piece of a new table
_TIDIED_AT, _LOOKING = 500, 5  # weight of writes between two tidyings; of one that looks for ids
_LONGEST_WAIT = 16  # times as long as usual between two tidyings, while they fail
_KEPT = timedelta(minutes=5)  # how long files of former states stay, for readers that still use them
#: Bytes that LanceDB keeps in memory of indexes and of manifests, of all stores of a process together. By its
#: own limits of several GiB it would keep something of every version: 130 KB for each write.
_INDEX_CACHE, _MANIFEST_CACHE = 32 << 20, 16 << 20
#: Free bytes that tidying needs besides a copy of all data.
_ROOM = 64 << 20
_UNIT = 0.01  # how far the length of a vector may be from 1
_PROVEN = 32  # notes of a new table that are embedded once more
_ALIKE = 0.99  # cosine of two vectors that the same model makes of one note in different company
_PROBE = 1 << 20  # bytes that tell whether a disk takes anything
_RUST_SOURCE = re.compile(r",? ?/\S+\.rs:\d+(:\d+)?")  # where in LanceDB's own sources an error arose
#: What a store holds, by paths within its folder.
_TABLE_FILES = (
    r"(data|_indices/[\w-]+)/[^/]+\.lance|_versions/(\d+\.manifest(#\d+)?|latest_version_hint\.json)"
    r"|_transactions/[^/]+\.txn|_deletions/[^/]+\.(arrow|bin)|[^/]+/\.tmp\w+|.+\.again"
)
_OWN_FILES = re.compile(
    r"\.writer\.lock|milvus_\w+\.json|checksums_\w+\.jsonl(\.new)?"
    r"|index_\w+/(manifest\.json|graph\.faiss|rows\.parquet|index\.json)"
    r"|\.(index_\w+|milvus_\w+\.json)\.\w+\.part/.+"
    r"|torn_\w+/[^/]+\.(manifest|lance|arrow|bin)(\.\d+)?"
    rf"|(notes_\w+\.lance|dropped_\w+(\.\d+)?)/({_TABLE_FILES})"
)


@dataclass(frozen=True, slots=True)
class StoredNote(Note):
    """A note as the store has it.

    Attributes:
        note_id: its id.
        published_at: when, with a time zone; None is unknown.
        hidden: whether it is out of every answer.
        expires_at: from when on it is out of every answer; None is never.
    """

    note_id: str = ""
    published_at: datetime | None = None
    hidden: bool = False
    expires_at: datetime | None = None


def rows_schema(dim: int) -> pa.Schema:
    """What the store holds of a note: the columns of NOTES, ``hidden``, ``expires_at`` and its ``vector``."""
    return pa.schema(
        [
            *NOTES,
            pa.field("hidden", pa.bool_(), nullable=False),
            pa.field("expires_at", TIME),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        ]
    )


def rows_of(notes: Sequence[StoredNote], vectors: np.ndarray) -> pa.Table:
    """Notes and their vectors, (n, d) float32, as rows of the store."""
    names = [name for name in rows_schema(1).names if name != "vector"]
    columns: dict[str, Any] = {name: [getattr(note, name) for note in notes] for name in names}
    columns["topics"] = [list(topics) for topics in columns["topics"]]
    schema = rows_schema(vectors.shape[1])
    arrays = [pa.array(columns[name], schema.field(name).type) for name in names]
    return pa.Table.from_arrays([*arrays, _vector_array(vectors)], schema=schema)


def rows_of_table(notes: pa.Table, vectors: np.ndarray) -> pa.Table:
    """A notes table (schema ``data.schema.NOTES``) and its vectors as rows: visible, never expiring."""
    count = notes.num_rows
    schema = rows_schema(vectors.shape[1])
    columns = [notes.column(name) for name in NOTES.names]
    hidden = pa.array(np.zeros(count, dtype=bool))
    return pa.Table.from_arrays(
        [*columns, hidden, pa.nulls(count, TIME), _vector_array(vectors)], schema=schema
    )


def notes_of(rows: pa.Table) -> list[StoredNote]:
    """The notes of rows, without their vectors."""
    names = [name for name in rows_schema(1).names if name not in ("vector", "topics")]
    columns: dict[str, list[Any]] = {name: rows.column(name).to_pylist() for name in names}
    columns["topics"] = base.text_tuples(rows.column("topics"))
    order = ("title", "content", "topics", "category", "note_id", "published_at", "hidden", "expires_at")
    return [StoredNote(*values) for values in zip(*(columns[name] for name in order), strict=True)]


class NoteStore:
    """Notes and vectors of one model; made by :meth:`open` or :meth:`create`.

    Attributes:
        uri: where.
        model: fingerprint of the model whose vectors it holds.
        dim: their dimensions.
        report: what was found and mended when it was opened, in sentences; mostly nothing.
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
        self._files = files  # None: object storage
        self._alone = False  # whether no table of another model is there
        self._untidy: int | None = 0  # None: opened for reading
        self._tidied_at = _TIDIED_AT

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(cls, uri: str | Path, model: str, *, sync: bool = True) -> Self:
        """The store's notes of one model, for writing.

        Every file of a local store is compared with its checksum. If the newest version is torn, as a power
        failure leaves it, the one before it takes its place; ``report`` and a warning in the log say so.

        Args:
            uri: a local directory, or what LanceDB takes for object storage ("s3://bucket/path").
            model: the model's fingerprint.
            sync: flush every write to disk before it is answered. Without it writes are quicker, and a power
                failure loses the last ones.

        Raises:
            StorageError: there is no store, it is damaged, or another process writes to it.
            DataError: it has no vectors of this model.
        """
        place = str(uri)
        known = versions(place)
        if not known:
            raise StorageError(f"{place} is not a store of notes; make one: notellm store build")
        if model not in known:
            raise DataError(
                f"the store {place} has no vectors of the model {model}, but of {', '.join(known)}; "
                "vectors of two models do not mix: embed its notes anew with notellm store build"
            )
        lock = _locked(place)
        try:
            files = _files(place, model, sync=sync)
            report = [] if files is None else _settled(place, model, files)
            with _storage(place):
                opened = cls(place, model, _connect(place).open_table(_PREFIX + model), lock, files)
            opened.report = report
            opened._mend_index()
            opened._keep()  # what a killed process wrote and did not flush
        except BaseException:
            _unlock(lock)
            raise
        return opened

    @classmethod
    def for_reading(cls, uri: str | Path) -> Self:
        """The store as it is now, to be read beside a process that writes; writing to it is refused.

        Args:
            uri: as for :meth:`open`.

        Raises:
            StorageError: there is no store, or it is damaged.
        """
        place = str(uri)
        known = versions(place)
        if not known:
            raise StorageError(f"{place} is not a store of notes; make one: notellm store build")
        model = known[-1]
        files = _files(place, model)
        report: list[str] = []
        if files is not None and (trouble := files.trouble()) is not None:
            if not trouble.torn:
                raise files.damaged(trouble)
            report = _settled_for_reading(place, model)
        with _storage(place):
            opened = cls(place, model, _connect(place).open_table(_PREFIX + model), None, files)
        opened.report = report
        opened._untidy = None
        return opened

    @classmethod
    def create(
        cls, uri: str | Path, model: str, rows: Iterable[pa.Table], *, dim: int, sync: bool = True
    ) -> Self:
        """A store of these rows, or in a store the table of a further model; it is there when complete.

        Args:
            uri: as for :meth:`open`.
            model: the model's fingerprint; its former table is replaced.
            rows: pieces, schema :func:`rows_schema`; ids are unique among all of them.
            dim: dimensions of the vectors.
            sync: as for :meth:`open`.

        Raises:
            StorageError: it cannot be written, or another process writes to it.
            DataError: a vector is not finite, or its length is not 1.
            Exception: what ``rows`` raises.
        """
        place = str(uri)
        if "://" not in place:
            with _storage(place):
                Path(place).mkdir(parents=True, exist_ok=True)
        lock = _locked(place)
        record = make_record(kind="store", config={"dim": dim}, data={"model": {"fingerprint": model}})
        schema = rows_schema(dim).with_metadata({RECORD_KEY: json_text(record)})
        raised: list[BaseException] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for piece in rows:
                    _check_vectors(piece, dim)
                    yield from piece.cast(rows_schema(dim)).to_batches(_ROWS_TOGETHER)
            except BaseException as error:
                raised.append(error)  # LanceDB makes a text of it
                raise

        replaces = False
        try:
            replaces = model in versions(place)
            if replaces:
                _settled(place, model, _files(place, model))
            else:  # what is left of a table whose making was cut off would be in the way
                _drop(place, model)
            with _storage(place):
                table = _connect(place).create_table(
                    _PREFIX + model,
                    pa.RecordBatchReader.from_batches(schema, batches()),
                    schema=schema,
                    mode="overwrite",
                )
                table.create_index("note_id", config=_lancedb().index.BTree())
            made = cls(place, model, table, lock, _files(place, model, sync=sync))
            made._keep()
        except BaseException:
            if not replaces:
                with suppress(StorageError):
                    _drop(place, model)
            _unlock(lock)
            if raised:
                raise raised[0] from None
            raise
        return made

    def prove(self, count: int, encode: Callable[[list[StoredNote]], np.ndarray]) -> None:
        """Read a new table back and compare it with what it shall hold, before former ones are dropped.

        Args:
            count: how many notes it shall hold.
            encode: makes the vectors of notes, (n, dim) float32; some notes are embedded once more.

        Raises:
            StorageError: the table is not what it shall be.
        """
        files = _files(self.uri, self.model)
        if files is not None and (trouble := files.trouble()) is not None:
            raise files.damaged(trouble)
        with _storage(self.uri):
            table = _connect(self.uri).open_table(_PREFIX + self.model)
            rows = table.to_arrow()
        what = f"the new table of the model {self.model} in the store {self.uri}"
        if rows.num_rows != count:
            raise StorageError(f"{what} has {rows.num_rows:,} notes, not {count:,}; it is not used")
        _check_unit(rows, self.dim, self.uri)
        drawn = np.unique(np.linspace(0, count - 1, min(count, _PROVEN)).round().astype(np.int64))
        sample = rows.take(pa.array(drawn))
        if not sample.num_rows:
            return
        notes, stored = notes_of(sample), vector_matrix(sample.column("vector"), self.dim)
        cosines = np.einsum("ij,ij->i", stored, encode(notes))
        worst = int(cosines.argmin())
        if not cosines[worst] >= _ALIKE:
            raise StorageError(
                f"{what} has another vector of the note {notes[worst].note_id!r} than the model makes now "
                f"(cosine {cosines[worst]:.3f}, at least {_ALIKE} is wanted); it is not used: is the model "
                "whole?"
            )

    def drop_others(self) -> None:
        """Remove the tables of other models: from now on they would miss what is written to this one.

        Raises:
            StorageError: one cannot be removed, or the own one is gone.
        """
        self._alone = False
        if self.model not in versions(self.uri):
            raise StorageError(f"the store {self.uri} has no vectors of the model {self.model} any more")
        for other in _tables(self.uri):
            if other != self.model:
                _drop(self.uri, other)
        if "://" not in self.uri:
            for left in Path(self.uri).glob("dropped_*"):
                shutil.rmtree(left, ignore_errors=True)
        self._alone = True

    def discard(self) -> None:
        """Close it and remove its table.

        Raises:
            StorageError: it cannot be removed.
        """
        self._untidy = 0
        self.close()
        _drop(self.uri, self.model)

    def close(self) -> None:
        """Join small files, so that the next start reads few, and let other processes write."""
        if self._untidy:
            self._tidy()
        if self._files is not None:
            self._files.close()
        _unlock(self._lock)
        self._lock = None

    def _keep(self) -> None:
        """Flush the newest version to disk."""
        if self._files is not None:
            with _storage(self.uri):
                self._files.keep(self._table.version)

    def _mend_index(self) -> None:
        """Make the index of ids anew where its files are damaged: the data has all that it takes."""
        if self._files is None or (trouble := self._files.index_trouble()) is None:
            return
        with _storage(self.uri):
            for index in self._table.list_indices():
                self._table.drop_index(index.name)
            self._table.create_index("note_id", config=_lancedb().index.BTree())
        said = f"{self._files.table / trouble.file} {trouble.reason}: the index of ids was made anew"
        log.warning("%s", said)
        self.report.append(said)

    # ---------------------------------------------------------------- writing

    def write(self, rows: pa.Table, *, new: bool = False) -> None:
        """Add or replace notes in one commit: all of them, or after an error none.

        Args:
            rows: schema :func:`rows_schema`; each id once.
            new: the caller knows that the store has none of these ids: nothing is looked for, which takes a
                quarter of the time.

        Raises:
            DataError: the rows are not of this store, or the length of a vector is not 1.
            StorageError: they could not be written, or not be flushed to disk. In the latter case the store
                may have them all the same: :meth:`get` tells.
        """
        self._check_writable()
        if not rows.num_rows:
            return
        _check_vectors(rows, self.dim)
        whole = rows.cast(rows_schema(self.dim))
        self._stand_alone()
        with _storage(self.uri):
            if new:
                self._table.add(whole)
            else:
                merge = self._table.merge_insert("note_id")
                merge.when_matched_update_all().when_not_matched_insert_all().execute(whole)
        self._written(1 if new else _LOOKING)

    def upsert(self, notes: Sequence[StoredNote], vectors: np.ndarray) -> None:
        """Add or replace notes with their vectors, (n, dim) float32, as :meth:`write` does."""
        self.write(rows_of(notes, vectors))

    def delete(self, note_ids: Collection[str]) -> None:
        """Remove notes; ids that are not there are passed over."""
        self._where(note_ids, self._table.delete)

    def hide(self, note_ids: Collection[str], *, hidden: bool = True) -> None:
        """Take notes out of every answer, or let them back in; ids that are not there are passed over."""
        self._where(note_ids, lambda where: self._table.update(where=where, values={"hidden": hidden}))

    def expire(self, note_ids: Collection[str], at: datetime | None) -> None:
        """Say from when on notes are out of every answer; None is never."""
        if at is not None and at.tzinfo is None:
            raise DataError(f"the time {at.isoformat()} needs a time zone, such as +00:00")
        self._where(note_ids, lambda where: self._table.update(where=where, values={"expires_at": at}))

    def _where(self, note_ids: Collection[str], change: Callable[[str], Any]) -> None:
        self._check_writable()
        names = list(dict.fromkeys(note_ids))
        if names:
            self._stand_alone()
        for start in range(0, len(names), _IDS_TOGETHER):
            with _storage(self.uri):
                change(_among(names[start : start + _IDS_TOGETHER]))
            self._written(_LOOKING)

    def _written(self, weight: int) -> None:
        """Flush a write to disk; tidy up now and then.

        Every write leaves a small file that later ones must look through. Joining them takes both cores for
        half a second at 200,000 notes. Appending hardly minds the small files (2.6 ms without any, 3.3 ms
        with 300), looking for ids does (10 ms, 23 ms with 200): it weighs more.
        """
        self._keep()
        self._untidy = (self._untidy or 0) + weight
        if self._untidy >= self._tidied_at:
            self._tidy()

    def _tidy(self) -> None:
        """Tidy up; if that fails, the store is as good as before, so nobody but the log is told."""
        try:
            self.optimize()
        except StorageError as error:
            self._tidied_at = min(2 * self._tidied_at, _LONGEST_WAIT * _TIDIED_AT)
            log.warning("the store was not tidied, which will be tried again later: %s", error)
        else:
            self._tidied_at = _TIDIED_AT
        self._untidy = 0

    def _check_writable(self) -> None:
        if self._untidy is None:
            raise StorageError(f"the store {self.uri} was opened for reading; open it with NoteStore.open")

    def _stand_alone(self) -> None:
        """Before the first write: a table of another model would miss it."""
        if not self._alone:
            self.drop_others()

    def optimize(self) -> None:
        """Join small files, bring the index of ids up to date, drop files of former states.

        Files of former states are removed only when those that replace them are on disk.

        Raises:
            StorageError: it was not done, or not to its end; the notes are as before.
        """
        self._check_writable()
        kept = _KEPT
        if self._files is not None:
            with _storage(self.uri):
                free, needed = shutil.disk_usage(self.uri).free, self._files.size() + _ROOM
                if free < needed:
                    raise StorageError(
                        f"the disk of the store {self.uri} has {free / 2**20:,.0f} MiB left; tidying needs "
                        f"{needed / 2**20:,.0f} MiB: make room"
                    )
                # LanceDB joins files and removes former ones in one go. The newest version is flushed, so it
                # has to stay until what replaces it is flushed, too.
                kept = max(kept, self._files.age(self._table.version))
        with _storage(self.uri):
            # Nobody else writes here, so what no version names is left over from a write that failed.
            self._table.optimize(cleanup_older_than=kept, delete_unverified=self._files is not None)
        self._keep()
        if self._files is not None:
            with _storage(self.uri):
                self._files.tidy()

    def check_disk(self) -> None:
        """Write and remove a small file, to find out whether the disk takes anything.

        Raises:
            StorageError: it does not.
        """
        if self._files is None:
            return
        with _storage(self.uri):
            probe = self._files.table / DATA / ".tmpprobe"
            try:
                with probe.open("wb") as file:
                    file.write(bytes(_PROBE))
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                probe.unlink(missing_ok=True)

    # ---------------------------------------------------------------- reading

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All notes, hidden and expired ones among them; of columns all when None.

        Raises:
            StorageError: they cannot be read, or the length of a vector is not 1.
        """
        with _storage(self.uri):
            if columns is None:
                found: pa.Table = self._table.to_arrow()
            else:
                found = self._table.search().select(list(columns)).limit(None).to_arrow()
        if "vector" in found.column_names:
            _check_unit(found, self.dim, self.uri)
        return found.replace_schema_metadata()

    def get(self, note_ids: Collection[str]) -> pa.Table:
        """Some notes, those that are there, in no order."""
        names = list(dict.fromkeys(note_ids))
        if self._untidy is not None:
            with _storage(self.uri):
                self._table.checkout_latest()  # a write that failed may be in the store all the same
        pieces = [rows_schema(self.dim).empty_table()]
        for start in range(0, len(names), _IDS_TOGETHER):
            with _storage(self.uri):
                query = self._table.search().where(_among(names[start : start + _IDS_TOGETHER]))
                piece = query.limit(_IDS_TOGETHER).to_arrow()
            pieces.append(piece.select(rows_schema(self.dim).names).cast(rows_schema(self.dim)))
        return pa.concat_tables(pieces)

    def __len__(self) -> int:
        with _storage(self.uri):
            return int(self._table.count_rows())


def visible_vectors(rows: pa.Table) -> tuple[list[str], np.ndarray]:
    """Ids and vectors, (n, d) float32, of the rows that are neither hidden nor expired now."""
    expires = pc.fill_null(rows.column("expires_at").cast(pa.int64()), np.iinfo(np.int64).max)
    shown = rows.filter(pc.and_(pc.invert(rows.column("hidden")), pc.greater(expires, base.now())))
    dim = shown.schema.field("vector").type.list_size
    return shown.column("note_id").to_pylist(), vector_matrix(shown.column("vector"), dim)


def versions(uri: str | Path) -> list[str]:
    """Fingerprints of the models of which a store has vectors; none where there is no store.

    Raises:
        StorageError: the folder cannot be read.
    """
    place = str(uri)
    return [model for model in _tables(place) if _is_whole(place, model)]


def remove_store(path: str | Path) -> None:
    """Remove a local store with all that notellm keeps in it; nothing happens where there is none.

    Args:
        path: its folder.

    Raises:
        StorageError: the folder holds a file that notellm did not put there, another process writes to the
            store, or it cannot be removed. Nothing is removed then.
    """
    folder = Path(path)
    if "://" in str(path):
        raise StorageError(f"{path} is in object storage; remove it there")
    if not folder.exists():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise StorageError(f"{path} is not the folder of a store; name the folder itself")
    with _storage(str(path)):
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or p.is_file()]
    for name in sorted(names):
        if not _OWN_FILES.fullmatch(name) or (folder / name).is_symlink():
            raise StorageError(
                f"the store {path} is not removed: {name} in it is not notellm's; move it elsewhere first"
            )
    _unlock(_locked(str(path)))
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(f"the store {path} cannot be removed: {error.strerror or error}") from error


def _tables(place: str) -> list[str]:
    """Fingerprints of all tables, among them those whose making was cut off."""
    with _storage(place):
        if "://" not in place:
            names = [path.stem for path in Path(place).glob(f"{_PREFIX}*.lance") if path.is_dir()]
        else:
            names = list(_connect(place).list_tables(limit=10_000).tables)
    return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))


def _is_whole(place: str, model: str) -> bool:
    """Whether a table's first commit was made; until then it is only in the list of them."""
    with _storage(place):
        if (files := _files(place, model)) is not None:
            return files.exists()
        try:
            _connect(place).open_table(_PREFIX + model)
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            return False
    return True


def _drop(place: str, model: str) -> None:
    """Remove a table, also one whose making was cut off; at no moment is it half there.

    Raises:
        StorageError: it cannot be removed.
    """
    if model not in _tables(place):
        return
    with _storage(place):
        if "://" in place:
            _connect(place).drop_table(_PREFIX + model)
            return
        folder = Path(place)
        gone = free_name(folder / f"dropped_{model}")
        (folder / f"{_PREFIX}{model}.lance").rename(gone)
        with suppress(OSError):  # it is gone, whatever happens to the rest
            (folder / f"checksums_{model}.jsonl").unlink(missing_ok=True)
            sync_folder(folder)
        for left in (gone, folder / f"torn_{model}"):
            shutil.rmtree(left, ignore_errors=True)


def _files(place: str, model: str, *, sync: bool = True) -> TableFiles | None:
    """The files of a local table; None of object storage."""
    return None if "://" in place else TableFiles(Path(place), _PREFIX + model, model, sync=sync)


def _settled(place: str, model: str, files: TableFiles | None) -> list[str]:
    """Let the newest whole version of a table be the newest one; what was done, which the log has as well."""

    def reads(number: int) -> None:
        with _storage(place):
            _connect(place).open_table(_PREFIX + model, version=number).to_arrow()

    if files is None:
        return []
    with _storage(place):
        report = files.settle(reads)
    if report:
        # What a Milvus collection got after the version that counts now, it would keep.
        (Path(place) / f"milvus_{model}.json").unlink(missing_ok=True)
    for said in report:
        log.warning("%s", said)
    return report


def _settled_for_reading(place: str, model: str) -> list[str]:
    """What :func:`_settled` does, unless a process that writes is there: it has done it already."""
    try:
        lock = _locked(place)
    except StorageError as error:
        if isinstance(error.__cause__, Timeout):
            return []
        raise
    try:
        return _settled(place, model, _files(place, model))
    finally:
        _unlock(lock)


def _check_vectors(rows: pa.Table, dim: int) -> None:
    """Whether vectors may be written.

    Raises:
        DataError: they are of another dimension, not finite, or not of unit length.
    """
    vector_matrix(rows.column("vector"), dim)  # says what is wrong with it
    if (wrong := _not_of_unit_length(rows, dim)) is not None:
        raise DataError(f"{wrong}; a store holds vectors of length 1: divide it by its length")


def _check_unit(rows: pa.Table, dim: int, place: str) -> None:
    """Whether vectors that were read can be what was written.

    Raises:
        StorageError: they are not of unit length.
    """
    if (wrong := _not_of_unit_length(rows, dim)) is not None:
        raise StorageError(
            f"the store {place} is damaged: {wrong}, not 1; restore it from a backup, or remove it and make "
            f"it anew from its notes: notellm store build {place}"
        )


def _not_of_unit_length(rows: pa.Table, dim: int) -> str | None:
    """The first vector that is not of unit length, and the length it has."""
    start = 0
    for chunk in rows.column("vector").chunks:
        matrix = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        with np.errstate(over="ignore", invalid="ignore"):  # in damaged vectors
            lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _UNIT))
        if len(wrong):
            row = int(wrong[0])
            note_id = rows.column("note_id")[start + row].as_py() if "note_id" in rows.column_names else "?"
            return f"the vector of the note {note_id!r} has the length {lengths[row]:.3g}"
        start += len(chunk)
    return None


def _vector_array(vectors: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def _among(note_ids: Sequence[str]) -> str:
    """A condition in SQL; within a text the quote alone has a meaning, and is doubled."""
    listed = ", ".join("'" + note_id.replace("'", "''") + "'" for note_id in note_ids)
    return f"note_id IN ({listed})"


def _lancedb() -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # what it warns of, such as a table made anew, is meant
    try:
        import lancedb  # noqa: PLC0415 - an extra
        import lancedb.index  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingDependencyError("a store needs LanceDB: pip install 'notellm[serve]'") from error
    return lancedb


def _connect(place: str) -> Any:
    return _lancedb().connect(place, session=_session())


@cache
def _session() -> Any:
    """What LanceDB keeps in memory of all stores of this process."""
    return _lancedb().Session(index_cache_size_bytes=_INDEX_CACHE, metadata_cache_size_bytes=_MANIFEST_CACHE)


def _locked(place: str) -> FileLock | None:
    """The right to write; let go when the process ends, however it ends."""
    if "://" in place:
        return None
    # One lock object a path: a process that brings a new model's table along holds it twice.
    lock = FileLock(Path(place) / _LOCK, is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(f"another process writes to the store {place}; stop it first") from error
    except OSError as error:
        raise StorageError(f"cannot write to the store {place}: {error.strerror or error}") from error
    return lock


def _unlock(lock: FileLock | None) -> None:
    if lock is not None:
        lock.release()


@contextmanager
def _storage(place: str) -> Iterator[None]:
    """LanceDB's own errors, which have no common class, as one of ours."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, NotellmError):
        raise
    except BaseException as error:
        # A panic in Rust is no Exception; anything else that is none is not LanceDB's.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = _RUST_SOURCE.sub("", " ".join(str(error).split()))[:300]
        raise StorageError(f"the store {place} cannot be used: {reason}") from error
