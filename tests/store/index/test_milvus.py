import sys
from itertools import count
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("milvus_lite")
from milvus_lite.server_manager import server_manager_instance
from pymilvus import DataType, MilvusClient

from notellm.errors import ConfigError, DataError, MissingDependencyError, StorageError
from notellm.store.index import milvus, milvus_filters
from notellm.store.index.base import Place
from notellm.store.index.milvus import MilvusIndex
from tests.store.index.contract import (
    IndexContract,
    check,
    entries,
    falling,
    found_ids,
    one_hot,
    only,
    unit,
    world,
)

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    """One Milvus Lite for all tests; each makes collections of its own."""
    path = str(tmp_path_factory.mktemp("milvus") / "lite.db")
    yield path
    server_manager_instance.release_server(path)


names = (f"notes_{number}" for number in count())


@pytest.fixture
def make(uri):
    """An empty index in a collection of its own."""
    made = []

    def new(dim, collection=None):
        made.append(MilvusIndex(uri, dim, collection=collection or next(names)))
        return made[-1]

    yield new
    for index in made:
        index._client.drop_collection(index.collection)
        index.close()


@pytest.fixture
def calls(monkeypatch):
    """Names of the client's methods as they are called; no call asks for more than a server returns."""
    named = []

    def watch(name):
        method = getattr(MilvusClient, name)

        def watched(self, *args, **kwargs):
            assert kwargs.get("limit", 1) <= 16_384
            named.append(name)
            return method(self, *args, **kwargs)

        monkeypatch.setattr(MilvusClient, name, watched)

    for name in ("search", "query", "upsert", "delete"):
        watch(name)
    return named


class TestMilvus(IndexContract):
    kind = "milvus"
    option = "http://milvus:19530"
    index_class = MilvusIndex

    @pytest.fixture
    def place(self, tmp_path, uri):
        return Place(str(tmp_path), f"contract_{next(names)}", server=uri)


def test_what_one_writes_the_other_finds_at_once(make):
    first = make(8, "shared")
    second = make(8, "shared")
    apart = make(8)
    first.upsert(one_hot(["a", "b"]))
    assert found_ids(second) == ["a", "b"]
    second.remove(["a"])
    assert found_ids(first) == ["b"]
    assert len(first) == len(second) == 1
    assert len(apart) == 0


def test_clear_empties_and_drop_removes_the_collection(make):
    index = make(8)
    index.upsert(one_hot(["a", "b"]))
    index.clear()
    assert len(index) == 0
    assert found_ids(index) == []
    index.upsert(one_hot(["b"]))
    assert found_ids(index) == ["b"]
    index.drop()
    assert not index._client.has_collection(index.collection)


def test_notes_outlast_the_server(tmp_path):
    path = str(tmp_path / "own.db")
    table, notes = world(300)
    index = MilvusIndex(path, 12, collection="notes")
    index.upsert(table)
    index.remove(["n0", "n1"])
    del notes["n0"], notes["n1"]
    index.close()
    server_manager_instance.release_server(path)
    again = MilvusIndex(path, 12, collection="notes")
    assert len(again) == 298
    assert check(again, notes, unit(4, 12, seed=1), 20, exact=False) == 80
    again.close()
    server_manager_instance.release_server(path)


def test_notes_in_sealed_segments_are_replaced_and_removed(make):
    index = make(12)
    table, notes = world(600)
    for start in (0, 200, 400):
        index.upsert(table.slice(start, 200))
        index._client.flush(index.collection)
    where = only(topics=["sea", "snow"])
    queries = unit(6, 12, seed=1)
    check(index, notes, queries, 20, exact=False)
    newer, fresh = world(600, seed=2)
    index.upsert(newer.slice(0, 300))
    index.remove([f"n{i}" for i in range(250, 350)])
    held = {f"n{i}": (fresh if i < 250 else notes)[f"n{i}"] for i in range(600) if not 250 <= i < 350}
    for _ in range(2):
        assert len(index) == 500
        assert check(index, held, queries, 20, exact=False) == 120
        assert check(index, held, queries, 20, where=where, exact=False) == 120
        index._client.flush(index.collection)


