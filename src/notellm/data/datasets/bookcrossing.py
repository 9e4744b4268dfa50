r"""Book-Crossing (Ziegler et al. 2005): books and ratings from 0 to 10.

From one folder: ``BX-Books.csv`` and ``BX-Book-Ratings.csv`` (between ``;``, Latin-1, quotes as ``\"``), or
the same columns between commas in Kaggle's ``Books.csv`` and ``Ratings.csv``. A book is a note with its ISBN,
in capitals, as id: title, author and publisher as content, no topics, no category. Ratings of 7 or more are
clicks. A rating of 0 is implicit, which means that the user had to do with the book; it is a click only with
``min_rating=0``. There are no times. HTML entities are left to ``validate``.
"""

import re
from pathlib import Path

import polars as pl

from notellm.data.convert import RAW_NOTES, raw_table
from notellm.data.datasets.files import RawData, find_file, first_line, read_delimited
from notellm.data.datasets.ratings import liked
from notellm.data.problems import Report

_BOOK = ("ISBN", "Book-Title", "Book-Author", "Publisher")
_RATING = ("User-ID", "ISBN", "Book-Rating")
_ESCAPED = re.compile(r"\\(.)")
# Kaggle's files were made by a reader that did not know \", so titles that end in it run on into the author.
_RUN_ON = r'^(.*?)\\?";([^";]+)"?$'


def read_bookcrossing(folder: str | Path, *, min_rating: float = 7.0) -> RawData:
    """Read Book-Crossing.

    Args:
        folder: the folder with the files.
        min_rating: the smallest rating (1 to 10) that counts as a click; 0 counts implicit ratings, too.

    Raises:
        ConfigError: if ``min_rating`` is not a finite number.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    path = find_file(folder, "BX-Books.csv", "Books.csv")
    books = _read(path, ("ISBN", "Book-Title", "Book-Author", "Publisher"), report)
    books = _mend_titles(books, path.name, report)
    maker = [pl.col(name).replace("", None) for name in ("Book-Author", "Publisher")]
    notes = books.select(
        note_id=_isbn(pl.col("ISBN")),
        title="Book-Title",
        content=pl.concat_str(maker, separator=", ", ignore_nulls=True),
    )
    path = find_file(folder, "BX-Book-Ratings.csv", "Ratings.csv")
    ratings = _read(path, ("User-ID", "ISBN", "Book-Rating"), report)
    ratings = ratings.rename({"User-ID": "user_id", "ISBN": "note_id", "Book-Rating": "rating"})
    small = ratings.filter(pl.col("note_id") != _isbn(pl.col("note_id")))
    if small.height:
        report.add(
            "ISBN not in capitals", path.name, small.height, small["note_id"][0], "written in capitals"
        )
    ratings = ratings.with_columns(_isbn(pl.col("note_id")))
    if min_rating > 0:
        rating = pl.col("rating").str.strip_chars().cast(pl.Float64, strict=False)
        implicit = ratings.filter(rating == 0)
        if implicit.height:
            example = "user_id {}, note_id {}".format(*implicit.row(0))
            report.add("implicit rating (0)", f"{path.name}: rating", implicit.height, example, "no click")
        ratings = ratings.filter((rating != 0).fill_null(value=True))
    clicks = liked(ratings, min_rating, path.name, report)
    return RawData(raw_table(notes.to_dict(), RAW_NOTES), clicks.to_arrow(), report)


def _isbn(column: pl.Expr) -> pl.Expr:
    return column.str.strip_chars().str.to_uppercase()


def _read(path: Path, names: tuple[str, ...], report: Report) -> pl.DataFrame:
    """Read the original form, between semicolons, or that of Kaggle, between commas."""
    if ";" not in first_line(path):
        return pl.DataFrame(read_delimited(path, names, report, latin1=True))

    def mend(line: str) -> str:
        return _ESCAPED.sub(lambda match: '""' if match[1] == '"' else match[1], line)

    return pl.DataFrame(read_delimited(path, names, report, delimiter=";", latin1=True, mend=mend))


def _mend_titles(books: pl.DataFrame, where: str, report: Report) -> pl.DataFrame:
    r"""Tell apart title and author of Kaggle's rows that run on, and write ``"`` in place of ``\"``."""
    title = pl.col("Book-Title")
    # The cells after such a title are one to the left, so the author is a year.
    run_on = title.str.contains(_RUN_ON) & pl.col("Book-Author").str.contains(r"^\d+$")
    lost = books.filter(run_on)
    if lost.height:
        problem, action = "title that runs on into the author", "told apart; publisher unknown"
        report.add(problem, where, lost.height, lost["Book-Title"][0], action)
    books = books.with_columns(
        pl.when(run_on).then(title.str.extract(_RUN_ON, 1)).otherwise(title),
        pl.when(run_on).then(title.str.extract(_RUN_ON, 2)).otherwise("Book-Author").alias("Book-Author"),
        pl.when(~run_on).then("Publisher").otherwise(pl.lit("")).alias("Publisher"),
    )
    escaped = books.filter(title.str.contains('\\"', literal=True))
    if escaped.height:
        report.add('\\" in a title', where, escaped.height, escaped["Book-Title"][0], 'read as "')
    return books.with_columns(title.str.replace_all('\\"', '"', literal=True))
