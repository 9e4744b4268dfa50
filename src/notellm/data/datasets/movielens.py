"""MovieLens (Harper and Konstan 2015), alone or with the overviews and keywords of TMDB.

From one folder: ``movies.csv``, ``ratings.csv`` and optionally ``tags.csv`` of any release in CSV, with or
without header lines; or ``movies.dat``, ``ratings.dat`` and optionally ``tags.dat`` of 1M and 10M. A movie is
a note: title without year ("Craft, The (1996)" is "The Craft"), genres and most used tags as topics, first
genre as category. With ``links.csv`` and Kaggle's ``tmdb_5000_movies.csv``, or ``items_joined.csv`` (movieId,
overview, keywords between ``|``), which fills gaps, only movies with an overview or keywords are notes: the
overview is the content, the keywords are the topics. Ratings of 4 stars or more are clicks. There is no
``published_at``: the release of a film does not tell when the site showed it.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from notellm.data.convert import RAW_NOTES, labels, raw_clicks, raw_table
from notellm.data.datasets.files import RawData, find_file, read_delimited
from notellm.data.datasets.ratings import liked
from notellm.data.datasets.tags import most_used, topics_of
from notellm.data.hashtags import add_topics
from notellm.data.problems import Report
from notellm.errors import DataError

_NO_GENRE = "(no genres listed)"
_SEPARATOR = "\x1f"


def read_movielens(folder: str | Path, *, min_rating: float = 4.0) -> RawData:
    """Read MovieLens.

    Args:
        folder: the folder with the files.
        min_rating: the smallest number of stars (0.5 to 5) that counts as a click.

    Raises:
        ConfigError: if ``min_rating`` is not a finite number.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    path = find_file(folder, "movies.csv", "movies.dat")
    movies = _read(path, ("movieId", "title", "genres"), report)
    genres = pl.col("genres").str.strip_chars().replace(_NO_GENRE, "").str.split("|")
    movies = movies.with_columns(genres.list.eval(pl.element().filter(pl.element() != "")))
    texts = _texts(Path(folder), report)
    if texts is None:
        described = _describe_by_tags(movies, find_file(folder, "tags.csv", "tags.dat", needed=False), report)
        action = "title, genres and tags alone; add links.csv and tmdb_5000_movies.csv for overviews"
        report.add("no texts of TMDB", path.name, movies.height, movies["title"][0], action)
    else:
        described = movies.join(texts, on="movieId", maintain_order="left")
        silent = movies.join(texts, on="movieId", how="anti", maintain_order="left")
        if silent.height:
            problem = "movie without overview and keywords"
            report.add(problem, path.name, silent.height, silent["title"][0], "left out")
    title = pl.col("title").str.strip_chars().str.replace(r"\s*\(\d{4}[^()]*\)$", "")
    notes = described.select(
        note_id="movieId",
        title=title.str.replace(r"^(.+), (The|A|An)$", "$2 $1"),
        content="overview",
        topics="keywords",
        category=pl.col("genres").list.first().fill_null(""),
    )
    clicks = _clicks(find_file(folder, "ratings.csv", "ratings.dat"), min_rating, report)
    return RawData(raw_table(notes.to_dict(), RAW_NOTES), clicks, report)


def _read(path: Path, names: tuple[str, ...], report: Report) -> pl.DataFrame:
    """Read a file of MovieLens: CSV, or cells between ``::``, in Latin-1 or UTF-8."""
    if path.suffix == ".csv":
        return pl.DataFrame(read_delimited(path, names, report, latin1=True))
    table = read_delimited(
        path,
        names,
        report,
        delimiter=_SEPARATOR,
        quoting=False,
        latin1=True,
        mend=lambda line: line.replace("::", _SEPARATOR),
    )
    return pl.DataFrame(table)


def _describe_by_tags(movies: pl.DataFrame, path: Path | None, report: Report) -> pl.DataFrame:
    """Give every movie an empty overview, and its genres and most used tags as keywords."""
    words = movies["genres"].to_list()
    if path is not None:
        given = _read(path, ("userId", "movieId", "tag"), report)
        tags = given.select("tag", note_id="movieId", count=1)
        used = topics_of(movies["movieId"], most_used(tags, path.name, report))
        words = [add_topics(genres, more) for genres, more in zip(words, used, strict=True)]
    keywords = pl.Series(words, dtype=pl.List(pl.String))
    return movies.with_columns(keywords.alias("keywords"), overview=pl.lit(""))


def _texts(folder: Path, report: Report) -> pl.DataFrame | None:
    """Return movieId, overview and the list of keywords of every movie that has one of them.

    None if the folder has no texts.
    """
    parts = []
    links = find_file(folder, "links.csv", needed=False)
    tmdb = find_file(folder, "tmdb_5000_movies.csv", needed=False)
    joined = find_file(folder, "items_joined.csv", needed=False)
    if links and tmdb:
        link = pl.DataFrame(read_delimited(links, ("movieId", "imdbId", "tmdbId"), report))
        film = pl.DataFrame(read_delimited(tmdb, ("id", "overview", "keywords"), report))
        names = [labels(cell, "name", "tmdb_5000_movies.csv: keywords") for cell in film["keywords"]]
        words = pl.Series(names, dtype=pl.List(pl.String))
        film = film.with_columns(words.alias("keywords")).unique("id", keep="first")
        parts.append(link.join(film, left_on="tmdbId", right_on="id", maintain_order="left"))
    if joined:
        film = pl.DataFrame(read_delimited(joined, ("movieId", "overview", "keywords"), report))
        parts.append(film.with_columns(pl.col("keywords").str.split("|")))
    if not parts:
        if tmdb:
            raise DataError(
                f"{folder} has tmdb_5000_movies.csv but no links.csv, which says which film is which; add it"
            )
        return None
    texts = pl.concat([part.select("movieId", "overview", "keywords") for part in parts])
    texts = texts.with_columns(pl.col("keywords").list.eval(pl.element().filter(pl.element() != "")))
    has_text = (pl.col("overview").str.strip_chars() != "") | (pl.col("keywords").list.len() > 0)
    return texts.filter(has_text).unique("movieId", keep="first")


def _clicks(path: Path, min_rating: float, report: Report) -> pa.Table:
    ratings = _read(path, ("userId", "movieId", "rating", "timestamp"), report)
    good = liked(ratings, min_rating, path.name, report)
    table = good.rename({"userId": "user_id", "movieId": "note_id"}).to_arrow()
    return raw_clicks(table, path.name, report)
