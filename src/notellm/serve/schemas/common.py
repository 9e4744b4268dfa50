"""Types that several parts of the API share: ids, times, texts, filters, and the body of an error."""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from fastapi import Query
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from notellm.data import ids
from notellm.data.note import Note
from notellm.store.index.filters import Filter

#: The most notes of one batch, results of one query, and ids of one list.
MOST_NOTES, MOST_RESULTS, MOST_IDS = 256, 500, 1_000
_FIRST = datetime(1, 1, 3, tzinfo=UTC)  # the first day that every time zone can express


def _utc(time: datetime) -> datetime:
    """Convert a time to UTC; a time without a zone is taken as UTC."""
    try:
        utc = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error
    if utc < _FIRST:
        raise ValueError(f"the time is before {_FIRST.isoformat()}")
    return utc


NoteId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=ids.MOST_CHARACTERS, pattern=ids.ALLOWED),
    Field(description=f"{ids.RULE.capitalize()}.", examples=["n1"]),
]
UserId = Annotated[str, StringConstraints(max_length=ids.MOST_CHARACTERS)]
Topic = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Category = Annotated[str, StringConstraints(max_length=200)]
Time = Annotated[datetime, AfterValidator(_utc)]
# Only the first wrong entry of a list is reported: to find and describe all of them would take long.
NoteIds = Annotated[list[NoteId], Field(max_length=MOST_IDS, fail_fast=True)]
Topics = Annotated[list[Topic], Field(max_length=100, fail_fast=True)]
#: How many entries a list of notes or users has at most.
ListLimit = Annotated[int, Query(ge=1, le=100)]

CAMP_NOTE: dict[str, Any] = {
    "title": "Cold brew at the camp site",
    "content": "Coarse coffee, cold lake water, twelve hours in the shade.",
    "topics": ["camping", "coffee"],
}


class Strict(BaseModel):
    """A request body that allows no unknown fields: a misspelt field would otherwise be ignored silently."""

    model_config = ConfigDict(extra="forbid")


class Text(Strict):
    """A text that need not be a stored note."""

    title: str = Field("", max_length=2_000)
    content: str = Field("", max_length=100_000)
    topics: Topics = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not (self.title.strip() or self.content.strip()):
            raise ValueError("give a title or content that is not empty")
        return self

    def note(self) -> Note:
        """Return the text as the model reads it."""
        return Note(self.title, self.content, tuple(self.topics))


class FilterBody(Strict):
    """What results must fulfil; of several categories, or several topics, a note needs one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"categories": ["Outdoors"]}]})

    categories: list[Category] = Field(default_factory=list, max_length=100, fail_fast=True)
    topics: Topics = Field(default_factory=list)
    published_after: Time | None = None
    published_before: Time | None = None
    allow: NoteIds | None = Field(default=None, description="Only these notes.")
    deny: NoteIds = Field(default_factory=list, description="None of these notes.")

    def filter(self) -> Filter:
        """Return the filter as an index takes it."""
        return Filter(
            categories=frozenset(self.categories),
            topics=frozenset(self.topics),
            published_after=self.published_after,
            published_before=self.published_before,
            allow=None if self.allow is None else frozenset(self.allow),
            deny=frozenset(self.deny),
        )


class ErrorText(BaseModel):
    """What was wrong."""

    code: str = Field(examples=["not_found"])
    message: str = Field(examples=["there is no note 'n9' among the 2,000 notes; publish it first"])


class ErrorAnswer(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorText
