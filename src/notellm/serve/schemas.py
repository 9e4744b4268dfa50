"""What the HTTP API takes and gives; the examples are those of its OpenAPI description."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from notellm.data.note import Note
from notellm.store.index.filters import Filter
from notellm.store.rows import StoredNote

#: Notes of one request, results of one question, and ids of one list.
MOST_NOTES, MOST_RESULTS, MOST_IDS = 256, 500, 1_000
_FIRST = datetime(1, 1, 3, tzinfo=UTC)  # is a time in every zone


def _utc(time: datetime) -> datetime:
    """A time in UTC; without a zone it is taken as UTC."""
    try:
        utc = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error
    if utc < _FIRST:
        raise ValueError(f"the time is before {_FIRST.isoformat()}")
    return utc


NoteId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Field(description="Any text without control characters, up to 512 characters.", examples=["n1"]),
]
Topic = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Category = Annotated[str, StringConstraints(max_length=200)]
Time = Annotated[datetime, AfterValidator(_utc)]
# Of a list the first wrong entry is told: to find and describe all of them would take long.
NoteIds = Annotated[list[NoteId], Field(max_length=MOST_IDS, fail_fast=True)]
Topics = Annotated[list[Topic], Field(max_length=100, fail_fast=True)]
K = Annotated[int, Field(ge=1, le=MOST_RESULTS)]

_CAMP: dict[str, Any] = {
    "title": "Cold brew at the camp site",
    "content": "Coarse coffee, cold lake water, twelve hours in the shade.",
    "topics": ["camping", "coffee"],
}


class _Strict(BaseModel):
    """A body without fields that nobody reads: a misspelt one would be lost in silence."""

    model_config = ConfigDict(extra="forbid")


class Text(_Strict):
    """A text that need not be a note."""

    title: str = Field("", max_length=2_000)
    content: str = Field("", max_length=100_000)
    topics: Topics = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not (self.title.strip() or self.content.strip()):
            raise ValueError("give a title or content that is not empty")
        return self

    def note(self) -> Note:
        """As the model reads it."""
        return Note(self.title, self.content, tuple(self.topics))


class NoteBody(Text):
    """A note as it is put at its id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_CAMP, "category": "Outdoors"}]})

    category: Category = ""
    published_at: Time | None = Field(None, description="Without a zone: UTC.")
    hidden: bool = Field(False, description="Out of every answer, until it is shown again.")
    expires_at: Time | None = Field(None, description="Out of every answer from then on.")

    def stored(self, note_id: str) -> StoredNote:
        """As the store has it."""
        return StoredNote(
            self.title,
            self.content,
            tuple(self.topics),
            self.category,
            note_id,
            self.published_at,
            self.hidden,
            self.expires_at,
        )


class NoteWithId(NoteBody):
    """A note in a batch, or as it is read."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"note_id": "n1", **_CAMP, "category": "Outdoors"}]}
    )

    note_id: NoteId


class NoteBatch(_Strict):
    """Notes that are published together."""

    notes: list[NoteWithId] = Field(min_length=1, max_length=MOST_NOTES, fail_fast=True)


class NoteChange(_Strict):
    """The fields of a note that change; the others stay."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hidden": True}, {"title": "A better title"}]})

    title: str | None = Field(None, max_length=2_000)
    content: str | None = Field(None, max_length=100_000)
    topics: Topics | None = None
    category: Category | None = None
    published_at: Time | None = None
    hidden: bool | None = None
    expires_at: Time | None = None

    def fields(self) -> dict[str, Any]:
        """What was given; a time that is given as null is taken away, any other null changes nothing."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        given = {n: v for n, v in given.items() if v is not None or n in ("published_at", "expires_at")}
        if "topics" in given:
            given["topics"] = tuple(given["topics"])
        return given


class NoteIdBatch(_Strict):
    """Notes that are removed together."""

    note_ids: Annotated[list[NoteId], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]


class FilterBody(_Strict):
    """What results must fulfil; of several categories or topics one is enough."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"categories": ["Outdoors"]}]})

    categories: list[Category] = Field(default_factory=list, max_length=100, fail_fast=True)
    topics: Topics = Field(default_factory=list)
    published_after: Time | None = None
    published_before: Time | None = None
    allow: NoteIds | None = Field(default=None, description="Only these notes.")
    deny: NoteIds = Field(default_factory=list, description="None of these notes.")

    def filter(self) -> Filter:
        """As an index takes it."""
        return Filter(
            categories=frozenset(self.categories),
            topics=frozenset(self.topics),
            published_after=self.published_after,
            published_before=self.published_before,
            allow=None if self.allow is None else frozenset(self.allow),
            deny=frozenset(self.deny),
        )


