"""Cleaning notes: the rules of ``validate`` in their order, each with a row of the report."""

from datetime import datetime

import polars as pl
import pyarrow as pa

from notellm.data.ids import RULE, refused_ids
from notellm.data.problems import Report
from notellm.data.schema import NOTES


def clean_notes(
    raw: pa.Table,
    *,
    first: datetime,
    last: datetime,
    lengths: dict[str, int],
    max_topics: int,
    max_topic: int,
    report: Report,
) -> pa.Table:
    """Return clean notes (schema NOTES).

    Args:
        raw: raw notes, from ``convert.raw_notes``.
        first: earlier times of publication are wrong.
        last: later ones are.
        lengths: largest number of characters of each text.
        max_topics: largest number of topics of a note.
        max_topic: largest number of characters of a topic.
        report: receives what was dropped or repaired.
    """
    frame = _clean_note_ids(pl.DataFrame(raw), report)
    frame = _clean_texts(frame, lengths, report)
    frame = _clean_topics(frame, max_topics, max_topic, report)
    frame = _drop_silent(frame, report)
    frame = _clean_published(frame, first, last, report)
    return _notes_table(frame)


def _clean_note_ids(frame: pl.DataFrame, report: Report) -> pl.DataFrame:
    where = "notes: note_id"
    with_nul = frame.filter(pl.col("note_id").str.contains("\0", literal=True))
    if with_nul.height:
        report.add("NUL character", where, with_nul.height, with_nul["note_id"][0], "taken out")
        frame = frame.with_columns(pl.col("note_id").str.replace_all("\0", "", literal=True))
    full = frame.filter(pl.col("note_id") != "")
    report.add("empty id", where, frame.height - full.height, "", "rows dropped")
    refused = full.filter(pl.Series(refused_ids(full["note_id"].to_arrow())))
    if refused.height:
        action = f"rows dropped; an id is {RULE}"
        report.add("id that the service cannot name", where, refused.height, refused["note_id"][0], action)
        full = full.join(refused.select("note_id").unique(), on="note_id", how="anti", maintain_order="left")
    kept = full.unique("note_id", keep="last", maintain_order=True)
    if kept.height < full.height:
        repeated = full.filter(pl.col("note_id").is_duplicated())
        different = repeated.unique()
        extra_different = different.height - different["note_id"].n_unique()
        extra_same = full.height - kept.height - extra_different
        if extra_same:
            same = repeated.filter(repeated.is_duplicated())
            report.add("note twice, rows alike", where, extra_same, same["note_id"][0], "one row kept")
        if extra_different:
            example = different.filter(pl.col("note_id").is_duplicated())["note_id"].sort()[0]
            action = "the last row kept"
            report.add("note twice, rows differ", where, extra_different, example, action)
    return kept


def _clean_texts(frame: pl.DataFrame, limits: dict[str, int], report: Report) -> pl.DataFrame:
    for name, limit in limits.items():
        where = f"notes: {name}"
        frame = frame.with_columns(pl.col(name).fill_null("").str.strip_chars())
        for problem, character in (("NUL character", "\0"), ("broken UTF-8 (U+FFFD)", "\ufffd")):
            affected = frame.filter(pl.col(name).str.contains(character, literal=True))
            if affected.height:
                report.add(problem, where, affected.height, affected["note_id"][0], "characters taken out")
                clean = pl.col(name).str.replace_all(character, "", literal=True).str.strip_chars()
                frame = frame.with_columns(clean)
        long = frame.filter(pl.col(name).str.len_chars() > limit)
        if long.height:
            action = f"cut to {limit:,} characters"
            report.add("absurd length", where, long.height, long["note_id"][0], action)
            frame = frame.with_columns(pl.col(name).str.slice(0, limit).str.strip_chars_end())
    return frame


def _clean_topics(frame: pl.DataFrame, max_topics: int, max_topic: int, report: Report) -> pl.DataFrame:
    where = "notes: topics"
    topic = pl.col("topics")
    words = (
        frame.select(pl.int_range(pl.len()).alias("row"), "note_id", "topics")
        .explode("topics", empty_as_null=True)
        .filter(topic.is_not_null() | (pl.col("row").is_duplicated()))
    )

    def drop(bad: pl.Expr, problem: str, action: str) -> None:
        nonlocal words
        lost = words.filter(bad)
        if lost.height:
            row = lost.row(0, named=True)
            notes = lost["row"].n_unique()
            report.add(problem, where, notes, f"{row['note_id']}: {row['topics']}", action)
            words = words.filter(~bad)

    dirty = topic.str.contains("[\\x00\ufffd]")
    lost = words.filter(dirty)
    if lost.height:
        notes = lost["row"].n_unique()
        report.add("NUL or U+FFFD", where, notes, lost["note_id"][0], "characters taken out")
    words = words.with_columns(topic.str.replace_all("[\\x00\ufffd]", "").str.strip_chars().fill_null(""))
    drop(topic == "", "empty topic", "topic dropped")
    drop(topic.str.len_chars() > max_topic, f"topic over {max_topic} characters", "topic dropped")
    repeat = ~pl.struct("row", topic.str.to_lowercase()).is_first_distinct()
    drop(repeat, "topic twice", "the first kept")
    over = pl.int_range(pl.len()).over("row") >= max_topics
    drop(over, f"over {max_topics} topics", f"the first {max_topics} kept")
    lists = words.group_by("row", maintain_order=True).agg("topics")
    rows = pl.DataFrame({"row": pl.int_range(frame.height, eager=True)})
    joined = rows.join(lists, on="row", how="left", maintain_order="left")
    none = pl.Series([[]], dtype=pl.List(pl.String))
    return frame.with_columns(joined["topics"].fill_null(none).alias("topics"))


def _drop_silent(frame: pl.DataFrame, report: Report) -> pl.DataFrame:
    silent = (pl.col("title") == "") & (pl.col("content") == "") & (pl.col("topics").list.len() == 0)
    lost = frame.filter(silent)
    if lost.height:
        report.add("note without any text", "notes", lost.height, lost["note_id"][0], "dropped")
    return frame.filter(~silent)


def _clean_published(frame: pl.DataFrame, first: datetime, last: datetime, report: Report) -> pl.DataFrame:
    time = pl.col("published_at")
    for problem, bad in (
        (f"before {first:%Y-%m-%d}", time < first),
        (f"after {last:%Y-%m-%d}", time > last),
    ):
        affected = frame.filter(bad)
        if affected.height:
            row = affected.row(0, named=True)
            example = f"{row['note_id']}: {row['published_at']}"
            report.add(problem, "notes: published_at", affected.height, example, "taken as unknown")
            frame = frame.with_columns(pl.when(~bad).then(time).alias("published_at"))
    return frame


def _notes_table(frame: pl.DataFrame) -> pa.Table:
    # Small chunks, because the 32-bit offsets of a chunk of text limit it to 2 GiB.
    batches = frame.select(NOTES.names).to_arrow().to_batches(max_chunksize=1 << 14)
    return pa.Table.from_batches([batch.cast(NOTES) for batch in batches], NOTES)
