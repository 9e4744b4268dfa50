"""What a power failure would leave of a folder: a disk that keeps only what was flushed to it."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import pytest

#: What may become of a file that was not flushed, or whose folder was not.
LOST, EMPTY, HALF, ZEROS, WHOLE = "lost", "empty", "half", "zeros", "whole"
ALL_WAYS = (LOST, EMPTY, HALF, ZEROS, WHOLE)
_TORN: dict[str, Callable[[bytes], bytes]] = {
    EMPTY: lambda _: b"",
    HALF: lambda content: content[: len(content) // 2],
    ZEROS: lambda content: bytes(len(content)),
    WHOLE: lambda content: content,
}


class Disk:
    """Follows ``os.fsync`` of one folder; :meth:`left` makes what is left of it without what was not flushed.

    Attributes:
        flushed: paths that were flushed, in this order.
        before: called before each flush.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.flushed: list[Path] = []
        self.before: Callable[[], object] = lambda: None
        self._content: dict[int, bytes] = {}  # by inode
        self._names: dict[Path, dict[str, int]] = {}  # inodes by name, of each folder
        self._held: list[int] = []  # an inode that is held is not used for another file
        self._lock = Lock()
        patch.setattr(os, "fsync", self._fsync)

    def _fsync(self, handle: int) -> None:
        with self._lock:
            self.before()
            path = Path(f"/proc/self/fd/{handle}").readlink()
            about = os.fstat(handle)
            if stat.S_ISDIR(about.st_mode):
                self._names[path] = {entry.name: entry.inode() for entry in os.scandir(path)}
            else:
                self._content[about.st_ino] = path.read_bytes()
            self._held.append(os.dup(handle))
            self.flushed.append(path)

    def close(self) -> None:
        for handle in self._held:
            os.close(handle)

    def is_safe(self, path: Path) -> bool:
        """Whether a file would be there as it is now, after a power failure."""
        inode = path.stat().st_ino
        return (
            self._content.get(inode) == path.read_bytes()
            and self._names.get(path.parent, {}).get(path.name) == inode
            and all(
                parent.name in self._names.get(parent.parent, {})
                for parent in path.parents
                if parent.is_relative_to(self.root) and parent != self.root
            )
        )

    def left(self, target: Path, way: str) -> Path:
        """A copy of the folder as a power failure now may leave it.

        Args:
            target: where; what is there is removed.
            way: what becomes of that which was not flushed.
        """
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        self._copy(self.root, target, way)
        return target

    def _copy(self, source: Path, target: Path, way: str) -> None:
        names = self._names.get(source, {})
        for entry in os.scandir(source):
            kept = names.get(entry.name)
            if entry.is_dir():
                if kept == entry.inode() or way != LOST:
                    (target / entry.name).mkdir()
                    self._copy(Path(entry.path), target / entry.name, way)
            elif kept == entry.inode() and kept in self._content:
                (target / entry.name).write_bytes(self._content[kept])
            elif way != LOST:
                (target / entry.name).write_bytes(_TORN[way](Path(entry.path).read_bytes()))
            elif kept in self._content:  # what was there before it was replaced
                (target / entry.name).write_bytes(self._content[kept])
