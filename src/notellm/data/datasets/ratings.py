"""Ratings as clicks: a rating of at least a threshold is a click, and everything else is reported."""

import math

import polars as pl

from notellm.data.problems import Report
from notellm.errors import ConfigError, DataError


def liked(
    ratings: pl.DataFrame,
    at_least: float,
    where: str,
    report: Report,
    *,
    column: str = "rating",
    below: str | None = None,
) -> pl.DataFrame:
    """Return the rows whose rating is high enough to count as a click.

    Args:
        ratings: rows with ratings as text or numbers.
        at_least: the smallest rating that is a click.
        where: name of the file in the report, as "ratings.csv".
        report: receives the rows that are left out: those below, and those that are no finite number.
        column: the column with the ratings; it is dropped.
        below: what the report calls a rating below the threshold; None for "rating below 4".

    Raises:
        ConfigError: if ``at_least`` is not a finite number.
        DataError: if no rating is a number, or none is high enough.
    """
    if not math.isfinite(at_least):
        raise ConfigError(f"min_rating is {at_least}; it must be a finite number")
    place = f"{where}: {column}"
    if ratings[column].dtype == pl.String:
        ratings = ratings.with_columns(pl.col(column).str.strip_chars())
    value = ratings[column].cast(pl.Float64, strict=False)
    finite = value.is_finite().fill_null(value=False)
    kept = (finite & (value >= at_least)).fill_null(value=False)
    bad, lost = ~finite, finite & ~kept
    if len(finite) and not finite.any():
        raise DataError(f"{place} is {ratings[column][0]!r} in the first row; it must be a finite number")
    if lost.any() and not kept.any():
        largest = float(value.filter(finite).to_numpy().max())
        raise DataError(f"no {column} of {where} is at least {at_least:g}; the largest is {largest:g}")
    for problem, rows in (
        (f"{column} is no finite number", bad),
        (below or f"{column} below {at_least:g}", lost),
    ):
        if rows.any():
            first = ratings.row(int(rows.arg_max() or 0), named=True)
            example = ", ".join(f"{name} {cell}" for name, cell in first.items())
            report.add(problem, place, int(rows.sum()), example, "no click")
    return ratings.drop(column).filter(kept)
