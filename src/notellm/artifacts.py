"""Writing that loses nothing: a result is made aside, and replaces only what notellm itself wrote.

Every folder that notellm writes holds ``manifest.json``: the folder's kind ("dataset", "model", ...), and
the size and SHA-256 of each file. A Parquet file that stands alone carries its record, which names its kind,
in its schema metadata. By these, :func:`check_replaceable` tells a former result from somebody's own files.

A result is made in a hidden workspace ``.NAME.RANDOM.part`` beside its destination: ``new`` is what is being
made, ``old`` what it replaces. Everything is flushed to disk, the old one is renamed to ``old``, the new one
to NAME, then the workspace goes. At every moment one of the two is whole; the next write to the same
destination finishes or removes what a killed one left.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from notellm.errors import DataError, ModelError, StorageError

MANIFEST = "manifest.json"
RECORD_KEY = b"notellm.record"
#: Files that notellm adds to a finished folder later, by its kind; their own record has to confirm it.
_ADDED_LATER = {"dataset": {"pairs.parquet": "pairs"}, "split": {"pairs.parquet": "pairs"}}
#: Files that operating systems leave in folders on their own.
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
#: Files that people edit in a finished folder.
_EDITABLE = ("README.md",)
_COPY = "copy the whole folder again"
_LOCK, _NEW, _OLD = ".lock", "new", "old"
_A_MOMENT = 60.0  # seconds in which a process that has made a workspace will have locked it


@contextmanager
def write_folder(path: str | Path, kind: str, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder to be filled; on success it becomes ``path``, on failure it is removed.

    Args:
        path: where the finished folder shall be; a symbolic link is followed, missing parents are made.
        kind: what the folder is ("dataset", "split", "model", "ranker", "report", ...).
        force: replace a folder of another kind, or one whose files were edited, too.

    Raises:
        StorageError: ``path`` holds something that may not be replaced (see :func:`check_replaceable`), or
            the folder cannot be written.
    """
    check_replaceable(path, kind, force=force)
    target = Path(path).resolve()
    with _workspace(target) as work:
        new = work / _NEW
        new.mkdir()
        yield new
        _write_manifest(new, kind)
        _sync_tree(new)
        check_replaceable(path, kind, force=force)  # somebody may have put files there in the meantime
        if target.exists():
            target.rename(work / _OLD)
        new.rename(target)
        sync_folder(target.parent)


@contextmanager
def write_file(path: str | Path, kind: str | None = None, *, force: bool = False) -> Iterator[Path]:
    """Yield a path to be written to; on success that file becomes ``path``, on failure it is removed.

    Args:
        path: where the finished file shall be; a symbolic link is followed, missing parents are made.
        kind: what an existing Parquet file there has to be by its record in order to be replaced; None
            replaces none.
        force: replace any file.

    Raises:
        StorageError: ``path`` holds something that may not be replaced, or the file cannot be written.
    """
    check_file_replaceable(path, kind, force=force)
    target = Path(path).resolve()
    with _workspace(target) as work:
        new = work / _NEW
        yield new
        _sync(new)
        check_file_replaceable(path, kind, force=force)
        new.replace(target)
        sync_folder(target.parent)


def check_replaceable(path: str | Path, kind: str, *, force: bool = False) -> None:
    """Refuse to replace a folder that holds anything but a former result of the same kind.

    Long work calls this before it begins, and :func:`write_folder` again before it replaces anything.

    Args:
        path: where a folder shall be written.
        kind: what it will be.
        force: allow a folder of another kind, and files that were edited since they were written. Files that
            notellm did not write, the root, the home and the working folder, and mount points stay refused.

    Raises:
        StorageError: it may not be replaced; the message says why and what to do.
    """
    target = Path(path).resolve()
    if reason := _protected(target):
        raise StorageError(f"cannot write a {kind} to {path}: it is {reason}; name a new folder within it")
    _check_parent(path, target)
    if not target.exists():
        return
    if not target.is_dir():
        raise StorageError(
            f"cannot write a {kind} to {path}: it is a file; name a folder, or remove the file"
        )
    try:
        found = _contents(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot look into {error.filename or path} before writing there: {reason}"
        ) from error
    if not found.files:
        return
    if found.foreign:
        raise StorageError(
            f"cannot write a {kind} to {path}: it holds {_some(found.foreign)} that notellm did not write "
            "there; name another folder, or move the files away"
        )
    if force:
        return
    if found.kind != kind:
        raise StorageError(
            f"cannot write a {kind} to {path}: a {found.kind} is there; name another folder, or replace it "
            "with --force (in Python: force=True)"
        )
    if edited := _edited(target, found.listed):
        raise StorageError(
            f"cannot write a {kind} to {path}: {_some(edited)} changed since notellm wrote it; "
            "keep a copy elsewhere, then replace it with --force (in Python: force=True)"
        )


