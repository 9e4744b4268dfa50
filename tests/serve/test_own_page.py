"""examples/own_page: a backend of one's own between a page and the service."""

import runpy
from pathlib import Path

import pytest
import uvicorn

from notellm.client import Client
from tests.serve.small import answered_by, served

FOLDER = Path(__file__).parents[2] / "examples" / "own_page"


@pytest.fixture(scope="module")
def page(places, tmp_path_factory):
    """A client of the backend, and one of the service behind it."""
    make_app = runpy.run_path(str(FOLDER / "app.py"))["make_app"]
    with (
        served(places.copied(tmp_path_factory.mktemp("own")).engine()) as service,
        Client(str(service.base_url)) as client,
        answered_by(uvicorn.Server(uvicorn.Config(make_app(client), log_level="error"))) as page,
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
