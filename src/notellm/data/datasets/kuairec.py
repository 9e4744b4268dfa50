"""KuaiRec (Gao et al. 2022, arXiv:2202.10842): captions of Chinese short videos, and who watched them.

From the official folder: ``kuairec_caption_category.csv``, or the same columns as ``items_clean.csv`` (rows
that unquoted new lines tore apart are left out and reported); and ``big_matrix.csv``, else
``small_matrix.csv`` (user_id, video_id, timestamp in seconds, watch_ratio), without which there are no
clicks.

A video is a note: the text on its cover is the title, the caption without hashtags the content, the topic
tags and the caption's hashtags the topics, the first-level category the category; UNKNOWN counts as empty. A
video that was watched to its end (a watch ratio of 1 or more) is a click.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from notellm.data.convert import RAW_CLICKS, RAW_NOTES, raw_clicks, raw_table
from notellm.data.datasets.files import RawData, find_file, read_delimited
from notellm.data.datasets.ratings import liked
from notellm.data.hashtags import add_topics, split_hashtags
from notellm.data.problems import Report
from notellm.errors import DataError

_COLUMNS = ("video_id", "manual_cover_text", "caption", "topic_tag", "first_level_category_name")
_UNKNOWN = "UNKNOWN"
_WATCHED = 1.0


def read_kuairec(folder: str | Path) -> RawData:
    """Read KuaiRec.

    Args:
        folder: the folder with the official files.

    Returns:
        The clicks have no rows if there is no matrix.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if the captions are missing, or a file has another content.
    """
    report = Report()
    path = find_file(folder, "kuairec_caption_category.csv", "items_clean.csv")
    videos = pl.DataFrame(read_delimited(path, _COLUMNS, report)).with_columns(
        pl.col(_COLUMNS).str.strip_chars().replace(_UNKNOWN, "")
    )
    split = [split_hashtags(caption) for caption in videos["caption"]]
    topic_tags = [_tags(cell) for cell in videos["topic_tag"]]
    topics = [add_topics(tags, more) for tags, (_, more) in zip(topic_tags, split, strict=True)]
    notes = {
        "note_id": videos["video_id"],
        "title": videos["manual_cover_text"],
        "content": pl.Series([text for text, _ in split], dtype=pl.String),
        "topics": pl.Series(topics, dtype=pl.List(pl.String)),
        "category": videos["first_level_category_name"],
    }
    matrix = find_file(folder, "big_matrix.csv", "small_matrix.csv", needed=False)
    if matrix is None:
        report.add("no big_matrix.csv or small_matrix.csv", "KuaiRec", 1, "", "no clicks")
        clicks = RAW_CLICKS.empty_table()
    else:
        clicks = _clicks(matrix, report)
    return RawData(raw_table(notes, RAW_NOTES), clicks, report)


def _tags(cell: str) -> list[str]:
    """Return the tags of a cell like "[a,b]"."""
    inside = cell.removeprefix("[").removesuffix("]")
    return [tag.strip() for tag in inside.split(",") if tag.strip()]


def _clicks(path: Path, report: Report) -> pa.Table:
    names = ["user_id", "video_id", "timestamp", "watch_ratio"]
    try:
        rows = pl.read_csv(path, columns=names, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} must be a CSV with the columns {', '.join(names)}: {reason}") from error
    below = "video not watched to its end"
    watched = liked(rows, _WATCHED, path.name, report, column="watch_ratio", below=below)
    return raw_clicks(watched.rename({"video_id": "note_id"}).to_arrow(), path.name, report)
