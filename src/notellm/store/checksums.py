"""The record of a table's files: the size and the CRC-32 of each, one JSON object a line.

A file of a table never changes, so lines are only added, each after its file was flushed to disk.
"""

import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from notellm.artifacts.workspace import sync_folder
from notellm.errors import StorageError
from notellm.store.manifest import VERSIONS

_PIECE = 1 << 20  # bytes read at once
_BLOCK = 4_096  # bytes that a file system loses together
#: Lance files end with the first of these, Arrow files (deletions) with the second.
_ENDINGS = {".lance": b"LANC", ".arrow": b"ARROW1"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the record.

    Attributes:
        size: size of the file in bytes.
        crc32: checksum of its content.
        synced: whether the file was flushed to disk before the line was written.
    """

    size: int
    crc32: int
    synced: bool


class Record:
    """The sizes and checksums of the files of a table.

    Args:
        path: file of the record; it need not exist.

    Attributes:
        entries: the lines by the path of the file within the table.
        is_used: whether acknowledged versions have a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: dict[str, Entry] = {}
        self.is_used = False
        self._is_whole = True  # it ends with a line feed, and what should be on disk is there
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        self._is_whole = content.endswith(b"\n") or not content
        for line in content.splitlines():
            try:
                values = json.loads(line)
                entry = Entry(int(values["bytes"]), int(values["crc32"], 16), values["synced"] is True)
                self._add({str(values["file"]): entry})
            except (ValueError, KeyError, TypeError):
                continue  # the line was cut off, so its file is not checked

    def append(self, entries: dict[str, Entry], *, sync: bool) -> None:
        """Add files.

        Raises:
            OSError: if the disk does not accept the lines.
        """
        if not self._is_whole:  # after a failed flush, flushing the same file again would prove nothing
            self.replace(self.entries | entries)
            return
        is_new = not self._path.exists()
        self._is_whole = False
        with self._path.open("ab") as file:
            file.write(_lines(entries))
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if is_new and sync:
            sync_folder(self._path.parent)
        self._is_whole = True
        self._add(entries)

    def replace(self, entries: dict[str, Entry]) -> None:
        """Write a new record with these files only.

        Raises:
            OSError: if the disk does not accept it; the former record stays.
        """
        new = self._path.with_name(self._path.name + ".new")
        with new.open("wb") as file:
            file.write(_lines(entries))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)
        sync_folder(self._path.parent)
        self._is_whole = True
        self.entries, self.is_used = {}, False
        self._add(entries)

    def _add(self, entries: dict[str, Entry]) -> None:
        self.entries.update(entries)
        self.is_used |= any(e.synced and name.startswith(VERSIONS) for name, e in entries.items())


def _lines(entries: dict[str, Entry]) -> bytes:
    texts = [
        json.dumps({"file": name, "bytes": entry.size, "crc32": f"{entry.crc32:08x}", "synced": entry.synced})
        for name, entry in entries.items()
    ]
    return "".join(f"{text}\n" for text in texts).encode()


def digest(file: BinaryIO) -> tuple[int, int]:
    """Return the size in bytes and the CRC-32 of a file."""
    size = crc32 = 0
    while piece := file.read(_PIECE):
        size += len(piece)
        crc32 = zlib.crc32(piece, crc32)
    return size, crc32


def has_gaps(file: BinaryIO) -> bool:
    """Return whether a file lacks its end or has a block of zeros, as unwritten parts of a file look."""
    ending = _ENDINGS.get(Path(file.name).suffix, b"")
    last = b""
    while piece := file.read(_PIECE):
        blocks = np.frombuffer(piece[: len(piece) // _BLOCK * _BLOCK], np.uint8).reshape(-1, _BLOCK)
        if not blocks.any(axis=1).all():
            return True
        last = piece
    return not last.endswith(ending)


def write_again(path: Path) -> None:
    """Replace a file that could not be flushed by a copy of it.

    A kernel that failed to write a page marks it as written, so flushing the same file again proves nothing.
    """
    copy = path.with_name(path.name + ".again")
    with path.open("rb") as old, copy.open("wb") as new:
        while piece := old.read(_PIECE):
            new.write(piece)
        new.flush()
        os.fsync(new.fileno())
    copy.replace(path)
    sync_folder(path.parent)


def free_name(path: Path) -> Path:
    """Return a path that does not exist yet: this one, or this one with a number."""
    name, number = path.name, 0
    while path.exists():
        number += 1
        path = path.with_name(f"{name}.{number}")
    return path
