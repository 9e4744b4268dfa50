"""Bodies and answers of the routes that take clicks and forget users."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from notellm.data import ids
from notellm.serve.schemas.common import MOST_IDS, NoteId, Strict, Time, UserId
from notellm.store.clicks import Click

_Id = Annotated[str, StringConstraints(min_length=1, max_length=ids.MOST_CHARACTERS, pattern=ids.ALLOWED)]


class ClickBody(Strict):
    """Something that a user did with a note."""

    user_id: Annotated[UserId, StringConstraints(min_length=1, pattern=ids.ALLOWED)]
    note_id: NoteId
    event: Literal["view", "click", "like", "dislike"] = Field(
        "click", description="Shown and looked at, opened, liked, or not to be shown again."
    )
    time: Time | None = Field(None, description="When it was; null: now. Without a zone: UTC.")
    click_id: _Id | None = Field(
        None,
        description="Of clicks with one id only the first is kept, so a request may be repeated. null is "
        "made from user, note, event and time; without a time every click is another one.",
    )
    request_id: _Id | None = Field(
        None,
        description="The recommendations in which the note was shown, by the id in their answer.",
    )

    def click(self) -> Click:
        """Return the click as the log takes it."""
        return Click(self.user_id, self.note_id, self.event, self.time, self.click_id, self.request_id or "")


class ClickBatch(Strict):
    """Clicks that are written together."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"clicks": [{"user_id": "u1", "note_id": "n1", "event": "click"}]}]}
    )

    clicks: Annotated[list[ClickBody], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]


class ClickedAnswer(BaseModel):
    """The clicks are durable, and the next recommendations for their users count them."""

    written: int
    repeated: int = Field(description="Clicks that the log had already.")
    unknown_notes: list[str] = Field(
        description="Notes of the clicks that the store does not have, which were written all the same."
    )


class ForgottenAnswer(BaseModel):
    """The clicks of the user and the lists recommended to them are gone."""

    clicks: int = Field(description="Clicks that were removed from the store.")
    lists: int = Field(description="Recommended lists that were removed from the store.")
    in_ranker: bool = Field(
        description="Whether the ranker was trained with rows of the user. It remembers them until another "
        "one is trained without them."
    )
