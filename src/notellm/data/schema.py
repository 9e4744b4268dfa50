"""The two tables that everything starts from, and the two that are made of them.

A **note** is anything a feed shows: a post, an article, a product, a paper. A **click** is one user
opening one note at one time. Ids are strings, whatever they were in the file; times are UTC
microseconds. A log that keeps only the order of a user's clicks gives the n-th click the time
1970-01-01 plus n seconds: order is all the related pairs need when no window is asked for.

Recall learns from **pairs** of related notes. Rank learns from **impressions**: one user before one
note at one time, whether they enjoyed it, and the notes they had liked until then. A row knows
nothing of its own time or later but its label, so a model may read all of it but that.
"""

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

#: One row a note; ``note_id`` is unique and not empty, an unknown text is "", an unknown category is "".
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

#: One row a click; ``event`` is "view" (the note was shown and looked at) or "click" (it was opened).
CLICKS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("event", pa.string(), nullable=False),
    ]
)

#: One row a directed related pair, best first within a source; ``users`` counts who made the score.
PAIRS = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("users", pa.int32(), nullable=False),
    ]
)

#: One row an impression; ``label``: the user enjoyed the note (clicked it, or rated it high);
#: ``history``: ids of the notes that the user liked before this row, oldest first.
IMPRESSIONS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("label", pa.bool_(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("history", pa.list_(pa.string()), nullable=False),
    ]
)
