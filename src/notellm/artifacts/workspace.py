"""The hidden folder in which a result is made beside its destination, and flushing to disk.

A workspace ``.NAME.RANDOM.part`` contains ``new``, the result in the making, and ``old``, the result that it
replaces. When ``new`` is complete and flushed to disk, the old result is renamed to ``old``, then ``new`` to
NAME, and the workspace is removed. At every moment the old or the new result is whole. If the process is
killed, the next write to the same destination finishes the replacement or removes what is left.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from notellm.errors import StorageError

LOCK, NEW, OLD = ".lock", "new", "old"
_A_MOMENT = 60.0  # seconds within which a process locks the workspace that it has created


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Yield a locked workspace beside a target, and remove it at the end.

    Raises:
        StorageError: if an operation of the file system fails.
    """
    work: Path | None = None
    lock: FileLock | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tidy(target)
        work = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
        work.mkdir()
        lock = FileLock(work / LOCK)
        lock.acquire()
        yield work
    except (OSError, SafetensorError) as error:  # safetensors raises its own error for a full disk
        if isinstance(error, StorageError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise StorageError(f"cannot write {target}: {reason}") from error
    finally:
        if lock is not None:
            lock.release()
        if work is not None:
            _settle(work, target)


def tidy(target: Path) -> None:
    """Settle the workspaces that killed writes to a target left behind."""
    # The pattern has the full name, so that workspaces of "model.v2" are not taken for those of "model".
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.part")
    for work in target.parent.iterdir():
        if not pattern.fullmatch(work.name):
            continue
        held = {path.name for path in work.iterdir()} if work.is_dir() else {""}
        if not held and work.stat().st_mtime < time.time() - _A_MOMENT:
            work.rmdir()  # the process was killed before it created the lock
        if LOCK not in held or held - {LOCK, NEW, OLD}:
            continue  # not a workspace of notellm
        lock = FileLock(work / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # another process is writing to the target now
        lock.release()
        _settle(work, target)


def sync_file(file: Path) -> None:
    """Flush a file to disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power failure."""
    if os.name == "nt":
        return  # Windows cannot open folders, and needs no flush for a rename
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Flush a folder with all its files and folders to disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(root) / name)
        sync_folder(Path(root))


def _settle(work: Path, target: Path) -> None:
    """Leave a whole result at the target, and remove the workspace.

    The old result is moved away only when the new one is complete. So if both are in the workspace, the new
    one takes the place of the target; if only the old one is, it goes back.
    """
    for name in (NEW, OLD):
        if (work / OLD).exists() and (work / name).exists() and not target.exists():
            with suppress(OSError):
                (work / name).rename(target)
    if not (work / OLD).exists() or target.exists():
        shutil.rmtree(work, ignore_errors=True)
