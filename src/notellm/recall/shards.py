"""Shards of a long computation, kept on disk so that a killed run continues where it stopped.

    with shards(target, inputs) as folder:              # .NAME.KEY.parts beside the target
        for rows, table in computed(folder, pieces, compute, progress=bar): ...
        ...                                             # join the tables into the target

KEY is a hash of the inputs, so that shards of other inputs are never mixed in. The folder is removed when
the block ends without an error, together with folders that killed runs with other inputs left behind.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from notellm.errors import StorageError
from notellm.files import read_parquet, write_parquet

_LOCK = ".lock"


@contextmanager
def shards(target: Path, inputs: object) -> Iterator[Path]:
    """Yield the folder for the shards of a computation.

    Args:
        target: the file that the shards will be joined into.
        inputs: everything that the shards depend on; its ``repr`` is hashed.

    Raises:
        StorageError: if the folder cannot be made, or another process computes the same target.
    """
    key = hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]
    folder = target.parent / f".{target.name}.{key}.parts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"another process writes {target} from the same inputs; wait for it, or name another file"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        lock.release()
    # The whole name counts: shards of "vectors.parquet" do not belong to "vectors".
    shard_folder = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.parts")
    for path in target.parent.iterdir():
        if shard_folder.fullmatch(path.name):
            _remove_unless_locked(path)


def computed(
    folder: Path,
    pieces: Sequence[np.ndarray],
    compute: Callable[[np.ndarray], pa.Table],
    *,
    name: str,
    progress: bool,
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Compute the shards that are missing, then yield each piece with its table.

    Args:
        folder: folder from :func:`shards`.
        pieces: row numbers of each shard, int64.
        compute: returns the table of a piece.
        name: label of the progress bar.
        progress: show a progress bar with rate and remaining time.
    """
    paths = [folder / f"{number:06d}.parquet" for number in range(len(pieces))]
    with tqdm(total=sum(map(len, pieces)), unit="note", desc=name, disable=not progress) as bar:
        for path, rows in zip(paths, pieces, strict=True):
            if not path.is_file():
                write_parquet(compute(rows), path)
            bar.update(len(rows))
    for path, rows in zip(paths, pieces, strict=True):
        yield rows, read_parquet(path)


def cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Row numbers in consecutive pieces of at most ``size``."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _remove_unless_locked(folder: Path) -> None:
    if not (folder / _LOCK).is_file():
        return  # notellm did not make this folder
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)
