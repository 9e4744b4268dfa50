"""Text files of rows, delimited or JSON lines, gzipped or not, as Arrow tables of text columns.

Rows that do not fit (another number of cells than the header, invalid JSON) are left out, and broken UTF-8
becomes U+FFFD; a report counts both and shows the first line.
"""

import csv
import gzip
import io
import itertools
import json
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyarrow as pa
from tqdm import tqdm

from notellm.data.problems import Report
from notellm.errors import DataError, StorageError

_CHUNK_ROWS = 50_000
_SURROGATE = re.compile("[\ud800-\udfff]")
# Fed to the CSV parser after the last line. If it does not come out as a row, it is inside an unclosed quote.
_END = "\x00end of file\x00"


@contextmanager
def open_text(path: Path, newline: str) -> Iterator[Iterable[str]]:
    """Yield the lines of a text file, gzipped or not, with a progress bar after 2 seconds.

    Args:
        path: the file, in UTF-8 with or without a byte order mark; undecodable bytes become surrogates.
        newline: as in ``open``.

    Raises:
        StorageError: if the file cannot be read.
        DataError: if it is UTF-16, or a damaged gzip file.
    """
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{path} is UTF-16; save it as UTF-8")
            zipped = path.suffix.lower() == ".gz"
            source: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
            size = path.stat().st_size
            with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False) as bar:
                yield _with_progress(text, raw, bar)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _with_progress(text: TextIO, raw: BinaryIO, bar: "tqdm[Any]") -> Iterator[str]:
    for number, line in enumerate(text):
        if not number % _CHUNK_ROWS:
            bar.update(raw.tell() - bar.n)
        yield line


def read_rows(
    lines: Iterable[str],
    path: Path,
    choose: Callable[[list[str]], dict[str, str] | None],
    report: Report,
    *,
    delimiter: str,
    names: Sequence[str] = (),
    quoting: bool = True,
) -> pa.Table:
    """Read delimited text as columns of text.

    Args:
        lines: the lines of the file.
        path: the file, for messages.
        choose: takes the first row and returns the columns to read, as the file's name by ours; or None if
            the row is not a header, and then ``names`` are the first columns.
        report: receives what could not be read.
        delimiter: the character between cells.
        names: names of the first columns of a file without a header.
        quoting: false if a double quote is an ordinary character.

    Raises:
        DataError: if a quote is not closed, a wanted column comes twice, or no row can be read.
    """
    limit = csv.field_size_limit(sys.maxsize)
    try:
        rows: Iterator[list[str]]
        rows = reader = csv.reader(
            itertools.chain(lines, [_END]),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        )
        first = next(row for row in rows if row)
        if first == [_END]:
            raise DataError(f"{path} is empty")
        header = [cell.strip() for cell in first]
        wanted = choose(header)
        if wanted is None:
            wanted = {name: name for name in names}
            places = list(range(len(wanted)))
            rows, after = itertools.chain([first], rows), reader.line_num
        else:
            _refuse_twice(header, list(wanted.values()), path)
            places = [header.index(theirs) for theirs in wanted.values()]
            after = reader.line_num + 1
        collect = _Columns(list(wanted), path, report)
        ragged, first_ragged, row, width = 0, "", first, len(header)
        begins = after
        for row in rows:
            begins, after = after, reader.line_num + 1
            if row == [_END]:
                break
            if len(row) == width or (len(row) > width and not any(row[width:])):
                collect.add([row[i] for i in places], begins)
            elif row:
                ragged += 1
                first_ragged = first_ragged or f"line {begins}: {len(row)} cells, not {width}"
        if row != [_END]:
            raise DataError(
                f"{path}: the row that begins on line {begins} opens a double quote that is never "
                "closed; close it, or double it where it is part of the text"
            )
    finally:
        csv.field_size_limit(limit)
    action = "rows left out"
    report.add("other number of cells than the header", path.name, ragged, first_ragged, action)
    return collect.table()


def read_json_lines(
    lines: Iterable[str],
    path: Path,
    names: dict[str, str],
    choose: Callable[[list[str]], dict[str, str]],
    report: Report,
) -> pa.Table:
    """Read JSON lines as columns of text: numbers in decimal, lists as JSON.

    Args:
        lines: the lines of the file.
        path: the file, for messages.
        names: the file's name of each column by ours.
        choose: takes the names that occur in the file and returns the columns to keep, as the file's name by
            ours.
        report: receives what could not be read.

    Raises:
        DataError: if no line is a JSON object.
    """
    seen: dict[str, None] = {}
    collect = _Columns(list(names), path, report)
    invalid, first_invalid = 0, ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            reason = "" if isinstance(value, dict) else f"{type(value).__name__}, not an object"
        except (ValueError, RecursionError) as error:
            reason = str(error)
        if reason:
            invalid += 1
            first_invalid = first_invalid or f"line {number}: {reason}"
            continue
        seen.update(dict.fromkeys(value))
        collect.add([_json_cell(value.get(theirs)) for theirs in names.values()], number)
    report.add("no JSON object", path.name, invalid, first_invalid, "lines left out")
    if not seen:
        raise DataError(
            f"{path} has no line that is a JSON object; {first_invalid or 'it is empty'}; write "
            "one object per line"
        )
    wanted = choose(list(seen))
    return collect.table().select(list(wanted))


def _refuse_twice(header: list[str], wanted: list[str], path: Path) -> None:
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} more than once; rename one of them")


def _json_cell(value: Any) -> str | None:
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        return None if math.isnan(value) else str(value)
    return json.dumps(value, ensure_ascii=False)


class _Columns:
    """Collects rows of cells into columns of Arrow text, one chunk at a time."""

    def __init__(self, names: list[str], path: Path, report: Report) -> None:
        self._names = names
        self._path = path
        self._report = report
        self._rows: list[list[str | None]] = []
        self._lines: list[int] = []
        self._chunks: list[pa.Table] = []
        self._broken = 0
        self._first_broken = ""

    def add(self, row: list[str | None] | list[str], line: int) -> None:
        self._rows.append(row)  # type: ignore[arg-type]
        self._lines.append(line)
        if len(self._rows) == _CHUNK_ROWS:
            self._flush()

    def table(self) -> pa.Table:
        if self._rows:
            self._flush()
        if not self._chunks:
            raise DataError(f"{self._path} has a header but no row that can be read")
        action = "broken bytes became U+FFFD"
        self._report.add("broken UTF-8", self._path.name, self._broken, self._first_broken, action)
        return pa.concat_tables(self._chunks)

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True)
        try:
            arrays = [pa.array(column, pa.large_string()) for column in columns]
        except UnicodeEncodeError:
            self._repair()
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(column, pa.large_string()) for column in columns]
        self._chunks.append(pa.table(arrays, names=self._names))
        self._rows, self._lines = [], []

    def _repair(self) -> None:
        """Replace undecodable bytes (which were read as surrogates) and lone surrogates by U+FFFD."""
        for i, row in enumerate(self._rows):
            if any(cell and _SURROGATE.search(cell) for cell in row):
                self._rows[i] = [cell and _SURROGATE.sub("\ufffd", cell) for cell in row]
                self._broken += 1
                cells = " | ".join(cell or "" for cell in self._rows[i])
                self._first_broken = self._first_broken or f"line {self._lines[i]}: {cells}"
