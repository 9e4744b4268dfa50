"""The parts of a small service, made once."""

import io
import logging
import sys

import pytest

from notellm.serve.log import log, log_to_stderr
from tests.serve.small import make_places


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """A store, a model and a ranker, not to be written to."""
    return make_places(tmp_path_factory.mktemp("service"))


@pytest.fixture(autouse=True)
def _loggers_are_restored():
    """A service takes over these loggers; the next test file in the same process reads them by caplog."""
    loggers = (log, logging.getLogger("uvicorn"), logging.getLogger("notellm"))
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture
def logged(monkeypatch):
    """A function that gives the service's log as it was written to standard error up to now."""
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    writer = log_to_stderr()

    def read():
        assert writer.flush(60)
        return text.getvalue()

    return read
