"""Delimited text as Arrow columns of text, block by block.

Arrow splits blocks without quotes, and those whose quotes only wrap cells; Python's csv module reads the
others. Where a quote is not closed as the dialect asks, the line is read alone with its quotes as text, if
it then has as many cells as the header: a stray quote must not swallow the rows after it. Rows that do not
fit in any way are left out. All of that is counted.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv

from notellm.data.problems import Report
from notellm.data.reading.collect import Columns
from notellm.data.reading.dialect import QUOTE, Dialect
from notellm.errors import DataError

if TYPE_CHECKING:
    import _csv

#: Takes the first row; returns the place of each column that is read by our name, or None if it is no header.
Choose = Callable[[list[str]], dict[str, int] | None]

_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_LINES = 1_000  # lines over which a cell with stray quotes in it is looked for
_MOST_SEARCHES = 20  # in vain, after which no more are made: each one takes long
_MOST_CARRIED = 1 << 26  # characters of one row that are waited for before its quote counts as stray
_SHAPES = 1_000
_LETTERS, _DIGITS = re.compile(r"[^\W\d_]+"), re.compile(r"\d+")


class QuotesAreText(Exception):  # noqa: N818 - a signal, not an error
    """Quotes protect nothing in a file, and some are not closed: read it again without quoting."""


def read_delimited(
    blocks: Iterable[str],
    path: Path,
    choose: Choose,
    report: Report,
    dialect: Dialect,
    *,
    names: Sequence[str] = (),
    most: int | None = None,
    above: int = 0,
    pack: bool = False,
) -> pa.Table:
    """Read delimited text as columns of text.

    Args:
        blocks: the text, in blocks that end at a line end.
        path: the file, for messages.
        choose: takes the first row and returns the place of each column to read by our name; or None if the
            row is not a header, and then ``names`` are the first columns.
        report: receives what could not be read.
        dialect: separator and quoting.
        names: names of the first columns of a file without a header.
        most: number of rows after which reading ends; None reads all.
        above: number of lines above the text, for messages.
        pack: keep columns in less memory, see ``collect.packed``.

    Raises:
        DataError: if no row can be read.
        QuotesAreText: if the quoting of the dialect is a guess that proves wrong.
    """
    csv.field_size_limit(1 << 40)
    prepared = (dialect.prepared(block) for block in blocks)
    first, rest = _first_row(prepared, dialect, path)
    places = choose(first.cells)
    if places is None:
        places = {name: place for place, name in enumerate(names)}
        rest, skipped = chain([first.text], rest), 0
    else:
        skipped = first.lines
    reader = _Reader(list(places.values()), len(first.cells), dialect, path)
    columns = Columns(list(places), path, report, pack=pack)
    line = 1 + above + skipped
    carried = ""
    for block in chain(rest, [None]):
        text = carried + (block or "")
        carried = ""
        if text and (table := reader.split(text)) is not None:
            columns.add_table(table.rename_columns(list(places)))
            line += _line_ends(text)
        elif text:
            rows, done = reader.rows(text, line, final=block is None)
            for cells, at in rows:
                columns.add(dialect.restored(cells), at)
            line += done
            carried = reader.rest
        if most is not None and columns.count >= most:
            break
    reader.report(report)
    table = columns.table()
    if not table.num_rows and reader.ragged:
        raise DataError(
            f"{path} has a header but no row that can be read: all {reader.ragged:,} have another number "
            f"of cells, as {reader.first_ragged}; --separator says what is between them"
        )
    return table


def first_width(sample: str, dialect: Dialect) -> int:
    """Return the number of cells of the first row of a text."""
    first, _ = _first_row(iter([dialect.prepared(sample)]), dialect, Path())
    return len(first.cells)


@dataclass(frozen=True)
class _First:
    """The first row of a file: its cells, its text, and the number of lines up to its end."""

    cells: list[str]
    text: str
    lines: int


def _first_row(blocks: Iterator[str], dialect: Dialect, path: Path) -> tuple[_First, Iterator[str]]:
    text = ""
    for block in blocks:
        text += block
        if text.strip():
            break
    if not text.strip():
        raise DataError(f"{path} is empty")
    lines = io.StringIO(text, newline="")
    reader = _cells(lines, dialect, strict=False)
    cells = next(row for row in reader if any(cell.strip() for cell in row))
    every = list(io.StringIO(text, newline=""))
    header = "".join(every[: reader.line_num])
    rest = "".join(every[reader.line_num :])
    return _First([cell.strip() for cell in cells], header, reader.line_num), chain(
        [rest] if rest else [], blocks
    )


@dataclass
class _Reader:
    """Reads blocks of rows; what is not as the dialect asks is counted."""

    places: list[int]
    width: int
    dialect: Dialect
    path: Path
    rest: str = ""
    ragged: int = 0
    first_ragged: str = ""
    longer: int = 0
    first_longer: str = ""
    stray: int = 0
    first_stray: str = ""
    protects: bool = False
    searches: int = 0  # in vain, for the end of a cell with stray quotes
    seen: int = 0  # rows whose ids have been looked at
    shapes: set[str] = field(default_factory=set)

    def split(self, text: str) -> pa.Table | None:
        """Return a block as a table, as Arrow splits it; None if that would not be exact."""
        quoted = self.dialect.quoting != "none" and '"' in text
        if QUOTE in text or "\x00" in text or (quoted and not self._only_wraps(text)):
            return None
        try:
            data = text.encode()
        except UnicodeEncodeError:
            return None
        names = [str(place) for place in range(self.width)]
        odd: list[object] = []

        def keep_count(row: object) -> str:
            odd.append(row)
            return "skip"

        try:
            table = pa.csv.read_csv(
                io.BytesIO(data),
                pa.csv.ReadOptions(column_names=names, block_size=max(1 << 20, len(data) + 1)),
                pa.csv.ParseOptions(
                    delimiter=self.dialect.delimiter,
                    quote_char='"' if quoted else False,
                    escape_char=False,
                    newlines_in_values=False,
                    ignore_empty_lines=True,
                    invalid_row_handler=keep_count,
                ),
                pa.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.large_string()),
                    include_columns=[str(place) for place in self.places],
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowException:
            return None
        if odd:
            return None
        self._see(table.column(0).slice(0, _SHAPES).to_pylist())
        return table

    def _only_wraps(self, text: str) -> bool:
        """Whether each quote in a text opens or closes a cell on one line, with no quote in it."""
        delimiter = re.escape(self.dialect.delimiter)
        end = rf'"(?={delimiter}|\r?$)'
        if text.count('"') != 2 * len(re.findall(rf'(?:^|{delimiter})"[^"\r\n]*{end}', text, re.MULTILINE)):
            return False
        within = rf'(?:^|{delimiter})"[^"\r\n]*{delimiter}[^"\r\n]*{end}'
        self.protects = self.protects or re.search(within, text, re.MULTILINE) is not None
        return True

    def _see(self, ids: list[str]) -> None:
        """Learn what ids look like from the first rows."""
        if self.seen < _SHAPES:
            self.seen += len(ids)
            self.shapes.update(map(_shape, ids))

    def rows(self, text: str, line: int, *, final: bool) -> tuple[list[tuple[list[str], int]], int]:
        """Return the wanted cells of each row with its line, and the number of lines that were read.

        Args:
            text: whole lines.
            line: number of the first one.
            final: whether no text follows. If there is more, a row without its end is left in ``rest``.
        """
        lines = list(io.StringIO(text, newline=""))
        found: list[tuple[list[str], int]] = []
        begin = 0
        self.rest = ""
        while begin < len(lines):
            begin, is_whole = self._well_formed(lines, begin, line, found)
            if begin >= len(lines):
                break
            if not is_whole and not final and sum(map(len, lines[begin:])) < _MOST_CARRIED:
                self.rest = "".join(lines[begin:])
                return found, begin
            begin = self._mended(lines, begin, line, found)
        return found, len(lines)

    def _well_formed(
        self, lines: list[str], begin: int, line: int, found: list[tuple[list[str], int]]
    ) -> tuple[int, bool]:
        """Read rows until one is not as the dialect asks.

        Returns:
            The place of that row, and whether it ends in these lines.
        """
        first = begin
        reader = _cells(lines[begin:] if begin else lines, self.dialect, strict=True)
        try:
            for row in reader:
                end = first + reader.line_num
                if end - begin > 1 and self.dialect.is_guess and self._swallows(lines[begin:end]):
                    return begin, True
                self._take(row, line + begin, found, lines[begin] if end - begin == 1 else None)
                begin = end
        except csv.Error:
            return begin, first + reader.line_num < len(lines)
        return len(lines), True

    def _take(self, row: list[str], at: int, found: list[tuple[list[str], int]], alone: str | None) -> None:
        """Keep the wanted cells of a row, or count it as one of another width."""
        if len(row) == self.width or (len(row) > self.width and not any(row[self.width :])):
            cells = [row[place] for place in self.places]
            found.append((cells, at))
            if len(row) > self.width:
                self.longer += 1
                self.first_longer = self.first_longer or f"line {at}: {self.dialect.separator.join(row)}"
            if alone is not None:
                self._see(cells[:1])
            if not self.protects:
                delimiter = self.dialect.delimiter
                self.protects = alone is None or any(delimiter in cell or '"' in cell for cell in row)
        elif row:
            self.ragged += 1
            self.first_ragged = self.first_ragged or f"line {at}: {len(row)} cells, not {self.width}"

    def _swallows(self, lines: list[str]) -> bool:
        """Whether a cell over several lines holds what are rows of their own, between two stray quotes."""
        delimiter = self.dialect.delimiter
        if any(line.strip() and line.count(delimiter) != self.width - 1 for line in lines):
            return False
        first, *ids = [line.rstrip("\r\n").split(delimiter)[self.places[0]] for line in lines if line.strip()]
        known = self.shapes | {_shape(first)}
        return bool(ids) and all(_shape(cell) in known for cell in ids)

    def _mended(self, lines: list[str], begin: int, line: int, found: list[tuple[list[str], int]]) -> int:
        """Read a row that is not well quoted; return the place of the next one."""
        alone = lines[begin].rstrip("\r\n")
        if not alone:
            return begin + 1
        delimiter = self.dialect.delimiter
        row = _lenient(alone, delimiter)
        if row is None or len(row) != self.width:
            row = alone.split(delimiter)
        end = begin + 1
        if len(row) != self.width and self.searches < _MOST_SEARCHES:
            self.searches += 1
            joined = alone
            for place in range(begin + 1, min(begin + _MOST_LINES, len(lines))):
                joined += "\n" + lines[place].rstrip("\r\n")
                whole = _lenient(joined, delimiter) if lines[place].count('"') else None
                if whole is not None and len(whole) == self.width:
                    row, end = whole, place + 1
                    self.searches -= 1
                    break
        if len(row) == self.width:
            self.stray += 1
            example = self.dialect.restored([alone])[0]
            self.first_stray = self.first_stray or f"line {line + begin}: {example}"
            found.append(([row[place] for place in self.places], line + begin))
        else:
            self._take(row, line + begin, found, alone)
        return end

    def report(self, report: Report) -> None:
        """Add what was not as the dialect asks.

        Raises:
            QuotesAreText: if the quoting was a guess, and quotes protect nothing in the whole file.
        """
        if self.stray and self.dialect.is_guess and self.dialect.quoting == "double" and not self.protects:
            raise QuotesAreText
        report.add(
            "stray quote mark",
            self.path.name,
            self.stray,
            self.first_stray,
            "kept as text in its row; --quoting double keeps cells over several lines together",
        )
        problem = "empty cells after the last column"
        report.add(problem, self.path.name, self.longer, self.first_longer, "left out")
        action = "rows left out"
        report.add(
            "other number of cells than the header", self.path.name, self.ragged, self.first_ragged, action
        )


def _cells(lines: Iterable[str], dialect: Dialect, *, strict: bool) -> "_csv.Reader":
    """Return a reader of rows; a strict one refuses text after a closing quote."""
    quoting: Any = csv.QUOTE_NONE if dialect.quoting == "none" else csv.QUOTE_MINIMAL
    return csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quoting=quoting,
        strict=strict,
        skipinitialspace=dialect.skips_spaces,
    )


def _lenient(text: str, delimiter: str) -> list[str] | None:
    """Return the cells of a row in which a quoted cell ends only at a quote before a delimiter or the end."""
    cells = []
    place = 0
    while True:
        if text.startswith('"', place):
            end = re.compile(f'"(?={re.escape(delimiter)}|$(?!\n))').search(text, place + 1)
            if end is None:
                return None
            cells.append(text[place + 1 : end.start()].replace('""', '"'))
            place = end.end()
        else:
            end_of_cell = text.find(delimiter, place)
            cells.append(text[place:] if end_of_cell < 0 else text[place:end_of_cell])
            place = len(text) if end_of_cell < 0 else end_of_cell
        if place >= len(text):
            return cells
        place += len(delimiter)
        if place == len(text):
            return [*cells, ""]


def _shape(cell: str) -> str:
    """Return the form of an id: its letters as one a, its digits as one 9."""
    return _DIGITS.sub("9", _LETTERS.sub("a", cell.strip()))


def _line_ends(text: str) -> int:
    return text.count("\n") or text.count("\r")
