"""What a renewal asks of the service that is to switch."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from notellm.client import Client, ServiceError
from notellm.engine.engine import Engine
from notellm.errors import DataError, StorageError
from notellm.renew import run as module
from notellm.renew.service import Service
from notellm.serve.keys import Keys
from notellm.store import lance
from tests.renew.conftest import QUICK, candidate, renewal, service_at
from tests.serve.small import served as serving_engine

KEY, READ_KEY = "k" * 20, "r" * 20
NO_RANKER = {"model": {"fingerprint": "f"}, "ranker": None, "reload": {"running": False, "error": None}}


@contextmanager
def answering(*answers):
    """An address that gives these answers, each a status, headers and a body; the last one for ever."""
    left = list(answers)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_the_service_is_told_the_key_and_refusals_are_told(served):
    engine = Engine.open(served.store, served.models.model)
    with serving_engine(engine, keys=Keys(write=[KEY], read=[READ_KEY])) as client:
        url = str(client.base_url)
        service_at(url, KEY).check_key()
        assert service_at(url, KEY).reload(served.models) is None
        with pytest.raises(ServiceError) as refused:
            service_at(url).state()
        assert refused.value.status == 401
        service = service_at(url, READ_KEY)
        with pytest.raises(ServiceError, match="this key may only read"):
            renewal(served, service=service).renew(QUICK)
        assert not served.work.joinpath("snapshot").exists()


def test_a_service_with_a_ranker_or_another_model_is_refused_before_the_work(served, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "take_snapshot", None)
    engine = Engine.open(served.store, served.models.model, ranker=served.models.ranker)
    with serving_engine(engine) as client:
        service = service_at(str(client.base_url))
        with pytest.raises(DataError, match=r"has a ranker, .* name its directory with --ranker"):
            renewal(served, service=service).renew(QUICK)
        service.check_models(served.models)
        other = candidate(served, tmp_path / "other")
        with pytest.raises(DataError, match="give the model that serves"):
            service.check_models(other)


def test_a_service_of_another_store_is_refused_before_the_work(served, monkeypatch):
    state = json.dumps(NO_RANKER).encode()
    with answering((200, {}, state)) as url:
        service = service_at(url)
        monkeypatch.setattr(Service, "check_key", lambda _: None)
        with pytest.raises(StorageError, match=r"no process has the store .* serves another one"):
            renewal(served, service=service).renew(QUICK)
    assert not lance.is_locked(str(served.store))


def test_a_service_that_reloads_another_directory_does_not_switch(served, tmp_path):
    before = served.models.identities()
    elsewhere = candidate(served, tmp_path / "given")
    engine = Engine.open(served.store, served.models.model)
    with serving_engine(engine) as client:
        service = service_at(str(client.base_url))
        assert service.reload(served.models) is None
        assert "from another directory" in str(service.reload(elsewhere))
    assert served.models.identities() == before


@pytest.mark.parametrize("body", [b"[1]", b"<html>", b""])
def test_an_answer_of_something_else_is_told(body):
    with answering((200, {}, body)) as url, pytest.raises(ServiceError, match="no answer of notellm"):
        service_at(url).state()


def test_an_answer_that_is_cut_off_and_a_service_of_something_else_are_told():
    with answering((200, {"Content-Length": "100"}, b"{")) as url, pytest.raises(ServiceError):
        service_at(url).state()
    with answering((200, {}, b"{}")) as url, pytest.raises(DataError, match="is no service of notellm"):
        service_at(url).state()


def test_a_reload_is_waited_for(served):
    running = NO_RANKER | {"reload": {"running": True, "error": None}}
    answers = [json.dumps(state).encode() for state in (running, NO_RANKER, {}, running, running, NO_RANKER)]
    waited: list[float] = []
    with answering(*((200, {}, body) for body in answers)) as url:
        service = Service(Client(url, retries=0), url, wait=waited.append)
        assert "from another directory" in str(service.reload(served.models))
    assert waited == [0.5] * 3
