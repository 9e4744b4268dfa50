"""Bodies and answers of the routes of recall: related notes and tags."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from notellm.engine.requests import RelatedQuery
from notellm.serve.schemas.common import CAMP_NOTE, MOST_RESULTS, FilterBody, NoteId, Strict, Text, Topics


class RelatedBody(Strict):
    """A query for related notes, by the id of a stored note or by a text."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"note_id": "n1", "k": 10, "near_duplicates": 0.98},
                {**CAMP_NOTE, "k": 5, "filter": {"categories": ["Outdoors"]}},
            ]
        }
    )

    note_id: NoteId | None = None
    title: str = Field("", max_length=2_000)
    content: str = Field("", max_length=100_000)
    topics: Topics = Field(default_factory=list)
    k: Annotated[int, Field(ge=1, le=MOST_RESULTS)] = RelatedQuery.k
    filter: FilterBody = FilterBody()
    near_duplicates: float | None = Field(
        RelatedQuery.near_duplicates,
        gt=0,
        le=1,
        description="Leave out notes whose cosine to a better result is at least this.",
    )
    diversity: float = Field(
        RelatedQuery.diversity, ge=0, lt=1, description="The nearer to 1, the more the notes differ."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        text = bool(self.title.strip() or self.content.strip())
        if (self.note_id is None) != text or (self.note_id is not None and self.topics):
            raise ValueError("give either note_id, or a text (title, content) that is not empty")
        return self


class RelatedNote(BaseModel):
    """A related note."""

    note_id: str = Field(examples=["n2"])
    score: float = Field(description="Cosine to the note or the text of the query.", examples=[0.87])
    title: str = Field(examples=["A quiet lake"])
    category: str = Field(examples=["Outdoors"])


class RelatedAnswer(BaseModel):
    """Related notes, best first."""

    related: list[RelatedNote]


class TagsBody(Text):
    """A text to be tagged; the model does not read the topics that it already has."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Sourdough without kneading"}]})

    n: int | None = Field(
        None, ge=1, le=20, description="The most topics to write; null lets the model decide when to stop."
    )


class TagsAnswer(BaseModel):
    """The category and the topics that the model writes."""

    category: str | None = Field(
        description="null if the model knows no category, or has not learnt to write one.", examples=["Food"]
    )
    topics: list[str] = Field(
        description="Empty if the model has not learnt to write topics.", examples=[["bread", "baking"]]
    )
    not_learnt: list[Literal["category", "topics"]] = Field(
        description="What the model has not learnt to write, since its training notes had none.",
        examples=[[]],
    )
