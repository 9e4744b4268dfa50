"""Computations over many rows that continue where a killed run stopped.

The rows are computed in shards. Each finished shard is a Parquet file in a folder ``.NAME.KEY.parts`` beside
the target file. KEY is a hash of the inputs, so shards of other inputs are never used. The folder is removed
when the target is written, together with folders that killed runs with other inputs left for the same target.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from notellm.data.note import notes_from_table
from notellm.errors import DataError, StorageError
from notellm.files import read_parquet, write_parquet
from notellm.progress import progress_bar

_LOCK = ".lock"


@contextmanager
def computed_tables(
    target: Path,
    inputs: object,
    rows: np.ndarray,
    compute: Callable[[np.ndarray], pa.Table],
    *,
    size: int,
    label: str,
    progress: bool,
) -> Iterator[Iterator[tuple[np.ndarray, pa.Table]]]:
    """Compute the missing shards; inside the block, read them all and write the target.

    Args:
        target: the file that the block writes.
        inputs: everything that the results depend on; its ``repr`` is hashed.
        rows: (n,) int64, the rows in the order in which they are computed.
        compute: returns the results of some rows: a table with one row for each of them.
        size: rows in a shard.
        label: name of the progress bar.
        progress: show a progress bar with rate and remaining time.

    Yields:
        For each shard its rows and their results. It can be read once.

    Raises:
        StorageError: as :func:`shard_folder`.
    """
    pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    with shard_folder(target, inputs) as folder:
        files = [folder / f"{number:06d}.parquet" for number in range(len(pieces))]
        there = [file.is_file() for file in files]
        # What a killed run has left counts as done, but not for the rate.
        done = sum(len(piece) for piece, is_there in zip(pieces, there, strict=True) if is_there)
        with progress_bar(
            total=len(rows), initial=done, unit="note", desc=label, disable=not progress
        ) as bar:
            for piece, file, is_there in zip(pieces, files, there, strict=True):
                if not is_there:
                    write_parquet(compute(piece), file)
                    bar.update(len(piece))
        yield ((piece, read_parquet(file)) for piece, file in zip(pieces, files, strict=True))


def shortest_first(notes: pa.Table, purpose: str) -> np.ndarray:
    """Return the rows of a notes table in order of their length, which needs little padding, (n,) int64.

    Args:
        notes: the table.
        purpose: what is done with the notes, as in "to embed", for errors.

    Raises:
        DataError: if the table is empty or has no ids.
    """
    if notes.num_rows == 0:
        raise DataError(f"there are no notes {purpose}: the table is empty")
    if "note_id" not in notes.column_names:
        raise DataError(f"the notes table has no column note_id; found {', '.join(notes.column_names)}")
    # The length in characters is close to the length in tokens, and is known without tokenizing.
    lengths = [len(note.title) + len(note.content) for note in notes_from_table(notes)]
    order: np.ndarray = np.argsort(lengths, kind="stable")
    return order


@contextmanager
def computed_shards(
    target: Path,
    inputs: object,
    rows: np.ndarray,
    compute: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    *,
    size: int,
    label: str,
    progress: bool,
) -> Iterator[Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]]:
    """Do as :func:`computed_tables` does for results that are matrices by name, one row for each row."""

    def table(piece: np.ndarray) -> pa.Table:
        return _table(compute(piece))

    with computed_tables(target, inputs, rows, table, size=size, label=label, progress=progress) as tables:
        yield ((piece, _matrices(result)) for piece, result in tables)


def _table(matrices: Mapping[str, np.ndarray]) -> pa.Table:
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
        for name, matrix in matrices.items()
    }
    return pa.table(columns)


def _matrices(table: pa.Table) -> dict[str, np.ndarray]:
    table = table.combine_chunks()
    return {
        name: column.chunk(0).flatten().to_numpy().reshape(table.num_rows, -1)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


@contextmanager
def shard_folder(target: Path, inputs: object) -> Iterator[Path]:
    """Yield the folder for the shards of a computation.

    It is removed if the block ends without an error, or before there is a shard.

    Args:
        target: the file that the shards will be joined into.
        inputs: everything that the shards depend on; its ``repr`` is hashed.

    Raises:
        StorageError: if the folder cannot be created, or another process computes the same.
    """
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]
    folder = target.parent / f".{target.name}.{key}.parts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"another process writes {target} from the same inputs; wait for it, or choose another file"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield folder
    except BaseException:
        lock.release()
        if not any(folder.glob("*.parquet")):
            _remove_unless_locked(folder)
        raise
    lock.release()
    # The whole name must match: the shards of "vectors.parquet" do not belong to the target "vectors".
    shards_of_target = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.parts")
    for path in target.parent.iterdir():
        if shards_of_target.fullmatch(path.name):
            _remove_unless_locked(path)


def _remove_unless_locked(folder: Path) -> None:
    if not (folder / _LOCK).is_file():
        return  # notellm did not create this folder
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)
