"""A note as the store has it, and the rows of the store: Arrow tables of notes with their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.ids import check_ids
from notellm.data.note import Note
from notellm.data.schema import NOTES, TIME
from notellm.errors import DataError, StorageError
from notellm.store.index import base
from notellm.store.index.filters import microseconds
from notellm.vectors import vector_matrix, vector_table

_TOLERANCE = 0.01  # how much the length of a vector may differ from 1


@dataclass(frozen=True, slots=True)
class StoredNote(Note):
    """A note as the store has it.

    Attributes:
        note_id: id of the note.
        published_at: time of publication, with a time zone; None if it is unknown.
        hidden: whether the note is left out of all answers.
        expires_at: time from which the note is left out of all answers; None if it never expires.
    """

    note_id: str = ""
    published_at: datetime | None = None
    hidden: bool = False
    expires_at: datetime | None = None


def rows_schema(dim: int) -> pa.Schema:
    """Return the columns of the store: those of NOTES, ``hidden``, ``expires_at`` and ``vector``."""
    return pa.schema(
        [
            *NOTES,
            pa.field("hidden", pa.bool_(), nullable=False),
            pa.field("expires_at", TIME),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        ]
    )


def rows_of(notes: Sequence[StoredNote], vectors: np.ndarray) -> pa.Table:
    """Return notes and their vectors, (n, d) float32, as rows of the store."""
    names = [name for name in rows_schema(1).names if name != "vector"]
    columns: dict[str, Any] = {name: [getattr(note, name) for note in notes] for name in names}
    columns["topics"] = [list(topics) for topics in columns["topics"]]
    schema = rows_schema(vectors.shape[1])
    arrays = {name: pa.array(columns[name], schema.field(name).type) for name in names}
    vector_column = vector_table(arrays["note_id"], vectors).column("vector")
    return pa.Table.from_arrays([*arrays.values(), vector_column], schema=schema)


def rows_of_table(notes: pa.Table, vectors: np.ndarray) -> pa.Table:
    """Return a notes table and its vectors as rows: visible notes that never expire.

    Args:
        notes: table with the schema ``data.schema.NOTES``.
        vectors: (n, d) float32 array.
    """
    count = notes.num_rows
    columns = [notes.column(name) for name in NOTES.names]
    hidden = pa.array(np.zeros(count, dtype=bool))
    vector_column = vector_table(notes.column("note_id"), vectors).column("vector")
    return pa.Table.from_arrays(
        [*columns, hidden, pa.nulls(count, TIME), vector_column], schema=rows_schema(vectors.shape[1])
    )


def notes_of(rows: pa.Table) -> list[StoredNote]:
    """Return the notes of rows, without their vectors."""
    names = [name for name in rows_schema(1).names if name not in ("vector", "topics")]
    columns: dict[str, list[Any]] = {name: rows.column(name).to_pylist() for name in names}
    columns["topics"] = base.text_tuples(rows.column("topics"))
    order = ("title", "content", "topics", "category", "note_id", "published_at", "hidden", "expires_at")
    return [StoredNote(*values) for values in zip(*(columns[name] for name in order), strict=True)]


def is_visible(note: StoredNote) -> bool:
    """Return whether a note may be shown now: neither hidden nor expired, by the clock that searches use."""
    return not note.hidden and (note.expires_at is None or microseconds(note.expires_at) > base.now())


def visible_rows(rows: pa.Table) -> pa.Table:
    """Return the rows of notes that are neither hidden nor expired now."""
    expires = pc.fill_null(rows.column("expires_at").cast(pa.int64()), np.iinfo(np.int64).max)
    return rows.filter(pc.and_(pc.invert(rows.column("hidden")), pc.greater(expires, base.now())))


def visible_vectors(rows: pa.Table) -> tuple[list[str], np.ndarray]:
    """Return ids and vectors, (n, d) float32, of the rows that are neither hidden nor expired now."""
    visible = visible_rows(rows)
    dim = visible.schema.field("vector").type.list_size
    return visible.column("note_id").to_pylist(), vector_matrix(visible.column("vector"), dim)


def check_new_rows(rows: pa.Table, dim: int) -> None:
    """Check ids and vectors before they are written.

    Raises:
        DataError: if an id is not allowed (``data.ids``), or vectors have another dimension, a number that is
            not finite, or a length other than 1.
    """
    check_ids(rows.column("note_id"))
    vector_matrix(rows.column("vector"), dim)  # raises an error that says what is wrong
    if (problem := _wrong_length(rows, dim)) is not None:
        raise DataError(f"{problem}; a store holds vectors of length 1: divide it by its length")


def check_stored_vectors(rows: pa.Table, dim: int, store: str) -> None:
    """Check vectors that were read from a store.

    Raises:
        StorageError: if a vector has a length other than 1, so it is not what was written.
    """
    if (problem := _wrong_length(rows, dim)) is not None:
        raise StorageError(
            f"the store {store} is damaged: {problem}, not 1; restore it from a backup, or remove it and "
            f"build it again from its notes: notellm store build {store}"
        )


def _wrong_length(rows: pa.Table, dim: int) -> str | None:
    """Describe the first vector whose length is not 1; None if there is none."""
    start = 0
    # Chunk by chunk, without a copy; damaged vectors may hold numbers that vector_matrix refuses.
    for chunk in rows.column("vector").chunks:
        matrix = chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= _TOLERANCE))
        if len(wrong):
            row = int(wrong[0])
            note_id = rows.column("note_id")[start + row].as_py() if "note_id" in rows.column_names else "?"
            return f"the vector of the note {note_id!r} has the length {lengths[row]:.3g}"
        start += len(chunk)
    return None
