"""Reading notes and clicks from Parquet, CSV, TSV and JSON lines into raw Arrow tables.

``read_notes("notes.csv")`` and ``read_clicks("clicks.parquet")`` return the raw table (columns and
types of ``NOTES`` and ``CLICKS``, nulls allowed) and the report of what could not be read;
``validate`` cleans it. What a cell may look like is written in ``notellm.data.convert``. The files:

- ``.parquet``: any column types that can be converted.
- ``.csv`` and ``.tsv``: UTF-8 with a header line, with or without a byte order mark, any line ends.
  A cell that begins with a double quote ends at the closing one and may hold separators and new
  lines, in TSV too.
- ``.jsonl`` and ``.ndjson``: one JSON object a line.
- ``.csv.gz``, ``.tsv.gz``, ``.jsonl.gz``, ``.ndjson.gz``: the same, gzipped.

Rows that do not fit (other number of cells than the header, invalid JSON) are left out, broken
UTF-8 becomes U+FFFD, and both are reported with the count and the first line. Text files are read
at about 200 thousand rows a second; Parquet is some ten times faster.
"""

import csv
import gzip
import io
import itertools
import json
import logging
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO, overload

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from notellm.data.convert import raw_clicks, raw_notes, require
from notellm.data.hashtags import add_topics, split_hashtags
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES
from notellm.errors import ConfigError, DataError, StorageError

_LOG = logging.getLogger(__name__)
_TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson")
_CHUNK_ROWS = 50_000
_SURROGATE = re.compile("[\ud800-\udfff]")
# Fed to the CSV parser after the last line: if it does not come out as a row, a quote swallowed it.
_END = "\x00end of file\x00"


@dataclass(frozen=True)
class ReadResult:
    """A raw table and what could not be read.

    Attributes:
        table: columns and types of ``NOTES`` or ``CLICKS``, where values may be null.
        report: problems of the file, each with a count and the first line.
    """

    table: pa.Table
    report: Report


def read_notes(
    path: str | Path, *, columns: Mapping[str, str] | None = None, hashtags: bool = False
) -> ReadResult:
    """Read a note table.

    Args:
        path: a Parquet, CSV, TSV or JSON lines file with a column ``note_id`` and ``title`` or
            ``content`` (or both), and ``topics``, ``category`` and ``published_at`` if it has them.
        columns: the file's name for ours where it differs, as ``{"note_id": "item_id"}``.
        hashtags: move the hashtags of title and content to the topics (``split_hashtags``).

    Raises:
        StorageError: the file is not there or cannot be read.
        DataError: its format is unknown, a column is missing, or no row can be read.
        ConfigError: ``columns`` has a name that is not a column of ``NOTES``.
    """
    report = Report()
    cells = _read(Path(path), NOTES.names, columns or {}, report)
    for name in NOTES.names:
        if name not in cells.column_names:
            action = "empty in every note"
            report.add(f"no column {name!r}", Path(path).name, cells.num_rows, "", action)
    table = raw_notes(cells, Path(path).name, report)
    if hashtags:
        table = _move_hashtags(table)
    return ReadResult(table, report)


def read_clicks(path: str | Path, *, columns: Mapping[str, str] | None = None) -> ReadResult:
    """Read a click log.

    Args:
        path: a Parquet, CSV, TSV or JSON lines file with columns ``user_id`` and ``note_id``, and
            ``timestamp`` (else the order of the rows is the time) and ``event`` (else all "click")
            if it has them.
        columns: the file's name for ours where it differs, as ``{"timestamp": "time"}``.

    Raises:
        StorageError: the file is not there or cannot be read.
        DataError: its format is unknown, a column is missing, or no row can be read.
        ConfigError: ``columns`` has a name that is not a column of ``CLICKS``.
    """
    report = Report()
    cells = _read(Path(path), CLICKS.names, columns or {}, report)
    return ReadResult(raw_clicks(cells, Path(path).name, report), report)


