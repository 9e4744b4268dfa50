"""Finding and reading the text files of public datasets, which may lack a header line."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import pyarrow as pa

from notellm.data.problems import Report
from notellm.data.text_files import open_text, read_rows
from notellm.errors import DataError, StorageError

_LOG = logging.getLogger(__name__)


def read_delimited(
    path: Path, names: Sequence[str], *, delimiter: str = ",", quoting: bool = True
) -> pa.Table:
    """Read columns of a dataset's text file, with or without a header line.

    Rows with another number of cells are left out, with a warning in the log.

    Args:
        path: the file.
        names: the columns to read: those with these names if the first row contains all of them, else the
            first columns, in this order.
        delimiter: the character between cells.
        quoting: false if a double quote is an ordinary character.

    Returns:
        The named columns as text.

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if no row can be read.
    """
    report = Report()

    def choose(first: list[str]) -> dict[str, str] | None:
        if set(names) <= set(first):
            return {name: name for name in names}
        if len(first) < len(names):
            raise DataError(f"{path} has {len(first)} columns on line 1; it must have {', '.join(names)}")
        return None

    with open_text(path, newline="") as lines:
        table = read_rows(lines, path, choose, report, delimiter=delimiter, names=names, quoting=quoting)
    if len(report):
        _LOG.warning("%s: rows that do not fit\n%s", path, report)
    return table


@overload
def find_file(folder: str | Path, *patterns: str) -> Path: ...
@overload
def find_file(folder: str | Path, *patterns: str, needed: bool) -> Path | None: ...
def find_file(folder: str | Path, *patterns: str, needed: bool = True) -> Path | None:
    """Return the only file of a folder that matches a pattern, trying patterns in order.

    Args:
        folder: the dataset's folder.
        patterns: file names, or patterns with ``*``, preferred ones first.
        needed: false if the dataset may lack the file; then None is returned if it does.

    Raises:
        StorageError: if there is no such folder.
        DataError: if no file matches and one is needed, or several match the same pattern.
    """
    dataset = Path(folder)
    if not dataset.is_dir():
        raise StorageError(f"no such folder: {dataset}")
    for pattern in patterns:
        files = sorted(dataset.glob(pattern))
        if len(files) > 1:
            raise DataError(
                f"{dataset} has {len(files)} files {pattern}, as {files[0].name} and {files[1].name}; "
                "keep one"
            )
        if files:
            return files[0]
    if needed:
        raise DataError(f"{dataset} has no file {' or '.join(patterns)}; give the dataset's folder")
    return None
