"""Every route over a real socket: its answers, and its errors."""

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from notellm.data.schema import NOTES as SCHEMA
from notellm.engine import health
from notellm.engine.engine import Engine
from notellm.engine.requests import Publish
from notellm.errors import StorageError
from notellm.jobs.build_store import build_store
from notellm.recall.model import NoteLLM
from notellm.serve import service as service_module
from notellm.serve.metrics import Metrics
from notellm.store.rows import StoredNote
from notellm.version import __version__
from tests.serve.small import NOTES, PATIENCE, USERS, served, told

JSON = {"content-type": "application/json"}
ODD_IDS = [
    "a/b",
    "/a",
    "a/",
    "a//b",
    "a'b",
    "''; DROP TABLE notes --",
    'a"b',
    "a b",
    " a ",
    "a%b",
    "a%2Fb",
    "%00",
    "a?b=c&d",
    "a#b",
    "a+b",
    "a\\b",
    "a.b..c",
    "a/../b",
    "笔记-中文",
    "🦊👩‍🚀",
    "e\u0301",
    "\u202ertl",
    "remove",
    "{note_id}",
    "<script>alert(1)</script>",
    "x" * 512,
    "é" * 512,
]


@pytest.fixture(scope="module")
def engine(places, tmp_path_factory):
    return places.copied(tmp_path_factory.mktemp("api")).engine()


@pytest.fixture(scope="module")
def client(engine):
    with served(engine) as client:
        yield client


@pytest.fixture(scope="module")
def user(engine):
    """A user who opened a few notes."""
    return next(user for user, own in engine.ranker.histories.items() if len(own) > 5)


def at(note_id):
    return f"/v1/notes/{quote(note_id, safe='')}"


