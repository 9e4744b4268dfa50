"""The manifest of a folder that notellm wrote: its kind, and the size and SHA-256 of each file.

    {"kind": "model", "files": {"weights": {"bytes": 4, "sha256": "982d..."}}}

By its manifest, a former result is told from somebody else's files, and a damaged copy from a whole one.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from notellm.artifacts.parquet import kind_of_parquet
from notellm.errors import ModelError

MANIFEST = "manifest.json"
#: What a manifest says of a file: its keys are "bytes" and "sha256".
Entry: TypeAlias = dict[str, Any]
#: Files that notellm adds to a finished folder later, by the folder's kind, with the kind in their record.
_ADDED_LATER = {"dataset": {"pairs.parquet": "pairs"}, "split": {"pairs.parquet": "pairs"}}
#: Files that operating systems create in folders.
_SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}
#: Files that people edit in a finished folder.
_EDITABLE = ("README.md",)
_COPY = "copy the whole folder again"


@dataclass(frozen=True)
class Contents:
    """The files of a folder, by their relative paths.

    Attributes:
        kind: the kind in the manifest; None if there is no valid manifest.
        files: all files but those of the operating system.
        foreign: the files that notellm did not write.
        listed: the files in the manifest and what it says of them.
    """

    kind: str | None
    files: list[str]
    foreign: list[str]
    listed: dict[str, Entry]


def read_contents(folder: Path) -> Contents:
    """Return what a folder contains and which of its files notellm wrote.

    Raises:
        OSError: if a folder in it cannot be read.
    """
    kind, listed = _read_manifest(folder)
    additions = _ADDED_LATER.get(kind or "", {})
    files, foreign = [], []
    for file in _files(folder):
        name = file.relative_to(folder).as_posix()
        if file.name in _SYSTEM_FILES:
            continue
        files.append(name)
        written = (kind is not None and name == MANIFEST) or (name in listed and not file.is_symlink())
        added = file.name in additions and kind_of_parquet(file) == additions[file.name]
        if not written and not added:
            foreign.append(name)
    return Contents(kind, files, foreign, listed)


def edited_files(folder: Path, listed: dict[str, Entry]) -> list[str]:
    """Return the listed files that are present and differ from their entries in the manifest.

    Raises:
        OSError: if a file cannot be read.
    """
    return [
        name
        for name, entry in listed.items()
        if (file := folder / name).is_file() and not _is_unchanged(file, entry)
    ]


def check_whole(folder: Path, *, besides: Collection[str] = (), most: int | None = None) -> None:
    """Compare the files of a folder with its manifest, before any of them is used.

    This detects a folder that was copied in part, and files that were damaged or exchanged. Model cards
    (``README.md``) may be edited, and files may be added.

    Args:
        folder: a folder that ``write_folder`` wrote.
        besides: names of files that are not compared, because they are checked in another way.
        most: for files of more bytes than this, compare the size only.

    Raises:
        ModelError: if a file is missing or differs, or there is no valid manifest.
    """
    kind, listed = _read_manifest(folder)
    if kind is None:
        raise ModelError(f"{folder} has no whole {MANIFEST}, by which its files are checked; {_COPY}")
    for name, entry in listed.items():
        if Path(name).name in (*besides, *_EDITABLE):
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{folder / MANIFEST} names {name!r}, which is not in its own folder")
        file = folder / name
        if not file.is_file():
            raise ModelError(f"{folder} lacks {name}; {_COPY}")
        try:
            unchanged = _is_unchanged(file, entry, most=most)
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
        if not unchanged:
            raise ModelError(f"{file} is damaged, or is not the file that was saved; {_COPY}")


def write_manifest(folder: Path, kind: str) -> None:
    """Write the manifest of all files in a folder."""
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for file in sorted(_files(folder))
    }
    text = json.dumps({"kind": kind, "files": files}, ensure_ascii=False, indent=2)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _read_manifest(folder: Path) -> tuple[str | None, dict[str, Entry]]:
    """Return kind and files of a manifest; (None, {}) if there is no valid one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        kind, files = manifest["kind"], manifest["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, {}
    if not isinstance(kind, str) or not isinstance(files, dict):
        return None, {}
    for entry in files.values():
        if not (isinstance(entry, dict) and entry.keys() == {"bytes", "sha256"}):
            return None, {}
    return kind, files


def _is_unchanged(file: Path, entry: Entry, *, most: int | None = None) -> bool:
    """Tell whether a file matches its manifest entry; above ``most`` bytes only the size is compared."""
    size = file.stat().st_size
    if size != entry["bytes"]:
        return False
    return (most is not None and size > most) or _sha256(file) == entry["sha256"]


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files under a folder; a symbolic link counts as a file, whatever it points to.

    Raises:
        OSError: if a folder in it cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        yield from (Path(root) / name for name in (*names, *links))
