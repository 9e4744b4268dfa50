"""The tables of a store, one for each model: which there are, opening, repairing and removing them.

Usually there is one table. A second one exists only while a model is replaced.
"""

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import Timeout

from notellm.artifacts.parquet import RECORD_KEY
from notellm.artifacts.workspace import sync_folder
from notellm.errors import StorageError
from notellm.files import json_text
from notellm.record import make_record
from notellm.store.checksums import free_name
from notellm.store.durable import TableFiles
from notellm.store.index.kinds import invalidate_saved, is_index_file
from notellm.store.lance import connect, index_ids, lock_for_writing, storage_errors, unlock
from notellm.store.rows import (
    StoredNote,
    check_new_rows,
    check_stored_vectors,
    notes_of,
    rows_schema,
)
from notellm.vectors import vector_matrix

log = logging.getLogger("notellm.store")

_PREFIX = "notes_"
_BATCH = 16_384  # rows in one batch of a new table
_SAMPLE = 32  # notes of a new table that are embedded once more
_ALIKE = 0.99  # least cosine of two vectors that a model makes of one note, whatever else is in the batch
#: What a table holds, by paths within its folder.
_TABLE_FILES = (
    r"(data|_indices/[\w-]+)/[^/]+\.lance|_versions/(\d+\.manifest(#\d+)?|latest_version_hint\.json)"
    r"|_transactions/[^/]+\.txn|_deletions/[^/]+\.(arrow|bin)|[^/]+/\.tmp\w+|.+\.again"
)
#: What a store holds besides files of its index, by paths within its folder.
_STORE_FILES = re.compile(
    r"\.writer\.lock|checksums_\w+\.jsonl(\.new)?"
    r"|torn_\w+/[^/]+\.(manifest|lance|arrow|bin)(\.\d+)?"
    rf"|((notes_\w+|clicks|shown)\.lance|dropped_\w+(\.\d+)?)/({_TABLE_FILES})"
)


# -------------------------------------------------------------------- listing and removing


def versions(uri: str | Path) -> list[str]:
    """Return the fingerprints of the models whose vectors a store has; none if there is no store.

    Raises:
        StorageError: if the folder cannot be read.
    """
    store = str(uri)
    return [model for model in _names(store) if _is_complete(store, model)]


def remove_store(path: str | Path) -> None:
    """Remove a local store with everything that notellm keeps in it; do nothing if there is none.

    Args:
        path: folder of the store.

    Raises:
        StorageError: if the folder holds a file that notellm did not write, another process writes to the
            store, or it cannot be removed. Nothing is removed then.
    """
    folder = Path(path)
    if "://" in str(path):
        raise StorageError(f"{path} is in object storage; remove it with the tools of that storage")
    if not folder.exists():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise StorageError(f"{path} is not the folder of a store; name the folder itself")
    with storage_errors(str(path)):
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or p.is_file()]
    for name in sorted(names):
        is_known = _STORE_FILES.fullmatch(name) or is_index_file(name)
        if not is_known or (folder / name).is_symlink():
            raise StorageError(
                f"the store {path} is not removed: {name} in it is not notellm's; move it elsewhere first"
            )
    unlock(lock_for_writing(str(path)))
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(f"the store {path} cannot be removed: {error.strerror or error}") from error


def drop_others(store: str, model: str) -> None:
    """Remove the tables of other models, and what is left of dropped ones.

    Raises:
        StorageError: if one cannot be removed, or the table of this model is gone.
    """
    if model not in versions(store):
        raise StorageError(f"the store {store} has no vectors of the model {model} any more")
    for other in _names(store):
        if other != model:
            drop(store, other)
    if "://" not in store:
        for left in Path(store).glob("dropped_*"):
            shutil.rmtree(left, ignore_errors=True)


def drop(store: str, model: str) -> None:
    """Remove a table, even an incomplete one. The table disappears at once, never in part.

    Raises:
        StorageError: if it cannot be removed.
    """
    if model not in _names(store):
        return
    with storage_errors(store):
        if "://" in store:
            connect(store).drop_table(_PREFIX + model)
            return
        folder = Path(store)
        dropped = free_name(folder / f"dropped_{model}")
        (folder / f"{_PREFIX}{model}.lance").rename(dropped)
        with suppress(OSError):  # the table is gone, whatever happens to the rest
            (folder / f"checksums_{model}.jsonl").unlink(missing_ok=True)
            sync_folder(folder)
        for left in (dropped, folder / f"torn_{model}"):
            shutil.rmtree(left, ignore_errors=True)


