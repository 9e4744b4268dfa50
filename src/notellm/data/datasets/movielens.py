"""MovieLens (Harper and Konstan 2015) with the overviews and keywords of TMDB.

From one folder: ``movies.csv``, ``links.csv`` and ``ratings.csv`` of any MovieLens release in CSV, with or
without header lines; ``tmdb_5000_movies.csv`` of Kaggle's TMDB 5000; and optionally ``items_joined.csv``
(movieId, overview, keywords between ``|``), which replaces links and TMDB where these are missing. A movie is
a note if it has an overview or keywords: the title without its year ("Craft, The (1996)" is "The Craft"), the
overview as content, the keywords as topics, the first genre as category. A rating of 4 stars or more is a
click. There is no ``published_at``, since the release of a film does not tell when the site showed it.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from notellm.data.convert import RAW_NOTES, labels, raw_clicks, raw_table
from notellm.data.datasets.files import find_file, read_delimited
from notellm.data.problems import Report
from notellm.errors import DataError

_LIKED = 4.0
_NO_GENRE = "(no genres listed)"


def read_movielens(folder: str | Path) -> tuple[pa.Table, pa.Table]:
    """Read MovieLens with the text of TMDB.

    Args:
        folder: the folder with the files.

    Returns:
        Raw notes and raw clicks, for ``validate``, which drops the clicks on movies without text.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    names = ("movieId", "title", "genres")
    movies = pl.DataFrame(read_delimited(find_file(folder, "movies.csv"), names))
    described = movies.join(_texts(Path(folder)), on="movieId", maintain_order="left")
    title = pl.col("title").str.strip_chars().str.replace(r"\s*\(\d{4}[^()]*\)$", "")
    genre = pl.col("genres").str.split("|").list.first()
    notes = described.select(
        note_id="movieId",
        title=title.str.replace(r"^(.+), (The|A|An)$", "$2 $1"),
        content="overview",
        topics="keywords",
        category=pl.when(genre != _NO_GENRE).then(genre).otherwise(pl.lit("")),
    )
    return raw_table(notes.to_dict(), RAW_NOTES), _clicks(find_file(folder, "ratings.csv"))


def _texts(folder: Path) -> pl.DataFrame:
    """Return movieId, overview and the list of keywords of every movie that has one of them."""
    parts = []
    links = find_file(folder, "links.csv", needed=False)
    tmdb = find_file(folder, "tmdb_5000_movies.csv", needed=False)
    joined = find_file(folder, "items_joined.csv", needed=False)
    if links and tmdb:
        link = pl.DataFrame(read_delimited(links, ("movieId", "imdbId", "tmdbId")))
        film = pl.DataFrame(read_delimited(tmdb, ("id", "overview", "keywords")))
        names = [labels(cell, "name", "tmdb_5000_movies.csv: keywords") for cell in film["keywords"]]
        words = pl.Series(names, dtype=pl.List(pl.String))
        film = film.with_columns(words.alias("keywords")).unique("id", keep="first")
        parts.append(link.join(film, left_on="tmdbId", right_on="id", maintain_order="left"))
    if joined:
        film = pl.DataFrame(read_delimited(joined, ("movieId", "overview", "keywords")))
        parts.append(film.with_columns(pl.col("keywords").str.split("|")))
    if not parts:
        raise DataError(
            f"{folder} has neither links.csv with tmdb_5000_movies.csv nor items_joined.csv; "
            "MovieLens alone has no text: add the TMDB 5000 file"
        )
    texts = pl.concat([part.select("movieId", "overview", "keywords") for part in parts])
    texts = texts.with_columns(pl.col("keywords").list.eval(pl.element().filter(pl.element() != "")))
    has_text = (pl.col("overview").str.strip_chars() != "") | (pl.col("keywords").list.len() > 0)
    return texts.filter(has_text).unique("movieId", keep="first")


def _clicks(path: Path) -> pa.Table:
    names = ("userId", "movieId", "rating", "timestamp")
    ratings = pl.DataFrame(read_delimited(path, names))
    stars = pl.col("rating").cast(pl.Float64, strict=False)
    bad = ratings.filter(stars.is_null())
    if bad.height:
        raise DataError(f"{path}: a rating is {bad['rating'][0]!r}; it must be a number of stars")
    liked = ratings.filter(stars >= _LIKED).drop("rating")
    table = liked.rename({"userId": "user_id", "movieId": "note_id"}).to_arrow()
    return raw_clicks(table, path.name, Report())
