"""Files that belong together: their SHA-256 is written down beside them, and compared when they are opened.

A folder that was copied in part, or one of whose files was damaged or exchanged, is found out by this before
anything in it is used.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from notellm.errors import ModelError


def digests_of(files: Iterable[Path], folder: Path, *, most: int | None = None) -> dict[str, str]:
    """SHA-256 of files by their names within a folder, in the order of the names.

    Args:
        files: the files.
        folder: that they lie in, at any depth.
        most: leave out files of more bytes than this.

    Raises:
        OSError: a file cannot be read.
    """
    return {
        file.relative_to(folder).as_posix(): _sha256(file)
        for file in sorted(files)
        if most is None or file.stat().st_size <= most
    }


def check_digests(record: Path, digests: Any) -> None:
    """Compare files with the digests that were written down when they were saved.

    Args:
        record: the file that holds the digests; the others lie in its folder.
        digests: what :func:`digests_of` gave.

    Raises:
        ModelError: a file is missing or is not the one that was saved, or these are no digests.
    """
    if not isinstance(digests, dict):
        raise ModelError(f'"files" is no object in {record}; save it again')
    for name, digest in digests.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{record} names {name!r}, which is not in its own folder; save it again")
        file = record.parent / name
        try:
            found = _sha256(file) if file.is_file() else None
        except OSError as error:
            raise ModelError(f"cannot read {file}: {error.strerror or error}") from error
        if found is None:
            raise ModelError(f"{record.parent} lacks {name}; copy the whole folder again")
        if found != digest:
            raise ModelError(
                f"{file} is damaged, or is not the file that {record.name} was saved with; copy the whole "
                "folder again"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
