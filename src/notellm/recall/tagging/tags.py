"""What a tagger answers: category and topics with probabilities and the known notes that speak for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tag:
    """A topic or a category of a note.

    Attributes:
        name: the name.
        probability: how likely a person would give it to the note, 0 to 1; calibrated on notes that were held
            out. None for free writing, which has no probability.
        neighbours: ids of known notes that carry it, the most similar note first; at most three.
    """

    name: str
    probability: float | None = None
    neighbours: tuple[str, ...] = ()


@dataclass(frozen=True)
class NoteTags:
    """The tags of a note.

    Attributes:
        category: the category; None if none is likely enough, or none can be written.
        topics: the topics to publish, likeliest first.
        categories: the likeliest categories, likeliest first.
        more_topics: further topics that are less likely, likeliest first.
    """

    category: Tag | None = None
    topics: tuple[Tag, ...] = ()
    categories: tuple[Tag, ...] = ()
    more_topics: tuple[Tag, ...] = ()
