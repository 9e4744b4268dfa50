"""Finding and reading the files of public datasets: delimited text and objects, one a line.

Delimited text may lack a header line, and may be partly UTF-8 and partly Latin-1.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import pyarrow as pa

from notellm.data.problems import Report
from notellm.data.reading.delimited import read_delimited as read_rows
from notellm.data.reading.dialect import Dialect
from notellm.data.reading.encoding import UTF8, decoded_blocks, lines_in
from notellm.data.reading.objects import parse_object
from notellm.errors import DataError, StorageError

_SURROGATE = re.compile("[\ud800-\udfff]")
# Undecodable bytes are read as surrogates. Windows-1252 is Latin-1 with letters in place of control codes.
_LATIN1 = {
    0xDC00 + byte: bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in range(0x80, 0x100)
}
_CHUNK_ROWS = 50_000
#: The type of text in ``Rows``, and columns of notes there.
TEXT = pa.large_string()
NOTE_COLUMNS = {
    "note_id": TEXT,
    "title": TEXT,
    "content": TEXT,
    "topics": pa.large_list(TEXT),
    "category": TEXT,
}


@dataclass(frozen=True)
class RawData:
    """What a reader of a public dataset returns.

    Attributes:
        notes: raw notes, for ``validate``: columns and types of ``RAW_NOTES``.
        clicks: raw clicks, for ``validate``: columns and types of ``RAW_CLICKS``; or only ``user_id`` and
            ``note_id``, as text, if the dataset has no times.
        report: what the reader left out, changed or decided.
    """

    notes: pa.Table
    clicks: pa.Table
    report: Report


def read_delimited(
    path: Path,
    names: Sequence[str],
    report: Report,
    *,
    delimiter: str = ",",
    quoting: bool = True,
    latin1: bool = False,
    mend: Callable[[str], str] | None = None,
) -> pa.Table:
    """Read columns of a dataset's text file, with or without a header line.

    Args:
        path: the file.
        names: the columns to read: those with these names if the first row contains all of them, else the
            first columns, in this order.
        report: receives rows with another number of cells, which are left out, and broken text.
        delimiter: the character between cells.
        quoting: false if a double quote is an ordinary character.
        latin1: true if bytes that are not UTF-8 are Latin-1 (Windows-1252), as in files of mixed origin.
        mend: changes each line, with its line end, before it is split into cells.

    Returns:
        The named columns as text.

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if the first row has some of the names but not all, or no row can be read.
    """

    def choose(first: list[str]) -> dict[str, int] | None:
        if set(names) <= set(first):
            return {name: first.index(name) for name in names}
        if set(names) & set(first):
            missing = [name for name in names if name not in first]
            raise DataError(
                f"{path} has no column {', '.join(missing)}; its first line is {', '.join(first)}"
            )
        if len(first) < len(names):
            raise DataError(f"{path} has {len(first)} columns on line 1; it must have {', '.join(names)}")
        return None

    blocks = decoded_blocks(path, UTF8)
    if latin1 or mend is not None:
        lines = lines_in(blocks, newline="")
        decoded = _decode_latin1(lines, path, report) if latin1 else lines
        blocks = _joined(decoded if mend is None else map(mend, decoded))
    dialect = Dialect(delimiter, "double" if quoting else "none", is_guess=False)
    table = read_rows(blocks, path, choose, report, dialect, names=names)
    if not table.num_rows:
        raise DataError(f"{path} has a header but no row that can be read")
    return table


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Join lines to blocks."""
    rest = iter(lines)
    while block := "".join(islice(rest, _CHUNK_ROWS)):
        yield block


def _decode_latin1(lines: Iterable[str], path: Path, report: Report) -> Iterator[str]:
    count, example = 0, ""
    for number, line in enumerate(lines, start=1):
        read = line if line.isascii() else line.translate(_LATIN1)
        if read != line:
            count += 1
            example = example or f"line {number}: {read.strip()}"
        yield read
    report.add("bytes that are not UTF-8", path.name, count, example, "read as Latin-1")


def read_lines(path: Path, report: Report, *, latin1: bool = False) -> Iterator[str]:
    """Yield the lines of a text file without their ends; arguments and errors as :func:`read_delimited`."""
    lines = lines_in(decoded_blocks(path, UTF8), newline="\n")
    for line in _decode_latin1(lines, path, report) if latin1 else lines:
        yield line.rstrip("\r\n")


def read_objects(path: Path, report: Report) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file that has one a line, as JSON or as a Python literal.

    Args:
        path: the file, gzipped or not.
        report: receives, after the last line, the lines that are no object and are left out.

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if no line is an object.
    """
    good, bad, first_bad, broken, first_broken = 0, 0, "", 0, ""
    for number, raw in enumerate(lines_in(decoded_blocks(path, UTF8), newline="\n"), start=1):
        line = raw if raw.isascii() else _SURROGATE.sub("\ufffd", raw)
        if not line.strip():
            continue
        if line != raw:
            broken += 1
            first_broken = first_broken or f"line {number}: {line.strip()}"
        try:
            value = parse_object(line)
            reason = "" if isinstance(value, dict) else f"{type(value).__name__}, not an object"
        except ValueError as error:
            reason = str(error)
        if reason:
            bad += 1
            first_bad = first_bad or f"line {number}: {reason}"
        else:
            good += 1
            yield value
    if not good:
        raise DataError(f"{path} has no line that is an object; {first_bad or 'it is empty'}")
    report.add("no object", path.name, bad, first_bad, "lines left out")
    report.add("broken UTF-8", path.name, broken, first_broken, "broken bytes became U+FFFD")


def cell(value: Any) -> str | None:
    """Return a value of an object as text; None stays None."""
    return None if value is None else str(value)


def first_line(path: Path) -> str:
    """Return the first line of a text file without its end; errors as :func:`read_delimited`."""
    return next(lines_in(decoded_blocks(path, UTF8), newline="\n"), "").rstrip("\r\n")


class Rows:
    """Collects rows of Python values as Arrow columns, so that a long file needs little memory.

    Args:
        columns: the names of the columns, each with its type.
    """

    def __init__(self, columns: dict[str, pa.DataType]) -> None:
        self._schema = pa.schema(columns)
        self._rows: list[tuple[Any, ...]] = []
        self._chunks: list[pa.RecordBatch] = []

    def add(self, *cells: Any) -> None:
        """Add a row, in the order of the columns."""
        self._rows.append(cells)
        if len(self._rows) == _CHUNK_ROWS:
            self._flush()

    def table(self) -> pa.Table:
        """Return the rows that were added."""
        self._flush()
        return pa.Table.from_batches(self._chunks, self._schema)

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            try:
                arrays = [pa.array(c, t) for c, t in zip(columns, self._schema.types, strict=True)]
            except UnicodeEncodeError:  # JSON can write half of a surrogate pair
                columns = [[_whole(cell) for cell in column] for column in columns]
                arrays = [pa.array(c, t) for c, t in zip(columns, self._schema.types, strict=True)]
            self._chunks.append(pa.record_batch(arrays, schema=self._schema))
            self._rows = []


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    return [_whole(item) for item in value] if isinstance(value, list) else value


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
