"""The log of the service: one JSON object per line on standard error, without ever waiting for its reader.

Lines go into a bounded queue, and a separate thread writes them. If standard error is a pipe that nobody
reads, only this thread blocks. The queue then fills up, and further lines are dropped and counted. As soon as
lines can be written again, one of them says how many are missing.
"""

import asyncio
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

log = logging.getLogger("notellm.serve")

#: Characters of log lines that may wait to be written (about 50,000 requests). Beyond it lines are dropped.
WAITING = 8 << 20
_PATIENCE = 2.0  # seconds that an orderly shutdown waits for the last lines
_GATHERED = 0.1  # seconds for which lines of requests are collected before they enter the queue


class LogWriter:
    """Writes text in a separate thread, so that a reader that has stopped reading delays nobody.

    Args:
        write: writes a text, and may block for any time. If it raises an `OSError`, the text is lost.
        waiting: how many characters may wait; text that would exceed them is dropped.

    Attributes:
        dropped: how many lines were dropped since the start.
    """

    def __init__(self, write: Callable[[str], None], *, waiting: int = WAITING) -> None:
        self.dropped = 0
        self._write = write
        self._most = waiting
        self._size = 0
        self._unreported = 0
        self._busy = False  # a text was taken from the queue and is not yet written
        self._lines: deque[str] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, text: str) -> None:
        """Queue a text of whole lines; this never waits."""
        with self._changed:
            if self._size + len(text) > self._most:
                self._drop(text)
                return
            self._lines.append(text)
            self._size += len(text)
            if self._thread is None:
                # A daemon: the end of the process must not wait for a reader that does not read.
                self._thread = threading.Thread(target=self._work, name="notellm-log", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, seconds: float = _PATIENCE) -> bool:
        """Wait until everything is written, for at most this many seconds; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._lines and not self._busy, seconds)

    def _drop(self, text: str) -> None:
        lines = text.count("\n")
        self.dropped += lines
        self._unreported += lines

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                text, self._size, self._busy = "".join(self._lines), 0, True
                self._lines.clear()
                missing, self._unreported = self._unreported, 0
            try:
                self._write(text + (_missing_line(missing) if missing else ""))
            except (OSError, ValueError):  # the reader has gone, or the stream is closed
                with self._changed:
                    self._drop(text)
                    self._unreported += missing
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()


class QueueHandler(logging.Handler):
    """A handler that puts each record's line into the queue of a :class:`LogWriter`."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self.writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a line that cannot be formatted must not end a request
            # Not `handleError`: it writes to standard error directly, and so waits for the reader.
            about = {"failed": f"{record.pathname}:{record.lineno}", "error": type(error).__name__}
            line = json.dumps({"time": time_text(record.created), "event": "log line failed", **about})
        self.writer.put(line + "\n")

    def flush(self) -> None:
        """Wait a moment until everything is written; `logging` calls this when the process ends."""
        self.writer.flush()


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and the fields of ``extra``."""

    _standard = frozenset(vars(logging.makeLogRecord({})))

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line; a traceback is one of its fields."""
        line: dict[str, Any] = {
            "time": time_text(record.created),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in self._standard}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class RequestLines:
    """Collects the log lines of requests and queues several at once, which costs less than one at a time."""

    def __init__(self) -> None:
        self._waiting: list[str] = []

    def add(self, name: str, method: str, route: str, status: int, seconds: float) -> None:
        """Add the line of a request; it is queued within a moment."""
        if not self._waiting:
            asyncio.get_running_loop().call_later(_GATHERED, self.write)
        # Nothing needs escaping: of all these values the client chooses only the method.
        method = method if method.isalpha() and method.isascii() else "other"
        self._waiting.append(
            f'{{"time": "{time_text(time.time())}", "level": "info", "event": "request", '
            f'"request": "{name}", "method": "{method}", "route": "{route}", "status": {status}, '
            f'"ms": {seconds * 1e3:.2f}}}\n'
        )

    def write(self) -> None:
        """Queue the collected lines now."""
        text, self._waiting = "".join(self._waiting), []
        if not text:
            return
        for handler in log.handlers:
            if isinstance(handler, QueueHandler):
                handler.writer.put(text)


def log_to_stderr(level: int = logging.INFO) -> LogWriter:
    """Send the log of the service to standard error as JSON lines.

    Args:
        level: the level of the log; at INFO it has one line per request.

    Returns:
        The writer, whose :meth:`LogWriter.flush` waits for the last lines.
    """
    writer = LogWriter(_writing_to(sys.stderr))
    handler = QueueHandler(writer)
    handler.setFormatter(JsonLines())
    uvicorn = logging.getLogger("uvicorn")
    uvicorn.setLevel(max(level, logging.WARNING))
    notellm = logging.getLogger("notellm")  # store and engine warn about what they had to repair
    notellm.setLevel(max(level, logging.WARNING))
    log.setLevel(level)
    for logger in (log, uvicorn, notellm):
        logger.handlers[:] = [handler]
        logger.propagate = False
    return writer


def _writing_to(stream: TextIO) -> Callable[[str], None]:
    """Return a function that writes a whole text to a stream.

    It writes to the file behind the stream. Python's buffer has a lock, and a thread that blocks while it
    holds this lock makes Python abort when the process ends.
    """
    try:
        file = stream.fileno()
    except (OSError, ValueError, AttributeError):  # the stream of a test, or no stream at all

        def write_text(text: str) -> None:
            stream.write(text)
            stream.flush()

        return write_text

    def write(text: str) -> None:
        rest = memoryview(text.encode("utf-8", "backslashreplace"))
        while rest:
            try:
                rest = rest[os.write(file, rest) :]
            except BlockingIOError:  # another process has set the pipe to non-blocking
                time.sleep(0.05)

    return write


def _missing_line(lines: int) -> str:
    return (
        f'{{"time": "{time_text(time.time())}", "level": "warning", "event": "log lines dropped", '
        f'"lines": {lines}, "reason": "they were written faster than they are read"}}\n'
    )


def time_text(seconds: float) -> str:
    """Format a time, in seconds since 1970, as UTC with milliseconds."""
    whole, text = _second[0]
    if whole != int(seconds):
        whole = int(seconds)
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _second[0] = whole, text  # one assignment, since several threads log
    return f"{text}.{int(1e3 * (seconds - whole)):03d}Z"


_second: list[tuple[int, str]] = [(0, "1970-01-01T00:00:00")]  # the last formatted second, and its text
