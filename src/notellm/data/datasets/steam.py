"""Steam (Kang and McAuley 2018; Wan and McAuley 2018): games and their reviews.

From one folder, gzipped or not: ``steam_games.json`` and ``steam_reviews.json`` (unpacked also
``steam_new.json``), a Python literal a line. A game is a note: its title, else the name of the app, is the
title; its tags and genres are the topics, the first genre the category. There is no text beside these. A
review is a click on its day, whatever it says and however many hours were played, since only owners may
review. Users are told apart by name, since most reviews lack ``user_id``.
"""

from pathlib import Path
from typing import Any

import polars as pl

from notellm.data.convert import RAW_NOTES, raw_clicks, raw_table
from notellm.data.datasets.files import NOTE_COLUMNS, TEXT, RawData, Rows, cell, find_file, read_objects
from notellm.data.hashtags import add_topics
from notellm.data.problems import Report

_CLICK = {"user_id": TEXT, "note_id": TEXT, "timestamp": TEXT}


def read_steam(folder: str | Path) -> RawData:
    """Read Steam.

    Args:
        folder: the folder with the files.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    games, reviews = (
        find_file(folder, *(f"steam_{name}.json{end}" for name in names for end in ("", ".gz")))
        for names in (("games",), ("reviews", "new"))
    )
    notes = Rows(NOTE_COLUMNS)
    for game in read_objects(games, report):
        genres = _words(game.get("genres"))
        topics = add_topics(_words(game.get("tags")), genres)
        title = game.get("title") or game.get("app_name")
        notes.add(cell(game.get("id")), cell(title), "", topics, next(iter(genres), ""))
    clicks, nameless = Rows(_CLICK), 0
    for review in read_objects(reviews, report):
        nameless += "user_id" not in review
        clicks.add(*(cell(review.get(name)) for name in ("username", "product_id", "date")))
    report.add(
        "review without user_id", reviews.name, nameless, "", "users of all reviews told apart by username"
    )
    return RawData(
        raw_table(pl.DataFrame(notes.table()).to_dict(), RAW_NOTES),
        raw_clicks(clicks.table(), reviews.name, report),
        report,
    )


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else []
