"""Write a folder or a file whole or not at all, in place of a former result of the same kind."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from notellm.artifacts.manifest import write_manifest
from notellm.artifacts.replace import check_file_replaceable, check_replaceable
from notellm.artifacts.workspace import NEW, OLD, sync_file, sync_folder, sync_tree, workspace


@contextmanager
def write_folder(path: str | Path, kind: str, *, force: bool = False) -> Iterator[Path]:
    """Yield an empty folder to be filled; on success it becomes ``path``, on failure it is removed.

    Args:
        path: where the finished folder goes; a symbolic link is followed, missing parents are created.
        kind: kind of the folder ("dataset", "split", "model", "ranker", "report", ...).
        force: also replace a folder of another kind, or one with edited files.

    Raises:
        StorageError: if ``path`` contains something that may not be replaced (see ``check_replaceable``), or
            the folder cannot be written.
    """
    check_replaceable(path, kind, force=force)
    target = Path(path).resolve()
    with workspace(target) as work:
        new = work / NEW
        new.mkdir()
        yield new
        write_manifest(new, kind)
        sync_tree(new)
        check_replaceable(path, kind, force=force)  # files may have been added in the meantime
        if target.exists():
            target.rename(work / OLD)
        new.rename(target)
        sync_folder(target.parent)


@contextmanager
def write_file(path: str | Path, kind: str | None = None, *, force: bool = False) -> Iterator[Path]:
    """Yield a path to be written to; on success that file becomes ``path``, on failure it is removed.

    Args:
        path: where the finished file goes; a symbolic link is followed, missing parents are created.
        kind: kind that the record of an existing Parquet file must have to be replaced; None to replace none.
        force: replace any file.

    Raises:
        StorageError: if ``path`` is something that may not be replaced, or the file cannot be written.
    """
    check_file_replaceable(path, kind, force=force)
    target = Path(path).resolve()
    with workspace(target) as work:
        new = work / NEW
        yield new
        sync_file(new)
        check_file_replaceable(path, kind, force=force)
        new.replace(target)
        sync_folder(target.parent)
