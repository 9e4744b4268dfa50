"""JSON as Arrow columns of text: an object on each line, a list of objects, or objects over several lines.

Lines may hold Python literals instead (``{'id': 7}``), as some public datasets do. Numbers become text in
decimal; of nested values the obvious member is taken, see ``cells/nested.py``.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from notellm.data.cells.nested import NestedCells, Role, at_path
from notellm.data.problems import Report
from notellm.data.reading.collect import Columns
from notellm.data.reading.encoding import lines_in
from notellm.data.reading.json_shapes import Shapes
from notellm.data.reading.objects import LONGEST, parse_object
from notellm.errors import DataError

_SPACE = re.compile(r"[\s,\ufeff]*")
_WHOLE_LINE = re.compile(r"\s*\{.*\}\s*")


@dataclass(frozen=True)
class Wanted:
    """A column to read from objects.

    Attributes:
        name: our name of the column.
        theirs: its name in the objects; members of nested values after points, as "title.en".
        role: what its values are for.
    """

    name: str
    theirs: str
    role: Role


def read_json(
    blocks: Iterable[str],
    path: Path,
    wanted: list[Wanted],
    choose: Callable[[list[str]], list[str]],
    report: Report,
    *,
    needed: list[set[str]],
    most: int | None = None,
    pack: bool = False,
) -> pa.Table:
    """Read objects as columns of text.

    Args:
        blocks: the text, in blocks that end at a line end.
        path: the file, for messages.
        wanted: the columns that are looked for.
        choose: takes the names that occur in the file and returns those of ``wanted`` that are kept.
        report: receives what could not be read.
        needed: groups of names, of each of which a row has one.
        most: number of objects after which reading ends; None reads all.
        pack: keep columns in less memory, see ``collect.packed``.

    Raises:
        DataError: if nothing in the file is an object, or a nested value has no obvious member.
    """
    cells = [NestedCells(each.role, each.name, f"{path.name}: {each.theirs}") for each in wanted]
    seen: dict[str, None] = {}
    columns = Columns([each.name for each in wanted], path, report, pack=pack)
    found, shapes = _Objects(path), Shapes(needed)
    rows = ((row, line) for value, line in found.read(blocks) for row in shapes.rows(value))
    for value, line in rows:
        seen.update(dict.fromkeys(value))
        row = [cell.flat(_member(value, each.theirs)) for cell, each in zip(cells, wanted, strict=True)]
        columns.add(row, line)
        if columns.count == most:
            break
    found.report(report)
    shapes.report(path.name, report)
    if not seen:
        if not found.invalid:
            raise DataError(f"{path} is empty")
        raise DataError(
            f"{path} has no JSON object; {found.first_invalid}; write one object per line, or a list of them"
        )
    kept = choose(list(seen))
    for cell in cells:
        cell.report(report)
    return columns.table().select(kept)


def _member(value: dict[str, Any], name: str) -> Any:
    """Return a member of an object; a name with points is a path unless the object has that very name."""
    if name in value or "." not in name:
        return value.get(name)
    return at_path(value, name.split("."))


class _Objects:
    """Finds the objects in a text and counts what is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.invalid = 0
        self.first_invalid = ""
        self._literals = 0
        self._first_literal = ""
        self._repeated = 0
        self._first_repeated = ""
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def report(self, report: Report) -> None:
        """Add what was no object, or no JSON."""
        report.add("no JSON object", self.path.name, self.invalid, self.first_invalid, "left out")
        report.add(
            "Python literal instead of JSON",
            self.path.name,
            self._literals,
            self._first_literal,
            "read as such",
        )
        action = "the last value counts"
        report.add("key twice in an object", self.path.name, self._repeated, self._first_repeated, action)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            self._repeated += 1
            twice = next(name for name in names if names.count(name) > 1)
            self._first_repeated = self._first_repeated or twice
        return value

    def read(self, blocks: Iterable[str]) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each object with the line on which it begins."""
        source = iter(blocks)
        begin = ""
        for block in source:
            begin += block
            if begin.strip("\ufeff \t\r\n"):
                break
        rest = _chained(begin, source)
        first = next((line for line in begin.lstrip("\ufeff").splitlines() if line.strip()), "")
        is_lines = first.lstrip().startswith("{") and (_WHOLE_LINE.fullmatch(first) or not _is_open(first))
        yield from self._lines(rest) if is_lines else self._stream(rest)

    def _lines(self, blocks: Iterable[str]) -> Iterator[tuple[dict[str, Any], int]]:
        for number, line in enumerate(lines_in(blocks, newline="\n"), start=1):
            if not line.strip("\ufeff \t\r\n"):
                continue
            try:
                values = self._values(line)
            except (ValueError, RecursionError):
                try:
                    values = [parse_object(line.strip("\ufeff"))]
                except ValueError as error:
                    self._refuse(number, str(error))
                    continue
                self._literals += 1
                self._first_literal = self._first_literal or f"line {number}: {line.strip()}"
            for value in values:
                if isinstance(value, dict):
                    yield value, number
                else:
                    self._refuse(number, f"{type(value).__name__}, not an object")

    def _values(self, line: str) -> list[Any]:
        """Return the values of a line: one, or several with or without commas between them."""
        values, place = [], 0
        while (place := _SPACE.match(line, place).end()) < len(line):  # type: ignore[union-attr]
            value, place = self._decoder.raw_decode(line, place)
            values.append(value)
        return values

    def _stream(self, blocks: Iterable[str]) -> Iterator[tuple[dict[str, Any], int]]:
        """Read values one after the other, or those of one list, wherever lines end."""
        source = iter(blocks)
        text, place, line, ended = "", 0, 1, False
        opened_list = False
        while True:
            begin = _SPACE.match(text, place).end()  # type: ignore[union-attr]
            line += text.count("\n", place, begin)
            place = begin
            if place < len(text) and text[place] == "[" and not opened_list:
                opened_list = True
                place += 1
                continue
            if place < len(text) and text[place] == "]" and opened_list:
                opened_list = False
                place += 1
                continue
            value, end = None, -1
            if place < len(text):
                try:
                    value, end = self._decoder.raw_decode(text, place)
                except (ValueError, RecursionError) as error:
                    if ended or len(text) - place > LONGEST:
                        self._refuse(line, f"{error}")
                        return
            if end < 0:
                if ended:
                    return
                block = next(source, None)
                ended = block is None
                text, place = text[place:] + (block or ""), 0
                continue
            if isinstance(value, dict):
                yield value, line
            else:
                self._refuse(line, f"{type(value).__name__}, not an object")
            line += text.count("\n", place, end)
            place = end

    def _refuse(self, line: int, reason: str) -> None:
        self.invalid += 1
        self.first_invalid = self.first_invalid or f"line {line}: {reason}"


def _chained(first: str, rest: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from rest


def _is_open(line: str) -> bool:
    """Whether a line begins a JSON object that later lines close."""
    try:
        json.JSONDecoder().raw_decode(line.strip())
    except ValueError as error:
        at_the_end = getattr(error, "pos", 0) >= len(line.strip())
        return at_the_end or line.strip() == "{" or line.rstrip().endswith((",", "{", "["))
    except RecursionError:
        return False
    return False
