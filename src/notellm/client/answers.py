"""What the service answers, as the client returns it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FoundNote:
    """A note that was found, and the score by which it was ordered."""

    note_id: str
    score: float
    title: str
    category: str


@dataclass(frozen=True)
class RelatedNote(FoundNote):
    """A related note; its score is the weighted mean of its cosine and of BM25 (None without words)."""

    cosine: float
    lexical: float | None


@dataclass(frozen=True)
class RecommendedNote(FoundNote):
    """A recommended note; only differences between scores mean something.

    Attributes:
        reason: the id of the opened note that led to this one; None for a popular note, and if the opened
            note is hidden, expired or removed.
    """

    reason: str | None


@dataclass(frozen=True)
class Recommended:
    """Recommended notes, best first, and what the recommendations are based on."""

    notes: list[RecommendedNote]
    basis: str


@dataclass(frozen=True)
class Ranked:
    """Candidates, best first, their P(enjoy), and what is known about the user.

    Attributes:
        left_out: candidates that are hidden or expired and therefore not ranked.
    """

    note_ids: list[str]
    scores: list[float]
    basis: str
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LikelyTag:
    """A topic or a category that a text may have.

    Attributes:
        name: the name.
        probability: how likely a person would give it to the text; None if the model writes freely.
        neighbours: of a topic, ids and titles of visible notes that carry it, the nearest first.
    """

    name: str
    probability: float | None
    neighbours: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class WrittenTags:
    """The category and the topics of a text.

    Attributes:
        category: the category; None if none is likely enough, or none is known or learnt.
        topics: the topics to publish, likeliest first.
        not_learnt: which of "category" and "topics" the model has not learnt.
        category_probability: the probability of the category; None without one.
        categories: the likeliest categories, likeliest first.
        topic_details: the topics with their probabilities and neighbours.
        more_topics: further topics, which are less likely.
        reasons: for each entry of ``not_learnt``, a sentence that says why.
    """

    category: str | None
    topics: list[str]
    not_learnt: list[str] = field(default_factory=list)
    category_probability: float | None = None
    categories: list[LikelyTag] = field(default_factory=list)
    topic_details: list[LikelyTag] = field(default_factory=list)
    more_topics: list[LikelyTag] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
