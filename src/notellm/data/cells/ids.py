"""Ids as text: whole numbers without fraction, white space and invisible characters around them taken off."""

from collections.abc import Callable

import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, plain, utf8
from notellm.data.cells.markup import INVISIBLE
from notellm.data.cells.missing import without_missing
from notellm.data.cells.nested import unwrapped
from notellm.data.cells.options import CellOptions
from notellm.data.problems import Report
from notellm.errors import DataError

#: The whole numbers up to which a float of so many bits holds each one.
_LARGEST_EXACT_FLOAT = {16: 2**11, 32: 2**24, 64: 2**53}
#: What a column of whole numbers with missing values becomes in pandas; leading zeros were lost before.
_FLOAT = r"^-?(0|[1-9]\d*)\.0+$"
_VERSION = r"\d\.\d"
_EXPONENT = r"^\d(\.\d+)?[eE]\+?\d+$"
#: Other forms of numbers. Beside texts such as "a3f", 1e5 is no number.
_NUMBER = r"^-?\d+(\.\d+)?([eE]\+?\d+)?$"
_THOUSANDS = r"^\d{1,3}(,\d{3})+$"
_UP_TO_THREE_DIGITS = r"^\d{1,3}$"
_FORMULA = r'^="([^"]*)"$'
#: Ids that may stand for nobody: they stay, and are reported.
_NOBODY = (
    r"(?i)^(anonymous|anon|guest|nobody|none|na|nil|unknown|undefined|-|--|\?|total|grand total"
    r"|not set|\(not set\))$"
)


def ids(column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None) -> pl.Series:
    """Convert ids to strings.

    Integers are written in decimal. Floating point whole numbers lose the fraction (12.0 is "12"), and NaN is
    null. In text, "12.0" is "12" unless other ids of the column have points between digits, as versions
    do ("1.1", "v2.0").
    Words for a missing value are null.

    Args:
        column: the ids.
        where: name of the column in the report.
        report: receives what was changed.
        options: how cells are read.

    Raises:
        DataError: if the type of the column cannot be an id, or its values are objects without an id.
    """
    column = unwrapped(plain(column), "id", where, report)
    kind = column.type
    if pa.types.is_integer(kind):
        return pl.Series(column).cast(pl.String)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    elif pa.types.is_floating(kind):
        exact = _LARGEST_EXACT_FLOAT[kind.bit_width]
        return _of_floats(pl.Series(column).cast(pl.Float64), where, report, exact)
    elif not is_text(kind) and not pa.types.is_null(kind):
        raise DataError(f"{where} is of type {kind}; ids are text or integers: cast the column")
    text = utf8(column, where, report)
    distinct = text.unique(maintain_order=True).drop_nulls()
    clean = _of_texts(distinct, text, where, report, options or CellOptions())
    if clean.equals(distinct):
        return text
    return text.replace_strict(distinct, clean, default=None, return_dtype=pl.String)


def _of_floats(numbers: pl.Series, where: str, report: Report, exact: int) -> pl.Series:
    numbers = numbers.fill_nan(None)
    finite = numbers.is_finite()
    _lost_digits(numbers.filter((numbers.abs() >= exact) & finite), where, report)
    infinite = numbers.filter(~finite)
    report.add(
        "infinite number as an id",
        where,
        len(infinite),
        infinite[0] if len(infinite) else "",
        "taken as missing",
    )
    whole = (numbers == numbers.floor()) & (numbers.abs() < 2**63)
    return pl.select(
        pl.when(whole)
        .then(numbers.cast(pl.Int64, strict=False).cast(pl.String))
        .when(finite)
        .then(numbers.cast(pl.String))
    ).to_series()


def _of_texts(
    distinct: pl.Series, text: pl.Series, where: str, report: Report, options: CellOptions
) -> pl.Series:
    """Return the ids of distinct texts; ``text`` is the whole column, whose rows are counted."""

    def rows(of: pl.Series) -> int:
        return int(text.is_in(of.implode()).sum())

    counted = Report()
    clean = without_missing(distinct, where, counted, options)
    for problem in counted.problems:
        words = distinct.filter(clean.is_null())
        report.add(problem.problem, where, rows(words), problem.example, problem.action)
    around = rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$"
    if (unseen := distinct.filter(distinct.str.contains(f"[{INVISIBLE}]"))).len():
        report.add("invisible characters in an id", where, rows(unseen), unseen[0], "taken off at its ends")
    clean = clean.str.replace_all(around, "")
    clean = _unwrapped_formulas(clean, distinct, rows, where, report)
    is_float = clean.str.contains(_FLOAT).fill_null(value=False)
    if is_float.any() and not (clean.str.contains(_VERSION) & ~is_float).any():
        floats = distinct.filter(is_float)
        report.add("whole number with a fraction as an id", where, rows(floats), floats[0], "read without .0")
        bare = clean.str.replace(r"\.0+$", "")
        clean = pl.select(pl.when(is_float).then(bare).otherwise(clean)).to_series()
    grouped = clean.str.contains(_THOUSANDS).fill_null(value=False)
    if grouped.any() and (grouped | clean.str.contains(_UP_TO_THREE_DIGITS)).all():
        lost = distinct.filter(grouped)
        report.add("id with commas for thousands", where, rows(lost), lost[0], "read without commas")
        clean = clean.str.replace_all(",", "")
    with_exponent = clean.str.contains(_EXPONENT).fill_null(value=False)
    if not clean.str.contains(_NUMBER).all():
        with_exponent = with_exponent & clean.str.contains(".", literal=True)
    doubtful = distinct.filter(with_exponent)
    _lost_digits(doubtful, where, report, rows(doubtful))
    _report_doubt(clean, distinct, rows, where, report)
    return clean


def _unwrapped_formulas(
    clean: pl.Series, distinct: pl.Series, rows: Callable[[pl.Series], int], where: str, report: Report
) -> pl.Series:
    """Return ids without the formula that keeps zeros in Excel: ="007"."""
    is_formula = clean.str.contains(_FORMULA).fill_null(value=False)
    if not is_formula.any():
        return clean
    found = distinct.filter(is_formula)
    report.add("id as a formula of Excel", where, rows(found), found[0], "read as its text")
    return clean.str.replace(_FORMULA, "${1}")


def _report_doubt(
    clean: pl.Series, distinct: pl.Series, rows: Callable[[pl.Series], int], where: str, report: Report
) -> None:
    """Report ids that may stand for nobody, or be the same."""
    nobody = distinct.filter(clean.str.contains(_NOBODY).fill_null(value=False))
    if len(nobody):
        action = "kept as an id; add it to the words of --missing to leave its rows out"
        report.add("id that may stand for a missing one, or a total", where, rows(nobody), nobody[0], action)
    quoted = distinct.filter(clean.str.starts_with("'").fill_null(value=False))
    if len(quoted):
        report.add("id that begins with a quote mark", where, rows(quoted), quoted[0], "kept with it")
    bare = clean.str.replace(r"^0+(\d)", "${1}")
    padded = clean.is_not_null() & (bare != clean) & bare.is_in(clean.implode())
    if padded.any():
        found = distinct.filter(padded)
        action = "kept as ids of their own"
        report.add("ids that differ in leading zeros alone", where, rows(found), found[0], action)


def _lost_digits(doubtful: pl.Series, where: str, report: Report, count: int | None = None) -> None:
    if len(doubtful):
        problem, action = (
            "id written as a floating point number",
            "kept, but its last digits may be lost",
        )
        report.add(problem, where, len(doubtful) if count is None else count, doubtful[0], action)
