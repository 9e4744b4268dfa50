"""The examples of docs/service.md, curl commands and Python, run against a service."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from notellm.client import Client, ServiceError
from notellm.engine.requests import RelatedQuery
from notellm.recommend.options import RecommendOptions
from tests.serve.small import served

DOCS = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(places, tmp_path_factory):
    """The address of a running service with its own store."""
    with served(places.copied(tmp_path_factory.mktemp("docs")).engine()) as client:
        yield str(client.base_url)


def curls():
    """Return every curl command of the document."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line.startswith("curl")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_every_curl_line_is_answered(address):
    lines = curls()
    assert len(lines) >= 15
    for line in lines:
        done = subprocess.run(
            ["bash", "-c", line.replace("curl -s", "curl -s -w '\\n%{http_code}'")],
            env={"URL": address.rstrip("/"), "PATH": "/usr/bin:/bin:/usr/local/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        body, status = done.stdout.rsplit("\n", 1)
        assert status in ("200", "202"), (line, done.stdout)
        if "/metrics" not in line:
            json.loads(body)


def test_the_python_runs(address):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    check = "\nassert len(near) == 5 and len(found.notes) == 5 and isinstance(tags.topics, list)\n"
    done = subprocess.run(
        [sys.executable, "-c", f"url = {address!r}\n{code}{check}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_client_does_what_the_service_does(address):
    with Client(address) as client:
        assert client.publish("c/1?", title="cold brew", content="coffee at the lake")
        assert not client.publish("c/1?", title="cold brew", content="coffee at the lake", topics=["coffee"])
        twin = {"note_id": "c2", "title": "cold brew", "content": "coffee at the lake", "topics": ["coffee"]}
        assert client.publish_many([twin]) == 1
        assert client.note("c/1?")["topics"] == ["coffee"]
        near = client.related("c/1?", k=3)
        assert near[0].note_id == "c2"
        assert near == sorted(near, key=lambda note: -note.score)
        tags = client.tags(title="cold brew", content="coffee at the lake", n=3, least=0.01, note_id="c2")
        assert tags.topics == [topic.name for topic in tags.topic_details]
        assert len(tags.topics) == 3
        assert tags.category in (None, tags.categories[0].name)
        assert (tags.not_learnt, tags.reasons) == ([], {})
        every = [*client.tags(title="cold brew", content="coffee at the lake", n=20).topic_details]
        assert {"c/1?", "c2"} <= {name for topic in every for name in topic.neighbours}
        by_text = client.related(title="cold brew", content="coffee at the lake", topics=["coffee"], k=2)
        assert {note.note_id for note in by_text} == {"c/1?", "c2"}
        assert [note.note_id for note in client.related("c/1?", where={"allow": ["c2"]})] == ["c2"]
        client.change("c2", hidden=True)
        assert client.related("c/1?", where={"allow": ["c2"]}) == []
        ranked = client.rank(["c2", "c/1?", "n0000003"], history=["c2"])
        assert sorted(ranked.note_ids) == ["c/1?", "n0000003"]
        assert ranked.left_out == ["c2"]
        assert ranked.scores == sorted(ranked.scores, reverse=True)
        found = client.recommend(history=["c/1?"], k=4, exclude=["n1"])
        assert [note.position for note in found.notes] == [1, 2, 3, 4]
        assert re.fullmatch("[0-9a-f]{32}", found.request_id)
        assert {note.reason for note in found.notes} == {"c/1?"}
        history = ["n0000001", "n0000002"]
        each = client.recommend(history=history, k=20, per_note=2)
        reasons = [note.reason for note in each.notes]
        assert 0 < len(reasons) <= 4
        assert max(map(reasons.count, history)) <= 2
        assert client.state()["store"]["hidden"] >= 1
        assert client.remove("c2", "c/1?", "nothing") == 2
        with pytest.raises(ServiceError, match="there is no note 'c2'") as missing:
            client.note("c2")
        assert (missing.value.status, missing.value.code) == (404, "not_found")
        with pytest.raises(ServiceError, match="title or content"):
            client.publish("c3")


def test_the_defaults_of_the_client_are_those_of_the_library():
    """The client imports nothing of the library, so it states the defaults itself."""

    def defaults(method, names):
        parameters = inspect.signature(method).parameters
        return {name: parameters[name].default for name in names}

    names = ("k", "per_note", "rerank")
    assert defaults(Client.recommend, names) == {name: getattr(RecommendOptions(), name) for name in names}
    names = ("k", "near_duplicates", "diversity")
    assert defaults(Client.related, names) == {name: getattr(RelatedQuery(), name) for name in names}


def test_the_client_waits_as_long_as_a_busy_service_says_and_gives_up_in_the_end(monkeypatch):
    import httpx2

    waits: list[float] = []
    answers = [503, 429, 200]
    monkeypatch.setattr("time.sleep", waits.append)

    def answer(_):
        status = answers.pop(0)
        body = {"removed": 1} if status == 200 else {"error": {"code": "busy", "message": "too much"}}
        return httpx2.Response(status, json=body, headers={"Retry-After": "7"})

    with Client("http://service", transport=httpx2.MockTransport(answer)) as client:
        assert client.remove("a") == 1
        assert waits == [7, 7]
        answers[:] = [503] * 4
        with pytest.raises(ServiceError, match="too much") as busy:
            client.remove("a")
        assert busy.value.status == 503
        assert answers == []

    def nobody(request):
        raise httpx2.ConnectError("refused", request=request)

    with (
        Client("http://service", transport=httpx2.MockTransport(nobody), retries=1) as client,
        pytest.raises(ServiceError, match="no answer from http://service") as gone,
    ):
        client.state()
    assert gone.value.code == "unreachable"


def test_the_client_takes_answers_of_a_newer_service_and_a_date_to_wait_for(monkeypatch):
    import httpx2

    note = {"note_id": "a", "score": 1.0, "title": "", "category": "", "newer": 1}
    listed = {**note, "position": 1, "source": "recall", "reason": None}
    bodies = {
        "/v1/related": {"related": [{**note, "cosine": 1.0, "lexical": None}]},
        "/v1/recommend": {"recommended": [listed], "basis": "b", "request_id": "r", "newer": 1},
        "/v1/tags": {"category": None, "topics": [], "newer": 1},
    }
    waits: list[float] = []
    busy = [503]
    monkeypatch.setattr("time.sleep", waits.append)

    def answer(request):
        if busy:
            return httpx2.Response(busy.pop(), headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
        return httpx2.Response(200, json=bodies[request.url.path])

    with Client("http://service", transport=httpx2.MockTransport(answer)) as client:
        assert [found.cosine for found in client.related("a")] == [1.0]
        assert [found.position for found in client.recommend("u").notes] == [1]
        assert client.tags(title="t").topics == []
    assert waits == [1.0]
