"""A store in object storage is what it is on a disk; `make s3` starts a real S3 server (moto) for it."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

pytest.importorskip("lancedb")
pytest.importorskip("faiss")

from notellm.data.sample_world import sample_world
from notellm.engine.engine import Engine
from notellm.engine.requests import Change, Publish, RelatedQuery, Remove
from notellm.errors import DataError
from notellm.jobs.build_store import build_store
from notellm.recall.model import NoteLLM
from notellm.store.clicks import Click, ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote
from tests.conftest import SMALL

SERVER = os.environ.get("NOTELLM_S3_SERVER")
BUCKET = "notellm-test"

pytestmark = [
    pytest.mark.s3,
    pytest.mark.skipif(SERVER is None, reason="NOTELLM_S3_SERVER names no S3 server: make s3"),
]


@pytest.fixture(scope="module", autouse=True)
def bucket():
    """A bucket of a server of its own, which the environment names."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [str(SERVER), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        for _ in range(300):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"))
                break
            except urllib.error.URLError:
                assert server.poll() is None, "the server has ended"
                time.sleep(0.1)
        yield
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=60, users=30, clicks=500, bots=0, seed=4)


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model"
    NoteLLM.from_corpus(world.notes, tiny=SMALL, dim=16).save_pretrained(path)
    return path


def answers(engine):
    """What a store decides: its notes, and the notes related to each visible one."""
    names = sorted(note.note_id for note in engine.notes.values() if not note.hidden)
    found = engine.related([RelatedQuery(note_id=name, k=5) for name in names])
    return sorted(map(repr, engine.notes.values())), [[note.note_id for note in each.notes] for each in found]


def test_an_engine_on_it_is_as_one_on_a_disk(world, model, tmp_path):
    places = {"disk": str(tmp_path / "store"), "s3": f"s3://{BUCKET}/engine/store"}
    found = {}
    for name, place in places.items():
        build_store(place, NoteLLM.from_saved(model), world.notes, progress=False)
        engine = Engine.open(place, model)
        outcomes = engine.apply(
            [
                Publish(StoredNote(note_id="new", title="Cold brew at the camp site")),
                Change("n0000003", {"hidden": True}),
                Remove("n0000005"),
            ]
        )
        assert not [each for each in outcomes if isinstance(each, Exception)]
        before = answers(engine)
        engine.close()
        again = Engine.open(place, model)
        assert answers(again) == before
        again.close()
        found[name] = before
    assert found["s3"] == found["disk"]
    assert any("Cold brew" in note for note in found["s3"][0])


def test_a_second_model_replaces_the_first_as_on_a_disk(world, model):
    place = f"s3://{BUCKET}/models/store"
    first = NoteLLM.from_saved(model)
    other = NoteLLM.from_corpus(world.notes, tiny=SMALL, dim=12, seed=5)
    build_store(place, first, world.notes, progress=False)
    build_store(place, other, progress=False)
    store = NoteStore.for_reading(place)
    assert (store.model, store.dim) == (other.fingerprint(), 12)
    rows = store.read()
    assert rows.num_rows == world.notes.num_rows
    order = np.argsort(rows["note_id"].to_pylist())
    stored = np.stack(rows["vector"].to_pylist())[order]
    np.testing.assert_allclose(stored, other.encode(world.notes.sort_by("note_id")), atol=1e-5)
    with pytest.raises(DataError, match="has no vectors of the model"):
        NoteStore.open(place, first.fingerprint())


def test_clicks_outlive_the_process_and_a_forgotten_user_leaves_none():
    place = f"s3://{BUCKET}/clicks/store"
    log = ClickLog.open(place)
    log.append([Click("u1", "a", click_id="c1"), Click("u2", "b", click_id="c2")])
    log.append([Click("u1", "a", click_id="c1")])  # sent again
    log.close()
    again = ClickLog.open(place)
    assert sorted(again.read()["click_id"].to_pylist()) == ["c1", "c2"]
    again.forget("u1")
    again.close()
    last = ClickLog.open(place)
    assert last.read()["user_id"].to_pylist() == ["u2"]
    last.close()
