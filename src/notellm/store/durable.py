"""Making a local table outlive a power failure, and finding out afterwards what is left of it.

LanceDB writes a commit without flushing it to disk. :class:`TableFiles` does that before a write is answered:
it flushes every file that the new version needs, and the folders that name them. Then it appends the size and
the CRC-32 of each to ``checksums_MODEL.jsonl`` beside the table, and flushes that. A version whose manifest
has such a line was acknowledged; one without may have been on its way when the power went.

When the store is opened, the newest version is checked: each of its files must be there, have its size and,
where there is a line for it, its checksum. If the newest version is torn, the one before it takes its place,
the torn files are moved to ``torn_MODEL/``, and the caller is told. Damage to a file that older versions need
as well is an error that names the file: to go further back would silently undo acknowledged writes.
"""

import json
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import numpy as np

from notellm.artifacts.workspace import sync_folder
from notellm.errors import StorageError
from notellm.store.manifest import DATA, DELETIONS, VERSIONS, ManifestReader, TornError, Version

_PIECE = 1 << 20  # bytes read at once
_BLOCK = 4_096  # bytes that a file system loses together
_FLUSHES = 6  # files flushed at once; the file system joins them into few writes of its journal
#: How far a fallback goes back over versions of which nothing tells whether they were acknowledged. A kernel
#: writes everything to disk within about half a minute; tidying a large table takes minutes.
_WINDOW = 600.0
#: Lance files end with the first of these, Arrow files (deletions) with the second.
_ENDINGS = {".lance": b"LANC", ".arrow": b"ARROW1"}


