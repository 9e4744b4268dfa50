"""Which notes a search may return: by category, topic, publication time, and lists of ids.

    Filter(categories=("Travel",), published_after=datetime(2026, 1, 1, tzinfo=UTC), deny=("n7",))

A note must meet all conditions of a filter. If a condition lists several categories or several topics, one of
them is enough. Hidden and expired notes are never returned, with or without a filter.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from notellm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions on notes. The default lets every visible note pass.

    Attributes:
        categories: the note's category is one of these; empty: any category.
        topics: the note has at least one of exactly these topics; empty: any topics.
        published_after: the note was published at this time or later; a note without a time does not pass.
        published_before: the note was published before this time; a note without a time does not pass.
        allow: ids of the notes that may pass; None allows all.
        deny: ids of notes that do not pass.

    Raises:
        ConfigError: if a time has no time zone, or the two times exclude each other.
    """

    categories: Collection[str] = frozenset()
    topics: Collection[str] = frozenset()
    published_after: datetime | None = None
    published_before: datetime | None = None
    allow: Collection[str] | None = None
    deny: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        # Callers may give lists. Frozen sets make filters hashable, so that equal searches can be joined.
        for name in ("categories", "topics", "allow", "deny"):
            values = getattr(self, name)
            if isinstance(values, str):
                raise ConfigError(f"{name} is the text {values!r}; give a list of texts: [{values!r}]")
            if values is not None:
                object.__setattr__(self, name, frozenset(values))
        for name in ("published_after", "published_before"):
            time = getattr(self, name)
            if time is not None and time.tzinfo is None:
                raise ConfigError(f"{name} is {time.isoformat()}; it needs a time zone, such as +00:00")
        after, before = self.published_after, self.published_before
        if after is not None and before is not None and after >= before:
            raise ConfigError(
                f"published_after is {after.isoformat()} and published_before {before.isoformat()}: "
                "no time is between them; exchange them"
            )

    @property
    def is_empty(self) -> bool:
        """Whether the filter lets every visible note pass."""
        return self == _ALL


_ALL = Filter()


def microseconds(time: datetime) -> int:
    """Return a time as UTC microseconds since 1970, as in the tables; a float would round it."""
    delta = time - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
