r"""How a delimited file is written: the character between cells, and what a double quote means.

Quotes are read in one of three ways. double: a cell that begins with a quote ends at the closing one, and two
quotes stand for one (RFC 4180). backslash: the same, and ``\\"`` stands for a quote (MySQL, Book-Crossing).
none: a quote is a character like any other. A file is read in the way in which most of its rows come out
whole.
"""

import csv
import io
import re
from dataclasses import dataclass, replace

from notellm.data.problems import Report
from notellm.data.reading.options import Quoting

#: Separators that are tried, after the one of the file's name. "::" is that of MovieLens 1M.
SEPARATORS = (",", "\t", ";", "|", "::", "\x01")
NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}
_ESCAPE = re.compile(r'\\(["\\])')
#: Stands for an escaped quote while rows are parsed; Unicode keeps this code point out of texts.
QUOTE = "\ufdd0"
_SAMPLE_LINES = 1_000


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written.

    Attributes:
        separator: the text between cells.
        quoting: what a double quote means.
        is_guess: whether the quoting was not stated.
        skips_spaces: whether spaces before a quote at the begin of a cell do not count.
    """

    separator: str
    quoting: Quoting
    is_guess: bool = True
    skips_spaces: bool = False

    @property
    def delimiter(self) -> str:
        """The character that stands for the separator when rows are parsed, see :meth:`prepared`."""
        return self.separator if self._is_plain else "\x1f"

    @property
    def _is_plain(self) -> bool:
        """Whether parsers take the separator as it is: one character of ASCII."""
        return len(self.separator) == 1 and self.separator.isascii()

    def prepared(self, text: str) -> str:
        """Return text in which the separator is one character, and an escaped quote is ``QUOTE``."""
        if not self._is_plain:
            text = text.replace(self.separator, "\x1f")
        if self.quoting == "backslash" and "\\" in text:
            text = _ESCAPE.sub(lambda match: QUOTE if match[1] == '"' else "\\", text)
        return text

    def restored(self, cells: list[str]) -> list[str]:
        """Return cells in which separators and escaped quotes are themselves again, see :meth:`prepared`."""
        if not self._is_plain:
            cells = [cell.replace(self.delimiter, self.separator) for cell in cells]
        if self.quoting == "backslash":
            cells = [cell.replace(QUOTE, '"') for cell in cells]
        return cells


def separator_of(path_name: str, sample: str, names: set[str], chosen: str | None, report: Report) -> str:
    """Return the separator of a file.

    Args:
        path_name: name of the file, whose ending says what is tried first.
        sample: the beginning of the file.
        names: columns that are looked for in the first row.
        chosen: the separator that the user states.
        report: receives a guess that differs from the file's name.
    """
    if chosen is not None:
        return NAMES.get(chosen, chosen)
    by_name = "\t" if re.search(r"\.(tsv|tab)\b", path_name.lower()) else ","
    lines = [line for line in io.StringIO(sample, newline="") if line.strip()][:_SAMPLE_LINES]
    if not lines:
        return by_name
    order = [by_name, *(each for each in SEPARATORS if each != by_name)]
    scores = [_score(lines, each, names) for each in order]
    best = order[scores.index(max(scores))]
    if best != by_name:
        shown = "tab" if best == "\t" else best
        action = f"cells separated by {shown!r}"
        report.add(
            "separator that the name does not tell",
            path_name,
            len(lines),
            lines[0].strip(),
            action,
            f"--separator '{shown}'",
        )
    return best


def _score(lines: list[str], separator: str, names: set[str]) -> tuple[int, float, int]:
    """Return how well a separator fits: columns found, share of rows as wide as the first, and its width."""
    widths = [_width(line, separator) for line in lines]
    header = {cell.strip().strip('"').strip().lower() for cell in lines[0].split(separator)}
    found = len({name.lower() for name in names} & header)
    width = widths[0]
    share = sum(each == width for each in widths) / len(widths) if width > 1 else 0.0
    return found, round(share, 1), width if share > 0.5 else 0


def _width(line: str, separator: str) -> int:
    """Return the number of cells of a line, where separators in quotes do not count."""
    if '"' in line:
        line = re.sub(r'"(?:[^"\\]|\\.|"")*"', "", line)
    return line.count(separator) + 1


def quoting_of(sample: str, separator: str, chosen: Quoting | None, *, whole: bool) -> Dialect:
    """Return the dialect of a file whose separator is known, by the quotes of a sample.

    Args:
        sample: the beginning of the file, which ends at a line end.
        separator: the text between cells.
        chosen: the quoting that the user states.
        whole: whether the sample is the whole file; else its last row may lack its end.
    """
    if chosen is not None:
        return Dialect(separator, chosen, is_guess=False)
    double = Dialect(separator, "double")
    if '"' not in sample:
        return double
    csv.field_size_limit(1 << 40)
    tried = [double, Dialect(separator, "backslash")] if '\\"' in sample else [double]
    if not separator.isspace() and _has_spaced_quotes(double, sample):
        tried = [replace(each, skips_spaces=True) for each in tried] + tried
    broken = {dialect: _broken(dialect, sample, whole=whole) for dialect in tried}
    best = min(tried, key=lambda dialect: broken[dialect][0])
    count, protects = broken[best]
    return Dialect(separator, "none") if count and not protects else best


def _has_spaced_quotes(dialect: Dialect, sample: str) -> bool:
    """Whether cells begin with spaces and a quote, as in ``1, "a, b"``."""
    if not re.search(rf'{re.escape(dialect.separator)} +"', sample):
        return False
    lines = list(io.StringIO(dialect.prepared(sample), newline=""))[:_SAMPLE_LINES]
    rows = csv.reader(lines, delimiter=dialect.delimiter)
    return any(cell.startswith(" ") and cell.lstrip().startswith('"') for row in rows for cell in row)


def _broken(dialect: Dialect, sample: str, *, whole: bool) -> tuple[int, bool]:
    """Return how many lines of a sample are not well quoted, and whether quotes protect anything.

    If spaces before quotes do not count, any line that is not well quoted speaks against that.
    """
    lines = list(io.StringIO(dialect.prepared(sample), newline=""))
    whole = whole and len(lines) <= _SAMPLE_LINES
    lines = lines[:_SAMPLE_LINES]
    width = lines[0].count(dialect.delimiter)
    broken, protects, begin = 0, False, 0
    while begin < len(lines):
        first = begin
        reader = csv.reader(
            lines[first:],
            delimiter=dialect.delimiter,
            strict=True,
            skipinitialspace=dialect.skips_spaces,
        )
        try:
            for row in reader:
                last, begin = begin, first + reader.line_num
                over_lines = begin - last > 1 and any(
                    line.count(dialect.delimiter) != width for line in lines[last:begin]
                )
                protects = (
                    protects
                    or over_lines
                    or any(dialect.delimiter in cell or '"' in cell or QUOTE in cell for cell in row)
                )
        except csv.Error:
            at_the_end = first + reader.line_num >= len(lines)
            broken += whole or not at_the_end
            begin += 1
    return broken, protects
