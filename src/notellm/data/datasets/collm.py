"""The MovieLens-1M split of CoLLM (arXiv 2310.19488) and BinLLM (arXiv 2406.03210).

From one folder: ``train.parquet``, ``valid.parquet``, ``test.parquet`` and optionally ``valid_small.parquet``
(the half of valid by which the public code chooses models) with ``uid``, ``iid``, ``label``, ``timestamp``
(seconds), ``his`` (item ids liked before, oldest first) and ``not_cold``; ``items.parquet`` (``iid``,
``title``); and ``movies_text.csv`` (movie_id, title, genres, rating, summary), joined by title. A movie is a
note: the title as in the papers' prompts ("Sting, The (1973)"), the summary (which a language model wrote) as
content, the genres as topics, the first genre as category. The label is a rating above 3. Histories are as
published; item 0 in a history is padding and is left out.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from notellm.data.convert import raw_table
from notellm.data.datasets.files import find_file, read_delimited
from notellm.data.problems import Report
from notellm.data.schema import IMPRESSIONS, NOTES
from notellm.errors import DataError
from notellm.files import read_parquet

_COLUMNS = ["uid", "iid", "label", "timestamp", "his", "not_cold"]
_PADDING = 0


@dataclass(frozen=True)
class CollmData:
    """The movies and the impressions of the three parts.

    Args:
        notes: the movies, schema NOTES.
        train: impressions to train on, schema IMPRESSIONS.
        valid: impressions to choose a model by, schema IMPRESSIONS.
        test: impressions to judge it by, schema IMPRESSIONS.
        warm: (test rows,) bool, true if user and movie are both in train.
        report: what was left out or missing.
    """

    notes: pa.Table
    train: pa.Table
    valid: pa.Table
    test: pa.Table
    warm: npt.NDArray[np.bool_]
    report: Report


def read_collm(folder: str | Path, *, full_valid: bool = False) -> CollmData:
    """Read the split.

    Args:
        folder: the folder with the files.
        full_valid: read all of valid even if there is a ``valid_small.parquet``.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    names = ("valid.parquet",) if full_valid else ("valid_small.parquet", "valid.parquet")
    train, valid, test = (
        _rows(find_file(folder, *part)) for part in (("train.parquet",), names, ("test.parquet",))
    )
    report = Report()
    return CollmData(
        notes=_notes(folder, report),
        train=_impressions(train),
        valid=_impressions(valid),
        test=_impressions(test),
        warm=test["not_cold"].to_numpy() == 1,
        report=report,
    )


def _rows(path: Path) -> pl.DataFrame:
    """Read the rows of a part and check them."""
    rows = pl.DataFrame(read_parquet(path, _COLUMNS))
    for name in ("label", "not_cold"):
        wrong = rows.filter(~pl.col(name).is_in([0, 1]).fill_null(value=False))
        if wrong.height:
            raise DataError(f"{path}: a {name} is {wrong[name][0]}; it must be 0 or 1")
    empty = [name for name in _COLUMNS if rows[name].null_count()]
    if empty:
        raise DataError(f"{path}: {empty[0]} is null in some rows; it must have a value in all")
    return rows


def _impressions(rows: pl.DataFrame) -> pa.Table:
    liked = pl.col("his").list.eval(pl.element().filter(pl.element() != _PADDING).cast(pl.String))
    columns = rows.select(
        user_id=pl.col("uid").cast(pl.String),
        note_id=pl.col("iid").cast(pl.String),
        label=pl.col("label") == 1,
        timestamp=pl.from_epoch("timestamp", time_unit="s")
        .dt.cast_time_unit("us")
        .dt.replace_time_zone("UTC"),
        history=liked,
    )
    return raw_table(columns.to_dict(), IMPRESSIONS)


def _notes(folder: str | Path, report: Report) -> pa.Table:
    items = pl.DataFrame(read_parquet(find_file(folder, "items.parquet"), ["iid", "title"]))
    path = find_file(folder, "movies_text.csv")
    texts = pl.DataFrame(read_delimited(path, ("title", "genres", "summary"), report))
    # In this file, non-ASCII letters became U+FFFD, whose UTF-8 was then read as Latin-1.
    lost = pl.col("title").str.replace_all("\u00ef\u00bf\u00bd", "?", literal=True)
    texts = texts.with_columns(key=lost.str.replace_all(r"[^\x00-\x7F]", "?")).unique("key", keep="first")
    keyed = items.with_columns(key=pl.col("title").str.replace_all(r"[^\x00-\x7F]", "?"))
    movies = keyed.join(texts.drop("title"), on="key", how="left", maintain_order="left")
    silent = movies.filter(pl.col("summary").is_null())
    if silent.height:
        action = "title alone, without genres"
        report.add("movie without summary", path.name, silent.height, silent["title"][0], action)
    genres = pl.col("genres").str.split("|")
    notes = movies.select(
        note_id=pl.col("iid").cast(pl.String),
        title="title",
        content=pl.col("summary").fill_null(""),
        topics=genres.fill_null(pl.Series([[]], dtype=pl.List(pl.String))),
        category=genres.list.first().fill_null(""),
    )
    return raw_table(notes.to_dict(), NOTES)