class RelatedBody(_Strict):
    """A question for related notes, by the id of a note or by a text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"note_id": "n1", "k": 10, "near_duplicates": 0.98},
                {**_CAMP, "k": 5, "filter": {"categories": ["Outdoors"]}},
            ]
        }
    )

    note_id: NoteId | None = None
    title: str = Field("", max_length=2_000)
    content: str = Field("", max_length=100_000)
    topics: Topics = Field(default_factory=list)
    k: K = 10
    filter: FilterBody = FilterBody()
    near_duplicates: float | None = Field(
        None, gt=0, le=1, description="Leave out notes whose cosine to one shown is at least this."
    )
    diversity: float = Field(0.0, ge=0, lt=1, description="The nearer to 1, the more the notes differ.")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        text = bool(self.title.strip() or self.content.strip())
        if (self.note_id is None) != text or (self.note_id is not None and self.topics):
            raise ValueError("give either note_id, or a text (title, content) that is not empty")
        return self


class RelatedNote(BaseModel):
    """A note that was found."""

    note_id: str = Field(examples=["n2"])
    score: float = Field(description="Cosine to what was asked about.", examples=[0.87])
    title: str = Field(examples=["A quiet lake"])
    category: str = Field(examples=["Outdoors"])


class RelatedAnswer(BaseModel):
    """Related notes, best first."""

    related: list[RelatedNote]


class TagsBody(Text):
    """A text to be tagged; its own topics are not read."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Sourdough without kneading"}]})

    n: int | None = Field(None, ge=1, le=20, description="How many topics at most; null: the model ends.")


class TagsAnswer(BaseModel):
    """What the model writes."""

    category: str | None = Field(description="null where the model knows no category.", examples=["Food"])
    topics: list[str] = Field(examples=[["bread", "baking"]])


class RankBody(_Strict):
    """Candidates to be ordered for a user."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": ["n1"], "candidates": ["n2", "n3"]}]}
    )

    user_id: str | None = Field(None, max_length=512)
    history: NoteIds | None = Field(None, description="What the user liked, oldest first; null: as stored.")
    candidates: Annotated[list[NoteId], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]


class RankedNote(BaseModel):
    """A candidate and how likely the user is to enjoy it."""

    note_id: str
    score: float


class RankAnswer(BaseModel):
    """Candidates, best first."""

    basis: str = Field(description="What is known of the user.", examples=["code and history"])
    ranked: list[RankedNote]
    left_out: list[str] = Field(
        description="Candidates that are hidden or expired, and so not ranked.", examples=[["n3"]]
    )


class RecommendBody(_Strict):
    """A user, or a history, to recommend for; neither: popular notes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["n1"], "k": 5}]})

    user_id: str | None = Field(None, max_length=512)
    history: NoteIds | None = Field(None, description="What the user opened, oldest first; null: as stored.")
    k: Annotated[int, Field(ge=1, le=100)] = 20
    exclude: NoteIds = Field(default_factory=list)
    filter: FilterBody = FilterBody()
    per_note: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="How many one opened note may bring, so that one theme does not take all places."
    )
    rerank: bool = Field(True, description="False: recall alone, in the order of similarity.")


class Reason(BaseModel):
    """The opened note that led to a recommendation."""

    note_id: str
    title: str


class RecommendedNote(RelatedNote):
    """A recommended note."""

    score: float = Field(description="Only differences mean something.")
    reason: Reason | None = Field(
        description="null for a popular note, and where the opened note is hidden, expired or removed."
    )


class RecommendAnswer(BaseModel):
    """Recommended notes, best first."""

    basis: str = Field(description="What the answer rests on.")
    recommended: list[RecommendedNote]


class WrittenAnswer(BaseModel):
    """A note was written: it is durable, and the next search finds it."""

    note_id: str
    created: bool = Field(description="False: a note was there before.")


class PublishedAnswer(BaseModel):
    """Notes were written: they are durable, and the next search finds them."""

    published: int
    created: int


class RemovedAnswer(BaseModel):
    """How many of the notes were there, and are removed."""

    removed: int


class NotesAnswer(BaseModel):
    """Notes that were found."""

    notes: list[NoteWithId]


class UserEntry(BaseModel):
    """A user the ranker knows."""

    user_id: str
    opened: int


class UsersAnswer(BaseModel):
    """Users."""

    users: list[UserEntry]


class RecentNote(BaseModel):
    """A note that a user opened."""

    note_id: str
    title: str
    category: str


class UserAnswer(BaseModel):
    """What a user opened last, the latest first."""

    user_id: str
    recent: list[RecentNote]


class MapAnswer(BaseModel):
    """Notes in two dimensions, one place a note; near notes are near."""

    ready: bool = Field(description="False: it is being computed; ask again.")
    note_ids: list[str]
    titles: list[str]
    categories: list[str]
    x: list[float] = Field(description="0 to 1.")
    y: list[float] = Field(description="0 to 1.")


class ReloadBody(_Strict):
    """What is to be read again; see the documentation of the service."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    index: str | None = Field(None, max_length=10, pattern="^(exact|hnsw)$", description="Another kind.")


class ReloadAnswer(BaseModel):
    """What answers now."""

    model: str = Field(description="Its fingerprint.")
    index: str


class ErrorText(BaseModel):
    """What was wrong."""

    code: str = Field(examples=["not_found"])
    message: str = Field(examples=["there is no note 'n9' among the 2,000 notes; publish it first"])


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorText
