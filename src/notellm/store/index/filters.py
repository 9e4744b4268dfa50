"""Which notes a search may return: by category, topic, publication time, and lists of ids.

    Filter(categories=("Travel",), published_after=datetime(2026, 1, 1, tzinfo=UTC), deny=("n7",))

Conditions of different kinds all hold at once; of several categories, or several topics, one is enough.
Hidden and expired notes never come back, with or without a filter.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from notellm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Conditions on notes; the default lets every visible note pass.

    Attributes:
        categories: the note's category is one of these; empty: any category.
        topics: the note has at least one of these topics, spelled alike; empty: any topics.
        published_after: published at this time or later; notes without a time do not pass.
        published_before: published before this time; notes without a time do not pass.
        allow: only these note ids; None allows all.
        deny: none of these note ids.

    Raises:
        ConfigError: a time has no time zone, or the times exclude each other.
    """

    categories: Collection[str] = frozenset()
    topics: Collection[str] = frozenset()
    published_after: datetime | None = None
    published_before: datetime | None = None
    allow: Collection[str] | None = None
    deny: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        # Lists and sets are welcome; frozen sets make a filter a key by which equal searches are joined.
        for name in ("categories", "topics", "allow", "deny"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise ConfigError(f"{name} is the text {given!r}; give a list of them: [{given!r}]")
            if given is not None:
                object.__setattr__(self, name, frozenset(given))
        for name in ("published_after", "published_before"):
            time = getattr(self, name)
            if time is not None and time.tzinfo is None:
                raise ConfigError(f"{name} is {time.isoformat()}; it needs a time zone, such as +00:00")
        after, before = self.published_after, self.published_before
        if after is not None and before is not None and after >= before:
            raise ConfigError(
                f"published_after is {after.isoformat()} and published_before {before.isoformat()}: "
                "no note is published then; exchange them"
            )

    @property
    def is_empty(self) -> bool:
        """Whether every visible note passes."""
        return self == _ALL


_ALL = Filter()


def microseconds(time: datetime) -> int:
    """A time as UTC microseconds since 1970, as the tables have it; exact where a float would round."""
    delta = time - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
