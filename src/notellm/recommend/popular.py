"""Popular notes, for users of whom nothing is known: those that most users opened.

A note counts once for each user in whose history the ranker remembers it, and once for each user who opened
it in the log of an engine. A log that the ranker was trained on thus counts twice what it shares with the
ranker, and what is new once; both orders are by users, so the sum is one as well.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

#: Seconds for which an order is kept while the log grows.
_KEPT_FOR = 60.0


class PopularNotes:
    """Notes in the order of the number of users who opened them. Threads may share it.

    Args:
        histories: the notes that each user opened, as the ranker remembers them.
        opened: how many users opened each note in the log, which may grow; None if there is no log.
        clock: returns seconds.
    """

    def __init__(
        self,
        histories: Iterable[Sequence[str]],
        opened: Mapping[str, int] | None = None,
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._remembered = Counter(note_id for history in histories for note_id in history)
        self._opened = {} if opened is None else opened
        self._clock = clock
        self._order: list[str] = []
        self._made_at = -_KEPT_FOR

    def order(self) -> list[str]:
        """Return the notes, most popular first, of equally popular ones the first in the ranker's log first.

        It is at most a minute old, since it takes a while for many notes.
        """
        now = self._clock()
        if now - self._made_at >= _KEPT_FOR:
            counts = self._remembered + Counter(self._opened)
            self._order = [note_id for note_id, _ in counts.most_common()]
            self._made_at = now
        return self._order

    def count(self, note_id: str) -> int:
        """Return how often a note counts now."""
        return self._remembered[note_id] + self._opened.get(note_id, 0)
