"""Ids as text: whole numbers without fraction, white space and invisible characters around them taken off."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, utf8
from notellm.data.cells.markup import INVISIBLE
from notellm.data.cells.missing import without_missing
from notellm.data.cells.nested import unwrapped
from notellm.data.cells.options import CellOptions
from notellm.data.log import Coded
from notellm.data.problems import Report
from notellm.errors import DataError

#: The whole numbers up to which a float of so many bits holds each one.
_LARGEST_EXACT_FLOAT = {16: 2**11, 32: 2**24, 64: 2**53}
#: What a column of whole numbers with missing values becomes in pandas; leading zeros were lost before.
_FLOAT = r"^-?(0|[1-9]\d*)\.0+$"
_VERSION = r"\d\.\d"
_LOST_DIGITS = "id written as a floating point number", "kept, but its last digits may be lost"
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

Counts: TypeAlias = npt.NDArray[np.int64]


def ids(column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None) -> pl.Series:
    """Convert ids to strings, as :func:`coded_ids` does."""
    return pl.Series(coded_ids(column, where, report, options).array(), dtype=pl.String)


def coded_ids(
    column: pa.ChunkedArray, where: str, report: Report, options: CellOptions | None = None
) -> Coded:
    """Convert ids to strings, each distinct one once.

    Integers are written in decimal. Floating point whole numbers lose the fraction (12.0 is "12"), and NaN is
    null. In text, "12.0" is "12" unless other ids of the column have points between digits, as versions do
    ("1.1", "v2.0"). Words for a missing value are null.

    Args:
        column: the ids.
        where: name of the column in the report.
        report: receives what was changed.
        options: how cells are read.

    Raises:
        DataError: if the type of the column cannot be an id, or its values are objects without an id.
    """
    column = unwrapped(column, "id", where, report)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if not is_number and not is_text(kind) and not pa.types.is_null(kind):
        raise DataError(f"{where} is of type {kind}; ids are text or integers: cast the column")
    if pa.types.is_null(kind):
        return Coded(np.full(len(column), -1, np.int32), pa.array([], pa.string()))
    coded = Coded.of(column)
    counts = coded.counts()
    options = options or CellOptions()
    if pa.types.is_integer(kind):
        numbers = pl.Series(coded.values.cast(pa.string()))
        if options.missing_numbers:
            numbers = _without_missing(numbers, counts, where, report, options)
        return coded.with_values(numbers.to_arrow().cast(pa.string()))
    if pa.types.is_floating(kind):
        exact = _LARGEST_EXACT_FLOAT[kind.bit_width]
        clean = _of_floats(pl.Series(coded.values).cast(pl.Float64), exact, counts, where, report)
    else:
        text = coded.values.cast(pa.string()) if pa.types.is_decimal(kind) else coded.values
        clean = _of_texts(_decoded(text, counts, where, report), counts, where, report, options)
    return coded.with_values(clean.to_arrow().cast(pa.string()))


def _decoded(values: pa.Array, counts: Counts, where: str, report: Report) -> pl.Series:
    """Return distinct texts as valid UTF-8."""
    own = Report()
    text = utf8(pa.chunked_array([values]), where, own)
    for problem in own.problems:
        cells = values.cast(pa.binary()).to_pylist()
        broken = [cell.decode(errors="replace").encode() != cell for cell in cells]
        report.add(
            problem.problem, where, int(counts[np.array(broken)].sum()), problem.example, problem.action
        )
    return text


def _of_floats(numbers: pl.Series, exact: int, counts: Counts, where: str, report: Report) -> pl.Series:
    """Return the ids of distinct numbers; those below ``exact`` are exact."""
    numbers = numbers.fill_nan(None)
    finite = numbers.is_finite().fill_null(value=True)
    _report(numbers, (numbers.abs() >= exact) & finite, counts, *_LOST_DIGITS, where, report)
    _report(numbers, ~finite, counts, "infinite number as an id", "taken as missing", where, report)
    whole = (numbers == numbers.floor()) & (numbers.abs() < 2**63)
    return pl.select(
        pl.when(whole)
        .then(numbers.cast(pl.Int64, strict=False).cast(pl.String))
        .when(finite)
        .then(numbers.cast(pl.String))
    ).to_series()


def _of_texts(
    distinct: pl.Series, counts: Counts, where: str, report: Report, options: CellOptions
) -> pl.Series:
    """Return the ids of distinct texts."""
    clean = _without_missing(distinct, counts, where, report, options)
    unseen = distinct.str.contains(f"[{INVISIBLE}]")
    _report(distinct, unseen, counts, "invisible characters in an id", "taken off at its ends", where, report)
    clean = clean.str.replace_all(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$", "")
    is_formula = clean.str.contains(_FORMULA)
    _report(distinct, is_formula, counts, "id as a formula of Excel", "read as its text", where, report)
    clean = clean.str.replace(_FORMULA, "${1}")  # ="007" keeps the zeros in Excel
    is_float = clean.str.contains(_FLOAT).fill_null(value=False)
    if is_float.any() and not (clean.str.contains(_VERSION) & ~is_float).any():
        kind = "whole number with a fraction as an id"
        _report(distinct, is_float, counts, kind, "read without .0", where, report)
        bare = clean.str.replace(r"\.0+$", "")
        clean = pl.select(pl.when(is_float).then(bare).otherwise(clean)).to_series()
    grouped = clean.str.contains(_THOUSANDS).fill_null(value=False)
    if grouped.any() and (grouped | clean.str.contains(_UP_TO_THREE_DIGITS)).all():
        kind = "id with commas for thousands"
        _report(distinct, grouped, counts, kind, "read without commas", where, report)
        clean = clean.str.replace_all(",", "")
    with_exponent = clean.str.contains(_EXPONENT).fill_null(value=False)
    if not clean.str.contains(_NUMBER).all():
        with_exponent = with_exponent & clean.str.contains(".", literal=True)
    _report(distinct, with_exponent, counts, *_LOST_DIGITS, where, report)
    _report_doubt(clean, distinct, counts, where, report)
    return clean


def _report_doubt(clean: pl.Series, distinct: pl.Series, counts: Counts, where: str, report: Report) -> None:
    """Report ids that may stand for nobody, or be the same."""
    kind = "id that may stand for a missing one, or a total"
    action = "kept as an id; add it to the words of --missing to leave its rows out"
    _report(distinct, clean.str.contains(_NOBODY), counts, kind, action, where, report)
    quoted = clean.str.starts_with("'")
    _report(distinct, quoted, counts, "id that begins with a quote mark", "kept with it", where, report)
    bare = clean.str.replace(r"^0+(\d)", "${1}")
    padded = (bare != clean) & bare.is_in(clean.implode())
    kind = "ids that differ in leading zeros alone"
    _report(distinct, padded, counts, kind, "kept as ids of their own", where, report)


def _without_missing(
    distinct: pl.Series, counts: Counts, where: str, report: Report, options: CellOptions
) -> pl.Series:
    """Return distinct texts, null where they are words for a missing value."""
    own = Report()
    clean = without_missing(distinct, where, own, options)
    for problem in own.problems:
        count = int(counts[(clean.is_null() & distinct.is_not_null()).to_numpy()].sum())
        report.add(problem.problem, where, count, problem.example, problem.action)
    return clean


def _report(
    values: pl.Series, are: pl.Series, counts: Counts, problem: str, action: str, where: str, report: Report
) -> None:
    """Report the rows of some of the distinct values."""
    are = are.fill_null(value=False)
    if are.any():
        report.add(problem, where, int(counts[are.to_numpy()].sum()), values.filter(are)[0], action)
