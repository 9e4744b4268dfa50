"""Write the category and topics of a whole notes table to one Parquet file; a killed run continues.

Notes are tagged in order of their length, in shards of ``SHARD`` notes (``recall/shards.py``). The file has
the notes in the order of the table:

    note_id, category, category_probability, topics, topic_probabilities, categories, category_probabilities

``topics`` and ``categories``, the likeliest ``TOP_CATEGORIES``, are lists, likeliest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts.replace import check_file_replaceable
from notellm.files import write_parquet
from notellm.recall.model import NoteLLM
from notellm.recall.shards import computed_tables, shortest_first
from notellm.recall.tagging.tagger import LEAST, check_request
from notellm.recall.tagging.tags import NoteTags, Tag
from notellm.record import describe, make_record

SHARD = 512
TOP_CATEGORIES = 5
_COLUMNS = pa.schema(
    [
        pa.field("category", pa.string()),
        pa.field("category_probability", pa.float32()),
        pa.field("topics", pa.list_(pa.string())),
        pa.field("topic_probabilities", pa.list_(pa.float32())),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("category_probabilities", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Tagged:
    """What was written.

    Attributes:
        notes: number of notes.
        without_category: how many of them have no category, since none is likely enough or can be written.
        without_topics: how many of them have no topics.
    """

    notes: int
    without_category: int
    without_topics: int


def tag_to_parquet(
    model: NoteLLM,
    notes: pa.Table,
    path: str | Path,
    *,
    topics: int | None = None,
    least: float = LEAST,
    free: bool = False,
    force: bool = False,
    progress: bool = True,
) -> Tagged:
    """Write the tags of every note; a known note does not speak for itself.

    What the model has not learnt to write is left empty: the category null, the lists without an entry.

    Args:
        model: a trained model.
        notes: notes table.
        path: the output file; an earlier file of tags is replaced when the new one is complete.
        topics: number of topics of a note; None lets the probabilities decide.
        least: least probability of a category, and of topics if ``topics`` is None.
        free: write freely instead of choosing known names. Then there are no probabilities: they are null.
        force: replace an existing file of any kind.
        progress: show a progress bar with rate and remaining time.

    Raises:
        ConfigError: if topics is not positive, or least is not a probability.
        DataError: if there are no notes, or they have no ids.
        StorageError: if the file cannot be written, or a file that may not be replaced is in its place.
    """
    check_file_replaceable(path, "tags", force=force)
    check_request(topics, least)
    order = shortest_first(notes, "to tag")
    tagger = None if model.tagger is None else model.tagger.digest()  # the fingerprint does not cover it
    data = {"model": {"fingerprint": model.fingerprint(), "tagger": tagger}, "notes": describe(notes)}
    config = {"topics": topics, "least": least, "free": free}

    def compute(rows: np.ndarray) -> pa.Table:
        piece = notes.take(rows)
        ids = piece.column("note_id").to_pylist()
        return _table(model.tag(piece, topics=topics, least=least, free=free, note_ids=ids))

    with computed_tables(
        Path(path), (data, config), order, compute, size=SHARD, label="tag", progress=progress
    ) as results:
        # The results are in the order of lengths; the inverse of that order brings them back.
        tags = pa.concat_tables([result for _, result in results]).take(np.argsort(order))
        table = tags.add_column(0, "note_id", notes.column("note_id")).combine_chunks()
        outcome = Tagged(
            table.num_rows,
            table.column("category").null_count,
            pc.sum(pc.equal(pc.list_value_length(table.column("topics")), 0)).as_py(),
        )
        record = make_record(
            kind="tags",
            config=config,
            data=data,
            metrics={
                "notes": outcome.notes,
                "notes_with_category": outcome.notes - outcome.without_category,
                "notes_with_topics": outcome.notes - outcome.without_topics,
            },
        )
        write_parquet(table, path, record=record, force=force)
    return outcome


def _table(tags: Sequence[NoteTags]) -> pa.Table:
    """Return tags as a table, one row for each note."""
    rows = [
        {
            "category": each.category.name if each.category else None,
            "category_probability": each.category.probability if each.category else None,
            "topics": _names(each.topics),
            "topic_probabilities": _probabilities(each.topics),
            "categories": _names(each.categories[:TOP_CATEGORIES]),
            "category_probabilities": _probabilities(each.categories[:TOP_CATEGORIES]),
        }
        for each in tags
    ]
    return pa.Table.from_pylist(rows, schema=_COLUMNS)


def _names(tags: Sequence[Tag]) -> list[str]:
    return [tag.name for tag in tags]


def _probabilities(tags: Sequence[Tag]) -> list[float | None]:
    return [tag.probability for tag in tags]