def check_file_replaceable(path: str | Path, kind: str | None, *, force: bool = False) -> None:
    """Refuse to replace a file that is not a former result of the same kind.

    Args:
        path: where a file shall be written.
        kind: what its record will say; None is a file without a record, which replaces none.
        force: allow any file.

    Raises:
        StorageError: it may not be replaced; the message says why and what to do.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; name a file")
    _check_parent(path, target)
    if force or not target.exists():
        return
    if not target.is_file():
        raise StorageError(f"cannot write {path}: it is not a regular file; name another one")
    found = None if kind is None else kind_of_parquet(target)
    if kind is None or found != kind:
        what = "a file that notellm did not write" if found is None else f"a file of {found}"
        raise StorageError(
            f"cannot write {path}: {what} is there; name another file, or replace it with --force "
            "(in Python: force=True)"
        )


def _check_parent(path: str | Path, target: Path) -> None:
    """Whether something can be made beside a target, so that long work need not end with that discovery."""
    parent = target.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise StorageError(f"cannot write {path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {path}: the folder {parent} may not be written to")


def check_whole(folder: Path, *, besides: Collection[str] = (), most: int | None = None) -> None:
    """Compare the files of a folder with its manifest, before anything in them is used.

    A folder that was copied in part, or one of whose files was damaged or exchanged, is found out by this.
    Model cards (``README.md``) may be edited, and files may be added.

    Args:
        folder: that :func:`write_folder` wrote.
        besides: names of files that are not compared, since they are checked in another way.
        most: of larger files, in bytes, only the size is compared.

    Raises:
        ModelError: a file is missing or is not the one that was written, or there is no manifest.
    """
    kind, listed = _read_manifest(folder)
    if kind is None:
        raise ModelError(f"{folder} has no whole {MANIFEST}, by which its files are checked; {_COPY}")
    for name, about in listed.items():
        if Path(name).name in (*besides, *_EDITABLE):
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{folder / MANIFEST} names {name!r}, which is not in its own folder")
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{folder} lacks {name}; {_COPY}")
        try:
            unchanged = _is_unchanged(file, about, most=most)
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
        if not unchanged:
            raise ModelError(f"{file} is damaged, or is not the file that was saved; {_COPY}")


def remove_folder(path: str | Path, kind: str) -> None:
    """Remove a folder that :func:`write_folder` wrote; nothing happens where there is none.

    Raises:
        StorageError: it is of another kind, or holds files that notellm did not write.
    """
    target = Path(path)
    if not target.exists():
        return
    check_replaceable(target, kind, force=True)
    try:
        shutil.rmtree(target)
    except OSError as error:
        raise StorageError(f"cannot remove {target}: {error.strerror or error}") from error


def parquet_record(path: Path) -> Any:
    """The record in the metadata of a Parquet file, as it was read from JSON; None where there is none.

    Raises:
        DataError: it is not a readable Parquet file.
    """
    try:
        return json.loads((pq.read_schema(path).metadata or {}).get(RECORD_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def kind_of_parquet(path: Path) -> str | None:
    """The kind of a Parquet file by the record in its metadata; None where it carries none."""
    try:
        record = parquet_record(path)
    except DataError:
        return None
    kind = record.get("kind") if isinstance(record, dict) else None
    return kind if isinstance(kind, str) else None


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it outlives a power failure."""
    if os.name == "nt":
        return  # Windows cannot open folders, and needs no flush for a rename
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -------------------------------------------------------------------- what a folder holds


@dataclass(frozen=True)
class _Contents:
    """The files of a folder, by their relative paths.

    Attributes:
        kind: what the manifest says; None without one.
        files: all of them.
        foreign: those that notellm did not write.
        listed: what the manifest says of the others.
    """

    kind: str | None
    files: list[str]
    foreign: list[str]
    listed: dict[str, dict[str, Any]]


