"""Fresh notes in a list: for users of whom nothing is known, and to explore what few users have been shown.

A new note is recommended only once its vector is near what somebody opened, and the ranker has no code of it.
Exploration gives it places all the same: a share of each list goes to fresh notes that were shown fewer than
``ENOUGH`` times, those nearest to what the user opened first, one on every (1 / share)-th place. After that a
note has to hold its own.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

#: Times after which a fresh note is not explored any more.
ENOUGH = 20
#: Fresh notes that are looked at, newest first.
MOST = 1_000
#: Of a list without a history, a fresh note has each place whose number is a multiple of this.
EVERY = 3


@dataclass(frozen=True)
class FreshNotes:
    """What a recommender knows of fresh notes.

    Attributes:
        newest: returns the notes that are fresh, newest first.
        shown: returns how often a note was shown of late.
        explore: share of the places for fresh notes that few users have been shown, 0 to 1.
    """

    newest: Callable[[], Iterable[str]]
    shown: Callable[[str], int]
    explore: float = 0.0

    def places(self, k: int) -> int:
        """Return the number of places of a list of k notes that explore."""
        return int(self.explore * k + 1e-9)

    def explorable(self) -> Iterable[str]:
        """Return the fresh notes that few users have been shown, newest first."""
        return (note_id for note_id in self.newest() if self.shown(note_id) < ENOUGH)


def nearest(vectors: np.ndarray, opened: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the notes that are nearest to any opened note.

    Args:
        vectors: (n, d) float32 array of unit norm.
        opened: (m, d) vectors of the opened notes.
        count: number of notes.

    Returns:
        Rows of the notes, nearest first, and the row of the opened note that each is nearest to.
    """
    cosines = vectors @ opened.T
    best = np.argsort(-cosines.max(axis=1), kind="stable")[:count]
    return best, cosines[best].argmax(axis=1)


def with_fresh(order: np.ndarray, fresh: int, *, every: int) -> np.ndarray:
    """Put fresh notes on every so-manieth place.

    Args:
        order: the candidates' rows, best first.
        fresh: number of fresh candidates, the last ones; they keep their order, whatever their score.
        every: distance of their places.
    """
    count = len(order)
    others: Sequence[int] = [row for row in order.tolist() if row < count - fresh]
    placed = list(others)
    for nth in range(fresh):
        placed.insert(min(len(placed), every * (nth + 1) - 1), count - fresh + nth)
    return np.array(placed, np.int64)