@dataclass(frozen=True)
class Trouble:
    """What is wrong with a file of a version.

    Attributes:
        file: its path within the table's folder.
        reason: what is wrong, to follow the name of the file.
        torn: a write that did not come to its end may look like this; bytes that changed later do not.
    """

    file: str
    reason: str
    torn: bool = True


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of the record.

    Attributes:
        size: of the file, in bytes.
        crc32: of its content.
        synced: it was flushed to disk before the line was written.
    """

    size: int
    crc32: int
    synced: bool


class TableFiles:
    """The files of one local table.

    Args:
        store: the folder of the store.
        name: of the table; its folder is ``NAME.lance``.
        model: the fingerprint in the names of the record and of the folder for torn files.
        sync: flush every commit to disk.
    """

    def __init__(self, store: Path, name: str, model: str, *, sync: bool = True) -> None:
        self.table = store / f"{name}.lance"
        self.aside = store / f"torn_{model}"
        self._store = store
        self._sync = sync
        self._reader = ManifestReader(self.table)
        self._record = _Record(store / f"checksums_{model}.jsonl")
        self._checked: set[str] = set()  # files that were found whole
        self._folders: set[Path] = set()  # those whose own entries are on disk
        self._suspect: set[str] = set()  # files that the disk failed to keep
        self._pool: ThreadPoolExecutor | None = None

    # ---------------------------------------------------------------- after a commit

    def keep(self, number: int) -> None:
        """Make a version outlive a power failure.

        Args:
            number: of the version; it is the newest.

        Raises:
            OSError: the disk did not take it. The next call tries all of it again.
        """
        path = self._reader.path(number)
        version = self._reader.read(path, number)
        names = [*version.data, *version.index, self._name(path)]
        names += [name for name in version.transaction if (self.table / name).is_file()]
        new = [name for name in names if not self._is_kept(name)]
        if not new:
            return
        folders = self._folders_of(new) if self._sync else set()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_FLUSHES, thread_name_prefix="notellm-sync")
        synced = [self._pool.submit(sync_folder, folder) for folder in folders]
        entries = dict(zip(new, self._pool.map(self._flush, new), strict=True))
        for done in synced:
            done.result()
        self._folders |= folders
        # Last: a manifest that has a line here was acknowledged, with everything that it needs.
        self._record.append(entries, sync=self._sync)

    def _is_kept(self, name: str) -> bool:
        entry = self._record.entries.get(name)
        return entry is not None and (entry.synced or not self._sync)

    def _folders_of(self, names: Iterable[str]) -> set[Path]:
        """Folders in which files are new, and those in which these folders are."""
        folders = {(self.table / name).parent for name in names}
        for folder in list(folders):
            while folder not in self._folders and folder != self._store:
                folder = folder.parent  # noqa: PLW2901 - the way up
                folders.add(folder)
        return folders

    def _flush(self, name: str) -> _Entry:
        path = self.table / name
        try:
            if name in self._suspect:
                _write_again(path)
            with path.open("rb") as file:
                if self._sync:
                    os.fsync(file.fileno())
                size, crc32 = _digest(file)
        except OSError:
            self._suspect.add(name)
            raise
        self._suspect.discard(name)
        return _Entry(size, crc32, self._sync)

    def close(self) -> None:
        """Let go of the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    # ---------------------------------------------------------------- tidying

    def age(self, number: int) -> timedelta:
        """How old a version is, with a minute to spare: what is younger includes the version itself."""
        written = self._reader.read(self._reader.path(number), number).written_at
        return timedelta(seconds=max(0.0, datetime.now(UTC).timestamp() - written) + 60)

    def tidy(self) -> None:
        """Forget files that are gone.

        Raises:
            OSError: the record cannot be written; the former one stays.
        """
        there = {name: entry for name, entry in self._record.entries.items() if (self.table / name).exists()}
        if len(there) < len(self._record.entries):
            self._record.replace(there)
        self._checked &= there.keys()

    def size(self) -> int:
        """Bytes of the newest version's data."""
        numbered = self._reader.numbered()
        if not numbered:
            return 0
        number, path = next(iter(numbered.items()))
        return sum(size or 0 for size in self._reader.read(path, number).data.values())

    # ---------------------------------------------------------------- opening

    def exists(self) -> bool:
        """Whether there is a version that was, or may have been, acknowledged."""
        for number, path in self._reader.numbered().items():
            if self._name(path) in self._record.entries:
                return True
            try:
                self._reader.read(path, number)
            except TornError:
                continue
            return True
        return False

    def trouble(self) -> Trouble | None:
        """What is wrong with the newest version; None when it is whole."""
        numbered = self._reader.numbered()
        if not numbered:
            return Trouble(VERSIONS, "holds no manifest")
        return self._trouble(*next(iter(numbered.items())))

    def settle(self, reads: Callable[[int], None]) -> list[str]:
        """Let the newest whole version be the newest one; torn ones above it are moved aside.

        Call it before LanceDB opens the table, and with the right to write.

        Args:
            reads: reads a version with LanceDB and raises StorageError where that fails; it is called for a
                version of which nothing tells that it is whole.

        Returns:
            What was found and done, in sentences; nothing where all was well.

        Raises:
            StorageError: a file is damaged, and no version may take the place of the newest one.
        """
        said: list[str] = []
        unreadable: dict[int, Trouble] = {}
        while True:
            passed: list[_Passed] = []
            for number, path in self._reader.numbered().items():
                trouble = unreadable.get(number) or self._trouble(number, path)
                if trouble is None:
                    break
                passed.append((number, path, trouble))
                if not trouble.torn:
                    raise self.damaged(trouble)
            else:
                if passed:
                    raise self.damaged(_worst(passed))
                raise StorageError(f"{self.table} holds no version; make the store anew: notellm store build")
            if passed:
                said += self._pass_over(passed)
            if self._name(path) in self._record.entries:
                return said
            # Nothing tells that this one is whole. LanceDB reads it only now that none above it is torn.
            try:
                reads(number)
            except StorageError as error:
                unreadable[number] = Trouble(self._name(path), f"cannot be read ({error})")
            else:
                return said

    def damaged(self, trouble: Trouble) -> StorageError:
        """The error that names a file."""
        return StorageError(
            f"{self.table / trouble.file} {trouble.reason}: the store is damaged; restore it from a backup, "
            f"or remove it and make it anew from its notes: notellm store build {self._store}"
        )

    def index_trouble(self) -> Trouble | None:
        """What is wrong with the index files of the newest version; they can be made anew."""
        number, path = next(iter(self._reader.numbered().items()))
        index = self._reader.read(path, number).index
        return next(filter(None, (self._file_trouble(*item) for item in index.items())), None)

    def _trouble(self, number: int, path: Path) -> Trouble | None:
        name = self._name(path)
        try:
            if (wrong := self._file_trouble(name, None)) is not None:
                return Trouble(name, wrong.reason)
            version = self._reader.read(path, number)
        except TornError:
            return Trouble(name, "is cut off or overwritten")
        return next(filter(None, (self._file_trouble(*item) for item in version.data.items())), None)

    def _file_trouble(self, name: str, size: int | None) -> Trouble | None:
        """What is wrong with one file, which has this size by its manifest."""
        if name in self._checked:
            return None
        path, entry = self.table / name, self._record.entries.get(name)
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                for wanted in (size, None if entry is None else entry.size):
                    if wanted is not None and wanted != found:
                        return Trouble(name, f"has {found:,} bytes, not the {wanted:,} that were written")
                if entry is not None:
                    crc32 = _digest(file)[1]
                    if crc32 != entry.crc32:
                        reason = f"has the checksum {crc32:08x}, not {entry.crc32:08x} as it was written"
                        return Trouble(name, reason, torn=False)
                elif not found:
                    return Trouble(name, "is empty")
                # Only where acknowledged versions have lines is one without a line known to be unfinished.
                elif name.startswith((DATA, DELETIONS)) and self._record.is_used and _has_gaps(file):
                    return Trouble(name, "was not written to its end")
        except FileNotFoundError:
            return Trouble(name, "is missing")
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        self._checked.add(name)
        return None

    def _pass_over(self, passed: list["_Passed"]) -> list[str]:
        """Move torn versions aside, where that undoes no more than the last thing that was written."""
        sure = [path for _, path, _ in passed if self._is_sure(path)]
        times = [version.written_at for number, path, _ in passed if (version := self._parsed(number, path))]
        if len(sure) > 1 or (times and max(times) - min(times) > _WINDOW):
            raise self.damaged(_worst(passed))
        trouble = _worst(passed)
        moved = {self._name(path) for _, path, _ in passed} | {trouble.file for _, _, trouble in passed}
        try:
            self.aside.mkdir(exist_ok=True)
            for name in sorted(moved):
                if (self.table / name).exists():
                    (self.table / name).rename(free_name(self.aside / Path(name).name))
            self._record.replace({n: e for n, e in self._record.entries.items() if n not in moved})
            for folder in (self.aside, self.table / VERSIONS, self.table / DATA, self._store):
                if folder.is_dir():
                    sync_folder(folder)
        except OSError as error:
            raise StorageError(
                f"{self.table / trouble.file} {trouble.reason}, and it cannot be moved aside "
                f"({error.strerror or error}); let {self._store} be written to, then open the store again"
            ) from error
        what = f"{self.table / trouble.file} {trouble.reason}"
        if sure:
            done = "the last acknowledged write is lost, the one before it is the newest now"
        elif self._record.is_used:
            done = "a write that was never acknowledged has been undone, all acknowledged ones are there"
        else:
            done = f"the last {len(passed)} writes are lost; nothing tells whether they were acknowledged"
        return [f"{what}: {done}; the torn files are in {self.aside}"]

    def _parsed(self, number: int, path: Path) -> Version | None:
        try:
            return self._reader.read(path, number)
        except TornError:
            return None

    def _is_sure(self, manifest: Path) -> bool:
        entry = self._record.entries.get(self._name(manifest))
        return entry is not None and entry.synced

    def _name(self, path: Path) -> str:
        return path.relative_to(self.table).as_posix()


