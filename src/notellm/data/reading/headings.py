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
    """Return a table without rows that repeat the header, and without a rule as its first row.

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
    again = columns[first].str.strip_chars().str.to_lowercase() == header[first].lower()
    rule = pl.select(pl.int_range(table.num_rows) == 0).to_series()
    for name in columns:
        if not rule[0]:
            break
        rule = rule & bool(columns[name].head(1).str.contains(_RULE).fill_null(value=False)[0])
    if again.any():
        for name in others:
            again = again & (columns[name].str.strip_chars().str.to_lowercase() == header[name].lower())
    again = again.fill_null(value=False)
    example = " | ".join(header.values())
    report.add("the header again as a row", where, int(again.sum()), example, "left out")
    drawn = " | ".join(str(column[0]) for column in columns.values())
    report.add("a rule below the header", where, int(rule[0]), drawn, "left out")
    kept = ~(again | rule)
    return table if kept.all() else table.filter(pa.array(kept.to_list(), pa.bool_()))
