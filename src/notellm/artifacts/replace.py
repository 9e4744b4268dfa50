"""The rules by which a folder or file may be replaced or removed: only if notellm itself wrote it.

A former result is recognised by the manifest of its folder, or by the record of its Parquet file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from notellm.artifacts.manifest import MANIFEST, edited_files, read_contents
from notellm.artifacts.parquet import kind_of_parquet
from notellm.errors import StorageError

_FORCE = "with --force (in Python: force=True)"


def check_replaceable(path: str | Path, kind: str, *, force: bool = False) -> None:
    """Check that a folder may be written: it is absent, empty, or a former result of the same kind.

    Long work calls this before it begins, and ``write_folder`` calls it again before it replaces anything.

    Args:
        path: the folder to be written.
        kind: kind of the new result.
        force: allow a result of another kind, and files that were edited since they were written. Folders
            with files that notellm did not write, the root, home and working folders, and mount points are
            refused in any case.

    Raises:
        StorageError: if it may not be written; the message says why and what to do.
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
    with _looking_into(path):
        contents = read_contents(target)
    if not contents.files:
        return
    if contents.foreign:
        raise StorageError(
            f"cannot write a {kind} to {path}: it holds {_some(contents.foreign)} that notellm did not write "
            "there; name another folder, or move the files away"
        )
    if force:
        return
    if contents.kind != kind:
        raise StorageError(
            f"cannot write a {kind} to {path}: a {contents.kind} is there; name another folder, or replace "
            f"it {_FORCE}"
        )
    with _looking_into(path):
        edited = edited_files(target, contents.listed)
    if edited:
        raise StorageError(
            f"cannot write a {kind} to {path}: {_some(edited)} changed since notellm wrote it; "
            f"keep a copy elsewhere, then replace it {_FORCE}"
        )


def check_file_replaceable(path: str | Path, kind: str | None, *, force: bool = False) -> None:
    """Check that a file may be written: it is absent, or a former result of the same kind.

    Args:
        path: the file to be written.
        kind: kind of the new file by its record; None for a file without a record, which replaces no file.
        force: allow any file.

    Raises:
        StorageError: if it may not be written; the message says why and what to do.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise StorageError(f"cannot write {path}: it is a folder; name a file")
    _check_parent(path, target)
    if force or not target.exists():
        return
    if not target.is_file():
        raise StorageError(f"cannot write {path}: it is not a regular file; name another one")
    present = None if kind is None else kind_of_parquet(target)
    if kind is None or present != kind:
        what = "a file that notellm did not write" if present is None else f"a file of {present}"
        raise StorageError(f"cannot write {path}: {what} is there; name another file, or replace it {_FORCE}")


def remove_folder(path: str | Path, kind: str) -> None:
    """Remove a folder that ``write_folder`` wrote; do nothing if it is absent.

    Raises:
        StorageError: if it is a symbolic link, contains files that notellm did not write, or cannot be
            removed.
    """
    target = Path(path)
    if not target.exists():
        return
    check_removable(target, kind)
    remove_keeping_last(target, MANIFEST)


def check_removable(path: Path, kind: str) -> None:
    """Refuse a folder that :func:`remove_folder` would refuse; it may be absent.

    Raises:
        StorageError: if it is a symbolic link, or contains files that notellm did not write.
    """
    if path.is_symlink():
        raise StorageError(f"cannot remove {path}: it is a symbolic link; remove the link yourself")
    check_replaceable(path, kind, force=True)


def remove_keeping_last(folder: Path, name: str) -> None:
    """Remove a folder, the file by which it is recognised last, so that a killed removal can be repeated.

    Args:
        folder: a folder that may be removed.
        name: name of that file.

    Raises:
        StorageError: if it cannot be removed.
    """
    try:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != name:
                path.unlink()
        shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(f"cannot remove {folder}: {error.strerror or error}") from error


@contextmanager
def _looking_into(path: str | Path) -> Iterator[None]:
    """Turn an error of the file system into one that says what was tried."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot look into {error.filename or path} before writing there: {reason}"
        ) from error


def _check_parent(path: str | Path, target: Path) -> None:
    """Check that the target can be created, so that long work does not fail at its end."""
    parent = target.parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise StorageError(f"cannot write {path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise StorageError(f"cannot write {path}: the folder {parent} may not be written to")


def _some(names: list[str]) -> str:
    """Return the first three names, and how many more there are."""
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3:,} more files"


def _protected(target: Path) -> str | None:
    """Return why a folder is never replaced; None if it may be."""
    if target == target.parent:
        return "the root of a file system"
    working = Path.cwd().resolve()
    if target == working or target in working.parents:
        return "the working folder" if target == working else "above the working folder"
    with suppress(RuntimeError):  # raised if the home folder is unknown
        home = Path.home().resolve()
        if target == home or target in home.parents:
            return "the home folder" if target == home else "above the home folder"
    return "a mount point" if os.path.ismount(target) else None
