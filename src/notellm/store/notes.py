"""The durable store of notes and vectors, on LanceDB: a local directory, or object storage by its URI.

    store = NoteStore.open("store", model.fingerprint())
    store.write(rows)                 # when it returns, the rows outlive the process
    store.delete(["n7"])
    table = store.read()

One LanceDB table, named by the model's fingerprint, holds notes and their vectors together: a write is one
commit, so a note without its vector, or with the vector of another model, cannot be seen. A second table is
there only while a model is replaced: whichever is opened next stays. One process writes at a time (a lock
file in a local directory; object storage has none, so see to it yourself).
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from notellm.data.schema import NOTES, TIME
from notellm.errors import DataError, MissingDependencyError, StorageError
from notellm.files import RECORD_KEY, json_text
from notellm.recall.prompt import Note
from notellm.record import make_record
from notellm.store import base
from notellm.store.base import vector_matrix

_PREFIX = "notes_"
_LOCK = ".writer.lock"
_IDS_TOGETHER = 1_000  # in one condition
_ROWS_TOGETHER = 16_384  # in one piece of a new table
_TIDIED_AT, _LOOKING = 500, 5  # weight of writes between two tidyings; of one that looks for ids
_KEPT = timedelta(minutes=5)  # how long files of former states stay, for readers that still use them


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
    """

    def __init__(self, uri: str, model: str, table: Any, lock: FileLock | None) -> None:
        self.uri = uri
        self.model = model
        self.dim: int = table.schema.field("vector").type.list_size
        self._table = table
        self._lock = lock
        self._untidy: int | None = 0  # None: opened for reading

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(cls, uri: str | Path, model: str) -> Self:
        """The store's notes of one model, for writing.

        Args:
            uri: a local directory, or what LanceDB takes for object storage ("s3://bucket/path").
            model: the model's fingerprint.

        Raises:
            StorageError: there is no store, or another process writes to it.
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
            with _storage(place):
                opened = cls(place, model, _connect(place).open_table(_PREFIX + model), lock)
            opened.drop_others()
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
            StorageError: there is no store.
        """
        place = str(uri)
        known = versions(place)
        if not known:
            raise StorageError(f"{place} is not a store of notes; make one: notellm store build")
        with _storage(place):
            opened = cls(place, known[-1], _connect(place).open_table(_PREFIX + known[-1]), None)
        opened._untidy = None
        return opened

    @classmethod
    def create(cls, uri: str | Path, model: str, rows: Iterable[pa.Table], *, dim: int) -> Self:
        """A store of these rows, or in a store the table of a further model; it is there when complete.

        Args:
            uri: as for :meth:`open`.
            model: the model's fingerprint; its former table is replaced.
            rows: pieces, schema :func:`rows_schema`; ids are unique among all of them.
            dim: dimensions of the vectors.

        Raises:
            StorageError: it cannot be written, or another process writes to it.
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
                    yield from piece.cast(rows_schema(dim)).to_batches(_ROWS_TOGETHER)
            except BaseException as error:
                raised.append(error)  # LanceDB makes a text of it
                raise

        try:
            with _storage(place):
                table = _connect(place).create_table(
                    _PREFIX + model,
                    pa.RecordBatchReader.from_batches(schema, batches()),
                    schema=schema,
                    mode="overwrite",
                )
                table.create_index("note_id", config=_lancedb().index.BTree())
        except BaseException:
            _unlock(lock)
            if raised:
                raise raised[0] from None
            raise
        return cls(place, model, table, lock)

    def drop_others(self) -> None:
        """Remove the tables of other models: from now on they would miss what is written to this one."""
        for other in _tables(self.uri):
            if other != self.model:
                with _storage(self.uri):
                    _connect(self.uri).drop_table(_PREFIX + other)

    def close(self) -> None:
        """Join small files, so that the next start reads few, and let other processes write."""
        if self._untidy:
            with suppress(StorageError):  # it can be done another time
                self.optimize()
            self._untidy = 0
        _unlock(self._lock)
        self._lock = None

    # ---------------------------------------------------------------- writing

    def write(self, rows: pa.Table, *, new: bool = False) -> None:
        """Add or replace notes in one commit: all of them, or after an error none.

        Args:
            rows: schema :func:`rows_schema`; each id once.
            new: the caller knows that the store has none of these ids: nothing is looked for, which takes a
                quarter of the time.

        Raises:
            DataError: the rows are not of this store.
            StorageError: they could not be written.
        """
        self._check_writable()
        if not rows.num_rows:
            return
        vector_matrix(rows.column("vector"), self.dim)  # says what is wrong with it
        whole = rows.cast(rows_schema(self.dim))
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
        for start in range(0, len(names), _IDS_TOGETHER):
            with _storage(self.uri):
                change(_among(names[start : start + _IDS_TOGETHER]))
            self._written(_LOOKING)

    def _written(self, weight: int) -> None:
        """Every write leaves a small file that later ones must look through; join them now and then.

        Joining takes both cores for half a second at 200,000 notes. Appending hardly minds the small files
        (2.6 ms without any, 3.3 ms with 300), looking for ids does (10 ms, 23 ms with 200): it weighs more.
        """
        self._untidy = (self._untidy or 0) + weight
        if self._untidy >= _TIDIED_AT:
            self.optimize()
            self._untidy = 0

    def _check_writable(self) -> None:
        if self._untidy is None:
            raise StorageError(f"the store {self.uri} was opened for reading; open it with NoteStore.open")

    def optimize(self) -> None:
        """Join small files, bring the index of ids up to date, drop files of former states."""
        with _storage(self.uri):
            self._table.optimize(cleanup_older_than=_KEPT)

    # ---------------------------------------------------------------- reading

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All notes, hidden and expired ones among them; of columns all when None."""
        with _storage(self.uri):
            if columns is None:
                found: pa.Table = self._table.to_arrow()
            else:
                found = self._table.search().select(list(columns)).limit(None).to_arrow()
        return found.replace_schema_metadata()

    def get(self, note_ids: Collection[str]) -> pa.Table:
        """Some notes, those that are there, in no order."""
        names = list(dict.fromkeys(note_ids))
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
    """Fingerprints of the models of which a store has vectors; none where there is no store."""
    place = str(uri)
    return [model for model in _tables(place) if _is_whole(place, model)]


def _tables(place: str) -> list[str]:
    """Fingerprints of all tables, among them those whose making was cut off."""
    if "://" not in place and not Path(place).is_dir():
        return []
    with _storage(place):
        names = list(_connect(place).list_tables(limit=10_000).tables)
    return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))


def _is_whole(place: str, model: str) -> bool:
    """Whether a table's first commit was made; until then its folder lists, but does not open."""
    with _storage(place):
        try:
            _connect(place).open_table(_PREFIX + model)
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            return False
    return True


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
    return _lancedb().connect(place)


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
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, StorageError | DataError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise StorageError(f"the store {place} cannot be used: {reason}") from error
