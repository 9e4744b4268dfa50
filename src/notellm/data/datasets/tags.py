"""Tags that many users gave to a note, as its topics: the most used ones."""

import polars as pl

from notellm.data.problems import Report

#: Tags of a note that become topics. Rarer ones are mostly private marks and misspellings.
MOST = 10


def most_used(tags: pl.DataFrame, where: str, report: Report) -> pl.DataFrame:
    """Return the topics of each note: its ``MOST`` most used tags, most used first.

    Args:
        tags: one row per note and tag: ``note_id``, ``tag`` (text) and ``count`` (uses). Tags that differ in
            case or in white space around them are one.
        where: name of the file in the report.
        report: receives the number of tags that are left out.

    Returns:
        ``note_id`` and ``topics``, one row per note that has tags.
    """
    words = tags.with_columns(pl.col("tag").str.strip_chars()).filter(pl.col("tag") != "")
    words = words.with_columns(key=pl.col("tag").str.to_lowercase())
    words = words.group_by("note_id", "key", maintain_order=True).agg(
        pl.col("tag").first(), pl.col("count").sum()
    )
    words = words.sort("count", descending=True, maintain_order=True)
    words = words.with_columns(rank=pl.int_range(pl.len()).over("note_id"))
    rare = words.filter(pl.col("rank") >= MOST)
    if rare.height:
        example = f"{rare['note_id'][0]}: {rare['tag'][0]}"
        problem, action = f"tag beyond the {MOST} most used of a note", "left out"
        report.add(problem, where, rare.height, example, action)
    kept = words.filter(pl.col("rank") < MOST)
    return kept.group_by("note_id", maintain_order=True).agg(topics="tag")


def topics_of(note_ids: pl.Series, topics: pl.DataFrame) -> pl.Series:
    """Return the topics of each note, row for row; a note without tags has none.

    Args:
        note_ids: ids of notes.
        topics: what :func:`most_used` returns.
    """
    joined = pl.DataFrame({"note_id": note_ids}).join(topics, on="note_id", how="left", maintain_order="left")
    return joined["topics"].fill_null(pl.Series([[]], dtype=pl.List(pl.String)))
