"""The log of the service: JSON lines for which no request waits."""

import json
import logging
import os
import re
import sys
import threading
import time
from contextlib import suppress

import pytest

from notellm.serve.guard import Guard
from notellm.serve.keys import Keys
from notellm.serve.limits import Limits
from notellm.serve.log import JsonLines, LogWriter, QueueHandler, log, log_to_stderr, time_text
from notellm.serve.metrics import Metrics
from tests.serve.small import PATIENCE, serving


class Reader:
    """A reader of the log that reads only when the test allows it."""

    def __init__(self):
        self.text = ""
        self.reads = threading.Event()
        self.waits = threading.Event()

    def __call__(self, text):
        self.waits.set()
        assert self.reads.wait(PATIENCE)
        self.text += text


def fill(pipe):
    """Write to a non-blocking pipe until it is full."""
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"x" * 65_536)


async def answering(scope, _, send):
    """An application that answers everything with an empty body."""
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def guarded():
    return Guard(answering, keys=Keys(), limits=Limits(), metrics=Metrics())


def test_a_line_of_the_log_is_one_line_whatever_is_in_it():
    try:
        int("two\nlines")
    except ValueError:
        record = logging.LogRecord("notellm.serve", logging.ERROR, "", 0, "an %s", ("event",), sys.exc_info())
    text = 'quote " \n 中文 \ud800'
    vars(record).update(text=text, other={"not", "json"})
    line = JsonLines().format(record)
    assert "\n" not in line
    read = json.loads(line)
    assert read["event"] == "an event"
    assert read["text"] == text
    assert "two" in read["traceback"]


def test_the_last_lines_are_written_when_the_service_ends(logged):
    with serving(guarded()) as client:
        client.get("/v1/last")
    assert json.loads(logged().splitlines()[-1])["status"] == 200


def test_lines_keep_their_order_and_are_written_whole():
    reader = Reader()
    reader.reads.set()
    writer = LogWriter(reader)
    for i in range(1_000):
        writer.put(f"{i}\n")
    assert writer.flush(PATIENCE)
    assert reader.text.split() == [str(i) for i in range(1_000)]
    assert writer.dropped == 0


def test_nobody_waits_for_a_reader_who_does_not_read_and_what_is_dropped_is_told():
    reader = Reader()
    writer = LogWriter(reader, waiting=100)
    writer.put("first\n")
    assert reader.waits.wait(PATIENCE)
    for _ in range(10):
        writer.put("x" * 39 + "\n")  # two of them fit
    assert writer.dropped == 8
    assert not writer.flush(0.01)
    reader.reads.set()
    assert writer.flush(PATIENCE)
    writer.put("last\n")
    assert writer.flush(PATIENCE)
    first, one, two, told, last = reader.text.splitlines()
    assert (first, one, two, last) == ("first", "x" * 39, "x" * 39, "last")
    assert json.loads(told).items() >= {"event": "log lines dropped", "lines": 8, "level": "warning"}.items()


def test_a_line_that_cannot_be_made_is_told_in_the_log_and_nowhere_else(capfd):
    """`logging` would write a traceback directly to standard error, and wait for its reader."""
    reader = Reader()
    reader.reads.set()
    handler = QueueHandler(LogWriter(reader))
    handler.setFormatter(JsonLines())
    record = logging.LogRecord("notellm.serve", logging.INFO, "a/file.py", 7, "%d notes", ("many",), None)
    handler.handle(record)
    assert handler.writer.flush(PATIENCE)
    line = json.loads(reader.text)
    assert (line["event"], line["failed"], line["error"]) == ("log line failed", "a/file.py:7", "TypeError")
    assert capfd.readouterr().err == ""


def test_a_reader_who_has_gone_is_no_failure():
    said: list[str] = []

    def write(text):
        if not said:
            said.append("")
            raise BrokenPipeError
        said.append(text)

    writer = LogWriter(write)
    writer.put("lost\n")
    assert writer.flush(PATIENCE)
    writer.put("there\n")
    assert writer.flush(PATIENCE)
    there, told = said[1].splitlines()
    assert there == "there"
    assert json.loads(told)["lines"] == 1


@pytest.mark.parametrize("blocking", [True, False])
def test_a_service_whose_standard_error_nobody_reads_goes_on(monkeypatch, logged, blocking):
    """The pipe is full from the beginning. Without the queue the first line would stop the event loop."""
    reading, writing = os.pipe()
    fill(writing)
    os.set_blocking(writing, blocking)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        writer = log_to_stderr()
        with serving(guarded()) as client:
            for _ in range(20):
                assert client.get("/v1/x").status_code == 200
                log.error("a line")
        assert not writer.flush(0.01)
        text, asked = b"", time.monotonic()
        while text.count(b'"event": "request"') < 20 and time.monotonic() < asked + PATIENCE:
            text += os.read(reading, 65_536)
        assert writer.flush(PATIENCE)
        os.close(reading)
        log.error("for nobody")  # the pipe is broken now
        assert writer.flush(PATIENCE)
    lines = [json.loads(line) for line in text.lstrip(b"x").splitlines()]
    assert [line["status"] for line in lines if line["event"] == "request"] == [200] * 20
    assert not logged()


def test_times_are_utc_with_milliseconds():
    assert time_text(0.0625) == "1970-01-01T00:00:00.062Z"
    assert time_text(1_700_000_000.999) == "2023-11-14T22:13:20.999Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time_text(time.time()))