def test_a_collection_of_another_model_is_refused(make, uri):
    make(8, "eight")
    with pytest.raises(DataError, match=r"eight of .* has 8 dimensions, the model 12"):
        MilvusIndex(uri, 12, collection="eight")


def test_a_collection_of_somebody_else_is_refused(make, uri):
    client = make(8)._client
    client.create_collection("foreign", dimension=8)
    with pytest.raises(DataError, match=r"foreign of .* has no column 'note_id'"):
        MilvusIndex(uri, 8, collection="foreign")
    client.drop_collection("foreign")


def test_a_collection_that_was_left_half_made_is_finished(make):
    index = make(8)
    index._client.release_collection(index.collection)
    index._client.drop_index(index.collection, "vector")
    again = make(8, index.collection)
    again.upsert(one_hot(["a"]))
    assert found_ids(again) == ["a"]


@pytest.mark.parametrize("name", ["", "7notes", "a-b", "a b", "n" * 256, "ä", "notes\n"])
def test_names_that_milvus_does_not_take(name):
    with pytest.raises(ConfigError, match="letters, digits and underscores"):
        MilvusIndex(NOWHERE, 8, collection=name)


def test_k_has_a_limit(make, calls):
    index = make(8)
    index.upsert(one_hot(["a", "b"]))
    with pytest.raises(ConfigError, match="16,384"):
        index.search(falling(), 16_385)
    ids, _ = index.search(np.repeat(falling(), 2, axis=0), 16_384, exclude=[["a"], []])
    assert ids == [["b"], ["a", "b"]]
    assert calls.count("search") == 2


def test_queries_with_exclusions_share_calls(make, calls):
    index = make(12)
    table, notes = world(1_500)
    index.upsert(table)
    queries = unit(300, 12, seed=3)
    calls.clear()
    exclude = [[f"n{j}" for j in range(i % 40)] for i in range(300)]
    check(index, notes, queries, 10, exclude=exclude)
    assert calls == ["search"]

    calls.clear()  # what a user has seen, long and the same for each of the queries, goes into a filter
    exclude = [[f"n{j}" for j in range(1_200)]] * 100 + [[]] * 100 + [[f"n{j}" for j in range(1_300)]] * 100
    check(index, notes, queries, 10, exclude=exclude)
    assert calls == ["search"] * 3


def test_large_calls_are_cut(make, calls, monkeypatch):
    monkeypatch.setattr(milvus, "_CALL_BYTES", 4_000)
    monkeypatch.setattr(milvus, "_CALL_RESULTS", 100)
    index = make(12)
    table, notes = world(300)
    index.upsert(table)
    assert calls.count("upsert") > 4
    queries = unit(30, 12, seed=3)
    calls.clear()
    exclude = [[f"n{j}" for j in range(7 * (i % 5))] for i in range(30)]
    assert check(index, notes, queries, 10, exclude=exclude) == 300
    assert 3 < len(calls) < 20
    assert check(index, notes, queries[:2], 150, exclude=exclude[:2]) == 300
    calls.clear()
    ids = [f"n{i}" for i in range(300)]
    np.testing.assert_allclose(index.vectors(ids), [notes[note_id]["vector"] for note_id in ids])
    assert index.contains([*ids, "n300"]).tolist() == [True] * 300 + [False]
    assert calls.count("query") > 8
    index.remove(ids[10:])
    assert calls.count("delete") > 4
    assert len(index) == 10


@pytest.mark.parametrize(
    ("sizes", "pieces"),
    [
        ([], []),
        ([0], [[0]]),
        ([5, 5, 1], [[5, 5], [1]]),
        ([11], [[11]]),
        ([30, 1, 12, 10, 3, 4, 3], [[30], [1], [12], [10], [3, 4, 3]]),
    ],
)
def test_pieces_are_whole_and_never_empty(sizes, pieces, monkeypatch):
    monkeypatch.setattr(milvus, "_CALL_BYTES", 10)
    assert [sizes[piece] for piece in milvus._pieces(sizes)] == pieces


