"""Yelp Open Dataset: businesses and the stars of their reviews.

From one folder, gzipped or not: ``yelp_academic_dataset_business.json`` and
``yelp_academic_dataset_review.json``, one JSON object a line. A business is a note: its name is the title,
its city and state are the content, its categories (a text with commas; in old releases a list) the topics,
the first of them the category. Reviews of 4 stars or more are clicks. The text of a review is not read.
"""

from pathlib import Path
from typing import Any

import polars as pl

from notellm.data.convert import RAW_NOTES, raw_clicks, raw_table
from notellm.data.datasets.files import NOTE_COLUMNS, TEXT, RawData, Rows, cell, find_file, read_objects
from notellm.data.datasets.ratings import liked
from notellm.data.problems import Report

_RATING = {"user_id": TEXT, "note_id": TEXT, "stars": TEXT, "timestamp": TEXT}
# Categories whose names contain the comma that separates categories.
_WITH_COMMA = (
    "Beer, Wine & Spirits",
    "Books, Mags, Music & Video",
    "Used, Vintage & Consignment",
    "Wills, Trusts, & Probates",
)


def read_yelp(folder: str | Path, *, min_rating: float = 4.0) -> RawData:
    """Read the Yelp Open Dataset.

    Args:
        folder: the folder with the files.
        min_rating: the smallest number of stars (1 to 5) that counts as a click.

    Raises:
        ConfigError: if ``min_rating`` is not a finite number.
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    business, review = (
        find_file(folder, f"yelp_academic_dataset_{name}.json", f"yelp_academic_dataset_{name}.json.gz")
        for name in ("business", "review")
    )
    notes = Rows(NOTE_COLUMNS)
    for row in read_objects(business, report):
        topics = _categories(row.get("categories"))
        place = ", ".join(str(row[name]) for name in ("city", "state") if row.get(name))
        notes.add(cell(row.get("business_id")), cell(row.get("name")), place, topics, next(iter(topics), ""))
    ratings = Rows(_RATING)
    for row in read_objects(review, report):
        ratings.add(*(cell(row.get(name)) for name in ("user_id", "business_id", "stars", "date")))
    good = liked(pl.DataFrame(ratings.table()), min_rating, review.name, report, column="stars")
    clicks = raw_clicks(good.to_arrow(), review.name, report)
    return RawData(raw_table(pl.DataFrame(notes.table()).to_dict(), RAW_NOTES), clicks, report)


def _categories(value: Any) -> list[str]:
    if isinstance(value, list):
        return [str(word) for word in value]
    text = value if isinstance(value, str) else ""
    for name in _WITH_COMMA:
        text = text.replace(name, name.replace(",", "\0"))
    return [word.strip().replace("\0", ",") for word in text.split(",") if word.strip()]
