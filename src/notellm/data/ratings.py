"""Ratings in a log: which column holds them, and which of them count as clicks."""

import re

import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, plain
from notellm.data.problems import Report
from notellm.errors import DataError

_RATING = re.compile(r"(?:\w*[-_. ])?(?:ratings?|stars?|overall|score|grade|rate|liked?)", re.IGNORECASE)
_AMOUNT = re.compile(
    r"weight|play_?counts?|plays|counts?|hours(?:_played)?|watch_?(?:ratio|time)|duration|quantity|purchases",
    re.IGNORECASE,
)


def rating_column(names: list[str]) -> str | None:
    """Return the only column that is named like a rating; None if there is none, or several.

    Args:
        names: names of the columns that are read as nothing else.
    """
    for form in (_RATING, _AMOUNT):
        found = [name for name in names if form.fullmatch(name)]
        if len(found) == 1:
            return found[0]
    return None


def numbers_of(column: pa.ChunkedArray) -> pl.Series:
    """Return ratings as float64; what is no number is null."""
    column = plain(column)
    series = pl.Series(column)
    if is_text(column.type):
        series = series.cast(pl.String).str.strip_chars().str.replace(r"^(-?\d+),(\d+)$", "${1}.${2}")
    return series.cast(pl.Float64, strict=False)


def is_click(
    column: pa.ChunkedArray, name: str, min_rating: float | None, where: str, report: Report
) -> pl.Series | None:
    """Tell which rows count as clicks by their rating.

    Args:
        column: the ratings.
        name: the file's name of the column.
        min_rating: the smallest rating that counts; None counts every row, and reports what is doubtful.
        where: name of the table in the report.
        report: receives the rows that do not count.

    Returns:
        Booleans, one a row; None if every row counts.

    Raises:
        DataError: if no rating is a number, or none is large enough.
    """
    place = f"{where}: {name}"
    numbers = numbers_of(column)
    texts = pl.Series(
        column.cast(pa.string())
        if not pa.types.is_dictionary(column.type)
        else plain(column).cast(pa.string())
    )
    finite = numbers.is_finite().fill_null(value=False)
    if min_rating is None:
        _report_doubt(numbers.filter(finite), name, place, len(numbers), report)
        return None
    if len(numbers) and not finite.any():
        raise DataError(f"{place} is {texts[0]!r} in the first row; a rating must be a number")
    bad = texts.filter(~finite)
    report.add("rating is no finite number", place, len(bad), bad[0] if len(bad) else "", "no click")
    low = finite & (numbers < min_rating).fill_null(value=False)
    report.add(f"rating below {min_rating:g}", place, int(low.sum()), _first(numbers.filter(low)), "no click")
    kept = finite & ~low
    if len(numbers) and not kept.any():
        largest = max(numbers.filter(finite))
        raise DataError(
            f"{place}: none is at least {min_rating:g}, the largest is {largest:g}; lower --min-rating"
        )
    return kept


def _report_doubt(numbers: pl.Series, name: str, place: str, rows: int, report: Report) -> None:
    """Ask for a threshold where a column looks like a rating that is not looked at."""
    if not len(numbers):
        return
    low, high, values = min(numbers), max(numbers), numbers.n_unique()
    if _RATING.fullmatch(name) and values > 1:
        example = f"{values} values from {low:g} to {high:g}"
        action = "every row counts as a click; --min-rating says from which rating on"
        report.add("column that looks like a rating", place, rows, example, action)
    elif (zeros := int((numbers <= 0).sum())) and values > 1:
        example = f"{name} {numbers.filter(numbers <= 0)[0]:g}"
        report.add(
            "rows with nothing in a column of amounts",
            place,
            zeros,
            example,
            "count as clicks; --min-rating leaves them out",
        )


def _first(values: pl.Series) -> str:
    return f"{values[0]:g}" if len(values) else ""
