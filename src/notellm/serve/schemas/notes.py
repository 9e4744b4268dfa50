"""Bodies and answers of the routes that publish, read, change and remove notes."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from notellm.serve.schemas.common import (
    CAMP_NOTE,
    MOST_IDS,
    MOST_NOTES,
    Category,
    NoteId,
    Strict,
    Text,
    Time,
    Topics,
)
from notellm.store.rows import StoredNote


class NoteBody(Text):
    """A note without its id, which is in the path."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**CAMP_NOTE, "category": "Outdoors"}]})

    category: Category = ""
    published_at: Time | None = Field(None, description="Without a zone: UTC.")
    hidden: bool = Field(False, description="Left out of all results until it is shown again.")
    expires_at: Time | None = Field(None, description="Left out of all results from this time on.")

    def stored(self, note_id: str) -> StoredNote:
        """Return the note as the store keeps it."""
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
        json_schema_extra={"examples": [{"note_id": "n1", **CAMP_NOTE, "category": "Outdoors"}]}
    )

    note_id: NoteId


class NoteBatch(Strict):
    """Notes that are published together."""

    notes: list[NoteWithId] = Field(min_length=1, max_length=MOST_NOTES, fail_fast=True)


class NoteChange(Strict):
    """The fields of a note that change; the others stay as they are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"hidden": True}, {"title": "A better title"}]})

    title: str | None = Field(None, max_length=2_000)
    content: str | None = Field(None, max_length=100_000)
    topics: Topics | None = None
    category: Category | None = None
    published_at: Time | None = None
    hidden: bool | None = None
    expires_at: Time | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields that change. A null removes a time; for any other field it changes nothing."""
        fields = {name: getattr(self, name) for name in self.model_fields_set}
        fields = {n: v for n, v in fields.items() if v is not None or n in ("published_at", "expires_at")}
        if "topics" in fields:
            fields["topics"] = tuple(fields["topics"])
        return fields


class NoteIdBatch(Strict):
    """Notes that are removed together."""

    note_ids: Annotated[list[NoteId], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]


class WrittenAnswer(BaseModel):
    """The note was written: it is durable, and the next search finds it."""

    note_id: str
    created: bool = Field(description="False: the note existed before.")


class PublishedAnswer(BaseModel):
    """The notes were written: they are durable, and the next search finds them."""

    published: int
    created: int


class RemovedAnswer(BaseModel):
    """How many notes existed and are removed now."""

    removed: int


class NotesAnswer(BaseModel):
    """Notes, newest first."""

    notes: list[NoteWithId]
