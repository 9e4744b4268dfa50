"""docs/forms.md is true: every row of its tables is read, and says what comes of it.

A comment before each table says what its rows are: cells of one kind ("cells: ids"), or files, and the
columns that are shown of them ("files: clicks user_id note_id").
"""

import bz2
import gzip
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.cells.ids import ids
from notellm.data.cells.texts import texts
from notellm.data.cells.times import times
from notellm.data.cells.topics import topics
from notellm.data.problems import Report
from notellm.errors import ConfigError, DataError, StorageError
from notellm.jobs.prepare import Sources, clean, read_sources
from notellm.jobs.prepare_options import PrepareOptions
from notellm.options import annotation
from tests.data.cells.reading import array_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "forms.md").read_text(encoding="utf-8")
HEADER = ["input", "read as", "what the report says", "option that states it"]
CELLS = {"ids": ids, "texts": texts, "times": times, "topics": topics}
SECTIONS = [
    "Ids", "Times", "Missing values", "Topics", "Markup", "Nested values", "Separators", "Quoting",
    "Encodings", "Compression", "JSON", "Files, folders and patterns", "Columns", "Ratings", "Events",
    "Order without times", "Limit of users",
]  # fmt: skip
ESCAPE = re.compile(rb"\\(n|t|r|0|x[0-9a-f]{2})")
FILE = re.compile(r"`([^`]+)`(?: in ([\w-]+))?(?:, by (\w+))?: `([^`]+)`")
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "lz4": lambda data: pa.compress(data, codec="lz4", asbytes=True),
}
NOTES = pa.table({"note_id": ["1", "2"], "title": ["a", "b"]})


@dataclass(frozen=True)
class Row:
    """A row of a table of the document, with the section and the comment of the table."""

    section: str
    of: str
    given: str
    read_as: str
    says: str
    option: str


