"""What an engine is asked, and what it answers: writes, queries for related notes, and tags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from notellm.data.note import Note
from notellm.store.index.filters import Filter
from notellm.store.rows import StoredNote


@dataclass(frozen=True)
class Publish:
    """Add a note, or replace it."""

    note: StoredNote

    @property
    def note_id(self) -> str:
        """The id of the note."""
        return self.note.note_id


@dataclass(frozen=True)
class Change:
    """Change some fields of a note.

    Attributes:
        note_id: the note.
        fields: new values by the names of the fields in :class:`StoredNote`.
    """

    note_id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Remove:
    """Remove a note for good."""

    note_id: str


Write: TypeAlias = Publish | Change | Remove


@dataclass(frozen=True)
class Written:
    """The outcome of a write.

    Attributes:
        note_id: the note.
        existed: whether the note existed before the write.
    """

    note_id: str
    existed: bool


@dataclass(frozen=True, kw_only=True)
class RelatedQuery:
    """A query for related notes, by the id of a note or by a text.

    Attributes:
        note_id: id of a stored note, which is not among its own results.
        note: a text, used if there is no ``note_id``.
        k: number of notes.
        where: conditions on the results.
        near_duplicates, diversity: as in `store.index.select.select`.
    """

    note_id: str | None = None
    note: Note | None = None
    k: int = 10
    where: Filter = field(default_factory=Filter)
    near_duplicates: float | None = None
    diversity: float = 0.0


@dataclass(frozen=True)
class Related:
    """Related notes, best first, and their cosines."""

    notes: list[StoredNote]
    scores: list[float]


@dataclass(frozen=True)
class Tags:
    """Category and topics that the model writes for a note.

    Attributes:
        category: the category; None if the model knows none or has not learnt to write one.
        topics: the topics; none if the model has not learnt to write them.
        not_learnt: which of "category" and "topics" the model has not learnt to write.
    """

    category: str | None
    topics: list[str]
    not_learnt: list[str] = field(default_factory=list)
