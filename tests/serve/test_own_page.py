"""examples/own_page: a backend of one's own between a page and the service."""

import runpy
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx2 as httpx
import pytest
import uvicorn

from notellm.client import Client
from tests.serve.small import PATIENCE, served

FOLDER = Path(__file__).parents[2] / "examples" / "own_page"


@contextmanager
def running(app):
    """Give a client of the backend, which a server runs in a thread of this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        address = "http://{}:{}".format(*listening.getsockname())
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def page(places, tmp_path_factory):
    """A client of the backend, and one of the service behind it."""
    make_app = runpy.run_path(str(FOLDER / "app.py"))["make_app"]
    with (
        served(places.copied(tmp_path_factory.mktemp("own")).engine()) as service,
        Client(str(service.base_url)) as client,
        running(make_app(client)) as page,
    ):
        yield page, client


def test_a_visitor_gets_a_page_a_name_and_a_feed(page):
    browser, _ = page
    first = browser.get("/")
    assert first.status_code == 200
    assert first.text == (FOLDER / "page.html").read_text(encoding="utf-8")
    assert first.cookies["user"].startswith("visitor-")
    assert "user" not in browser.get("/").cookies  # it keeps its name
    feed = browser.get("/feed").json()
    assert len(feed["notes"]) == 12
    assert {"note_id", "title", "category"} == set(feed["notes"][0])


def test_the_next_list_counts_a_click(page):
    browser, client = page
    browser.get("/")
    feed = browser.get("/feed").json()
    opened = feed["notes"][0]["note_id"]
    answer = browser.post("/opened", json={"note_id": opened, "request_id": feed["request_id"]})
    assert answer.status_code == 204
    assert opened not in [note["note_id"] for note in browser.get("/feed").json()["notes"]]
    near = [note["note_id"] for note in browser.get(f"/related/{opened}").json()]
    assert near == [note.note_id for note in client.related(opened, k=6)]


def test_the_page_shows_titles_as_text():
    assert "innerHTML" not in (FOLDER / "page.html").read_text(encoding="utf-8")
