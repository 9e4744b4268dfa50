"""Ratings in a log: which column holds them, and which of them count as clicks."""

import re

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from notellm.data.cells.columns import is_text, plain
from notellm.data.log import Coded
from notellm.data.problems import Report
from notellm.errors import DataError

_RATING = re.compile(r"(?:\w*[-_. ])?(?:ratings?|stars?|overall|score|grade|rate|liked?)", re.IGNORECASE)
_YES = ("true", "yes", "y", "t", "like", "liked", "up", "thumbs up", "thumbs_up", "upvote", "👍")
_NO = ("false", "no", "n", "f", "dislike", "disliked", "down", "thumbs down", "thumbs_down", "downvote", "👎")
_WORDS = dict.fromkeys(_YES, "1") | dict.fromkeys(_NO, "0")
_COMMA = r"^(-?\d+),(\d[\d,]*)$"
_GROUPED = r"^-?\d{1,3}(,\d{3})+$"
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


def numbers_of(column: pa.ChunkedArray, place: str = "", report: Report | None = None) -> pl.Series:
    """Return ratings as float64; what is no number is null.

    Words for yes and no are 1 and 0. A comma is that of decimals, unless three digits follow each.

    Args:
        column: the ratings.
        place: name of the column in the report.
        report: receives what was guessed.

    Raises:
        DataError: if the type of the column cannot be a rating.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind):
        raise DataError(f"{place} is of type {kind}; ratings are numbers or text: name another column")
    if not is_text(kind):
        return pl.Series(plain(column)).cast(pl.Float64, strict=False)
    coded = Coded.of(column)
    found = Report() if report is None else report
    numbers = _of_texts(pl.Series(coded.values), coded.counts(), place, found)
    values = np.append(numbers.fill_null(np.nan).to_numpy(), np.nan)
    unknown = np.append(numbers.is_null().to_numpy(), np.True_)
    return pl.Series(values[coded.codes]).set(pl.Series(unknown[coded.codes]), None)


def _of_texts(distinct: pl.Series, counts: npt.NDArray[np.int64], place: str, report: Report) -> pl.Series:
    """Return the numbers of distinct texts; ``counts`` are the rows of each."""
    texts = distinct.cast(pl.String).str.strip_chars()
    words = texts.str.to_lowercase().replace_strict(_WORDS, default=None, return_dtype=pl.String)
    commas = texts.str.contains(_COMMA)
    is_grouped = bool(commas.any()) and texts.filter(commas).str.contains(_GROUPED).all()
    action = "commas are for thousands" if is_grouped else "commas are for decimals"
    for problem, are, done in (
        ("rating with commas", commas, action),
        ("rating in words", words.is_not_null(), "yes is 1, no is 0"),
    ):
        report.add(problem, place, int(counts[are.to_numpy()].sum()), _text(texts.filter(are)), done)
    texts = texts.str.replace_all(",", "") if is_grouped else texts.str.replace(_COMMA, "${1}.${2}")
    return pl.select(pl.coalesce(words, texts)).to_series().cast(pl.Float64, strict=False)


def _text(values: pl.Series) -> str:
    return str(values[0]) if len(values) else ""


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
    numbers = numbers_of(column, place, report)
    finite = numbers.is_finite().fill_null(value=False)
    if min_rating is None:
        _report_doubt(
            numbers.filter(finite), _cells(column.filter((~finite).to_arrow())), name, place, report
        )
        return None
    if len(numbers) and not finite.any():
        raise DataError(
            f"{place} is {_cells(column[:1])[0]!r} in the first row; a rating must be a number. "
            f"Words are read as events: --clicks-column event={name} --event WORD=click, without --min-rating"
        )
    bad = _cells(column.filter((~finite).to_arrow()))
    report.add("rating is no finite number", place, len(bad), bad[0] if len(bad) else "", "no click")
    low = finite & (numbers < min_rating).fill_null(value=False)
    report.add(f"rating below {min_rating:g}", place, int(low.sum()), _first(numbers.filter(low)), "no click")
    kept = finite & ~low
    if len(numbers) and not kept.any():
        largest = numbers.filter(finite).to_numpy().max()
        raise DataError(
            f"{place}: none is at least {min_rating:g}, the largest is {largest:g}; lower --min-rating"
        )
    return kept


def _cells(column: pa.ChunkedArray) -> pl.Series:
    """Return cells as text."""
    return pl.Series(plain(column).cast(pa.string()), dtype=pl.String)


def _report_doubt(numbers: pl.Series, others: pl.Series, name: str, place: str, report: Report) -> None:
    """Ask for a threshold where a column looks like a rating that is not looked at.

    Args:
        numbers: the ratings that are numbers.
        others: the other cells, as text.
        name: the file's name of the column.
        place: the same with the table, for the report.
        report: receives what is doubtful.
    """
    rows = len(numbers) + len(others)
    given = others.drop_nulls()
    given = given.filter(given.str.strip_chars() != "")
    if len(given):
        action = "every row counts as a click; --clicks-column event= and --event say which words do"
        report.add("rating that is no number", place, len(given), given[0], action)
    if not len(numbers):
        return
    values = numbers.n_unique()
    low, high = numbers.to_numpy().min(), numbers.to_numpy().max()
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