def _contents(folder: Path) -> _Contents:
    kind, listed = _read_manifest(folder)
    additions = _ADDED_LATER.get(kind or "", {})
    files, foreign = [], []
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if file.name in _LITTER:
            continue
        files.append(name)
        own = (kind is not None and name == MANIFEST) or (name in listed and not file.is_symlink())
        added = file.name in additions and kind_of_parquet(file) == additions[file.name]
        if not own and not added:
            foreign.append(name)
    return _Contents(kind, files, foreign, listed)


def _edited(folder: Path, listed: dict[str, dict[str, Any]]) -> list[str]:
    """Files of a folder that are not as notellm wrote them; those that are gone are nobody's loss."""
    try:
        return [
            n
            for n, about in listed.items()
            if (file := folder / n).is_file() and not _is_unchanged(file, about)
        ]
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot look into {error.filename} before writing there: {reason}") from error


def _read_manifest(folder: Path) -> tuple[str | None, dict[str, dict[str, Any]]]:
    """Kind and files of a manifest; without a whole one there is no kind, and nothing is notellm's."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kind, files = manifest["kind"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, {}
    if not isinstance(kind, str) or not isinstance(files, dict):
        return None, {}
    for about in files.values():
        if not (isinstance(about, dict) and about.keys() == {"bytes", "sha256"}):
            return None, {}
    return kind, files


def _write_manifest(folder: Path, kind: str) -> None:
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(_files(folder))
    }
    text = json.dumps({"kind": kind, "files": files}, ensure_ascii=False, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _is_unchanged(file: Path, about: dict[str, Any], *, most: int | None = None) -> bool:
    """Whether a file is as its manifest has it; of one of more bytes than ``most`` the size alone counts."""
    size = file.stat().st_size
    if size != about["bytes"]:
        return False
    return (most is not None and size > most) or _sha256(file) == about["sha256"]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """All files under a folder; a symbolic link is a file, whatever it points to.

    Raises:
        OSError: a folder in it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from (Path(root) / name for name in (*names, *links))


def _some(names: list[str]) -> str:
    """A few names of many."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more files"


def _protected(target: Path) -> str | None:
    """Why a folder is never replaced, whatever it holds."""
    if target == target.parent:
        return "the root of a file system"
    working = Path.cwd().resolve()
    if target == working or target in working.parents:
        return "the working folder" if target == working else "above the working folder"
    with suppress(RuntimeError):  # no home folder is known
        home = Path.home().resolve()
        if target == home or target in home.parents:
            return "the home folder" if target == home else "above the home folder"
    return "a mount point" if os.path.ismount(target) else None


# -------------------------------------------------------------------- the workspace


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A locked hidden folder beside a target, removed in the end; errors of the file system become ours."""
    work: Path | None = None
    lock: FileLock | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target)
        work = target.parent / f".{target.name}.{secrets.token_hex(8)}.part"
        work.mkdir()
        lock = FileLock(work / _LOCK)
        lock.acquire()
        yield work
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        if isinstance(error, StorageError):
            raise
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise StorageError(f"cannot write {target}: {reason}") from error
    finally:
        if lock is not None:
            lock.release()
        if work is not None:
            _settle(work, target)


def _tidy(target: Path) -> None:
    """Settle the workspaces that killed writes to a target left behind."""
    # The whole name counts: what a write to "model.v2" left is none of "model".
    own = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.part")
    for work in target.parent.iterdir():
        if not own.fullmatch(work.name):
            continue
        held = {path.name for path in work.iterdir()} if work.is_dir() else {""}
        if not held and work.stat().st_mtime < time.time() - _A_MOMENT:
            work.rmdir()  # the kill came before its lock was made
        if _LOCK not in held or held - {_LOCK, _NEW, _OLD}:
            continue  # it is not one of ours
        lock = FileLock(work / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # another process is writing there now
        lock.release()
        _settle(work, target)


def _settle(work: Path, target: Path) -> None:
    """Leave a whole result at the target, and remove the workspace.

    The old result is moved away only once the new one is complete. So where both are in the workspace, the
    new one takes its place, and where only the old one is left, it goes back.
    """
    for name in (_NEW, _OLD):
        if (work / _OLD).exists() and (work / name).exists() and not target.exists():
            with suppress(OSError):
                (work / name).rename(target)
    if not (work / _OLD).exists() or target.exists():
        shutil.rmtree(work, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def _sync_tree(folder: Path) -> None:
    for root, _, names in os.walk(folder):
        for name in names:
            _sync(Path(root) / name)
        sync_folder(Path(root))
