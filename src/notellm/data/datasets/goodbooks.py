"""Goodbooks-10k (Zajac 2017): the 10,000 most rated books of Goodreads.

From one folder: ``books.csv``, ``ratings.csv`` (user_id, book_id, rating) and optionally ``tags.csv`` with
``book_tags.csv``; also as first released on Kaggle, where ``id`` is the book of the ratings. A book is a
note: the title, the authors as content, its most used tags as topics, without shelves that say what a reader
did ("to-read"). There is no category. Ratings of 4 stars or more are clicks. They have no times; in the newer
release their rows are in the order of time. ``to_read.csv`` is not read: who means to read has not read.
"""

from pathlib import Path

import polars as pl

from notellm.data.convert import RAW_NOTES, raw_table
from notellm.data.datasets.files import RawData, find_file, first_line, read_delimited
from notellm.data.datasets.ratings import liked
from notellm.data.datasets.tags import most_used, topics_of
from notellm.data.problems import Report

_SHELF = (
    r"^(to-(read|buy|get|re-?read).*|.*(currently|re)-reading|re-?read|(all-time-)?favou?rites?|(my-)?favou?rite-.*"
    r"|.*-?i-?own|owned.*|own(-it)?|my-(books|library|bookshelf|collection)|(home-|school-)?library(-books?)?"
    r"|default|books?|wish-?list|read(-in)?-\d{4}|\d{4}(-(reads|books))?|read|finished|did-not-finish|dnf"
    r"|kindle(-books)?|nook|(e-?|audio-?)books?|audio|audible|borrowed|have|maybe|shelfari-.*|goodreads)$"
)


def read_goodbooks(folder: str | Path, *, min_rating: float = 4.0) -> RawData:
    """Read Goodbooks-10k.

    Args:
        folder: the folder with the files.
        min_rating: the smallest number of stars (1 to 5) that counts as a click.

    Raises:
        ConfigError: if ``min_rating`` is not a finite number.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    path = find_file(folder, "books.csv")
    old = "goodreads_book_id" not in first_line(path)
    book, goodreads = ("id", "book_id") if old else ("book_id", "goodreads_book_id")
    books = pl.DataFrame(read_delimited(path, (book, goodreads, "title", "authors"), report))
    notes = books.select("title", note_id=pl.col(book), content=pl.col("authors"))
    names, uses = (find_file(folder, name, needed=False) for name in ("tags.csv", "book_tags.csv"))
    if names and uses:
        topics = most_used(_tags(names, uses, report), uses.name, report)
        notes = notes.with_columns(topics=topics_of(books[goodreads], topics))
    else:
        report.add("no tags.csv with book_tags.csv", path.name, notes.height, "", "books without topics")
    path = find_file(folder, "ratings.csv")
    ratings = pl.DataFrame(read_delimited(path, ("user_id", "book_id", "rating"), report))
    clicks = liked(ratings, min_rating, path.name, report).rename({"book_id": "note_id"})
    return RawData(raw_table(notes.to_dict(), RAW_NOTES), clicks.to_arrow(), report)


def _tags(names: Path, uses: Path, report: Report) -> pl.DataFrame:
    """Return how often each book of Goodreads (as ``note_id``) has a tag."""
    tag = pl.DataFrame(read_delimited(names, ("tag_id", "tag_name"), report))
    used = pl.DataFrame(read_delimited(uses, ("goodreads_book_id", "tag_id", "count"), report))
    joined = used.join(tag.unique("tag_id", keep="first"), on="tag_id", maintain_order="left")
    joined = joined.select(
        note_id="goodreads_book_id",
        tag="tag_name",
        count=pl.col("count").cast(pl.Int64, strict=False).fill_null(0),
    )
    shelf = pl.col("tag").str.to_lowercase().str.contains(_SHELF)
    shelves = joined.filter(shelf)
    if shelves.height:
        problem = "tag that says what a reader did"
        report.add(problem, names.name, shelves.height, shelves["tag"][0], "not a topic")
    return joined.filter(~shelf)
