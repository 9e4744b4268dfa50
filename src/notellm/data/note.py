"""Notes as objects, as prompts and services use them, made from the rows of a notes table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from notellm.errors import DataError

#: Characters of a note's content that stand for a missing title.
TITLE_LENGTH = 120


@dataclass(frozen=True)
class Note:
    """The text of one note; unknown parts are empty."""

    title: str = ""
    content: str = ""
    topics: tuple[str, ...] = ()
    category: str = ""

    @property
    def display_title(self) -> str:
        """What a list shows of the note: its title, or the beginning of its content if it has no title."""
        return self.title or self.content[:TITLE_LENGTH]


Notes: TypeAlias = pa.Table | Sequence[Note]


def notes_from_table(table: pa.Table) -> list[Note]:
    """Return the rows of a notes table as notes.

    Args:
        table: table with the columns of ``data.schema.NOTES``; all but ``title`` or ``content`` may be
            absent.

    Raises:
        DataError: if the table has neither ``title`` nor ``content``.
    """
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
    """Return a notes table or a sequence of notes as a list.

    Raises:
        DataError: if there are no notes.
    """
    rows = notes_from_table(notes) if isinstance(notes, pa.Table) else list(notes)
    if not rows:
        raise DataError("there are no notes: the table or list is empty")
    return rows
