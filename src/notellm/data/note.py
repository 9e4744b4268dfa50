"""A note as everything above the tables sees it: what of it is text, and how a table becomes notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from notellm.errors import DataError


@dataclass(frozen=True)
class Note:
    """One note as the prompt sees it; unknown parts are empty."""

    title: str = ""
    content: str = ""
    topics: tuple[str, ...] = ()
    category: str = ""


Notes: TypeAlias = pa.Table | Sequence[Note]


def notes_from_table(table: pa.Table) -> list[Note]:
    """The rows of a notes table (schema ``data.schema.NOTES``; only present columns are read)."""
    names = [name for name in ("title", "content", "topics", "category") if name in table.schema.names]
    if not {"title", "content"} & set(names):
        raise DataError(
            f"a notes table needs a column title or content; found {', '.join(table.schema.names)}"
        )
    columns = {name: table.column(name).to_pylist() for name in names}
    empty: list[Any] = [None] * table.num_rows
    return [
        Note(title or "", content or "", tuple(topics or ()), category or "")
        for title, content, topics, category in zip(
            columns.get("title", empty),
            columns.get("content", empty),
            columns.get("topics", empty),
            columns.get("category", empty),
            strict=True,
        )
    ]


def as_notes(notes: Notes) -> list[Note]:
    """A notes table or list as a list of notes.

    Raises:
        DataError: it is empty.
    """
    rows = notes_from_table(notes) if isinstance(notes, pa.Table) else list(notes)
    if not rows:
        raise DataError("there are no notes: the table or list is empty")
    return rows
