"""Fixtures of a small service, whose parts are made once."""

import io
import logging
import sys

import pytest

from notellm.serve.log import log, log_to_stderr
from tests.serve.small import make_places


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """A store, a model and a ranker; tests must not write to them."""
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
    """A function that returns what the service has logged to standard error so far."""
    text = io.StringIO()
    monkeypatch.setattr(sys, "stderr", text)
    writer = log_to_stderr()

    def read():
        assert writer.flush(60)
        return text.getvalue()

    return read
