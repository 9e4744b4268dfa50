"""Amazon Reviews of 2014, 2018 (Ni et al. 2019) and 2023 (Hou et al. 2024): products and ratings.

From one folder, gzipped or not: ``meta_*.json`` or ``meta_*.jsonl`` of one category (2014: a Python literal a
line); and its reviews ``*.json`` or ``*.jsonl``, else its ratings alone as ``*.csv``: user, item, rating,
timestamp in 2014, item first in 2018, a header line in 2023. A product is a note (2023: ``parent_asin``):
title; description and features as content; main category, else the first, as category; the other categories
as topics. HTML is left to ``validate``. Ratings of 4 stars or more are clicks; those of products without
metadata, which ``validate`` drops, too.
"""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from notellm.data.convert import RAW_NOTES, raw_clicks, raw_table
from notellm.data.datasets.files import (
    NOTE_COLUMNS,
    TEXT,
    RawData,
    Rows,
    cell,
    find_file,
    first_line,
    read_delimited,
    read_objects,
)
from notellm.data.datasets.ratings import liked
from notellm.data.hashtags import add_topics
from notellm.data.problems import Report
from notellm.errors import DataError

_RATING = {"user_id": TEXT, "note_id": TEXT, "rating": TEXT, "timestamp": TEXT}
_OBJECTS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
_NAMES_2023 = ("user_id", "parent_asin", "rating", "timestamp")
# The title of some products of 2018 is a script of their page; its authors tell it by this word.
_SCRIPT = "getTime"


def read_amazon(folder: str | Path, *, min_rating: float = 4.0) -> RawData:
    """Read one category of Amazon Reviews.

    Args:
        folder: the folder with the metadata and the reviews or ratings of one category.
        min_rating: the smallest number of stars (1 to 5) that counts as a click.

    Raises:
        ConfigError: if ``min_rating`` is not a finite number.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing, there are several, or one has another content.
    """
    report = Report()
    metadata = find_file(folder, *(f"meta_*{end}" for end in _OBJECTS))
    path = _reviews(Path(folder))
    notes = _products(metadata, report)
    if path.name.endswith(_OBJECTS):
        ratings = _ratings_of_reviews(path, report)
    else:
        ratings = _ratings(path, pl.Series(notes.column("note_id")), report)
    clicks = liked(ratings, min_rating, path.name, report)
    return RawData(notes, raw_clicks(clicks.to_arrow(), path.name, report), report)


def _reviews(folder: Path) -> Path:
    """Return the only file of reviews; without any, the only file of ratings."""
    names = [path for path in sorted(folder.iterdir()) if not path.name.startswith(("meta_", "."))]
    for ends in (_OBJECTS, (".csv", ".csv.gz")):
        files = [path for path in names if path.name.endswith(ends)]
        if len(files) > 1:
            raise DataError(
                f"{folder} has {len(files)} files of reviews or ratings, as {files[0].name} and "
                f"{files[1].name}; keep one"
            )
        if files:
            return files[0]
    raise DataError(f"{folder} has no reviews (*.json, *.jsonl) or ratings (*.csv) beside the metadata")


def _products(path: Path, report: Report) -> pa.Table:
    rows = Rows(NOTE_COLUMNS)
    scripts, first_script = 0, ""
    for product in read_objects(path, report):
        number = cell(product.get("parent_asin") or product.get("asin"))
        title = _text(product.get("title"))
        if _SCRIPT in title:
            scripts += 1
            first_script = first_script or f"{number}: {title}"
            title = ""
        categories = _words(product.get("categories") or product.get("category"))
        main = _text(product.get("main_category") or product.get("main_cat"))
        category = main or next(iter(categories), "")
        topics = [topic for topic in categories if topic.casefold() != category.casefold()]
        parts = [_text(product.get(name)) for name in ("description", "features", "feature")]
        rows.add(number, title, "\n".join(part for part in parts if part), topics, category)
    report.add("title is a script of the page", path.name, scripts, first_script, "taken as no title")
    return raw_table(pl.DataFrame(rows.table()).to_dict(), RAW_NOTES)


def _ratings_of_reviews(path: Path, report: Report) -> pl.DataFrame:
    rows = Rows(_RATING)
    for review in read_objects(path, report):
        rows.add(
            cell(review.get("user_id") or review.get("reviewerID")),
            cell(review.get("parent_asin") or review.get("asin")),
            cell(review.get("rating", review.get("overall"))),
            cell(review.get("timestamp", review.get("unixReviewTime"))),
        )
    return pl.DataFrame(rows.table())


def _ratings(path: Path, products: pl.Series, report: Report) -> pl.DataFrame:
    """Read ratings alone. Without a header line, the column with more ids of products is the item."""
    table = pl.DataFrame(read_delimited(path, _NAMES_2023, report))
    table.columns = ["user_id", "note_id", "rating", "timestamp"]
    line = first_line(path)
    if not set(_NAMES_2023) <= {name.strip(' "') for name in line.split(",")}:
        known = {name: table[name].is_in(products.implode()).sum() for name in ("user_id", "note_id")}
        item_first = known["user_id"] > known["note_id"]
        if item_first:
            table = table.rename({"user_id": "note_id", "note_id": "user_id"})
        order = "item, user" if item_first else "user, item"
        action = f"read as {order}, rating, timestamp, by the ids of the products"
        report.add("no header line", path.name, table.height, line, action)
    return table.select(*_RATING)


def _text(value: Any) -> str:
    """Return text, or the texts of a list, one a line; anything else is no text."""
    if isinstance(value, list):
        return "\n".join(text for text in map(_text, value) if text)
    return value.strip() if isinstance(value, str) else ""


def _words(value: Any) -> list[str]:
    """Return the categories of a list of categories, or of a list of paths of categories."""
    if isinstance(value, list):
        return add_topics([], [word for item in value for word in _words(item)])
    return [value.strip()] if isinstance(value, str) and value.strip() else []
