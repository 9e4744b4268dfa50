"""Texts: titles, contents, categories."""

import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, plain, utf8
from notellm.data.cells.markup import without_markup
from notellm.data.cells.missing import without_missing
from notellm.data.cells.nested import unwrapped
from notellm.data.cells.options import CellOptions
from notellm.data.problems import Report

#: Signs of damage before the file was written. Such texts stay.
_DOUBTFUL = (
    (
        "text that was decoded by another encoding",
        (
            r"Ã[\x{80}-\x{BF}\x{192}\x{160}\x{161}\x{178}\x{17D}]|Â[\x{A0}-\x{BF}]|ï¿½|â€[\x{80}-\x{BF}™œ“”¦˜]"
            r"|(?:[ÐÑ][\x{80}-\x{BF}\x{20AC}ŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›™]){2}"
        ),
        "kept; export the table again as UTF-8",
    ),
    ("escapes of characters in a text", r"\\u[0-9a-fA-F]{4}", "kept; export the characters themselves"),
)


def texts(
    column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None
) -> pl.Series:
    """Convert a column to text; numbers are written out, without fraction if all of them are whole.

    Words for a missing value and NaN become null, HTML and invisible characters are taken out.

    Args:
        column: the texts.
        where: name of the column in the report.
        report: receives what was changed.
        options: how cells are read.

    Raises:
        DataError: if its values are lists or objects without an obvious member.
    """
    options = options or CellOptions()
    column = unwrapped(plain(column), "text", where, report)
    if pa.types.is_floating(column.type):
        numbers = pl.Series(column).cast(pl.Float64)
        missing = int(numbers.is_nan().sum())
        report.add("NaN in a text column", where, missing, "NaN", "taken as missing")
        numbers = numbers.fill_nan(None)
        whole = ((numbers == numbers.floor()) & (numbers.abs() < 2**53)).fill_null(value=True).all()
        return numbers.cast(pl.Int64).cast(pl.String) if whole else numbers.cast(pl.String)
    if not is_text(column.type):
        return pl.Series(column).cast(pl.String)
    text = without_missing(utf8(column, where, report), where, report, options, doubt=True)
    for problem, form, action in _DOUBTFUL:
        found = text.filter(text.str.contains(form).fill_null(value=False))
        report.add(problem, where, len(found), found[0] if len(found) else "", action)
    return without_markup(text, where, report, options)