def rows_of(document):
    section = of = ""
    rows = []
    for line in document.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif match := re.fullmatch(r"<!-- ((?:cells|files): .*) -->", line):
            of = match[1]
        elif line.startswith("|"):
            parts = [part.strip().replace(r"\|", "|") for part in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(parts) == 4, line
            if parts != HEADER and set(line) - set("|-"):
                rows.append(Row(section, of, *parts))
    return rows


ROWS = rows_of(DOCUMENT)


def spans(text):
    """The values of a cell of the document: code is a text, the words missing and empty are what they say."""
    found = re.findall(r"`([^`]*)`|\b(missing|empty)\b", text)
    return [None if word == "missing" else code for code, word in found]


def unescaped(text):
    def replaced(match):
        name = match[1]
        return (
            bytes([int(name[1:], 16)]) if name[:1] == b"x" else b"\n\t\r\0"[(i := b"ntr0".find(name)) : i + 1]
        )

    return ESCAPE.sub(replaced, text.encode())


def shown(value):
    if isinstance(value, datetime):
        text = value.isoformat(" ").removesuffix("+00:00")
        return text.removesuffix(" 00:00:00")
    return value


def options_of(text):
    """The option of the last column as (options of prepare, columns by table)."""
    values: dict[str, Any] = {}
    columns: dict[str, dict[str, str]] = {}
    words = shlex.split(text)
    known = {each.name for each in fields(PrepareOptions)}
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        if name == "no_header":
            values["header"] = False
        elif name.endswith("column"):
            ours, _, theirs = words.pop(0).partition("=")
            columns.setdefault(name.removesuffix("column").removesuffix("_"), {})[ours] = theirs
        else:
            assert name in known, f"--{name} is no option of prepare"
            value = words.pop(0)
            kind = annotation(PrepareOptions, name)
            if "list" in str(kind):
                values.setdefault(name, []).append(value)
            else:
                values[name] = float(value) if "float" in str(kind) else int(value) if kind is int else value
    return PrepareOptions(**values), columns


def read_cells(row, option):
    """Read the cells of the first column; return values and the report."""
    kind = row.given.startswith(("numbers ", "objects "))
    values = spans(row.given)
    if kind:
        values = [None if value is None else json.loads(value) for value in values]
    else:
        values = [None if value is None else unescaped(value).decode() for value in values]
    report = Report()
    chosen = options_of(option)[0].of("notes", {})
    column = pa.chunked_array([array_of(values)])
    found = CELLS[row.of.split()[1]](column, "t.csv: c", report, chosen).to_list()
    return [each for cell in found for each in cell] if "topics" in row.of else list(
        map(shown, found)
    ), report


def written(row, folder):
    """Write the files of the first column; return what is to be read."""
    path = None
    for name, encoding, packing, content in FILE.findall(row.given):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            rows = json.loads(content)
            names = dict.fromkeys(name for each in rows for name in each)
            columns = {name: array_of([each.get(name) for each in rows]) for name in names}
            pq.write_table(pa.table(columns), path)
            continue
        data = content.replace("\\n", "\n").encode(encoding) if encoding else unescaped(content)
        path.write_bytes(PACKED[packing](data) if packing else data)
    assert path is not None, row.given
    stated = re.search(r"read as (?:the folder|the pattern) `([^`]+)`", row.given)
    return folder / stated[1] if stated else path


def read_files(row, option, folder):
    """Read the files of the first column; return the rows, as texts, and the report."""
    table, *names = row.of.split()[1:]
    options, columns = options_of(option)
    path = written(row, folder)
    if table == "notes":
        raw = read_sources(Sources(path, columns=columns), options)
        read, report = raw.notes, raw.report
    else:
        notes = folder / "the_notes.parquet"  # which the options of delimited files do not touch
        pq.write_table(NOTES, notes)
        shared = columns.pop("", {})
        columns["clicks"] = columns.get("clicks", {}) | shared
        raw = read_sources(Sources(notes, path, columns=columns), options)
        read, report = raw.clicks, Report([each for each in raw.report.problems if each.where != notes.name])
        if table == "cleaned":
            _, log, report = clean(raw, options)
            read = log.table()
            report = Report([each for each in report.problems if each.where != notes.name])
    rows = zip(*(read.column(name).to_pylist() for name in names), strict=True)
    lines = [" ".join("-" if cell in (None, "", []) else str(shown(cell)) for cell in each) for each in rows]
    return [line.replace("\n", "\\n") for line in lines], report


def said(report):
    """The problems by name, without the columns that are simply not there."""
    counts: dict[str, int] = {}
    for each in report.problems:
        if not re.fullmatch(r"no column '\w+'", each.problem):
            counts[each.problem] = counts.get(each.problem, 0) + each.count
    return counts


def compare(found, expected, more):
    """Compare values; after "…" there may be further ones."""
    assert found[: len(expected)] == expected if more else found == expected, (found, expected)


def check(row, folder):
    """Read the input of a row as it is and with its option, and compare with what the row says."""

    def read(option, name):
        (folder / name).mkdir()
        return (
            read_cells(row, option) if row.of.startswith("cells") else read_files(row, option, folder / name)
        )

    option = next(iter(re.findall(r"`(--[^`]*)`", row.option)), "")
    if row.read_as.startswith("an error"):
        with pytest.raises((DataError, ConfigError, StorageError)) as refused:
            read("", "plain")
        for part in spans(row.read_as):
            assert part in str(refused.value)
        assert row.says == "—"
    else:
        found, report = read("", "plain")
        compare(found, spans(row.read_as), "…" in row.read_as)
        expected = re.findall(r"`([^`]+)`(?: \((\d+)\))?", row.says)
        assert set(said(report)) == {name for name, _ in expected}
        for name, count in expected:
            assert not count or said(report)[name] == int(count)
    if option:
        other = row.option.partition(" reads ")[2]
        if not other and row.read_as.startswith("an error"):
            raise AssertionError("what the option reads is missing")
        found, report = read(option, "stated")
        compare(found, spans(other or row.read_as), "…" in (other or row.read_as))
        if not other:
            assert option not in report.options
    else:
        assert row.option == "—", row.option


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.section}-{i}" for i, row in enumerate(ROWS)])
def test_a_row_is_true(row, tmp_path):
    check(row, tmp_path)


def test_every_kind_has_rows():
    assert list(dict.fromkeys(row.section for row in ROWS)) == SECTIONS
    assert len(ROWS) > 100


@pytest.mark.parametrize(
    "wrong",
    [
        Row("Ids", "cells: ids", "`7.0`", "`7.0`", "`whole number with a fraction as an id`", "—"),
        Row("Ids", "cells: ids", "`7.0`", "`7`", "—", "—"),
        Row("Ids", "cells: ids", "`7.0`", "`7`", "`whole number with a fraction as an id` (2)", "—"),
        Row("Ids", "cells: ids", "`7`", "an error: `no id`", "—", "—"),
        Row(
            "Times", "cells: times", "`01/02/2019`", "an error: `day first`", "—", "`--time-format day-first`"
        ),
        Row(
            "Separators",
            "files: clicks user_id note_id",
            "`c.csv`: `user_id,note_id\\nu,1\\n`",
            "`u 2`",
            "—",
            "—",
        ),
        Row(
            "Separators",
            "files: clicks user_id note_id",
            "`c.csv`: `user_id;note_id\\nu;1\\n`",
            "`u 1`",
            "`separator that the name does not tell` (2)",
            "`--separator ,`",
        ),
    ],
)
def test_a_wrong_row_is_found(wrong, tmp_path):
    with pytest.raises((AssertionError, DataError, pytest.fail.Exception)):
        check(wrong, tmp_path)
