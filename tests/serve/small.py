"""A very small service, and a client that asks it over a real socket on a loopback address."""

import asyncio
import json
import shutil
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx

from notellm.data.impressions import impressions_from_clicks
from notellm.data.sample_world import sample_world
from notellm.data.split import split_impressions
from notellm.engine.engine import Engine
from notellm.jobs.build_store import build_store
from notellm.jobs.train_rank import train_rank
from notellm.rank.config import RankOptions
from notellm.recall.model import NoteLLM
from notellm.recall.trained_notes import TRAINED_NOTES, trained_notes_file
from notellm.serve.app import create_app
from notellm.serve.run import server as server_of
from tests.conftest import SMALL

NOTES, USERS = 120, 30
PATIENCE = 60  # seconds after which a test gives up on something that must happen


@dataclass(frozen=True)
class Places:
    """The paths of the parts of a service."""

    store: Path
    model: Path
    ranker: Path

    def copied(self, folder):
        """Return these parts with a copy of the store, which the test may write to."""
        store = Path(folder) / "store"
        shutil.copytree(self.store, store)
        return Places(store, self.model, self.ranker)

    def engine(self, **options):
        """Open an engine of these parts."""
        return Engine.open(self.store, self.model, **{"ranker": self.ranker, **options})


def make_places(folder):
    """Make a model, a ranker and a store from a sample world, with as little training as possible."""
    world = sample_world(notes=NOTES, users=USERS, clicks=700, bots=0, seed=4)
    train, valid, _ = split_impressions(impressions_from_clicks(world.clicks))
    options = RankOptions(max_steps=2, batch=8, evaluations=1, code_epochs=2, out_of_fold=0)
    train_rank(world.notes, train, valid, folder / "ranker", options=options, progress=False)
    model = NoteLLM.from_corpus(world.notes, tiny=SMALL, dim=16)
    model.fit_tagger(world.notes)
    trained = {TRAINED_NOTES: trained_notes_file(world.notes)}
    model.save_pretrained(folder / "model", extra=trained)
    model = NoteLLM.from_pretrained(folder / "model")
    build_store(folder / "store", model, world.notes, progress=False)
    return Places(folder / "store", folder / "model", folder / "ranker")


@contextmanager
def serving(app):
    """Give a client of an application, which a server runs in a thread of this process."""
    with answered_by(server_of(app)) as client:
        yield client


@contextmanager
def answered_by(server):
    """Give a client of a server of uvicorn, which runs in a thread of this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    address = "http://{}:{}".format(*listening.getsockname())
    try:
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@contextmanager
def served(engine, **options):
    """Give a client of the service of an engine; the engine is closed at the end."""
    with serving(create_app(engine, **options)) as client:
        yield client


def told(answer, status, code):
    """Check that an answer is an error in the documented form, and return its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = json.loads(answer.content)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code, body
    assert body["error"]["message"]
    assert "Traceback" not in answer.text
    return body["error"]["message"]


def asking(app, coroutine):
    """Run a coroutine with a client of an application, both in the event loop of this thread."""

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await asyncio.wait_for(coroutine(client), PATIENCE)

    return asyncio.run(run())
