"""MicroLens (Ni et al. 2023, arXiv:2309.15379): captions of short videos, and who commented on them.

From the official folder of any size (50k, 100k, 1M): ``MicroLens-*_titles.csv`` or
``MicroLens-*_title_en.csv`` (item, caption); and ``MicroLens-*_pairs.csv`` (user, item, milliseconds) or, if
it is missing, ``MicroLens-*_pairs.tsv`` (user, TAB, items in time order separated by spaces), whose times
keep only the order.

A caption is the content of a note and the title is empty, because captions are long and the paper keeps 80
tokens of a content but only 20 of a title. Its hashtags, which run on to the next ``#``, are the topics.
There is no category.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from notellm.data.convert import RAW_CLICKS, RAW_NOTES, order_times, raw_clicks, raw_table
from notellm.data.datasets.files import RawData, find_file, read_delimited
from notellm.data.hashtags import split_running_hashtags
from notellm.data.problems import Report


def read_microlens(folder: str | Path) -> RawData:
    """Read MicroLens.

    Args:
        folder: the folder with the official files.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    titles = find_file(folder, "MicroLens-*_titles.csv", "MicroLens-*_title_en.csv")
    captions = read_delimited(titles, ("item", "title"), report)
    split = [split_running_hashtags(caption) for caption in captions.column("title").to_pylist()]
    notes = raw_table(
        {
            "note_id": pl.Series(captions.column("item")).str.strip_chars(),
            "content": pl.Series([text for text, _ in split], dtype=pl.String),
            "topics": pl.Series([topics for _, topics in split], dtype=pl.List(pl.String)),
        },
        RAW_NOTES,
    )
    pairs = find_file(folder, "MicroLens-*_pairs.csv", "MicroLens-*_pairs.tsv")
    return RawData(notes, _clicks(pairs, report), report)


def _clicks(path: Path, report: Report) -> pa.Table:
    if path.suffix == ".csv":
        timed = read_delimited(path, ("user", "item", "timestamp"), report)
        return raw_clicks(timed.rename_columns(["user_id", "note_id", "timestamp"]), path.name, report)
    rows = pl.DataFrame(read_delimited(path, ("user", "items"), report, delimiter="\t", quoting=False))
    items = rows.with_columns(pl.col("items").str.strip_chars().str.split(" ")).explode("items")
    action = "a user's n-th click is at 1970-01-01 + n s"
    report.add("items in time order, without times", path.name, items.height, "", action)
    columns = {
        "user_id": items["user"],
        "note_id": items["items"],
        "timestamp": order_times(items["user"]),
        "event": pl.repeat("click", items.height, dtype=pl.String, eager=True),
    }
    return raw_table(columns, RAW_CLICKS)
