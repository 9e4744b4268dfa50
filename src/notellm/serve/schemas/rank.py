"""Bodies and answers of the routes of rank: the order of candidates, recommendations, and users."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from notellm.recommend.options import RecommendOptions
from notellm.recommend.recommender import Source
from notellm.serve.schemas.common import MOST_IDS, FilterBody, NoteId, NoteIds, Strict, UserId
from notellm.serve.schemas.recall import FoundNote


class RankBody(Strict):
    """Candidates to be ordered for a user."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": ["n1"], "candidates": ["n2", "n3"]}]}
    )

    user_id: UserId | None = None
    history: NoteIds | None = Field(
        None, description="The notes that the user liked, oldest first; null takes the stored history."
    )
    candidates: Annotated[list[NoteId], Field(min_length=1, max_length=MOST_IDS, fail_fast=True)]


class RankedNote(BaseModel):
    """A candidate and how likely the user is to enjoy it."""

    note_id: str
    score: float


class RankAnswer(BaseModel):
    """Candidates, best first."""

    basis: str = Field(description="What is known about the user.", examples=["code and history"])
    ranked: list[RankedNote]
    left_out: list[str] = Field(
        description="Candidates that are hidden or expired and therefore not ranked.", examples=[["n3"]]
    )


class RecommendBody(Strict):
    """The user, or the history, to recommend for; with neither, popular and fresh notes are recommended."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["n1"], "k": 5}]})

    user_id: UserId | None = None
    history: NoteIds | None = Field(
        None, description="The notes that the user opened, oldest first; null takes the stored history."
    )
    k: Annotated[int, Field(ge=1, le=100)] = RecommendOptions.k
    exclude: NoteIds = Field(default_factory=list)
    filter: FilterBody = FilterBody()
    per_note: Annotated[int, Field(ge=1, le=100)] | None = Field(
        RecommendOptions.per_note,
        description="The most candidates that one opened note may bring, so that no topic fills the list.",
    )
    rerank: bool = Field(
        RecommendOptions.rerank, description="False: recall alone, in the order of similarity."
    )
    record: bool = Field(
        True,
        description="False, for a list that no user sees: it is not written down and does not count in the "
        "click-through, and clicks cannot name it.",
    )


class Reason(BaseModel):
    """The opened note that led to a recommendation."""

    note_id: str
    title: str


class RecommendedNote(FoundNote):
    """A recommended note."""

    score: float = Field(description="Only differences between scores mean something.")
    position: int = Field(
        description="The place in the list, from 1. A note that was removed a moment ago leaves a gap."
    )
    source: Source = Field(
        description="Near an opened note, liked by most users, or published in the last days."
    )
    reason: Reason | None = Field(
        description="null for a popular or a fresh note, and if the opened one is hidden, expired or removed."
    )


class RecommendAnswer(BaseModel):
    """Recommended notes, best first."""

    request_id: str | None = Field(
        description="The id of this list, which clicks on its notes name; null if it is not recorded."
    )
    basis: str = Field(description="What the recommendations are based on.")
    recommended: list[RecommendedNote]


class UserEntry(BaseModel):
    """A user that the ranker knows, and how many notes the user opened."""

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
    """The notes that a user opened last, the latest first."""

    user_id: str
    recent: list[RecentNote]
