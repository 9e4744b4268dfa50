"""Read notes and clicks from Parquet, CSV, TSV and JSON lines into raw Arrow tables.

Raw tables have the columns and types of ``NOTES`` and ``CLICKS`` but may contain nulls; ``validate`` cleans
them. How cells are converted is described in ``notellm.data.convert``. The formats are ``.parquet``; ``.csv``
and ``.tsv`` (UTF-8 with a header line; a cell that begins with a double quote ends at the closing one and may
contain separators and new lines, also in TSV); ``.jsonl`` and ``.ndjson`` (one JSON object per line); and
these texts with ``.gz``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.data.convert import raw_clicks, raw_notes, require
from notellm.data.hashtags import add_topics, split_hashtags
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES
from notellm.data.text_files import open_text, read_json_lines, read_rows
from notellm.errors import ConfigError, DataError, StorageError

_TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class ReadResult:
    """A raw table and a report of what could not be read.

    Attributes:
        table: table with the columns and types of ``NOTES`` or ``CLICKS``, where values may be null.
        report: problems of the file, each with a count and the first line.
    """

    table: pa.Table
    report: Report


def read_notes(
    path: str | Path, *, columns: Mapping[str, str] | None = None, hashtags: bool = False
) -> ReadResult:
    """Read a table of notes.

    Args:
        path: a Parquet, CSV, TSV or JSON lines file with a column ``note_id`` and a column ``title`` or
            ``content`` (or both); ``topics``, ``category`` and ``published_at`` are optional.
        columns: the file's name of each column that is named differently, as ``{"note_id": "item_id"}``.
        hashtags: move the hashtags of title and content to the topics (``split_hashtags``).

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if its format is unknown, a column is missing, or no row can be read.
        ConfigError: if ``columns`` has a name that is not a column of ``NOTES``.
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
        path: a Parquet, CSV, TSV or JSON lines file with the columns ``user_id`` and ``note_id``. Without
            ``timestamp`` the order of the rows is the time; without ``event`` every row is a "click".
        columns: the file's name of each column that is named differently, as ``{"timestamp": "time"}``.

    Raises:
        StorageError: if the file is absent or cannot be read.
        DataError: if its format is unknown, a column is missing, or no row can be read.
        ConfigError: if ``columns`` has a name that is not a column of ``CLICKS``.
    """
    report = Report()
    cells = _read(Path(path), CLICKS.names, columns or {}, report)
    return ReadResult(raw_clicks(cells, Path(path).name, report), report)


def _read(path: Path, names: list[str], columns: Mapping[str, str], report: Report) -> pa.Table:
    """Read the columns of a file that are in ``names``, under our names, in the types of the file."""
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

    def choose(present: list[str]) -> dict[str, str]:
        for ours, theirs in columns.items():
            if theirs not in present:
                raise DataError(
                    f"{path} has no column {theirs!r}, which the columns option names for {ours}; "
                    f"its columns are {', '.join(map(repr, present))}"
                )
        wanted = {name: columns.get(name, name) for name in names}
        wanted = {ours: theirs for ours, theirs in wanted.items() if theirs in present}
        _check_columns(list(wanted), names, present, path)
        return wanted

    if kind == ".parquet":
        return _read_parquet(path, choose)
    if kind in (".jsonl", ".ndjson"):
        with open_text(path, newline="\n") as lines:
            return read_json_lines(lines, path, {n: columns.get(n, n) for n in names}, choose, report)
    with open_text(path, newline="") as lines:
        delimiter = "\t" if kind == ".tsv" else ","
        return read_rows(lines, path, choose, report, delimiter=delimiter)


def _check_columns(ours: list[str], names: list[str], present: list[str], path: Path) -> None:
    """Check that every needed column is present, before the rest of the file is read."""
    needed = ["user_id", "note_id"] if "user_id" in names else ["note_id"]
    if "title" in names and not {"title", "content"} & set(ours):
        needed.append("title")
    require(present, tuple(name for name in needed if name not in ours), str(path))


def _read_parquet(path: Path, choose: Callable[[list[str]], dict[str, str]]) -> pa.Table:
    try:
        wanted = choose(pq.read_schema(path).names)
        table = pq.read_table(path, columns=list(wanted.values()))
        table.validate(full=True)  # otherwise text that is not UTF-8 fails later
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} has no rows")
    return pa.table({ours: table.column(theirs) for ours, theirs in wanted.items()})


def _move_hashtags(table: pa.Table) -> pa.Table:
    """Move the hashtags of title and content to the topics."""
    titles, contents, topics = [], [], []
    for title, content, note_topics in zip(
        *(table.column(name).to_pylist() for name in ("title", "content", "topics")), strict=True
    ):
        title_text, title_tags = split_hashtags(title or "")
        content_text, content_tags = split_hashtags(content or "")
        titles.append(title_text)
        contents.append(content_text)
        topics.append(add_topics(note_topics or [], title_tags + content_tags))
    columns = {"title": titles, "content": contents, "topics": topics}
    for name, values in columns.items():
        place = table.column_names.index(name)
        kind = table.schema.field(name)
        table = table.set_column(place, kind, pa.array(values, kind.type))
    return table
