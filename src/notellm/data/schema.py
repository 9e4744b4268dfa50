"""The schemas of the tables: notes, clicks, pairs and impressions.

A note is anything that a feed shows: a post, an article, a product, a paper. A click is one user opening one
note at one time. Ids are strings, whatever type they had in the file; times are UTC microseconds. In a log
that keeps only the order of a user's clicks, the n-th click has the time 1970-01-01 plus n seconds.

Recall learns from pairs of related notes. Rank learns from impressions: a user, a note, a time, whether the
user enjoyed the note, and the notes the user had liked before that time. Only the label of a row comes from
its own time or later, so a model may read all other columns.
"""

import pyarrow as pa

from notellm.errors import DataError

TIME = pa.timestamp("us", tz="UTC")

#: One row per note. ``note_id`` is unique and not empty; an unknown text or category is "".
NOTES = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("topics", pa.list_(pa.string()), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("published_at", TIME),
    ]
)

#: One row per click. ``event`` is "view" (the note was shown and looked at) or "click" (the note was opened).
CLICKS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("event", pa.string(), nullable=False),
    ]
)

#: One row per directed pair of related notes, best target first for each source. ``users`` is the number of
#: users who contributed to the score.
PAIRS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("users", pa.int32(), nullable=False),
    ]
)

#: One row per impression. ``label`` is true if the user enjoyed the note (clicked it, or rated it high).
#: ``history`` holds the ids of the notes that the user liked before this row, oldest first.
IMPRESSIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("label", pa.bool_(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),
    ]
)


def check_clicks(clicks: pa.Table) -> None:
    """Check that a table has the columns and types of CLICKS.

    Raises:
        DataError: if it has other columns or types.
    """
    if clicks.schema.names != CLICKS.names or clicks.schema.types != CLICKS.types:
        raise DataError(f"clicks has {_columns(clicks.schema)}; give CLICKS: {_columns(CLICKS)}")


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