def read_delimited(
    path: Path, names: Sequence[str], *, delimiter: str = ",", quoting: bool = True
) -> pa.Table:
    """Read the cells of a dataset's text file that may or may not have a header line.

    Rows that do not fit are left out, with a warning in the log.

    Args:
        path: the file.
        names: the columns to read: those with these names if the first row holds all of them, else
            the first ones, in this order.
        delimiter: what separates cells.
        quoting: false where a double quote is a letter as any other.

    Returns:
        The named columns as text.

    Raises:
        StorageError: the file is not there or cannot be read.
        DataError: no row can be read.
    """
    report = Report()

    def choose(first: list[str]) -> dict[str, str] | None:
        if set(names) <= set(first):
            return {name: name for name in names}
        if len(first) < len(names):
            raise DataError(f"{path} has {len(first)} columns on line 1; it must have {', '.join(names)}")
        return None

    with _open_text(path, newline="") as lines:
        table = _read_delimited(
            lines, path, choose, report, delimiter=delimiter, names=names, quoting=quoting
        )
    if len(report):
        _LOG.warning("%s: rows that do not fit\n%s", path, report)
    return table


@overload
def find_file(folder: str | Path, *patterns: str) -> Path: ...
@overload
def find_file(folder: str | Path, *patterns: str, needed: bool) -> Path | None: ...
def find_file(folder: str | Path, *patterns: str, needed: bool = True) -> Path | None:
    """The one file of a folder that matches the first pattern that any matches.

    Args:
        folder: where a dataset lies.
        patterns: names, or patterns with ``*``, best first.
        needed: false where the dataset may lack it; then None stands for "not there".

    Raises:
        StorageError: there is no such folder.
        DataError: no file matches and it is needed, or several match the same pattern.
    """
    place = Path(folder)
    if not place.is_dir():
        raise StorageError(f"no such folder: {place}")
    for pattern in patterns:
        found = sorted(place.glob(pattern))
        if len(found) > 1:
            raise DataError(
                f"{place} has {len(found)} files {pattern}, as {found[0].name} and {found[1].name}; keep one"
            )
        if found:
            return found[0]
    if needed:
        raise DataError(f"{place} has no file {' or '.join(patterns)}; give the dataset's folder")
    return None


