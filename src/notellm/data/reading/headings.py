"""Lines of a delimited file that are no rows: what stands above the header, the header again, and rules.

Exports put a title, comments or ``sep=;`` above the header; files joined by ``cat`` repeat it; printed tables
draw a rule below it.
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

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
    again = np.arange(0)
    for place, name in enumerate(table.column_names):
        column = table.column(name)
        if place == 0:
            again = np.flatnonzero(_are(column, header[name]))
        elif len(again):
            again = again[_are(column.take(pa.array(again)), header[name])]
    cells = [table.column(name)[0].as_py() for name in table.column_names]
    top = pl.Series(["" if cell is None else str(cell).strip(_AROUND) for cell in cells])
    is_rule, is_types = (bool(top.str.contains(form).all()) for form in (_RULE, _TYPE))
    example, shown = " | ".join(header.values()), " | ".join(top)
    report.add("the header again as a row", where, len(again), example, "left out")
    report.add("a rule below the header", where, int(is_rule), shown, "left out")
    report.add("a row of types below the header", where, int(is_types), shown, "left out")
    if not len(again) and not is_rule and not is_types:
        return table
    kept = np.ones(table.num_rows, np.bool_)
    kept[again] = False
    kept[0] &= not (is_rule or is_types)
    return table.filter(pa.array(kept))


def _are(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.bool_]:
    """Tell which cells are a name in any letters; of codes only the distinct texts are looked at."""
    form = rf"^[{_AROUND}]*{re.escape(name)}[{_AROUND}]*$"
    found = [np.zeros(0, np.bool_)]
    for chunk in column.chunks:
        is_coded = pa.types.is_dictionary(chunk.type)
        texts = chunk.dictionary if is_coded else chunk
        if pa.types.is_integer(texts.type):
            texts = texts.cast(pa.string()) if name.isdigit() else pa.nulls(len(texts), pa.string())
        match = pc.match_substring_regex(texts, form, ignore_case=True).fill_null(False)
        mask = match.to_numpy(zero_copy_only=False)
        if is_coded:
            codes = chunk.indices.fill_null(0).to_numpy(zero_copy_only=False)
            known = chunk.is_valid().to_numpy(zero_copy_only=False)
            mask = mask[codes] & known if mask.any() else np.zeros(len(chunk), np.bool_)
        found.append(mask)
    return np.concatenate(found)
