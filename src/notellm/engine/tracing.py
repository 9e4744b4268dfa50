"""Recommended lists of an engine: each gets an id, waits in memory, and is written in the background.

A recommendation does not wait for the disk: lists are written about a second after they were made, when the
engine is closed, and before a user is forgotten. A kill loses the lists of the last second, and never a
click. If they cannot be written, they are kept, at most ``_MOST_WAITING``, and tried again every few seconds.
"""

import logging
import uuid
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from threading import Lock, Timer

from notellm.data.ids import check_id
from notellm.engine.click_through import ClickThrough
from notellm.errors import DataError, StorageError
from notellm.recommend.recommender import Recommendations
from notellm.store.shown import ShownList, ShownLog

log = logging.getLogger("notellm.engine")

_PERIOD = 1.0  # seconds from the first list that waits to its writing
_RETRY = 5.0  # seconds from a failed attempt to the next one
_MOST_WAITING = 10_000  # lists that wait while they cannot be written


class ShownLists:
    """The lists that were recommended. Threads may share it.

    Args:
        shown: the log that they are written to.
        click_through: counts them.

    Attributes:
        click_through: as above.
        failures: attempts to write lists that failed, since the start.
        lost: lists that were dropped since too many waited, since the start.
    """

    def __init__(self, shown: ShownLog, click_through: ClickThrough) -> None:
        self.click_through = click_through
        self.failures = 0
        self.lost = 0
        self._log = shown
        self._waiting: deque[ShownList] = deque()
        self._timer: Timer | None = None  # runs while lists wait
        self._is_failing = False
        self._is_closed = False
        self._lock = Lock()  # held for moments
        self._disk = Lock()  # held while the log is written

    @property
    def report(self) -> list[str]:
        """What was repaired when the log was opened, in sentences; usually empty."""
        return self._log.report

    @property
    def waiting(self) -> int:
        """The number of lists that are not written yet."""
        return len(self._waiting)

    def record(self, user_id: str | None, result: Recommendations, model: str) -> str:
        """Count a list, have it written soon, and return its id. The disk is not waited for.

        Args:
            user_id: the user. A list for none, or for an id that no click can have, is recorded as nobody's.
            result: the list.
            model: fingerprint of the model whose vectors were searched.
        """
        each = ShownList(
            uuid.uuid4().hex,
            _user_of(user_id),
            datetime.now(UTC),
            tuple(result.note_ids),
            tuple(result.sources),
            model,
            result.basis,
        )
        self.click_through.show(each)
        with self._lock:
            self._waiting.append(each)
            if len(self._waiting) > _MOST_WAITING:
                self._waiting.popleft()
                self.lost += 1
        self._write_after(_PERIOD)
        return each.request_id

    def flush(self) -> None:
        """Write all lists that wait.

        Raises:
            StorageError: if they could not be written. They go on waiting, and are tried again by themselves.
        """
        with self._disk:
            self._write()

    def forget(self, user_id: str) -> int:
        """Remove the lists of a user from memory and from all files; return how many were in the log.

        Raises:
            StorageError: if this could not be completed; repeat it.
        """
        if not user_id:
            return 0  # lists of nobody have no user to be forgotten
        with self._disk:
            self.click_through.forget(user_id)
            self._write()
            return self._log.forget(user_id)

    def close(self) -> None:
        """Write what waits, and close the log."""
        with self._disk:
            try:
                self._write()
            except StorageError as error:
                log.warning("the last %d recommended lists were not written: %s", self.waiting, error)
            self._is_closed = True
            self._log.close()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()

    def _write(self) -> None:
        """Write all lists that wait, and keep them until they are written; the disk is held."""
        with self._lock:
            lists = list(self._waiting)
        if not lists or self._is_closed:
            return
        try:
            self._log.append(lists)
        except StorageError as error:
            self.failures += 1
            if not self._is_failing:
                log.warning("%d recommended lists wait, since they cannot be written: %s", len(lists), error)
            self._is_failing = True
            self._write_after(_RETRY)
            raise
        written = {each.request_id for each in lists}
        with self._lock:
            while self._waiting and self._waiting[0].request_id in written:
                self._waiting.popleft()
        if self._is_failing:
            log.info("recommended lists are written again; %d were lost since the start", self.lost)
        self._is_failing = False

    def _write_after(self, seconds: float) -> None:
        """Write what waits after some time, unless that is planned already."""
        with self._lock:
            if self._timer is None and not self._is_closed:
                self._timer = Timer(seconds, self._write_in_background)
                self._timer.daemon = True
                self._timer.start()

    def _write_in_background(self) -> None:
        with self._lock:
            self._timer = None
        with suppress(StorageError):  # it was told where it failed
            self.flush()


def _user_of(user_id: str | None) -> str:
    """Return the user of a list; "" for none, and for an id that clicks cannot have."""
    if not user_id:
        return ""
    try:
        check_id(user_id)
    except (DataError, UnicodeError):
        return ""
    return user_id
