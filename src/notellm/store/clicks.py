"""The durable log of what users did: views, clicks, likes and dislikes, on LanceDB beside the notes.

    log = ClickLog.open("store")
    log.append([Click("user-7", "n1", "click", time)])     # durable when it returns
    table = log.read()

A click has an id, and one whose id the log has is not written again, so a client may repeat a request whose
answer was lost. ``event_log.py`` says what else a log promises.
"""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from notellm.data.ids import check_ids
from notellm.data.schema import TIME
from notellm.errors import DataError
from notellm.store.durable import TableFiles
from notellm.store.event_log import EventLog
from notellm.store.known_ids import KnownIds

#: What a user can do with a note, as the log calls it.
EVENTS = ("view", "click", "like", "dislike")
#: One row per click; ``request_id`` names the recommendations that the note was shown in, "" for none.
CLICK_LOG = pa.schema(
    [
        pa.field("click_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("timestamp", TIME, nullable=False),
        pa.field("event", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
    ]
)

_AHEAD = timedelta(days=1)  # how far a client's clock may be ahead


@dataclass(frozen=True, slots=True)
class Click:
    """Something that a user did with a note.

    Attributes:
        user_id: the user.
        note_id: the note; it need not be in the store.
        event: "view" (shown and looked at), "click" (opened), "like" or "dislike".
        timestamp: when, with a time zone; None for now.
        click_id: id of the click. None is made from user, note, event and time, so that the same click with
            its time is one; without a time every click is another one.
        request_id: the recommendations in which the note was shown; "" for none.
    """

    user_id: str
    note_id: str
    event: str = "click"
    timestamp: datetime | None = None
    click_id: str | None = None
    request_id: str = ""

    def complete(self, now: datetime) -> "Click":
        """Return the click with its time and its id."""
        if self.click_id is not None:
            return replace(self, timestamp=self.timestamp or now)
        if self.timestamp is None:
            return replace(self, timestamp=now, click_id=uuid.uuid4().hex)
        said = "\0".join((self.user_id, self.note_id, self.event, self.timestamp.astimezone(UTC).isoformat()))
        return replace(self, click_id=hashlib.blake2b(said.encode(), digest_size=16).hexdigest())


class ClickLog(EventLog):
    """The clicks of a store; created by :meth:`open` or :meth:`for_reading`."""

    NAME = "clicks"
    SCHEMA = CLICK_LOG
    WHAT = "the clicks"

    def __init__(
        self, uri: str, files: TableFiles | None, *, max_age: timedelta | None, writable: bool
    ) -> None:
        super().__init__(uri, files, max_age=max_age, writable=writable)
        self._known = KnownIds()

    def append(self, clicks: Sequence[Click], *, checked: bool = False) -> list[Click | None]:
        """Write clicks in one commit: all of them, or none if there is an error.

        Args:
            clicks: the clicks.
            checked: whether they have passed :meth:`check` already.

        Returns:
            The clicks as they were written, with id and time; None for one that the log has already.

        Raises:
            DataError: if an event or an id is not allowed, or a time has no zone, lies in the future, or is
                older than ``max_age``. Then no click is written.
            StorageError: if they could not be written; repeat the same clicks.
        """
        self._check_writable()
        now = datetime.now(UTC)
        complete = [click.complete(now) for click in clicks]
        if not checked:
            self.check(clicks)
        self._settle()
        new: list[Click | None] = []
        ids = set()
        for click in complete:
            is_known = click.click_id in ids or str(click.click_id) in self._known
            new.append(None if is_known else click)
            ids.add(click.click_id)
        written = [click for click in new if click is not None]
        if written:
            rows = pa.table(
                {name: [getattr(click, name) for click in written] for name in CLICK_LOG.names},
                schema=CLICK_LOG,
            )
            self._write(rows)
            self._known.add([str(click.click_id) for click in written])
        return new

    def check(self, clicks: Sequence[Click]) -> None:
        """Refuse clicks that :meth:`append` would refuse.

        Raises:
            DataError: as :meth:`append`.
        """
        now = datetime.now(UTC)
        given = [each for click in clicks for each in (click.user_id, click.note_id, click.click_id)]
        given += [click.request_id or None for click in clicks]
        check_ids(pa.array([each for each in given if each is not None], pa.string()))
        for click in clicks:
            if (problem := self._problem(click, now)) is not None:
                raise DataError(f"the click of {click.user_id!r} on the note {click.note_id!r} has {problem}")

    def _problem(self, click: Click, now: datetime) -> str | None:
        if click.event not in EVENTS:
            return f"the event {click.event!r}; it must be one of {', '.join(EVENTS)}"
        if (time := click.timestamp) is None:
            return None
        said = f"the time {time.isoformat()}"
        if time.tzinfo is None:
            return f"{said}, which needs a zone, such as +00:00"
        if time > now + _AHEAD:
            return f"{said}, in the future"
        if self.max_age is not None and time < now - self.max_age:
            return f"{said}; clicks are kept for {self.max_age.days} days"
        return None

    def _learn(self) -> None:
        """Know the ids of all clicks of the log."""
        self._known = KnownIds(each for batch in self.batches(["click_id"]) for each in batch[0].to_pylist())
