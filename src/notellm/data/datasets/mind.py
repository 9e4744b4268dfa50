"""MIND (Wu et al. 2020), Microsoft's English news with impression logs.

From an official folder such as MINDsmall_train, without headers or quoting: ``news.tsv`` (id, category,
subcategory, title, abstract, URL, title entities, abstract entities) and ``behaviors.tsv`` (impression, user,
time as "11/12/2019 2:14:46 PM", history, news shown with ``-1`` if clicked and ``-0`` if not).

A news item is a note: the abstract is the content, the labels of its entities are the topics, the first-level
category is the category. Clicked impressions are clicks at the impression's time; others, and those without a
label as in test folders, are left out. A history has no times: a user's first is placed before its
impression, one second apart.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa

from notellm.data.convert import RAW_CLICKS, RAW_NOTES, labels, raw_table
from notellm.data.datasets.files import RawData, find_file, read_delimited
from notellm.data.hashtags import add_topics
from notellm.data.problems import Report
from notellm.errors import DataError

_NEWS = (
    "id",
    "category",
    "subcategory",
    "title",
    "abstract",
    "url",
    "title_entities",
    "abstract_entities",
)
_BEHAVIORS = ("impression", "user", "time", "history", "shown")
_TIME_FORMAT = "%m/%d/%Y %I:%M:%S %p"


def read_mind(folder: str | Path) -> RawData:
    """Read MIND.

    Args:
        folder: the folder with ``news.tsv`` and ``behaviors.tsv``.

    Raises:
        StorageError: if there is no such folder, or a file cannot be read.
        DataError: if a file is missing or has another content.
    """
    report = Report()
    path = find_file(folder, "news.tsv")
    news = pl.DataFrame(read_delimited(path, _NEWS, report, delimiter="\t", quoting=False))
    of_title, of_abstract = (
        [labels(cell, "Label", "news.tsv: entities") for cell in news[column]]
        for column in ("title_entities", "abstract_entities")
    )
    topics = [add_topics(title, abstract) for title, abstract in zip(of_title, of_abstract, strict=True)]
    notes = {
        "note_id": news["id"].str.strip_chars(),
        "title": news["title"],
        "content": news["abstract"],
        "topics": pl.Series(topics, dtype=pl.List(pl.String)),
        "category": news["category"],
    }
    clicks = _clicks(find_file(folder, "behaviors.tsv"), report)
    return RawData(raw_table(notes, RAW_NOTES), clicks, report)


def _clicks(path: Path, report: Report) -> pa.Table:
    rows = pl.DataFrame(read_delimited(path, _BEHAVIORS, report, delimiter="\t", quoting=False))
    time = pl.col("time").str.to_datetime(_TIME_FORMAT, strict=False, time_unit="us")
    rows = rows.with_columns(timestamp=time.dt.replace_time_zone("UTC"), nth=pl.int_range(pl.len()))
    if rows["timestamp"].null_count():
        example = rows.filter(pl.col("timestamp").is_null())["time"][0]
        raise DataError(f"{path}: a time is {example!r}; it must be like '11/12/2019 2:14:46 PM'")
    past = (
        rows.sort("timestamp", maintain_order=True)
        .unique("user", keep="first", maintain_order=True)
        .with_columns(pl.col("history").str.strip_chars().str.split(" "))
        .with_columns(left=pl.int_ranges(pl.col("history").list.len(), 0, -1))
        .explode("history", "left", empty_as_null=True)
        .filter(pl.col("history") != "")
    )
    if past.height:
        action = "placed before the user's first impression, one second apart"
        report.add("clicks of a history, without times", path.name, past.height, past["history"][0], action)
    shown = (
        rows.with_columns(pl.col("shown").str.strip_chars().str.split(" "))
        .explode("shown", empty_as_null=True)
        .filter(pl.col("shown") != "")
    )
    clicked = shown.filter(pl.col("shown").str.ends_with("-1"))
    for problem, lost in (
        ("news shown but not clicked", shown.filter(pl.col("shown").str.ends_with("-0"))),
        ("news shown, without a label", shown.filter(~pl.col("shown").str.contains("-[01]$"))),
    ):
        if lost.height:
            row = lost.row(0, named=True)
            example = f"impression {row['impression']}: {row['shown']}"
            report.add(problem, path.name, lost.height, example, "no click")
    clicks = pl.concat(
        [
            past.select(
                user_id="user",
                note_id="history",
                timestamp=pl.col("timestamp") - pl.duration(seconds="left"),
            ),
            clicked.select(
                "timestamp", user_id="user", note_id=pl.col("shown").str.strip_suffix("-1")
            ).select("user_id", "note_id", "timestamp"),
        ]
    ).with_columns(event=pl.lit("click"))
    clicks = clicks.sort("timestamp", maintain_order=True)
    return raw_table(clicks.to_dict(), RAW_CLICKS)