def good(answer, status=200):
    """Check that an answer is not an error, and return its JSON."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.content, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def until(condition):
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    pytest.fail("it did not come")


def ids(answer, name="related"):
    return [note["note_id"] for note in good(answer)[name]]


# -------------------------------------------------------------------- notes


def test_a_note_is_published_read_changed_and_removed(client):
    note = {
        "title": "Cold brew",
        "content": "Coarse coffee, cold water.",
        "topics": ["coffee", "camping"],
        "category": "Outdoors",
        "published_at": "2026-05-01T12:00:00+02:00",
        "hidden": False,
        "expires_at": None,
    }
    assert good(client.put("/v1/notes/brew", json=note)) == {"note_id": "brew", "created": True}
    as_read = {"note_id": "brew", **note, "published_at": "2026-05-01T10:00:00+00:00"}
    assert good(client.get("/v1/notes/brew")) == as_read
    assert good(client.put("/v1/notes/brew", json=note)) == {"note_id": "brew", "created": False}
    assert good(client.patch("/v1/notes/brew", json={"title": "Hot brew"})) == {
        "note_id": "brew",
        "created": False,
    }
    assert good(client.get("/v1/notes/brew")) == {**as_read, "title": "Hot brew"}
    assert good(client.put("/v1/notes/brew", json={"title": "Tea"}))["created"] is False
    empty: dict[str, object] = {"content": "", "topics": [], "category": "", "published_at": None}
    assert good(client.get("/v1/notes/brew")) == {**as_read, **empty, "title": "Tea"}  # a whole new note
    assert good(client.delete("/v1/notes/brew")) == {"removed": 1}
    for answer in (client.get("/v1/notes/brew"), client.delete("/v1/notes/brew")):
        assert "no note 'brew'" in told(answer, 404, "not_found")
    assert "to change; publish it first" in told(
        client.patch("/v1/notes/brew", json={"title": "x"}), 404, "not_found"
    )


def test_a_change_of_nothing_changes_nothing_and_null_takes_a_time_away(client):
    note = {"title": "T", "content": "C", "topics": ["t"], "category": "c", "published_at": "2026-01-01"}
    client.put("/v1/notes/nulls", json=note)
    before = good(client.get("/v1/notes/nulls"))
    nothing = dict.fromkeys(("title", "content", "topics", "category", "hidden"))
    for change in ({}, nothing):
        good(client.patch("/v1/notes/nulls", json=change))
        assert good(client.get("/v1/notes/nulls")) == before
    good(client.patch("/v1/notes/nulls", json={"published_at": None, "title": "", "topics": []}))
    after = good(client.get("/v1/notes/nulls"))
    assert after == {**before, "published_at": None, "title": "", "topics": []}
    assert "no text" in told(client.patch("/v1/notes/nulls", json={"content": " "}), 422, "invalid")
    assert good(client.get("/v1/notes/nulls")) == after


def test_notes_are_published_and_removed_together(client):
    notes = [{"note_id": f"many-{i}", "title": f"Note {i}"} for i in range(256)]
    assert good(client.post("/v1/notes", json={"notes": notes})) == {"published": 256, "created": 256}
    assert good(client.post("/v1/notes", json={"notes": notes[:2]})) == {"published": 2, "created": 0}
    told(client.post("/v1/notes", json={"notes": [*notes, notes[0]]}), 422, "invalid")
    told(client.post("/v1/notes", json={"notes": []}), 422, "invalid")
    names = [note["note_id"] for note in notes]
    removed = client.post("/v1/notes/remove", json={"note_ids": [*names, "many-0", "never there"]})
    assert good(removed) == {"removed": 256}
    assert good(client.post("/v1/notes/remove", json={"note_ids": names})) == {"removed": 0}
    told(client.post("/v1/notes/remove", json={"note_ids": []}), 422, "invalid")
    told(client.get("/v1/notes/many-0"), 404, "not_found")


def test_of_a_batch_with_a_mistake_none_is_written(client):
    for wrong in ({"note_id": "bad", "title": " "}, {"note_id": "", "title": "a"}, {"title": "a"}, None):
        batch = {"notes": [{"note_id": "half", "title": "Half"}, wrong]}
        told(client.post("/v1/notes", json=batch), 422, "invalid")
        told(client.get("/v1/notes/half"), 404, "not_found")


def test_of_an_id_that_stands_twice_in_a_batch_the_last_counts(client, engine):
    notes = [{"note_id": "twice", "title": title} for title in ("First", "Second", "Third")]
    assert good(client.post("/v1/notes", json={"notes": notes})) == {"published": 3, "created": 1}
    assert good(client.get("/v1/notes/twice"))["title"] == "Third"
    assert len(engine.index) == len(engine.notes)


@pytest.mark.parametrize("note_id", ODD_IDS, ids=range(len(ODD_IDS)))
def test_any_id_goes_through_every_route(client, note_id):
    assert good(client.put(at(note_id), json={"title": "Odd one"})) == {"note_id": note_id, "created": True}
    assert good(client.get(at(note_id)))["note_id"] == note_id
    assert good(client.patch(at(note_id), json={"title": "Odd two"}))["note_id"] == note_id
    by_id = client.get("/v1/related", params={"note_id": note_id, "k": 3})
    assert len(ids(by_id)) == 3
    assert note_id not in ids(by_id)
    assert ids(client.post("/v1/related", json={"note_id": note_id, "k": 3})) == ids(by_id)
    allowed = {"title": "Odd", "k": 2, "filter": {"allow": [note_id]}}
    assert ids(client.post("/v1/related", json=allowed)) == [note_id]
    ranked = client.post("/v1/rank", json={"candidates": [note_id, "n0000001"], "history": [note_id]})
    assert sorted(ids(ranked, "ranked")) == sorted([note_id, "n0000001"])
    found = good(client.post("/v1/recommend", json={"history": [note_id], "k": 2}))["recommended"]
    assert all(note["reason"]["note_id"] == note_id for note in found)
    assert good(client.delete(at(note_id))) == {"removed": 1}
    told(client.get(at(note_id)), 404, "not_found")
    again = {"notes": [{"note_id": note_id, "title": "Odd"}]}
    assert good(client.post("/v1/notes", json=again)) == {"published": 1, "created": 1}
    assert good(client.post("/v1/notes/remove", json={"note_ids": [note_id]})) == {"removed": 1}


@pytest.mark.parametrize("note_id", ["", "x" * 513, "a\nb", "a\x00b", "\x7f", "a\r", "\x1f", "a\n"])
def test_ids_with_control_characters_or_of_no_length_are_refused(client, note_id):
    good(client.put("/v1/notes/a", json={"title": "without line break"}))
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        assert client.request(method, at(note_id), json={"title": "a"}).status_code in (404, 422)
    assert good(client.get("/v1/notes/a"))["title"] == "without line break"
    for path, body in [
        ("/v1/notes", {"notes": [{"note_id": note_id, "title": "a"}]}),
        ("/v1/notes/remove", {"note_ids": [note_id]}),
        ("/v1/related", {"note_id": note_id}),
        ("/v1/related", {"title": "a", "filter": {"deny": [note_id]}}),
        ("/v1/rank", {"candidates": [note_id]}),
        ("/v1/recommend", {"history": [note_id]}),
    ]:
        told(client.post(path, json=body), 422, "invalid")
    told(client.get("/v1/related", params={"note_id": note_id}), 422, "invalid")


@pytest.mark.parametrize("odd", ["%ff%fe", "%ff", "%ed%a0%80", "a%C3", "%c0%af", "a%80b"])
def test_what_is_not_utf_8_names_no_note(client, odd):
    """All such ids would be read as the same one, with a replacement character."""
    good(client.put(at("a\ufffdb"), json={"title": "the character itself is an id as any other"}))
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = client.request(method, f"/v1/notes/{odd}", json={"title": "a"})
        assert "not UTF-8" in told(answer, 400, "not_utf_8")
    for path in (f"/v1/users/{odd}", f"/v1/related?note_id={odd}", f"/v1/notes?q={odd}", f"/{odd}"):
        told(client.get(path), 400, "not_utf_8")
    assert good(client.get(at("a\ufffdb")))["note_id"] == "a\ufffdb"
    assert good(client.get("/v1/notes", params={"q": "\x00"})) == {"notes": []}


MARKUP = '</script><script>alert("x")</script><img src=x onerror=alert(1)>&amp;{{7*7}}\u2028'


def test_markup_is_data_and_comes_back_as_it_was(client):
    note = {"title": MARKUP, "content": MARKUP, "topics": [MARKUP], "category": MARKUP}
    good(client.put(at("markup"), json=note))
    assert good(client.get(at("markup"))).items() >= note.items()
    (found,) = good(client.get("/v1/notes", params={"q": "onerror=alert"}))["notes"]
    assert found["title"] == MARKUP
    where = {"categories": [MARKUP], "topics": [MARKUP]}
    (near,) = good(client.post("/v1/related", json={"title": MARKUP, "filter": where}))["related"]
    assert (near["title"], near["category"]) == (MARKUP, MARKUP)
    answer = client.get("/v1/related", params={"note_id": MARKUP[:-1]})
    assert "<script>" in told(answer, 404, "not_found")  # as JSON, which no browser reads as a page
    good(client.delete(at("markup")))


def test_texts_of_any_characters_come_back_as_they_were(client):
    text = "a\x00b\x01\x7f\u200b\ufeff\ufffe\U0010ffff e\u0301 \r\n\t 中 [EMB] <|endoftext|> {title}"
    note = {"title": text, "content": text, "topics": [text], "category": text}
    good(client.put("/v1/notes/characters", json=note))
    assert good(client.get("/v1/notes/characters")).items() >= note.items()
    assert good(client.post("/v1/tags", json={"title": text}))["topics"] is not None
    assert "characters" in ids(
        client.post("/v1/related", json={"title": text, "content": text, "topics": [text]})
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"title": st.text(max_size=50), "content": st.text(max_size=200)},
        optional={
            "topics": st.lists(st.text(min_size=1, max_size=20), max_size=3),
            "category": st.text(max_size=20),
            "hidden": st.booleans(),
            "published_at": st.none() | st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat),
        },
    )
)
def test_whatever_is_taken_is_read_back_alike(client, note):
    answer = client.put("/v1/notes/any", content=json.dumps(note).encode(), headers=JSON)
    if answer.status_code == 422:
        # No text, what UTF-8 cannot write, or a time that is none in every zone.
        assert not (note["title"].strip() or note["content"].strip()) or "0001-01-0" in answer.text
        return
    good(answer)
    read = good(client.get("/v1/notes/any"))
    assert datetime.fromisoformat(read.pop("published_at") or "0001-01-01") == datetime.fromisoformat(
        note.pop("published_at", None) or "0001-01-01"
    )
    assert read.items() >= note.items()


def test_notes_are_found_by_their_title_newest_first(client):
    rows = [("old", "2020-01-01"), ("new", "2025-01-01"), ("none", None), ("newest", "2026-01-01T00:00:01Z")]
    notes = [
        {"note_id": f"find-{name}", "title": f"Quokka SIGHTING {name}", "published_at": when}
        for name, when in rows
    ]
    notes.append({"note_id": "find-text", "title": "", "content": "a quokka sighting without title"})
    notes.append({"note_id": "find-not", "title": "Another", "content": "quokka sighting"})
    good(client.post("/v1/notes", json={"notes": notes}))
    found = ids(client.get("/v1/notes", params={"q": " quokka sighting"}), "notes")
    assert found == ["find-newest", "find-new", "find-old", "find-text", "find-none"]
    assert ids(client.get("/v1/notes", params={"q": "QUOKKA", "limit": 2}), "notes") == found[:2]
    assert len(ids(client.get("/v1/notes"), "notes")) == 20
    assert good(client.get("/v1/notes", params={"q": "no such title"})) == {"notes": []}
    for query in ("limit=0", "limit=101", "limit=x", "limit=", f"q={'x' * 201}"):
        told(client.get(f"/v1/notes?{query}"), 422, "invalid")


# -------------------------------------------------------------------- recall


def test_related_notes_of_a_note_and_of_its_text_are_the_same(client):
    by_id = good(client.get("/v1/related", params={"note_id": "n0000001", "k": 5}))["related"]
    assert len(by_id) == 5
    assert set(by_id[0]) == {"note_id", "score", "cosine", "lexical", "title", "category"}
    assert [note["score"] for note in by_id] == sorted((note["score"] for note in by_id), reverse=True)
    assert all(note["title"] for note in by_id)
    own = good(client.get("/v1/notes/n0000001"))
    text = {name: own[name] for name in ("title", "content", "topics")}
    first, *others = good(client.post("/v1/related", json={**text, "k": 6}))["related"]
    assert first["note_id"] == "n0000001"
    assert first["score"] == pytest.approx(1, abs=1e-4)
    assert [note["note_id"] for note in others] == [note["note_id"] for note in by_id]
    assert ids(client.get("/v1/related?note_id=n0000001")) == ids(
        client.get("/v1/related?k=10&note_id=n0000001")
    )


def test_a_question_is_by_a_note_or_by_a_text(client):
    for body in (
        {},
        {"title": " ", "content": "\n"},
        {"topics": ["a"]},
        {"note_id": "n0000001", "title": "a"},
        {"note_id": "n0000001", "topics": ["a"]},
        {"note_id": None},
    ):
        assert "either note_id, or a text" in told(client.post("/v1/related", json=body), 422, "invalid")
    for answer in (
        client.get("/v1/related?note_id=none"),
        client.post("/v1/related", json={"note_id": "none"}),
    ):
        assert "no note 'none' among" in told(answer, 404, "not_found")


def test_filters_leave_out_what_does_not_fulfil_them(client):
    base = {"topics": ["f"], "category": "Filtered"}
    notes = [
        {"note_id": "f1", "title": "one", "published_at": "2026-01-01T00:00:00Z", **base},
        {"note_id": "f2", "title": "two", "published_at": "2026-02-01", **base},
        {"note_id": "f3", "title": "three", "category": "Filtered too", "topics": ["f", "g"]},
        {"note_id": "f4", "title": "hidden", "hidden": True, **base},
        {"note_id": "f5", "title": "expired", "expires_at": "2020-01-01", **base},
        {"note_id": "f6", "title": "expiring", "expires_at": "9999-12-31T23:59:59Z", "category": "Last"},
    ]
    good(client.post("/v1/notes", json={"notes": notes}))

    def found(**where):
        body = {"title": "one two three", "k": 50, "filter": where}
        return set(ids(client.post("/v1/related", json=body)))

    assert found(categories=["Filtered"]) == {"f1", "f2"}
    assert found(categories=["Filtered", "Filtered too"]) == found(topics=["f"]) == {"f1", "f2", "f3"}
    assert found(topics=["f"], categories=["Filtered too"]) == found(topics=["g", "none"]) == {"f3"}
    assert found(categories=["Last"]) == {"f6"}
    assert found(topics=["f"], published_after="2026-01-15") == {"f2"}
    assert found(topics=["f"], published_after="2026-01-01", published_before="2026-02-01") == {"f1"}
    assert found(topics=["f"], published_before="2026-01-31T23:59:59-14:00") == {"f1", "f2"}
    assert found(allow=["f1", "f4", "f5", "nobody"]) == {"f1"}
    assert found(allow=[]) == set()
    assert found(topics=["f"], deny=["f1", "f3"]) == {"f2"}
    assert found(categories=["none"]) == set()
    good(client.patch("/v1/notes/f4", json={"hidden": False}))
    assert found(categories=["Filtered"]) == {"f1", "f2", "f4"}
    good(client.patch("/v1/notes/f1", json={"expires_at": "2020-01-01T00:00:00"}))
    assert found(categories=["Filtered"]) == {"f2", "f4"}
    assert good(client.get("/v1/notes/f1"))["title"] == "one"  # can be read all the same
    wrong = {"published_after": "2026-01-02", "published_before": "2026-01-01"}
    body = {"title": "a", "filter": wrong}
    assert "exchange them" in told(client.post("/v1/related", json=body), 422, "invalid")
    told(client.post("/v1/recommend", json={"filter": wrong}), 422, "invalid")


def test_near_duplicates_are_left_out_and_diversity_reorders(client):
    copies = [{"note_id": f"copy-{i}", "title": "Wombat burrow", "topics": ["copies"]} for i in range(12)]
    others = [
        {"note_id": f"other-{i}", "title": f"{i} ways to bake bread", "topics": ["copies"]} for i in range(3)
    ]
    good(client.post("/v1/notes", json={"notes": copies + others}))
    body = {"title": "Wombat", "k": 4, "filter": {"topics": ["copies"]}}
    plain = ids(client.post("/v1/related", json=body))
    some = ids(client.post("/v1/related", json={**body, "near_duplicates": 0.999}))
    assert len([note_id for note_id in some if note_id.startswith("copy")]) == 1
    assert len(some) > 1
    varied = ids(client.post("/v1/related", json={**body, "diversity": 0.9}))
    assert varied[0] == plain[0]
    assert len(varied) == 4
    assert varied != plain
    assert ids(client.post("/v1/related", json={**body, "diversity": 0})) == plain
    itself = {"note_id": "copy-0", "k": 15, "near_duplicates": 0.999, "filter": {"topics": ["copies"]}}
    assert not [n for n in ids(client.post("/v1/related", json=itself)) if n.startswith("copy")]


def test_tags_are_what_the_model_writes(client):
    found = good(client.post("/v1/tags", json={"title": "Sourdough without kneading"}))
    assert (found["not_learnt"], found["reasons"]) == ([], {})
    assert found["categories"]
    assert found["category"] in (None, found["categories"][0]["name"])
    assert (found["category"] is None) == (found["category_probability"] is None)
    assert found["topics"] == [topic["name"] for topic in found["topic_details"]]
    for ranked in (found["categories"], [*found["topic_details"], *found["more_topics"]]):
        shares = [each["probability"] for each in ranked]
        assert shares == sorted(shares, reverse=True)
        assert all(0 <= value <= 1 for value in shares)
    for n in (1, 20):
        assert len(good(client.post("/v1/tags", json={"content": "bread", "n": n}))["topics"]) <= n
    for body in (
        {},
        {"title": ""},
        {"title": "a", "n": 0},
        {"title": "a", "n": 21},
        {"title": "a", "n": 1.5},
        {"title": "a", "least": 1.1},
        {"title": "a", "least": "no"},
        {"title": "a", "note_id": ""},
    ):
        told(client.post("/v1/tags", json=body), 422, "invalid")


def test_tags_name_visible_notes_of_the_store(client):
    text = {"title": "Zebras at a quiet lake", "content": "Stripes, grass and water."}

    def neighbours(**options):
        found = good(client.post("/v1/tags", json={**text, **options}))
        details = [*found["topic_details"], *found["more_topics"]]
        return {topic["name"]: topic["neighbours"] for topic in details}

    good(client.put("/v1/notes/zebra-1", json={**text, "topics": ["zebra stripes"], "category": "Wild"}))
    named = [{"note_id": "zebra-1", "title": text["title"]}]
    assert neighbours()["zebra stripes"] == named
    own = [note for notes in neighbours(note_id="zebra-1").values() for note in notes]
    assert named[0] not in own
    assert not neighbours(n=20).keys() - neighbours(n=20, least=0.9).keys()
    assert good(client.post("/v1/tags", json={**text, "least": 1}))["topics"] == []
    good(client.patch("/v1/notes/zebra-1", json={"hidden": True}))
    assert "zebra-1" not in str(neighbours())
    good(client.delete("/v1/notes/zebra-1"))
    assert "zebra-1" not in str(neighbours())


def test_questions_that_arrive_together_are_answered_each_for_itself(client):
    bodies = [{"title": f"bread {i}", "k": 1 + i % 7} for i in range(24)]
    bodies += [{"note_id": "n0000002", "k": 3}, {"note_id": "nobody", "k": 3}]
    alone = [client.post("/v1/related", json=body) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda body: client.post("/v1/related", json=body), bodies))
    for one, other in zip(alone, together, strict=True):
        assert one.status_code == other.status_code
        if one.status_code == 200:
            first, second = good(one)["related"], good(other)["related"]
            assert [note["score"] for note in first] == pytest.approx([n["score"] for n in second], abs=1e-4)


# -------------------------------------------------------------------- rank


def test_candidates_are_ranked_for_a_user_or_a_history(client, user):
    candidates = [f"n000000{i}" for i in range(8)]
    for body, basis in [
        ({"user_id": user}, "code and history"),
        ({"history": candidates[:2]}, "history"),
        ({}, "nothing"),
        ({"user_id": "unknown \x00 user"}, "nothing"),
        ({"user_id": user, "history": []}, "code"),
    ]:
        found = good(client.post("/v1/rank", json={**body, "candidates": candidates}))
        assert found["basis"] == basis
        assert sorted(note["note_id"] for note in found["ranked"]) == candidates
        scores = [note["score"] for note in found["ranked"]]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score < 1 for score in scores)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"candidates": []}, "candidates"),
        ({}, "candidates: Field required"),
        ({"candidates": ["n0000001", "n0000001"]}, "occurs twice"),
        ({"candidates": ["x"] * 1_001}, "at most 1000"),
        ({"candidates": ["n0000001"], "user_id": "x" * 513}, "user_id"),
    ]
    for mistake, text in wrong:
        assert text in told(client.post("/v1/rank", json=mistake), 422, "invalid")
    for body in ({"candidates": ["nobody"]}, {"candidates": ["n0000001"], "history": ["nobody"]}):
        answer = client.post("/v1/rank", json=body)
        assert answer.status_code in (404, 422)
        assert "'nobody'" in answer.json()["error"]["message"]


def test_recommendations_have_their_reasons(client, engine, user):
    opened = good(client.get(f"/v1/users/{user}"))
    assert opened["user_id"] == user
    history = engine.ranker.histories[user]
    assert [note["note_id"] for note in opened["recent"]] == list(dict.fromkeys(reversed(history)))[:20]
    found = good(client.post("/v1/recommend", json={"user_id": user, "k": 5}))
    assert "ranked by code and history" in found["basis"]
    assert len(found["recommended"]) == 5
    titles = {note["note_id"]: note["title"] for note in opened["recent"]}
    for note in found["recommended"]:
        assert note["note_id"] not in history
        assert note["title"] == engine.notes[note["note_id"]].title
        assert titles[note["reason"]["note_id"]] == note["reason"]["title"]
    popular = good(client.post("/v1/recommend", json={"k": 3}))
    assert popular["basis"].startswith("popular notes")
    assert [note["reason"] for note in popular["recommended"]] == [None] * 3


def test_recommendations_keep_to_what_was_asked(client):
    history = [f"n000000{i}" for i in range(3)]
    plain = ids(
        client.post("/v1/recommend", json={"history": history, "k": 10, "rerank": False}), "recommended"
    )
    some = {"history": history, "k": 10, "exclude": plain[:4], "rerank": False}
    assert ids(client.post("/v1/recommend", json=some), "recommended")[:6] == plain[4:]
    each = good(client.post("/v1/recommend", json={"history": history, "k": 30, "per_note": 2}))[
        "recommended"
    ]
    reasons = [note["reason"]["note_id"] for note in each]
    assert len(reasons) <= 6
    assert max(reasons.count(note_id) for note_id in history) <= 2
    where = {"allow": plain[:2], "deny": plain[:1]}
    body = {"history": history, "filter": where}
    assert ids(client.post("/v1/recommend", json=body), "recommended") == plain[1:2]
    nothing = client.post("/v1/recommend", json={"history": history, "filter": {"categories": ["none"]}})
    assert "nothing is left" in told(nothing, 422, "invalid")
    unknown = client.post("/v1/recommend", json={"history": ["nobody"]})
    assert "'nobody'" in told(unknown, 404, "not_found")
    new = good(client.post("/v1/recommend", json={"user_id": "nobody", "k": 3}))
    assert new["basis"].startswith("popular notes")
    for mistake in ({"k": 0}, {"k": 101}, {"per_note": 0}, {"rerank": "perhaps"}, {"exclude": [""]}):
        told(client.post("/v1/recommend", json=mistake), 422, "invalid")


def test_a_note_is_recommended_from_the_moment_it_is_published(client):
    note = {"title": "Yeast and flour", "content": "knead the dough", "category": "Just published"}
    good(client.put("/v1/notes/fresh-1", json=note))
    good(client.put("/v1/notes/fresh-2", json=note))
    body = {"history": ["fresh-1"], "k": 5, "filter": {"categories": ["Just published"]}}
    (found,) = good(client.post("/v1/recommend", json=body))["recommended"]
    assert (found["note_id"], found["reason"]["note_id"]) == ("fresh-2", "fresh-1")
    good(client.delete("/v1/notes/fresh-2"))
    told(client.post("/v1/recommend", json=body), 422, "invalid")


def test_users_are_found_by_their_ids(client, user):
    everybody = good(client.get("/v1/users", params={"limit": 100}))["users"]
    assert len(everybody) == USERS
    assert {"user_id", "opened"} == set(everybody[0])
    (one,) = good(client.get("/v1/users", params={"q": user.upper()}))["users"]
    assert one["user_id"] == user
    assert one["opened"] > 5
    assert good(client.get("/v1/users", params={"q": "nobody"})) == {"users": []}
    assert len(good(client.get("/v1/users", params={"limit": 1}))["users"]) == 1
    for name in ("nobody", "", "a/b", "\x00", "中", "x" * 512):
        assert "is not among" in told(client.get(f"/v1/users/{quote(name, safe='')}"), 404, "not_found")
    told(client.get(f"/v1/users/{'x' * 513}"), 422, "invalid")
    told(client.get("/v1/users?limit=0"), 422, "invalid")


def test_without_a_ranker_what_needs_one_says_so(places, tmp_path):
    with served(places.copied(tmp_path).engine(ranker=None)) as client:
        for answer in (
            client.post("/v1/rank", json={"candidates": ["n0000001"]}),
            client.post("/v1/recommend", json={}),
            client.get("/v1/users"),
            client.get("/v1/users/u"),
        ):
            assert "there is no ranker here" in told(answer, 404, "not_found")
        assert good(client.get("/v1/state"))["ranker"] is None
        assert len(ids(client.get("/v1/related?note_id=n0000001"))) == 10


# -------------------------------------------------------------------- state


def test_health_and_state(client, engine):
    assert good(client.get("/health/live")) == {"live": True}
    assert good(client.get("/health/ready")) == {"ready": True}
    good(client.put("/v1/notes/shown", json={"title": "a"}))
    before = good(client.get("/v1/state"))
    assert before["version"] == __version__
    assert (before["ready"], before["not_ready"]) == (True, None)
    assert before["keys"] is False
    assert before["model"]["fingerprint"] == engine.fingerprint
    assert before["model"]["dim"] == 16
    assert before["ranker"] == {"users": USERS}
    assert before["index"]["kind"] == "exact"
    assert before["index"]["notes"] == before["store"]["notes"] == len(engine.notes) > NOTES
    assert before["reload"] == {"running": False, "error": None}
    good(client.patch("/v1/notes/shown", json={"hidden": True}))
    after = good(client.get("/v1/state"))
    assert after["store"] == {"notes": before["store"]["notes"], "hidden": before["store"]["hidden"] + 1}
    assert after["traffic"]["requests"]["notes"] == before["traffic"]["requests"]["notes"] + 1
    assert after["traffic"]["p99_ms"] >= after["traffic"]["p50_ms"] > 0
    good(client.patch("/v1/notes/shown", json={"hidden": False}))


def counted(client, name, **labels):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and sample.labels.items() >= labels.items()
    )


def test_metrics_count_what_is_asked(client, engine):
    one = {"route": "/v1/notes/{note_id:path}", "method": "GET"}
    before = counted(client, "notellm_requests_total", **one, status="200")
    missed = counted(client, "notellm_requests_total", **one, status="404")
    batches = counted(client, "notellm_batch_size_count", what="tags")
    for path in ("n0000001", "n0000002", "nobody/here"):
        client.get(f"/v1/notes/{path}")
    good(client.post("/v1/tags", json={"title": "a"}))
    assert counted(client, "notellm_requests_total", **one, status="200") == before + 2
    assert counted(client, "notellm_requests_total", **one, status="404") == missed + 1
    assert counted(client, "notellm_request_seconds_count", **one) >= before + missed + 3
    assert counted(client, "notellm_batch_size_count", what="tags") == batches + 1
    assert counted(client, "notellm_notes") == len(engine.notes)
    assert counted(client, "notellm_in_flight") == 1  # the one that asks
    assert counted(client, "notellm_waiting_writes") == 0
    quick = counted(client, "notellm_requests_total", route="/v1/related", method="GET", status="200")
    good(client.get("/v1/related?note_id=n0000001"))
    again = counted(client, "notellm_requests_total", route="/v1/related", method="GET", status="200")
    assert again == quick + 1


def ready_map(client):
    return until(lambda: (found := good(client.get("/v1/map")))["ready"] and found)


def test_the_map_has_a_place_for_every_visible_note(client, engine):
    found = ready_map(client)
    now = datetime.now(UTC)
    visible = [
        note.note_id
        for note in engine.notes.values()
        if not note.hidden and (note.expires_at is None or note.expires_at > now)
    ]
    assert sorted(found["note_ids"]) == sorted(visible)
    columns = [found[name] for name in ("titles", "categories", "x", "y")]
    assert {len(column) for column in columns} == {len(visible)}
    assert all(0 <= place <= 1 for place in (*found["x"], *found["y"]))
    late = {"title": "Too late", "category": "Late"}
    good(client.put("/v1/notes/late", json=late))
    good(client.put("/v1/notes/late-hidden", json={**late, "hidden": True}))
    good(client.delete("/v1/notes/n0000119"))
    again = ready_map(client)
    assert set(again["note_ids"]) == (set(found["note_ids"]) | {"late"}) - {"n0000119"}
    row = again["note_ids"].index("late")
    assert (again["titles"][row], again["categories"][row]) == ("Too late", "Late")
    assert 0 <= again["x"][row] <= 1
    good(client.patch("/v1/notes/late", json={"hidden": True}))
    assert "late" not in ready_map(client)["note_ids"]


@pytest.mark.parametrize("count", [1, 3, 12])
def test_a_store_that_begins_empty_has_a_map_once_there_are_notes(places, tmp_path, count):
    model = NoteLLM.from_pretrained(places.model)
    build_store(tmp_path / "empty", model, SCHEMA.empty_table(), progress=False)
    with served(Engine.open(tmp_path / "empty", places.model)) as client:
        assert good(client.get("/v1/notes")) == {"notes": []}
        assert ids(client.post("/v1/related", json={"title": "a"})) == []
        assert good(client.get("/v1/map"))["ready"] is False
        assert good(client.get("/health/ready")) == {"ready": True}
        notes = [{"note_id": str(i), "title": "All the same"} for i in range(count)]
        good(client.post("/v1/notes", json={"notes": notes}))
        found = ready_map(client)
        assert sorted(found["note_ids"]) == sorted(str(i) for i in range(count))
        assert all(0 <= place <= 1 for place in (*found["x"], *found["y"]))
        assert len(ids(client.get("/v1/related?note_id=0&k=20"))) == count - 1


# -------------------------------------------------------------------- reload


def reloaded(client):
    return until(lambda: (state := good(client.get("/v1/state")))["reload"]["running"] or state)


def test_a_reload_exchanges_the_index_while_all_goes_on(places, tmp_path):
    own = places.copied(tmp_path)
    with served(own.engine()) as client:
        fingerprint = good(client.get("/v1/state"))["model"]["fingerprint"]
        begun = client.post("/v1/reload", json={"index": "hnsw"})
        assert good(begun, 202) == {"model": fingerprint, "index": "hnsw"}
        second = client.post("/v1/reload", json={})
        assert "already running" in told(second, 409, "conflict")
        asked = 0
        while (state := good(client.get("/v1/state")))["reload"]["running"] or not asked:
            good(client.put(f"/v1/notes/during-{asked}", json={"title": f"Written meanwhile {asked}"}))
            good(client.get("/v1/related?note_id=n0000001"))
            good(client.post("/v1/related", json={"title": "bread"}))
            good(client.post("/v1/recommend", json={"history": ["n0000001"], "k": 3}))
            asked += 1
        assert state["reload"] == {"running": False, "error": None}
        assert state["index"]["kind"] == "hnsw"
        assert state["index"]["notes"] == state["store"]["notes"] == NOTES + asked
        for i in range(asked):
            assert good(client.get(f"/v1/notes/during-{i}"))["title"] == f"Written meanwhile {i}"
        for wrong in ({"index": "faiss"}, {"index": "http://elsewhere"}, {"model": "other"}, {"index": 1}):
            told(client.post("/v1/reload", json=wrong), 422, "invalid")
        told(client.post("/v1/reload"), 422, "invalid")
        good(client.post("/v1/reload", json={"index": "exact"}), 202)
        assert reloaded_state(client)["index"]["kind"] == "exact"


def reloaded_state(client):
    return until(lambda: not (state := good(client.get("/v1/state")))["reload"]["running"] and state)


def test_another_model_takes_over_at_a_reload(places, tmp_path):
    own = places.copied(tmp_path)
    other = NoteLLM.from_pretrained(places.model)
    with torch.no_grad():
        next(other.backbone.parameters()).mul_(1.5)
    model = tmp_path / "model"
    NoteLLM.from_pretrained(places.model).save_pretrained(model)
    with served(Engine.open(own.store, model)) as client:
        before = good(client.get("/v1/state"))["model"]["fingerprint"]
        shown = ready_map(client)["note_ids"]
        other.save_pretrained(model)
        good(client.post("/v1/reload", json={}), 202)
        state = reloaded_state(client)
        assert state["reload"]["error"] is None
        assert state["model"]["fingerprint"] == other.fingerprint() != before
        assert len(ids(client.get("/v1/related?note_id=n0000001"))) == 10
        assert sorted(ready_map(client)["note_ids"]) == sorted(shown)


@pytest.mark.parametrize("error", [None, RuntimeError("unexpected"), OSError("disk")])
def test_a_reload_that_fails_says_so_and_changes_nothing(places, tmp_path, monkeypatch, error):
    own = places.copied(tmp_path)
    engine = Engine.open(own.store, places.model)
    if error is None:
        monkeypatch.setattr(
            engine._state, "paths", type(engine._state.paths)(str(own.store), "not there", None, "exact", "")
        )
    else:
        monkeypatch.setattr(engine, "reload", lambda **_: (_ for _ in ()).throw(error))
    with served(engine) as client:
        good(client.post("/v1/reload", json={}), 202)
        state = reloaded_state(client)
        said = state["reload"]["error"]
        assert ("model or the ranker" if error is None else type(error).__name__) in said
        assert str(tmp_path) not in said
        assert "not there" not in said
        assert len(ids(client.get("/v1/related?note_id=n0000001"))) == 10
        monkeypatch.undo()
        good(client.post("/v1/reload", json={}), 202)
        assert reloaded_state(client)["reload"]["error"] is None
    Engine.open(own.store, places.model).close()  # the end was in order


def test_writes_that_are_waited_for_are_found_by_the_next_search(places, tmp_path):
    """Other threads search and write all the while."""
    own = places.copied(tmp_path)
    failed = []

    with served(own.engine(ranker=None)) as client:

        def write(name):
            for i in range(6):
                note_id = f"{name}-{i}"
                good(client.put(at(note_id), json={"title": f"Marsupial {note_id}", "topics": [name]}))
                body = {"title": "Marsupial", "k": 20, "near_duplicates": 1.0, "filter": {"topics": [name]}}
                found = ids(client.post("/v1/related", json=body))
                if note_id not in found:
                    failed.append((note_id, found))
                if i % 2:
                    good(client.delete(at(note_id)))
                    if note_id in ids(client.get("/v1/related?note_id=n0000001&k=500")):
                        failed.append((note_id, "removed"))

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not failed
        assert good(client.get("/v1/state"))["store"]["notes"] == NOTES + 12


# -------------------------------------------------------------------- the page


def test_the_page_comes_with_a_policy_and_types(client):
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    first = client.get("/")
    names = ["app.js", "style.css", "icon.svg", "index.html"]
    for answer, kind in [(first, "html")] + [(client.get(f"/page/{n}"), n.split(".")[1]) for n in names]:
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] == types[kind]
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert first.text.startswith("<!doctype html>")
    for name in (
        "none.js",
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "app.py",
        "",
        "x/app.js",
        "app.js%00",
    ):
        assert client.get(f"/page/{name}").status_code == 404
    assert "/page/" not in str(good(client.get("/openapi.json"))["paths"])


# -------------------------------------------------------------------- mistakes


def test_what_is_not_there_and_methods_that_are_not(client):
    for path in ("/nothing", "/v1", "/v1/", "/v1/none", "/docs", "/v1/related/x", "/health", "/v1/notes2"):
        told(client.get(path), 404, "not_found")
    for method, path in [
        ("DELETE", "/v1/notes"),
        ("PUT", "/v1/notes"),
        ("POST", "/v1/notes/n0000001"),
        ("PATCH", "/v1/related"),
        ("GET", "/v1/rank"),
        ("GET", "/v1/reload"),
        ("POST", "/health/live"),
        ("OPTIONS", "/v1/notes"),
        ("OPTIONS", "/v1/notes/n0000001"),
        ("TRACE", "/v1/state"),
    ]:
        answer = client.request(method, path)
        told(answer, 405, "method")
        assert answer.headers["allow"]
    for path in ("/", "/v1/state", "/v1/notes", "/health/live", "/nothing"):
        head = client.head(path)
        assert head.status_code in (200, 404, 405)
        assert head.content == b""
        assert head.headers["x-request-id"]
    assert (
        len(good(client.get("/v1/related?note_id=n0000001&k=3"))["related"]) == 3
    )  # the connection is in order


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"nul",
        b"{'title': 'a'}",
        b'{"title": "a"} x',
        b'{"title": "\xff"}',
        b"\xff\xfe",
        b'{"title": "\x00"}',
        b'{"title": "a\nb"}',
        b"[" * 1_000,
        b'{"title":' * 1_000,
        b'{"title": "a", "published_at": 1' + b"0" * 5_000 + b"}",
    ],
    ids=range(11),
)
def test_what_is_not_json(client, body):
    for method, path in (("PUT", "/v1/notes/broken"), ("POST", "/v1/related"), ("POST", "/v1/notes/remove")):
        answer = client.request(method, path, content=body, headers=JSON)
        assert "is not JSON" in told(answer, 400, "not_json")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "required"),
        ("[]", "dictionary"),
        ("null", ""),
        ("1", "dictionary"),
        ('"title"', "dictionary"),
        ("{}", "not empty"),
        ('{"title": "", "content": " \\n\\t\\u3000"}', "not empty"),
        ('{"title": null}', "title"),
        ('{"title": 1}', "title"),
        ('{"title": ["a"]}', "title"),
        ('{"title": NaN}', "title"),
        ('{"title": Infinity}', "title"),
        ('{"title": "\\ud800"}', "title"),
        ('{"content": "\\udfff", "title": "a"}', "content"),
        ('{"title": "a", "topics": ["\\ud83d"]}', "topics.0"),
        ('{"title": "a", "\\ud800": 1}', ""),
        ('{"title": "a", "nope": 1}', "nope"),
        ('{"title": "a", "note_id": "b"}', "note_id"),
        ('{"title": "a", "hidden": "perhaps"}', "hidden"),
        ('{"title": "a", "hidden": NaN}', "hidden"),
        ('{"title": "a", "hidden": null}', "hidden"),
        ('{"title": "a", "topics": "b"}', "topics"),
        ('{"title": "a", "topics": [""]}', "topics.0"),
        ('{"title": "a", "topics": [1]}', "topics.0"),
        ('{"title": "a", "topics": {"b": 1}}', "topics"),
        (json.dumps({"title": "a", "topics": ["b"] * 101}), "topics"),
        (json.dumps({"title": "a", "topics": ["b" * 201]}), "topics.0"),
        (json.dumps({"title": "a" * 2_001}), "title"),
        (json.dumps({"content": "a" * 100_001}), "content"),
        (json.dumps({"title": "a", "category": "b" * 201}), "category"),
        ('{"title": "a", "category": null}', "category"),
    ],
)
def test_a_note_of_the_wrong_form_says_where(client, body, text):
    answer = client.put("/v1/notes/wrong", content=body.encode(), headers=JSON)
    assert text in told(answer, 422, "invalid")
    told(client.get("/v1/notes/wrong"), 404, "not_found")
    if body.startswith("{") and '"note_id"' not in body:
        batch = '{"notes": [' + body.replace("{", '{"note_id": "wrong", ', 1).replace(", }", "}") + "]}"
        assert text in told(client.post("/v1/notes", content=batch.encode(), headers=JSON), 422, "invalid")
        told(client.get("/v1/notes/wrong"), 404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        '{"title": "a", "k": NaN}',
        '{"title": "a", "k": Infinity}',
        '{"title": "a", "k": 1e999}',
        '{"title": "a", "k": 1.5}',
        '{"title": "a", "k": 0}',
        '{"title": "a", "k": -1}',
        '{"title": "a", "k": 501}',
        '{"title": "a", "k": 1' + "0" * 400 + "}",
        '{"title": "a", "k": null}',
        '{"title": "a", "k": []}',
        '{"title": "a", "near_duplicates": NaN}',
        '{"title": "a", "near_duplicates": Infinity}',
        '{"title": "a", "near_duplicates": 0}',
        '{"title": "a", "near_duplicates": 1.01}',
        '{"title": "a", "diversity": NaN}',
        '{"title": "a", "diversity": -Infinity}',
        '{"title": "a", "diversity": 1}',
        '{"title": "a", "diversity": -0.1}',
        '{"title": "a", "diversity": null}',
        '{"title": "a", "filter": null}',
        '{"title": "a", "filter": []}',
        '{"title": "a", "filter": {"category": "b"}}',
        '{"title": "a", "filter": {"categories": "b"}}',
        '{"title": "a", "filter": {"allow": [1]}}',
        '{"title": "a", "filter": {"published_after": NaN}}',
        '{"title": "a", "filter": {"deny": ["\\ud800"]}}',
        json.dumps({"title": "a", "filter": {"allow": ["b"] * 1_001}}),
        json.dumps({"title": "a", "filter": {"categories": ["b"] * 101}}),
    ],
)
def test_a_question_of_the_wrong_form_says_where(client, body):
    told(client.post("/v1/related", content=body.encode(), headers=JSON), 422, "invalid")


def test_a_query_of_the_wrong_form_says_where(client):
    for query in ("", "k=3", "note_id=n0000001&k=0", "note_id=n0000001&k=501", "note_id=n0000001&k=x"):
        told(client.get(f"/v1/related?{query}"), 422, "invalid")
    for query in ("note_id=n0000001&k=-1", "note_id=n0000001&k=1.5", f"note_id={'x' * 513}", "note_id=&k=3"):
        told(client.get(f"/v1/related?{query}"), 422, "invalid")
    assert len(ids(client.get("/v1/related?note_id=n0000001&k=03&other=1"))) == 3
    assert len(ids(client.get("/v1/related?k=3&note_id=n%30000001"))) == 3


TIMES = {
    "0001-01-01T00:00:00": None,
    "0001-01-02T23:59:59.999999": None,
    "0001-01-01T00:00:00+23:59": None,
    "0001-01-03T00:00:00": "0001-01-03T00:00:00+00:00",
    "0000-01-01T00:00:00": None,
    "1969-12-31T23:59:59.999999Z": "1969-12-31T23:59:59.999999+00:00",
    "2024-02-29T12:00:00": "2024-02-29T12:00:00+00:00",
    "2023-02-29T12:00:00": None,
    "2024-01-01T00:00:00+05:30": "2023-12-31T18:30:00+00:00",
    "2024-01-01T00:00:00+23:59": "2023-12-31T00:01:00+00:00",
    "2024-01-01T00:00:00+24:00": None,
    "2024-12-31T23:59:60Z": None,
    "9999-12-31T23:59:59.999999": "9999-12-31T23:59:59.999999+00:00",
    "9999-12-31T23:59:59+14:00": "9999-12-31T09:59:59+00:00",
    "9999-12-31T23:59:59-00:01": None,
    "10000-01-01": None,
    "yesterday": None,
    "": None,
    "\x00": None,
    "NaN": None,
}
NUMBERS = ["NaN", "Infinity", "-Infinity", "1e300", "-1e300", "1e18", "-62135596800000", "true", "[]", "{}"]


@pytest.mark.parametrize("when", TIMES)
def test_times_of_any_zone_are_utc_and_those_out_of_range_are_refused(client, when):
    client.delete("/v1/notes/time")
    note = {"title": "a", "published_at": when, "expires_at": when}
    answer = client.put("/v1/notes/time", json=note)
    kept = TIMES[when]
    if kept is None:
        assert "published_at" in told(answer, 422, "invalid")
        return
    good(answer)
    read = good(client.get("/v1/notes/time"))
    assert read["published_at"] == read["expires_at"] == kept
    good(client.patch("/v1/notes/time", json={"expires_at": None}))
    where = {"allow": ["time"], "published_after": when}
    assert ids(client.post("/v1/related", json={"title": "a", "filter": where})) == ["time"]
    where = {"allow": ["time"], "published_before": when}
    assert ids(client.post("/v1/related", json={"title": "a", "filter": where})) == []


@pytest.mark.parametrize("number", NUMBERS)
def test_times_that_are_numbers_are_no_failure(client, number):
    for name in ("published_at", "expires_at"):
        body = f'{{"title": "a", "{name}": {number}}}'.encode()
        told(client.put("/v1/notes/number", content=body, headers=JSON), 422, "invalid")


def test_a_body_of_another_type_is_refused(client):
    """A form on another site can send these types without asking, so they must not write."""
    body = b'{"title": "a"}'
    kinds = [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "x/\xff",
    ]
    for kind in kinds:
        headers = [(b"content-type", kind.encode("latin-1"))]
        message = told(client.put("/v1/notes/typed", content=body, headers=headers), 422, "invalid")
        assert "application/json" in message
    assert "application/json" in told(client.put("/v1/notes/typed", content=body), 422, "invalid")
    told(client.get("/v1/notes/typed"), 404, "not_found")
    for kind in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        good(client.put("/v1/notes/typed", content=body, headers={"content-type": kind}))


def test_the_description_names_every_status_and_has_examples_that_work(client):
    described = good(client.get("/openapi.json"))
    assert described["info"]["version"] == __version__
    good(client.put("/v1/notes/n1", json={"title": "one"}))
    good(client.put("/v1/notes/n2", json={"title": "two"}))
    good(client.put("/v1/notes/n3", json={"title": "three"}))
    schemas = described["components"]["schemas"]
    tried = 0
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert {"401", "403", "404", "413", "422", "429", "500", "503", "504"} <= set(
                operation["responses"]
            )
            if path == "/v1/reload" or "requestBody" not in operation:
                continue
            name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
            for example in schemas[name].get("examples", []):
                good(client.request(method, path.format(note_id="n1"), json=example))
                tried += 1
    assert tried >= 7
    assert set(described["paths"]["/v1/reload"]["post"]["responses"]) >= {"202", "409"}


def test_the_disk_that_fails_is_a_reason_to_ask_again(places, tmp_path, monkeypatch):
    engine = places.copied(tmp_path).engine(ranker=None)
    with served(engine) as client:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        for way in ("merge_insert", "add"):
            monkeypatch.setattr(engine._state.live.store._table, way, full)
        for answer in (
            client.put("/v1/notes/full", json={"title": "a"}),
            client.post("/v1/notes", json={"notes": [{"note_id": "full", "title": "a"}]}),
        ):
            assert "No space left" in told(answer, 503, "storage")
            assert int(answer.headers["retry-after"]) > 0
        told(client.get("/v1/notes/full"), 404, "not_found")
        monkeypatch.undo()
        good(client.put("/v1/notes/full", json={"title": "a"}))
        assert "full" in ids(client.post("/v1/related", json={"title": "a", "filter": {"allow": ["full"]}}))


def test_what_was_written_is_there_after_a_restart(places, tmp_path):
    own = places.copied(tmp_path)
    with served(own.engine(ranker=None)) as client:
        good(client.put(at("kept/id"), json={"title": "Kept", "published_at": "2026-01-01"}))
        good(client.delete("/v1/notes/n0000001"))
    engine = own.engine(ranker=None)
    assert engine.note("kept/id").published_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert "n0000001" not in engine.notes
    assert len(engine.apply([Publish(StoredNote(title="a", note_id="after"))])) == 1
    engine.close()


def test_only_quick_questions_are_answered_in_the_event_loop(places, tmp_path, monkeypatch):
    engine = places.copied(tmp_path).engine(ranker=None)
    threads = []
    related = engine.related

    def watched(queries):
        threads.append(threading.current_thread().name)
        return related(queries)

    monkeypatch.setattr(engine, "related", watched)
    with served(engine) as client:
        good(client.get("/v1/related", params={"note_id": "n0000001", "k": 100}))
        assert not threads[-1].startswith("notellm-related")
        for slow in (
            {"note_id": "n0000001", "diversity": 0.5},
            {"note_id": "n0000001", "near_duplicates": 0.9},
            {"note_id": "n0000001", "k": 500},
            {"note_id": "n0000001", "filter": {"deny": ["n0000002"]}},
            {"title": "soup"},
        ):
            good(client.post("/v1/related", json=slow))
            assert threads[-1].startswith("notellm-related"), slow


# -------------------------------------------------------------------- what may not be shown


@pytest.fixture
def own(places, tmp_path):
    """A client of a service that only this test uses, and its engine."""
    engine = places.copied(tmp_path).engine()
    with served(engine) as client:
        yield client, engine


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ({"hidden": True}, {"hidden": False}),
        ({"expires_at": "2020-01-01T00:00:00Z"}, {"expires_at": None}),
    ],
    ids=["hidden", "expired"],
)
def test_a_hidden_or_expired_note_is_in_no_answer_but_for_those_who_manage_notes(own, away, back):
    client, engine = own
    user = next(user for user, opened in engine.ranker.histories.items() if len(set(opened)) > 5)
    note_id = engine.ranker.histories[user][-1]
    title = engine.notes[note_id].title
    ready_map(client)

    def answers():
        history = [note_id]
        candidates = [note_id, *(i for i in list(engine.notes)[:5] if i != note_id)]
        some = {"history": history, "k": 100, "rerank": False}
        recommended = good(client.post("/v1/recommend", json={"user_id": user, "k": 50}))["recommended"]
        recommended += good(client.post("/v1/recommend", json=some))["recommended"]
        return {
            "related": good(client.post("/v1/related", json={"title": title, "k": 500})),
            "related by id": good(client.get("/v1/related?note_id=n0000001&k=500")),
            "recommended": recommended,
            "popular": good(client.post("/v1/recommend", json={"k": 100, "rerank": False})),
            "ranked": good(client.post("/v1/rank", json={"user_id": user, "candidates": candidates}))[
                "ranked"
            ],
            "recent": good(client.get(f"/v1/users/{user}")),
            "map": ready_map(client),
        }

    def shown():
        return {name for name, answer in answers().items() if f'"{note_id}"' in json.dumps(answer)}

    before = shown()
    assert before == {"related", "related by id", "recommended", "popular", "ranked", "recent", "map"}
    good(client.patch(at(note_id), json=away))
    assert shown() == set()
    assert good(client.get(at(note_id)))["title"] == title
    assert note_id in ids(client.get("/v1/notes", params={"q": title}), "notes")
    found = good(client.post("/v1/recommend", json={"history": [note_id], "k": 5}))
    assert [note["reason"] for note in found["recommended"]] == [None] * 5
    good(client.patch(at(note_id), json=back))
    assert shown() == before


def test_candidates_that_are_hidden_are_left_out_and_named(own):
    client, _ = own
    candidates = [f"n000000{i}" for i in range(4)]
    plain = good(client.post("/v1/rank", json={"candidates": candidates}))
    assert plain["left_out"] == []
    good(client.patch("/v1/notes/n0000002", json={"hidden": True}))
    fewer = good(client.post("/v1/rank", json={"candidates": candidates}))
    assert fewer["left_out"] == ["n0000002"]
    assert ids_of(fewer) == [note_id for note_id in ids_of(plain) if note_id != "n0000002"]
    only = good(client.post("/v1/rank", json={"candidates": ["n0000002"], "history": ["n0000001"]}))
    assert (only["ranked"], only["left_out"]) == ([], ["n0000002"])
    liked = good(client.post("/v1/rank", json={"candidates": candidates, "history": ["n0000002"]}))
    assert liked["basis"] == "history"  # what a user liked counts, since it is not shown
    told(client.post("/v1/rank", json={"candidates": ["nobody", "n0000002"]}), 404, "not_found")


def ids_of(ranked):
    return [note["note_id"] for note in ranked["ranked"]]


def test_what_is_hidden_before_the_map_is_made_is_not_on_it(own):
    client, _ = own
    good(client.patch("/v1/notes/n0000002", json={"hidden": True}))
    good(client.patch("/v1/notes/n0000003", json={"expires_at": "2020-01-01"}))
    good(client.put("/v1/notes/late", json={"title": "a", "expires_at": "2020-01-01"}))
    assert not {"n0000002", "n0000003", "late"} & set(ready_map(client)["note_ids"])


# -------------------------------------------------------------------- while much is going on


def test_state_map_and_metrics_are_answered_while_notes_come_and_go(own):
    client, engine = own
    statuses: list[int] = []
    stop = threading.Event()

    def write(name):
        while not stop.is_set():
            notes = [{"note_id": f"{name}-{i}", "title": f"Note {i}"} for i in range(20)]
            statuses.append(client.post("/v1/notes", json={"notes": notes}).status_code)
            body = {"note_ids": [note["note_id"] for note in notes]}
            statuses.append(client.post("/v1/notes/remove", json=body).status_code)

    ready_map(client)
    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, name) for name in "abc"]
        for _ in range(40):
            for path in ("/v1/state", "/v1/map", "/metrics", "/v1/notes?q=note", "/v1/users"):
                assert client.get(path).status_code == 200, path
        stop.set()
        for one in writing:
            one.result()
    assert set(statuses) == {200}
    assert len(engine.notes) == NOTES


def test_traffic_is_read_while_requests_are_counted():
    """Python raises an error if a deque changes during iteration, and that would be a status 500."""
    metrics = Metrics()
    for _ in range(2_000):
        metrics.request("GET", "/v1/x", 200, 0.001, None)
    stop = threading.Event()

    def count():
        i = 0
        while not stop.is_set():
            metrics.request("GET", f"/v1/{i % 500}", 200, 0.001, None)
            i += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(count)
        try:
            for _ in range(200):
                assert metrics.traffic()["requests"]
        finally:
            stop.set()
            sys.setswitchinterval(before)
        counting.result()


def test_a_note_that_is_removed_while_it_is_mapped_or_ranked_is_no_failure(own, monkeypatch):
    client, engine = own
    ready_map(client)
    good(client.put("/v1/notes/fleeting", json={"title": "a"}))
    index = engine.index
    contains = index.contains
    calls: list[int] = []

    def removes(note_ids):
        found = contains(note_ids)
        if "fleeting" in note_ids and not calls:
            calls.append(1)
            index.remove(["fleeting"])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(index, "contains", removes)
        assert "fleeting" not in good(client.get("/v1/map"))["note_ids"]
        assert calls
    texts = type(engine.ranker.texts)
    note = texts.note

    def gone(self, note_id):
        if note_id == "n0000001" and calls:
            calls.clear()
            raise KeyError(note_id)
        return note(self, note_id)

    with monkeypatch.context() as patch:
        patch.setattr(texts, "note", gone)
        assert ids_of(good(client.post("/v1/rank", json={"candidates": ["n0000001"]}))) == ["n0000001"]
    assert not calls


@pytest.mark.parametrize(
    "body",
    [
        {f"field-{i}": 0 for i in range(60_000)},
        {"title": "a", "topics": [[]] * 60_000},
        {"title": "a", "topics": [0] * 200_000},
        {"notes": [{f"f{i}": 0 for i in range(200)}] * 200},
    ],
    ids=range(4),
)
def test_a_body_of_very_many_parts_is_refused_before_it_is_read(client, body):
    for method, path in (("PUT", "/v1/notes/much"), ("POST", "/v1/notes"), ("POST", "/v1/related")):
        assert "send less at a time" in told(client.request(method, path, json=body), 413, "too_much")


def test_an_error_repeats_no_more_than_a_little_of_what_was_sent(client):
    long = "x" * 100_000
    for body in ({"title": "a", long: 1}, {"title": "a", "published_at": long}, {long: {long[:-1]: long}}):
        answer = client.put("/v1/notes/long", json=body)
        told(answer, 422, "invalid")
        assert len(answer.content) < 1_000
    many = {"title": "a", **{f"field-{i}": 0 for i in range(4_000)}}
    answer = client.put("/v1/notes/long", json=many)
    assert told(answer, 422, "invalid").count("field-") == 5
    batch = {"notes": [{"note_id": "a", "title": "a", "topics": [0] * 100}] * 200}
    assert told(client.post("/v1/notes", json=batch), 422, "invalid").count("topics") == 1


# -------------------------------------------------------------------- storage


def test_a_client_learns_no_path_and_the_log_has_it(own, monkeypatch, logged):
    client, engine = own

    def broken(*_, **__):
        raise StorageError(
            f"cannot write {engine._state.paths.store}/notes.lance/_versions/7.manifest"
        ) from OSError(30, "Read-only file system", f"{engine._state.paths.store}/notes.lance")

    monkeypatch.setattr(engine, "apply", broken)
    answer = client.put("/v1/notes/a", json={"title": "a"})
    message = told(answer, 503, "storage")
    assert "Read-only file system" in message
    assert engine._state.paths.store not in answer.text
    name = answer.headers["x-request-id"]
    assert name in message
    (line,) = [line for line in map(json.loads, logged().splitlines()) if line["event"] == "storage"]
    assert line["request"] == name
    assert f"{engine._state.paths.store}/notes.lance/_versions/7.manifest" in line["error"]


def test_a_service_whose_last_write_failed_is_not_ready_until_the_disk_takes_writes_again(
    own, monkeypatch, logged
):
    client, engine = own
    monkeypatch.setattr(service_module, "_READY_FOR", 0.0)
    assert good(client.get("/health/ready")) == {"ready": True}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        for way in ("merge_insert", "add"):
            patch.setattr(engine._state.live.store._table, way, full)
        told(client.put("/v1/notes/full", json={"title": "a"}), 503, "storage")
    answer = client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert "store cannot be written" in answer.json()["reason"]
    assert engine._state.paths.store not in answer.text
    assert client.delete("/v1/notes/not-there").status_code == 404
    assert client.get("/health/ready").status_code == 503  # to write nothing proves nothing
    with monkeypatch.context() as patch:
        patch.setattr(health, "_CHECK_INTERVAL", 0.0)
        with patch.context() as still:
            still.setattr("notellm.store.upkeep.os.fsync", full)
            assert client.get("/health/ready").status_code == 503
        assert good(client.get("/health/ready")) == {"ready": True}
    good(client.put("/v1/notes/full", json={"title": "a"}))
    events = [json.loads(line)["event"] for line in logged().splitlines()]
    assert events.count("not ready") == 1  # not once a question
    assert events.count("ready again") == 1


def test_a_service_whose_disk_is_nearly_full_or_whose_index_fails_is_not_ready(own, monkeypatch):
    client, engine = own
    monkeypatch.setattr(service_module, "_READY_FOR", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "writable", lambda: f"the disk of {engine._state.paths.store} has 1 MiB left")
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert "nearly full" in answer.json()["reason"]
        assert engine._state.paths.store not in answer.text
        state = good(client.get("/v1/state"))
        assert (state["ready"], state["not_ready"]) == (False, answer.json()["reason"])
    with monkeypatch.context() as patch:
        patch.setattr(type(engine.index), "__len__", lambda _: 1 / 0)
        answer = client.get("/health/ready")
        assert (answer.status_code, answer.json()["reason"]) == (503, "the index does not answer")
    assert good(client.get("/health/ready")) == {"ready": True}


def test_readiness_is_found_out_once_however_often_it_is_asked_for(own, monkeypatch):
    client, engine = own
    monkeypatch.setattr(service_module, "_READY_FOR", float(PATIENCE))
    asked = []
    monkeypatch.setattr(engine, "writable", lambda: asked.append(1))
    for _ in range(20):
        assert good(client.get("/health/ready")) == {"ready": True}
    assert len(asked) == 1
