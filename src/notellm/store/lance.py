"""What the store needs of LanceDB: connections, conditions, errors, and the lock of the one writer."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from notellm.errors import MissingDependencyError, NotellmError, StorageError

_LOCK = ".writer.lock"
#: Bytes that LanceDB keeps in memory of indexes and of manifests, for all stores of a process together. With
#: its own limits of several GiB, memory would grow with every write.
_INDEX_CACHE, _MANIFEST_CACHE = 32 << 20, 16 << 20
#: Bytes that LanceDB reads ahead of a slow reader of a whole table; by itself it reads 2 GiB ahead.
_READ_AHEAD = 128 << 20
_RUST_SOURCE = re.compile(r",? ?/\S+\.rs:\d+(:\d+)?")  # a position in LanceDB's sources


def lancedb() -> Any:
    """Return the module lancedb.

    Raises:
        MissingDependencyError: if it is not installed.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of what is intended, such as replacing a table
    os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_READ_AHEAD))
    try:
        import lancedb as module  # noqa: PLC0415 - an optional package
        import lancedb.index  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingDependencyError("a store needs LanceDB: pip install 'notellm[serve]'") from error
    return module


def connect(store: str) -> Any:
    """Return LanceDB's connection to a store."""
    return lancedb().connect(store, session=_session())


@cache
def _session() -> Any:
    """Return the caches that all stores of this process share."""
    return lancedb().Session(index_cache_size_bytes=_INDEX_CACHE, metadata_cache_size_bytes=_MANIFEST_CACHE)


def index_ids(table: Any) -> None:
    """Create the index by which a table finds note ids."""
    table.create_index("note_id", config=lancedb().index.BTree())


def among(note_ids: Sequence[str]) -> str:
    """Return a condition in SQL that names notes."""
    return f"note_id IN ({', '.join(map(quoted, note_ids))})"


def quoted(text: str) -> str:
    """Return a text as SQL writes it. Only the quote has a meaning in it: it is doubled."""
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def storage_errors(store: str) -> Iterator[None]:
    """Turn the errors of LanceDB and the disk, which have no common class, into a StorageError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, NotellmError):
        raise
    except BaseException as error:
        # A panic in Rust is a BaseException; any other one is not LanceDB's.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = _RUST_SOURCE.sub("", " ".join(str(error).split()))[:300]
        raise StorageError(f"the store {store} cannot be used: {reason}") from error


def lock_for_writing(store: str, *, remedy: str = "stop it first") -> FileLock | None:
    """Take the right to write to a store, which ends with the process at the latest.

    Args:
        store: URI of the store.
        remedy: what a user can do if another process has it.

    Returns:
        The lock; None in object storage, where there is none.

    Raises:
        StorageError: if another process has it, or the folder cannot be written.
    """
    if "://" in store:
        return None
    # There is one lock object for each path: a process that writes a new model's table holds it twice.
    lock = FileLock(Path(store) / _LOCK, is_singleton=True, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(f"another process writes to the store {store}; {remedy}") from error
    except OSError as error:
        raise StorageError(f"cannot write to the store {store}: {error.strerror or error}") from error
    return lock


def is_locked(store: str) -> bool:
    """Tell whether a process, this one or another, may write to a store in a local folder now."""
    lock = FileLock(Path(store) / _LOCK, is_singleton=True, thread_local=False)
    if lock.is_locked:
        return True
    try:
        lock_for_writing(store)
    except StorageError:
        return True
    lock.release()
    return False


def unlock(lock: FileLock | None) -> None:
    """Give up the right to write."""
    if lock is not None:
        lock.release()