#: A version that cannot answer: its number, its manifest, and what is wrong.
_Passed = tuple[int, Path, Trouble]


def _worst(passed: list[_Passed]) -> Trouble:
    """The damage to tell of: that of data, which older versions need as well, before that of a manifest."""
    troubles = [trouble for _, _, trouble in reversed(passed)]
    return next((trouble for trouble in troubles if not trouble.file.startswith(VERSIONS)), troubles[-1])


class _Record:
    """Sizes and checksums of files, one JSON object a line; lines are added, since the files never change.

    Args:
        path: the file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: dict[str, _Entry] = {}
        #: Whether acknowledged versions have a line here.
        self.is_used = False
        self._is_whole = True  # ends with a line feed, and is on disk as far as it was flushed
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        self._is_whole = content.endswith(b"\n") or not content
        for line in content.splitlines():
            try:
                about = json.loads(line)
                entry = _Entry(int(about["bytes"]), int(about["crc32"], 16), about["synced"] is True)
                self._add({str(about["file"]): entry})
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off: its file is not checked

    def append(self, entries: dict[str, _Entry], *, sync: bool) -> None:
        """Add files.

        Raises:
            OSError: the disk did not take it.
        """
        if not self._is_whole:  # as for other files, to flush it again would prove nothing
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

    def replace(self, entries: dict[str, _Entry]) -> None:
        """Write the whole record anew.

        Raises:
            OSError: the disk did not take it; the former record stays.
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

    def _add(self, entries: dict[str, _Entry]) -> None:
        self.entries.update(entries)
        self.is_used |= any(e.synced and name.startswith(VERSIONS) for name, e in entries.items())


def _lines(entries: dict[str, _Entry]) -> bytes:
    texts = [
        json.dumps({"file": name, "bytes": entry.size, "crc32": f"{entry.crc32:08x}", "synced": entry.synced})
        for name, entry in entries.items()
    ]
    return "".join(f"{text}\n" for text in texts).encode()


def _digest(file: BinaryIO) -> tuple[int, int]:
    """Size in bytes and CRC-32 of a file."""
    size = crc32 = 0
    while piece := file.read(_PIECE):
        size += len(piece)
        crc32 = zlib.crc32(piece, crc32)
    return size, crc32


def _has_gaps(file: BinaryIO) -> bool:
    """Whether a file lacks its end, or has a block of zeros, which is how unwritten parts of a file look."""
    ending = _ENDINGS.get(Path(file.name).suffix, b"")
    last = b""
    while piece := file.read(_PIECE):
        blocks = np.frombuffer(piece[: len(piece) // _BLOCK * _BLOCK], np.uint8).reshape(-1, _BLOCK)
        if not blocks.any(axis=1).all():
            return True
        last = piece
    return not last.endswith(ending)


def _write_again(path: Path) -> None:
    """Put a copy in the place of a file that could not be flushed.

    A kernel that failed to write a page takes it for written afterwards, so flushing the same file again
    proves nothing.
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
    """A path at which nothing is yet."""
    name, number = path.name, 0
    while path.exists():
        number += 1
        path = path.with_name(f"{name}.{number}")
    return path
