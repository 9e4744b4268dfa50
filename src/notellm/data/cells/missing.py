r"""Words that stand for a missing value, as programs write them into texts: "NaN", "NULL", "\\N"."""

import polars as pl

from notellm.data.cells.options import CellOptions
from notellm.data.problems import Report

#: Words that may be a real value or a missing one: they stay, and are reported.
_DOUBTFUL = (
    "NA", "na", "none", "NONE", "nil", "undefined", "unknown", "Unknown", "UNKNOWN", "-", "--", "?",
    "#REF!", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", *CellOptions().missing_words,
)  # fmt: skip


def without_missing(
    cells: pl.Series, where: str, report: Report, options: CellOptions, *, doubt: bool = False
) -> pl.Series:
    """Return texts without white space around them, where words for a missing value are null.

    Args:
        cells: texts.
        where: name of the column in the report.
        report: receives the number of such words, and an example.
        options: the words.
        doubt: report words that may stand for a missing value, too. They stay.
    """
    cells = cells.str.strip_chars()
    words = options.missing_words
    is_missing = (
        cells.is_in(words).fill_null(value=False) if words else pl.repeat(False, len(cells), eager=True)
    )
    if count := int(is_missing.sum()):
        example = cells.filter(is_missing)[0]
        report.add(
            "word for a missing value", where, count, example, "taken as missing; kept with --missing ''"
        )
        cells = pl.select(pl.when(~is_missing).then(cells)).to_series()
    if doubt:
        doubtful = cells.filter(cells.is_in([word for word in _DOUBTFUL if word not in words]))
        if len(doubtful):
            action = "kept; add it to the words of --missing to take it as missing"
            report.add("may stand for a missing value", where, len(doubtful), doubtful[0], action)
    return cells
