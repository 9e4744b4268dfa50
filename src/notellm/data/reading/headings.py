"""Lines of a delimited file that are no rows: what stands above the header, the header again, and rules.

Exports put a title, comments or ``sep=;`` above the header; files joined by ``cat`` repeat it; printed tables
draw a rule below it.
"""

import io
from collections.abc import Iterable, Iterator, Mapping

import polars as pl
import pyarrow as pa

from notellm.data.problems import Report
from notellm.data.reading.dialect import NAMES, SEPARATORS

_MOST_LINES = 50  # in which the header is looked for
_RULE = r"^[\s:=+-]*[-=][\s:=+-]*$"
_TYPE = (
    r"(?i)^(string|str|text|varchar(\(\d+\))?|char|object|category|u?int(8|16|32|64)?|integer|bigint|long|float"
    r"(32|64)?|double|numeric|decimal|bool|boolean|date|datetime(64)?|timestamp|list|array)$"
)
#: Spaces, and the mark that begins each of several files put together.
_AROUND = " \t\r\n\ufeff"


def lines_above(sample: str, needed: list[set[str]], separator: str | None) -> int:
    """Return the number of lines above the header; 0 if no line is a header.

    Args:
        sample: the beginning of the file.
        needed: groups of names; a header has one of each.
        separator: the text between cells; None tries all.
    """
    tried = SEPARATORS if separator is None else (NAMES.get(separator, separator),)
    groups = [{name.lower() for name in group} for group in needed]
    for number, line in enumerate(io.StringIO(sample, newline="")):
        if number == _MOST_LINES:
            break
        for each in tried:
            cells = {cell.strip().strip('"').strip().lower() for cell in line.split(each)}
            if all(group & cells for group in groups):
                return number
    return 0


def without_lines(blocks: Iterable[str], number: int) -> Iterator[str]:
    """Yield blocks without their first lines."""
    for block in blocks:
        lines = list(io.StringIO(block, newline="")) if number else [block]
        left, number = lines[number:], max(0, number - len(lines))
        if left:
            yield "".join(left)


def without_headings(table: pa.Table, header: Mapping[str, str], where: str, report: Report) -> pa.Table:
    """Return a table without rows that repeat the header, and without a rule or types as its first row.

    Args:
        table: columns of text.
        header: the file's name of each column.
        where: name of the file in the report.
        report: receives the rows that are left out.
    """
    if not table.num_rows or len(table.column_names) < 2:
        return table
    columns = {name: pl.Series(table.column(name)) for name in table.column_names}
    first, *others = columns
    again = columns[first].str.strip_chars(_AROUND).str.to_lowercase() == header[first].lower()
    top = pl.Series([column[0] for column in columns.values()], dtype=pl.String).str.strip_chars(_AROUND)
    is_rule, is_types = (bool(top.str.contains(form).fill_null(value=False).all()) for form in (_RULE, _TYPE))
    first_row = pl.select(pl.int_range(table.num_rows) == 0).to_series() & (is_rule or is_types)
    if again.any():
        for name in others:
            cells = columns[name].str.strip_chars(_AROUND).str.to_lowercase()
            again = again & (cells == header[name].lower())
    again = again.fill_null(value=False)
    example = " | ".join(header.values())
    report.add("the header again as a row", where, int(again.sum()), example, "left out")
    shown = " | ".join(top.fill_null(""))
    report.add("a rule below the header", where, int(is_rule), shown, "left out")
    report.add("a row of types below the header", where, int(is_types), shown, "left out")
    kept = ~(again | first_row)
    return table if kept.all() else table.filter(pa.array(kept.to_list(), pa.bool_()))
