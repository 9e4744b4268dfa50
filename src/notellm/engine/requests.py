"""What an engine is asked, and what it answers: writes, queries for related notes and for tags."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from notellm.data.note import Note
from notellm.recall.tagging.tagger import LEAST
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


@dataclass(frozen=True)
class Clicked:
    """The outcome of writing clicks.

    Attributes:
        written: clicks that are in the log now, and were not before.
        repeated: clicks that were in the log already.
        unknown_notes: notes of the clicks that the store does not have, each once.
    """

    written: int
    repeated: int
    unknown_notes: list[str]


@dataclass(frozen=True)
class Forgotten:
    """What is left of a user who was forgotten.

    Attributes:
        clicks: clicks that were removed from the log.
        lists: recommended lists that were removed from theirs.
        in_ranker: whether the ranker was trained with clicks of the user, and so remembers a history or has a
            code of theirs until another one is trained without them.
    """

    clicks: int
    lists: int
    in_ranker: bool


@dataclass(frozen=True, kw_only=True)
class RelatedQuery:
    """A query for related notes, by the id of a note or by a text.

    Attributes:
        note_id: id of a stored note, which is not among its own results.
        note: a text, used if there is no ``note_id``.
        k: number of notes.
        where: conditions on the results.
        near_duplicates, diversity: as in `store.index.select.select`.
        lexical: share of the words in the score, 0 (vectors only) to 1; None takes the model's.
    """

    note_id: str | None = None
    note: Note | None = None
    k: int = 10
    where: Filter = field(default_factory=Filter)
    near_duplicates: float | None = None
    diversity: float = 0.0
    lexical: float | None = None


@dataclass(frozen=True)
class Related:
    """Related notes, best first.

    Attributes:
        notes: the notes.
        scores: what they are ordered by: the weighted mean of both parts.
        cosines: cosines of their vectors to the query.
        lexical: their lexical scores; None if words had no share.
    """

    notes: list[StoredNote]
    scores: list[float]
    cosines: list[float]
    lexical: list[float] | None


@dataclass(frozen=True, kw_only=True)
class TagsQuery:
    """A query for the category and topics of a text.

    Attributes:
        note: the text.
        topics: number of topics; None lets the probabilities decide.
        least: least probability of a category, and of topics if ``topics`` is None.
        note_id: id of the text if it is a stored note, which does not speak for itself; "" if it is none.
    """

    note: Note
    topics: int | None = None
    least: float = LEAST
    note_id: str = ""


@dataclass(frozen=True)
class ExplainedTag:
    """A topic or a category, and the notes that speak for it.

    Attributes:
        name: the name.
        probability: how likely a person would give it to the note, 0 to 1; None for free writing.
        neighbours: visible notes of the store that carry it, the most similar note first; at most three.
    """

    name: str
    probability: float | None = None
    neighbours: list[StoredNote] = field(default_factory=list)


@dataclass(frozen=True)
class Tags:
    """Category and topics of a text.

    Attributes:
        category: the category; None if none is likely enough, or none is known or learnt.
        topics: the topics to publish, likeliest first; none if the model has not learnt topics.
        categories: the likeliest categories, likeliest first.
        more_topics: further topics that are less likely, likeliest first.
        reasons: for "category" and "topics", a sentence that says why the model has not learnt it, if it has
            not.
    """

    category: ExplainedTag | None = None
    topics: list[ExplainedTag] = field(default_factory=list)
    categories: list[ExplainedTag] = field(default_factory=list)
    more_topics: list[ExplainedTag] = field(default_factory=list)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def not_learnt(self) -> list[str]:
        """Which of "category" and "topics" the model has not learnt."""
        return list(self.reasons)