def _names(store: str) -> list[str]:
    """Return the fingerprints of all tables, including incomplete ones."""
    with storage_errors(store):
        if "://" not in store:
            names = [path.stem for path in Path(store).glob(f"{_PREFIX}*.lance") if path.is_dir()]
        else:
            names = list(connect(store).list_tables(limit=10_000).tables)
    return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))


def _is_complete(store: str, model: str) -> bool:
    """Return whether the first commit of a table was made."""
    with storage_errors(store):
        if (files := table_files(store, model)) is not None:
            return files.exists()
        try:
            open_table(store, model)
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            return False
    return True


# -------------------------------------------------------------------- opening and repairing


def open_table(store: str, model: str, version: int | None = None) -> Any:
    """Return the table of a model as LanceDB opens it, in its newest or in another version."""
    return connect(store).open_table(_PREFIX + model, version=version)


def table_files(store: str, model: str, *, sync: bool = True) -> TableFiles | None:
    """Return the files of a local table; None in object storage."""
    return None if "://" in store else TableFiles(Path(store), _PREFIX + model, model, sync=sync)


def repair(store: str, model: str, files: TableFiles | None) -> list[str]:
    """Make the newest whole version of a table the newest one.

    Returns:
        What was repaired, in sentences, which are logged, too.
    """

    def read(number: int) -> None:
        with storage_errors(store):
            open_table(store, model, version=number).to_arrow()

    if files is None:
        return []
    with storage_errors(store):
        report = files.settle(read)
    if report:
        invalidate_saved(store, model)  # it may hold notes of a version that no longer counts
    for sentence in report:
        log.warning("%s", sentence)
    return report


def repair_for_reading(store: str, model: str) -> list[str]:
    """Do what :func:`repair` does, unless a process is writing: that process has done it already."""
    try:
        lock = lock_for_writing(store)
    except StorageError as error:
        if isinstance(error.__cause__, Timeout):
            return []
        raise
    try:
        return repair(store, model, table_files(store, model))
    finally:
        unlock(lock)


# -------------------------------------------------------------------- creating and verifying


def create_table(store: str, model: str, rows: Iterable[pa.Table], dim: int) -> Any:
    """Create the table of a model, or replace it, in one commit.

    Args:
        store: URI of the store.
        model: fingerprint of the model.
        rows: tables with the schema ``rows.rows_schema``.
        dim: number of dimensions of the vectors.

    Raises:
        StorageError: if the table cannot be written.
        DataError: if an id or a vector is not allowed.
        Exception: what ``rows`` raises.
    """
    record = make_record(kind="store", config={"dim": dim}, data={"model": {"fingerprint": model}})
    schema = rows_schema(dim).with_metadata({RECORD_KEY: json_text(record)})
    raised: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for piece in rows:
                check_new_rows(piece, dim)
                yield from piece.cast(rows_schema(dim)).to_batches(_BATCH)
        except BaseException as error:
            raised.append(error)  # LanceDB turns it into a text
            raise

    try:
        with storage_errors(store):
            table = connect(store).create_table(
                _PREFIX + model,
                pa.RecordBatchReader.from_batches(schema, batches()),
                schema=schema,
                mode="overwrite",
            )
            index_ids(table)
    except BaseException:
        if raised:
            raise raised[0] from None
        raise
    return table


def verify_table(
    store: str, model: str, dim: int, count: int, encode: Callable[[list[StoredNote]], np.ndarray]
) -> None:
    """Read a new table from disk and compare it with what it should hold; see ``NoteStore.prove``."""
    files = table_files(store, model)
    if files is not None and (trouble := files.trouble()) is not None:
        raise files.damaged(trouble)
    with storage_errors(store):
        rows = open_table(store, model).to_arrow()
    name = f"the new table of the model {model} in the store {store}"
    if rows.num_rows != count:
        raise StorageError(f"{name} has {rows.num_rows:,} notes, not {count:,}; it is not used")
    check_stored_vectors(rows, dim, store)
    drawn = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).round().astype(np.int64))
    sample = rows.take(pa.array(drawn))
    if not sample.num_rows:
        return
    notes, stored = notes_of(sample), vector_matrix(sample.column("vector"), dim)
    cosines = np.einsum("ij,ij->i", stored, encode(notes))
    worst = int(cosines.argmin())
    if not cosines[worst] >= _ALIKE:
        raise StorageError(
            f"{name} has another vector of the note {notes[worst].note_id!r} than the model computes now "
            f"(the cosine is {cosines[worst]:.3f}, and at least {_ALIKE} is required); it is not used. "
            "Check that the files of the model are whole"
        )