def _read(path: Path, names: list[str], columns: Mapping[str, str], report: Report) -> pa.Table:
    """The wanted columns of a file, under our names, of whatever type they have."""
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ConfigError(
            f"columns option: {unknown[0]!r} is not one of our columns {', '.join(names)}; "
            "write our name first, then the file's"
        )
    if path.is_dir():
        raise DataError(f"{path} is a folder; give one file")
    if not path.is_file():
        raise StorageError(f"no such file: {path}")
    kind = Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if path.suffix.lower() != ".parquet" and kind not in _TEXT_FORMATS:
        raise DataError(
            f"{path} ends in {path.suffix!r}; it must be .parquet, {', '.join(_TEXT_FORMATS)} or "
            "one of these texts with .gz"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty")

    def choose(found: list[str]) -> dict[str, str]:
        for ours, theirs in columns.items():
            if theirs not in found:
                raise DataError(
                    f"{path} has no column {theirs!r}, which the columns option names for {ours}; "
                    f"its columns are {', '.join(map(repr, found))}"
                )
        wanted = {name: columns.get(name, name) for name in names}
        wanted = {ours: theirs for ours, theirs in wanted.items() if theirs in found}
        _check_columns(list(wanted), names, found, path)
        return wanted

    if kind == ".parquet":
        return _read_parquet(path, choose)
    if kind in (".jsonl", ".ndjson"):
        with _open_text(path, newline="\n") as lines:
            return _read_json(lines, path, {n: columns.get(n, n) for n in names}, choose, report)
    with _open_text(path, newline="") as lines:
        delimiter = "\t" if kind == ".tsv" else ","
        return _read_delimited(lines, path, choose, report, delimiter=delimiter)


def _check_columns(ours: list[str], names: list[str], found: list[str], path: Path) -> None:
    """Every needed column is there, before hours are spent on reading the rest."""
    needed = ["user_id", "note_id"] if "user_id" in names else ["note_id"]
    if "title" in names and not {"title", "content"} & set(ours):
        needed.append("title")
    require(found, tuple(name for name in needed if name not in ours), str(path))


def _read_parquet(path: Path, choose: Callable[[list[str]], dict[str, str]]) -> pa.Table:
    try:
        wanted = choose(pq.read_schema(path).names)
        table = pq.read_table(path, columns=list(wanted.values()))
        table.validate(full=True)  # a text that is not UTF-8 would fail far from here
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    return pa.table({ours: table.column(theirs) for ours, theirs in wanted.items()})


def _read_delimited(
    lines: Iterable[str],
    path: Path,
    choose: Callable[[list[str]], dict[str, str] | None],
    report: Report,
    *,
    delimiter: str,
    names: Sequence[str] = (),
    quoting: bool = True,
) -> pa.Table:
    """Cells of a delimited text as columns of text.

    ``choose`` takes the first row and returns the columns to read, or None when it is no header;
    then ``names`` are the first columns.
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
            where = list(range(len(wanted)))
            rows, after = itertools.chain([first], rows), reader.line_num
        else:
            _refuse_twice(header, list(wanted.values()), path)
            where = [header.index(theirs) for theirs in wanted.values()]
            after = reader.line_num + 1
        collect = _Columns(list(wanted), path, report)
        ragged, first_ragged, row, width = 0, "", first, len(header)
        begins = after
        for row in rows:
            begins, after = after, reader.line_num + 1
            if row == [_END]:
                break
            if len(row) == width or (len(row) > width and not any(row[width:])):
                collect.add([row[i] for i in where], begins)
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


def _refuse_twice(header: list[str], wanted: list[str], path: Path) -> None:
    twice = [name for name in wanted if header.count(name) > 1]
    if twice:
        raise DataError(f"{path} has the column {twice[0]!r} more than once; rename one of them")


def _read_json(
    lines: Iterable[str],
    path: Path,
    names: dict[str, str],
    choose: Callable[[list[str]], dict[str, str]],
    report: Report,
) -> pa.Table:
    """Wanted values of JSON lines as columns of text: numbers in decimal, lists as JSON."""
    found: dict[str, None] = {}
    collect = _Columns(list(names), path, report)
    invalid, first_invalid = 0, ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            reason = "" if isinstance(value, dict) else f"{type(value).__name__}, no object"
        except (ValueError, RecursionError) as error:
            reason = str(error)
        if reason:
            invalid += 1
            first_invalid = first_invalid or f"line {number}: {reason}"
            continue
        found.update(dict.fromkeys(value))
        collect.add([_json_cell(value.get(theirs)) for theirs in names.values()], number)
    report.add("no JSON object", path.name, invalid, first_invalid, "lines left out")
    if not found:
        raise DataError(
            f"{path} has no line that is a JSON object; {first_invalid or 'it is empty'}; write "
            "one object a line"
        )
    wanted = choose(list(found))
    return collect.table().select(list(wanted))


def _json_cell(value: Any) -> str | None:
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, float):
        if value.is_integer():
            return str(int(value))
        return None if math.isnan(value) else str(value)
    return json.dumps(value, ensure_ascii=False)


class _Columns:
    """Collects rows of cells into columns of Arrow text, a chunk at a time."""

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
        """Replace what is no Unicode: undecodable bytes (read as surrogates), lone surrogates."""
        for i, row in enumerate(self._rows):
            if any(cell and _SURROGATE.search(cell) for cell in row):
                self._rows[i] = [cell and _SURROGATE.sub("\ufffd", cell) for cell in row]
                self._broken += 1
                cells = " | ".join(cell or "" for cell in self._rows[i])
                self._first_broken = self._first_broken or f"line {self._lines[i]}: {cells}"


@contextmanager
def _open_text(path: Path, newline: str) -> Iterator[Iterable[str]]:
    """Lines of a text file, gzipped or not, with a progress bar once it takes longer than 2 s."""
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise DataError(f"{path} is UTF-16; save it as UTF-8")
            zipped = path.suffix.lower() == ".gz"
            source: Any = gzip.GzipFile(fileobj=raw) if zipped else raw
            text = io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
            size = path.stat().st_size
            with tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False) as bar:
                yield _watched(text, raw, bar)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _watched(text: TextIO, raw: BinaryIO, bar: "tqdm[Any]") -> Iterator[str]:
    for number, line in enumerate(text):
        if not number % _CHUNK_ROWS:
            bar.update(raw.tell() - bar.n)
        yield line


def _move_hashtags(table: pa.Table) -> pa.Table:
    titles, contents, topics = [], [], []
    for title, content, own in zip(
        *(table.column(name).to_pylist() for name in ("title", "content", "topics")), strict=True
    ):
        title_text, title_tags = split_hashtags(title or "")
        content_text, content_tags = split_hashtags(content or "")
        titles.append(title_text)
        contents.append(content_text)
        topics.append(add_topics(own or [], title_tags + content_tags))
    columns = {"title": titles, "content": contents, "topics": topics}
    for name, values in columns.items():
        place = table.column_names.index(name)
        kind = table.schema.field(name)
        table = table.set_column(place, kind, pa.array(values, kind.type))
    return table
