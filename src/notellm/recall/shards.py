"""Finished pieces of a long computation, kept on disk so that a killed run goes on where it stopped.

    with shards(target, inputs) as folder:      # .NAME.KEY.parts beside the target
        ...                                     # write folder/000000.parquet, skip what is there
        ...                                     # join them into the target

KEY is a hash of the inputs, so that pieces of other inputs are never mixed in. The folder is removed when the
block ends without an error, together with those that killed runs with other inputs left for the same target.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from notellm.errors import StorageError

_LOCK = ".lock"


@contextmanager
def shards(target: Path, inputs: object) -> Iterator[Path]:
    """Yield the folder for the pieces of a computation.

    Args:
        target: the file that they will be joined into.
        inputs: all that the pieces depend on; its ``repr`` is hashed.

    Raises:
        StorageError: the folder cannot be made, or another process computes the same.
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
    # The whole name counts: unfinished pieces of "vectors.parquet" are none of "vectors".
    own = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.parts")
    for left in target.parent.iterdir():
        if own.fullmatch(left.name):
            _remove_unless_locked(left)


def _remove_unless_locked(folder: Path) -> None:
    if not (folder / _LOCK).is_file():
        return  # no folder of ours
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)
