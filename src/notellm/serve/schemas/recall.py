"""Bodies and answers of the routes of recall: related notes and tags."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from notellm.engine.requests import RelatedQuery, TagsQuery
from notellm.serve.schemas.common import CAMP_NOTE, MOST_RESULTS, FilterBody, NoteId, Strict, Text, Topics

_PROBABILITY: Any = Field(
    description="How likely a person would give it to the text; null if the model writes freely.",
    examples=[0.71],
)


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

    lexical: float | None = Field(
        RelatedQuery.lexical,
        ge=0,
        le=1,
        description="The share of the words in the score: 0 for vectors only, 1 for words only; null takes "
        "the model's.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        text = bool(self.title.strip() or self.content.strip())
        if (self.note_id is None) != text or (self.note_id is not None and self.topics):
            raise ValueError("give either note_id, or a text (title, content) that is not empty")
        return self


class FoundNote(BaseModel):
    """A note that was found."""

    note_id: str = Field(examples=["n2"])
    title: str = Field(examples=["A quiet lake"])
    category: str = Field(examples=["Outdoors"])


class RelatedNote(FoundNote):
    """A related note."""

    score: float = Field(
        description="What the notes are ordered by: the weighted mean of both parts.", examples=[0.74]
    )
    cosine: float = Field(description="Cosine of the vectors of both notes.", examples=[0.87])
    lexical: float | None = Field(
        description="BM25 of the note for the words of the query, as a share of the query's for itself; "
        "null if words have no share.",
        examples=[0.55],
    )


class RelatedAnswer(BaseModel):
    """Related notes, best first."""

    related: list[RelatedNote]


class TagsBody(Text):
    """A text to be tagged; for its topics, the topics that it already has are not read."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Sourdough without kneading"}]})

    n: int | None = Field(
        None, ge=1, le=20, description="The number of topics; null lets the probabilities decide."
    )
    least: float = Field(
        TagsQuery.least,
        ge=0,
        le=1,
        description="The least probability of a category, and of topics unless n gives their number.",
    )
    note_id: NoteId | None = Field(
        None, description="The id of the text if it is a stored note, which then does not speak for itself."
    )

    def query(self) -> TagsQuery:
        """Return the query of this body."""
        return TagsQuery(note=self.note(), topics=self.n, least=self.least, note_id=self.note_id or "")


class NamedNote(BaseModel):
    """A note as it is named beside an answer."""

    note_id: str = Field(examples=["n2"])
    title: str = Field(examples=["Bread in a cold oven"])


class CategoryDetails(BaseModel):
    """A category that the text may have."""

    name: str = Field(examples=["Food"])
    probability: float | None = _PROBABILITY


class TopicDetails(BaseModel):
    """A topic that the text may have."""

    name: str = Field(examples=["bread"])
    probability: float | None = _PROBABILITY
    neighbours: list[NamedNote] = Field(
        description="Visible notes that carry the topic and are near the text, nearest first; at most 3."
    )


class TagsAnswer(BaseModel):
    """The category and the topics of a text, and what speaks for them."""

    category: str | None = Field(
        description="null if none is likely enough, or the model knows or has learnt none.", examples=["Food"]
    )
    category_probability: float | None = Field(
        description="The probability of the category; null without one.", examples=[0.83]
    )
    categories: list[CategoryDetails] = Field(description="The likeliest categories, likeliest first.")
    topics: list[str] = Field(
        description="The topics to publish, likeliest first.", examples=[["bread", "baking"]]
    )
    topic_details: list[TopicDetails] = Field(description="The same topics with what speaks for them.")
    more_topics: list[TopicDetails] = Field(description="Further topics, which are less likely.")
    not_learnt: list[Literal["category", "topics"]] = Field(
        description="What the model has not learnt, since its training notes had none.", examples=[[]]
    )
    reasons: dict[str, str] = Field(
        description='For each entry of "not_learnt", a sentence that says why.', examples=[{}]
    )
