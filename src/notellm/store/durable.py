"""Makes a local table survive a power failure, and finds out afterwards what is left of it.

LanceDB commits without flushing to disk. Before a write is answered, :class:`TableFiles` flushes every file
of the new version and the folders that name them, then adds their sizes and checksums to
``checksums_MODEL.jsonl`` (``checksums.py``). A version whose manifest has a line there was acknowledged.

When the store is opened, the files of the newest version are checked. If it is torn, the version before takes
its place, and the torn files are moved to ``torn_MODEL/``. Damage to a file that older versions need, too, is
an error: going back further would silently undo acknowledged writes.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from notellm.artifacts.workspace import sync_folder
from notellm.errors import StorageError
from notellm.store.checksums import Entry, Record, digest, free_name, has_gaps, write_again
from notellm.store.manifest import DATA, DELETIONS, VERSIONS, ManifestReader, TornError, Version

_FLUSHES = 6  # files flushed at once; the file system joins them into few writes of its journal
#: Seconds of writes that may be undone when nothing tells whether they were acknowledged. A kernel writes
#: everything to disk within about half a minute; tidying a large table takes minutes.
_WINDOW = 600.0


@dataclass(frozen=True)
class Trouble:
    """Damage to a file of a version.

    Attributes:
        file: path of the file within the table's folder.
        reason: what is wrong, as a predicate of the file's name.
        torn: whether an unfinished write can look like this. Bytes that changed later cannot.
    """

    file: str
    reason: str
    torn: bool = True


class TableFiles:
    """The files of one local table.

    Args:
        store: folder of the store.
        name: name of the table; its folder is ``NAME.lance``.
        model: fingerprint in the names of the record and of the folder for torn files.
        sync: flush every commit to disk.
        remedy: what a damaged table without a backup needs, as an imperative; None: build the store again.
    """

    def __init__(
        self, store: Path, name: str, model: str, *, sync: bool = True, remedy: str | None = None
    ) -> None:
        self.table = store / f"{name}.lance"
        self.aside = store / f"torn_{model}"
        self._store = store
        self._sync = sync
        self._remedy = remedy or f"remove it and build it again from its notes: notellm store build {store}"
        self._reader = ManifestReader(self.table)
        self._record = Record(store / f"checksums_{model}.jsonl")
        self._checked: set[str] = set()  # files that are known to be whole
        self._flushed_folders: set[Path] = set()
        self._suspect: set[str] = set()  # files that could not be flushed
        self._pool: ThreadPoolExecutor | None = None

    # ---------------------------------------------------------------- after a commit

    def keep(self, number: int) -> None:
        """Make a version survive a power failure.

        Args:
            number: number of the version, which is the newest one.

        Raises:
            OSError: if the disk does not accept it. The next call tries everything again.
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
        folder_tasks = [self._pool.submit(sync_folder, folder) for folder in folders]
        entries = dict(zip(new, self._pool.map(self._flush, new), strict=True))
        for task in folder_tasks:
            task.result()
        self._flushed_folders |= folders
        # This comes last: a manifest with a line in the record was acknowledged, with everything it needs.
        self._record.append(entries, sync=self._sync)

    def _is_kept(self, name: str) -> bool:
        entry = self._record.entries.get(name)
        return entry is not None and (entry.synced or not self._sync)

    def _folders_of(self, names: Iterable[str]) -> set[Path]:
        """Return the folders of new files, and the folders above that have not been flushed yet."""
        folders = {(self.table / name).parent for name in names}
        for folder in list(folders):
            while folder not in self._flushed_folders and folder != self._store:
                folder = folder.parent  # noqa: PLW2901 - the way up
                folders.add(folder)
        return folders

    def _flush(self, name: str) -> Entry:
        path = self.table / name
        try:
            if name in self._suspect:
                write_again(path)
            with path.open("rb") as file:
                if self._sync:
                    os.fsync(file.fileno())
                size, crc32 = digest(file)
        except OSError:
            self._suspect.add(name)
            raise
        self._suspect.discard(name)
        return Entry(size, crc32, self._sync)

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    # ---------------------------------------------------------------- tidying

    def age(self, number: int) -> timedelta:
        """Return a time span that reaches back to a version, with a minute to spare."""
        written = self._reader.read(self._reader.path(number), number).written_at
        return timedelta(seconds=max(0.0, datetime.now(UTC).timestamp() - written) + 60)

    def tidy(self) -> None:
        """Remove files that no longer exist from the record.

        Raises:
            OSError: if the record cannot be written; the former one stays.
        """
        entries = self._record.entries
        existing = {name: entry for name, entry in entries.items() if (self.table / name).exists()}
        if len(existing) < len(entries):
            self._record.replace(existing)
        self._checked &= existing.keys()

    def size(self) -> int:
        """Return the number of bytes of the newest version's data."""
        numbered = self._reader.numbered()
        if not numbered:
            return 0
        number, path = next(iter(numbered.items()))
        return sum(size or 0 for size in self._reader.read(path, number).data.values())

    # ---------------------------------------------------------------- opening

    def exists(self) -> bool:
        """Return whether there is a version that was, or may have been, acknowledged."""
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
        """Return the damage to the newest version; None if it is whole."""
        numbered = self._reader.numbered()
        if not numbered:
            return Trouble(VERSIONS, "holds no manifest")
        return self._trouble(*next(iter(numbered.items())))

    def settle(self, read: Callable[[int], None]) -> list[str]:
        """Make the newest whole version the newest one, by moving torn versions above it aside.

        Call this before LanceDB opens the table, and with the right to write.

        Args:
            read: reads a version with LanceDB and raises StorageError if that fails. It is called for a
                version that the record does not confirm.

        Returns:
            What was repaired, in sentences; empty if all was well.

        Raises:
            StorageError: if a file is damaged and no version may take the place of the newest one.
        """
        report: list[str] = []
        unreadable: dict[int, Trouble] = {}
        while True:
            damaged: list[_Damaged] = []
            for number, path in self._reader.numbered().items():
                trouble = unreadable.get(number) or self._trouble(number, path)
                if trouble is None:
                    break
                damaged.append((number, path, trouble))
                if not trouble.torn:
                    raise self.damaged(trouble)
            else:
                if damaged:
                    raise self.damaged(_worst(damaged))
                raise StorageError(f"{self.table} holds no version; {self._remedy}")
            if damaged:
                report += self._pass_over(damaged)
            if self._name(path) in self._record.entries:
                return report
            # The record does not confirm this version. LanceDB can read it now that none above it is torn.
            try:
                read(number)
            except StorageError as error:
                unreadable[number] = Trouble(self._name(path), f"cannot be read ({error})")
            else:
                return report

    def damaged(self, trouble: Trouble) -> StorageError:
        """Return the error that names a damaged file."""
        return StorageError(
            f"{self.table / trouble.file} {trouble.reason}: the store is damaged; restore it from a backup, "
            f"or {self._remedy}"
        )

    def index_trouble(self) -> Trouble | None:
        """Return the damage to the index files of the newest version, which can be built again."""
        number, path = next(iter(self._reader.numbered().items()))
        index = self._reader.read(path, number).index
        return next(filter(None, (self._file_trouble(*item) for item in index.items())), None)

    def _trouble(self, number: int, path: Path) -> Trouble | None:
        name = self._name(path)
        try:
            if (trouble := self._file_trouble(name, None)) is not None:
                return Trouble(name, trouble.reason)
            version = self._reader.read(path, number)
        except TornError:
            return Trouble(name, "is cut off or overwritten")
        return next(filter(None, (self._file_trouble(*item) for item in version.data.items())), None)

    def _file_trouble(self, name: str, size: int | None) -> Trouble | None:
        """Return the damage to one file, whose size by the manifest is given."""
        if name in self._checked:
            return None
        path, entry = self.table / name, self._record.entries.get(name)
        try:
            with path.open("rb") as file:
                actual = os.fstat(file.fileno()).st_size
                for expected in (size, None if entry is None else entry.size):
                    if expected is not None and expected != actual:
                        return Trouble(name, f"has {actual:,} bytes, not the {expected:,} that were written")
                if entry is not None:
                    crc32 = digest(file)[1]
                    if crc32 != entry.crc32:
                        reason = f"has the checksum {crc32:08x}, not {entry.crc32:08x} as it was written"
                        return Trouble(name, reason, torn=False)
                elif not actual:
                    return Trouble(name, "is empty")
                # A file without a line is known to be unfinished only if acknowledged versions have lines.
                elif name.startswith((DATA, DELETIONS)) and self._record.is_used and has_gaps(file):
                    return Trouble(name, "was not written to its end")
        except FileNotFoundError:
            return Trouble(name, "is missing")
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        self._checked.add(name)
        return None

    def _pass_over(self, damaged: list["_Damaged"]) -> list[str]:
        """Move torn versions aside, if that undoes no more than the last thing that was written."""
        acknowledged = [path for _, path, _ in damaged if self._is_acknowledged(path)]
        versions = (self._read(number, path) for number, path, _ in damaged)
        times = [version.written_at for version in versions if version is not None]
        if len(acknowledged) > 1 or (times and max(times) - min(times) > _WINDOW):
            raise self.damaged(_worst(damaged))
        trouble = _worst(damaged)
        moved = {self._name(path) for _, path, _ in damaged} | {trouble.file for _, _, trouble in damaged}
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
                f"({error.strerror or error}); make {self._store} writable, then open the store again"
            ) from error
        if acknowledged:
            loss = "the last acknowledged write is lost, and the one before it is the newest now"
        elif self._record.is_used:
            loss = "a write that was never acknowledged has been undone, and all acknowledged ones are there"
        else:
            loss = f"the last {len(damaged)} writes are lost; nothing tells whether they were acknowledged"
        return [f"{self.table / trouble.file} {trouble.reason}: {loss}; the torn files are in {self.aside}"]

    def _read(self, number: int, path: Path) -> Version | None:
        try:
            return self._reader.read(path, number)
        except TornError:
            return None

    def _is_acknowledged(self, manifest: Path) -> bool:
        entry = self._record.entries.get(self._name(manifest))
        return entry is not None and entry.synced

    def _name(self, path: Path) -> str:
        return path.relative_to(self.table).as_posix()


#: A damaged version: its number, its manifest, and the damage.
_Damaged = tuple[int, Path, Trouble]


def _worst(damaged: list[_Damaged]) -> Trouble:
    """Return the damage to report: data, which older versions need as well, before a manifest."""
    troubles = [trouble for _, _, trouble in reversed(damaged)]
    return next((trouble for trouble in troubles if not trouble.file.startswith(VERSIONS)), troubles[-1])
