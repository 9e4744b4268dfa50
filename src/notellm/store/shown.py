"""The durable log of what was recommended: one row per list, so that a click can name the list it came from.

    log = ShownLog.open("store")
    log.append([ShownList("3f2c...", "user-7", time, ["n1", "n2"], ["recall", "recall"], "a1b2...", "...")])

A list is written once, also if it is appended again after a failed write. ``event_log.py`` says what else a
log promises, and ``engine/tracing.py`` gathers lists so that a recommendation does not wait for the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from notellm.data.schema import TIME
from notellm.store.durable import TableFiles
from notellm.store.event_log import EventLog

#: One row per recommended list. ``note_ids`` and ``sources`` have one entry per position, the best first.
SHOWN_LOG = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("note_ids", pa.list_(pa.string()), nullable=False),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("basis", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class ShownList:
    """Notes that were recommended together.

    Attributes:
        request_id: id of the list, which the answer had and clicks name.
        user_id: the user; "" if the request named none.
        timestamp: when, with a time zone.
        note_ids: the notes, best first.
        sources: where each note comes from, as in ``recommend.recommender.Recommendations``.
        model: fingerprint of the model whose vectors were searched.
        basis: what the list is based on, such as "related to 3 opened notes, ranked by code and history".
    """

    request_id: str
    user_id: str
    timestamp: datetime
    note_ids: Sequence[str]
    sources: Sequence[str]
    model: str
    basis: str


class ShownLog(EventLog):
    """The recommended lists of a store; created by :meth:`open` or :meth:`for_reading`."""

    NAME = "shown"
    SCHEMA = SHOWN_LOG
    WHAT = "the recommended lists"

    def __init__(
        self, uri: str, files: TableFiles | None, *, max_age: timedelta | None, writable: bool
    ) -> None:
        super().__init__(uri, files, max_age=max_age, writable=writable)
        self._doubtful: frozenset[str] = frozenset()  # lists of the last write, which may have failed
        self._there: set[str] = set()  # those of them that the log has all the same

    def append(self, lists: Sequence[ShownList]) -> None:
        """Write lists in one commit, without those of a failed attempt that the log has all the same.

        Raises:
            StorageError: if they could not be written; repeat the same lists, and others with them if wanted.
        """
        self._check_writable()
        self._settle()
        new = [each for each in lists if each.request_id not in self._there]
        if new:
            self._doubtful = frozenset(each.request_id for each in new)
            self._write(
                pa.table(
                    {name: [getattr(each, name) for each in new] for name in SHOWN_LOG.names},
                    schema=SHOWN_LOG,
                )
            )
        self._there.clear()

    def _learn(self) -> None:
        """Find out which lists of a failed write the log has."""
        if self._doubtful:
            ids = (each for batch in self.batches(["request_id"]) for each in batch[0].to_pylist())
            self._there |= self._doubtful.intersection(ids)
