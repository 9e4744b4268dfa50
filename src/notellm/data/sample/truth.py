"""What is true in a sample world: who is interested in what, and how users, notes and times are named."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]

LANGUAGES = ("en", "zh")
#: Number of interests of a user.
INTERESTS = 3
#: Start of the log, in seconds since 1970.
BEGIN = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
DAY = 86_400  # seconds


@dataclass(frozen=True)
class Truth:
    """Why the clicks of a sample world happened.

    Attributes:
        concepts: names of the concepts, as "food/baking/bread"; a concept is an index into them.
        complement: (concepts,) the concept that each concept is matched with.
        note_concept: (notes,) the concept of each note, in the order of the note table.
        note_language: (notes,) index into ``LANGUAGES``.
        user_interests: (users, 3) the concepts that each user is interested in.
        user_language: (users,) index into ``LANGUAGES``.
        bots: (users,) true for a bot.
    """

    concepts: tuple[str, ...]
    complement: Ints
    note_concept: Ints
    note_language: Ints
    user_interests: Ints
    user_language: Ints
    bots: npt.NDArray[np.bool_]


def user_id(user: int) -> str:
    """Return the id of a user by its index in the ``Truth``."""
    return f"u{user:07d}"


def note_id(note: int) -> str:
    """Return the id of a note by its row in the note table."""
    return f"n{note:07d}"