def test_texts_longer_than_milvus_takes_are_told(make):
    index = make(8)
    longest = "n" * milvus_filters.MOST_BYTES
    index.upsert(entries([longest], np.eye(8)[:1], category=longest, topics=[[longest, "a"]]))
    assert found_ids(index, only(categories=[longest], topics=[longest], allow=[longest])) == [longest]
    for table, told in (
        (one_hot(["a", longest + "n"]), "note id 'nnn.* 65,536 bytes"),
        (one_hot(["长" * 21_846]), "note id '长.* 65,538 bytes"),
        (one_hot(['"' * 21_846]), 'note id \'"".* 65,538 bytes'),
        (one_hot(["a"], category=longest + "n"), "category"),
        (one_hot(["a"], topics=[[longest + "n"]]), "topic"),
        (one_hot(["a"], topics=[[str(i) for i in range(4_097)]]), "'a' has 4,097 topics"),
    ):
        with pytest.raises(DataError, match=told):
            index.upsert(table)
    assert len(index) == 1
    index.upsert(one_hot(["a"], topics=[[str(i) for i in range(4_096)]]))
    assert found_ids(index, only(topics=["4095"])) == ["a"]


@given(st.text())
def test_no_text_can_leave_its_quotes(text):
    written = milvus_filters.listed([text])
    inside = written[2:-2]
    assert written == f'["{inside}"]'
    assert not set(inside) & set("\"'\\{}\n\r\0")
    assert all(len(char.encode("utf-16-le")) == 2 for char in inside)
    assert unquote(inside) == text


@pytest.mark.parametrize("uri", [NOWHERE, "nothing", "/no/such/folder/lite.db", "ftp://127.0.0.1"])
def test_a_server_that_is_not_there_is_told_in_one_line(uri, capfd):
    with pytest.raises(StorageError) as caught:
        MilvusIndex(uri, 8, collection="notes")
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_goes_away_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(milvus, "_CALL_SECONDS", 0.2)
    path = str(tmp_path / "own.db")
    index = MilvusIndex(path, 8, collection="notes")
    index.upsert(one_hot(["a"]))
    server_manager_instance.release_server(path)
    capfd.readouterr()
    for act in (
        lambda: index.upsert(one_hot(["a"])),
        lambda: index.remove(["a"]),
        lambda: index.search(falling(), 1),
        lambda: index.vectors(["a"]),
        lambda: index.contains(["a"]),
        lambda: len(index),
    ):
        with pytest.raises(StorageError, match=r"Milvus at .* could not") as caught:
            act()
        assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    index.close()


def test_what_the_server_refuses_is_told(make, capfd):
    index = make(8)
    index.upsert(one_hot(["a"]))
    index._client.drop_collection(index.collection)
    with pytest.raises(StorageError, match=index.collection) as caught:
        index.search(falling(), 1)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())


def test_pymilvus_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'notellm\[milvus\]'"):
        MilvusIndex(NOWHERE, 8, collection="notes")


def test_a_collection_says_what_it_holds(make):
    """The schema that other programs may rely on."""
    index = make(8)
    index.upsert(entries(['a"b'], np.eye(8)[:1], category="旅行", topics=[["sea", "it's"]]))
    fields = {
        field["name"]: field["type"]
        for field in index._client.describe_collection(index.collection)["fields"]
    }
    assert fields == {
        "note_id": DataType.VARCHAR,
        "vector": DataType.FLOAT_VECTOR,
        "category": DataType.VARCHAR,
        "topics": DataType.ARRAY,
        "published_at": DataType.INT64,
        "hidden": DataType.BOOL,
        "expires_at": DataType.INT64,
    }
    (row,) = index._client.query(index.collection, output_fields=["note_id", "category", "topics"], limit=1)
    assert row == {"note_id": "a%22b", "category": "旅行", "topics": ["sea", "it%27s"]}
