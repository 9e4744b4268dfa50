"""A saved graph: loaded with what the store holds now it answers as one that was made of that."""

import json

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("faiss")

from notellm.errors import DataError, StorageError
from notellm.files import read_parquet, write_parquet
from notellm.store.index import hnsw
from notellm.store.index.base import entries_schema
from notellm.store.index.hnsw import HnswIndex
from tests.conftest import agree
from tests.store.index.contract import (
    CATEGORIES,
    TOPICS,
    check,
    entries,
    found_ids,
    one_hot,
    only,
    unit,
    world,
)

DIM = 12

#: Every condition alone, and all together.
FILTERS = [
    None,
    only(categories=CATEGORIES[:2]),
    only(topics=TOPICS[:2]),
    only(allow=[f"n{i}" for i in range(0, 400, 3)]),
    only(deny=[f"n{i}" for i in range(0, 400, 2)], categories=CATEGORIES[1:]),
]


def table_of(notes):
    return pa.Table.from_pylist(list(notes.values()), schema=entries_schema(DIM))


def made_of(notes, **options):
    index = HnswIndex(DIM, **options)
    index.upsert(table_of(notes))
    return index


def same_answers(one, other, *, exact=True):
    """Whether two indexes find the same; both read everything, or follow graphs made alike."""
    queries = unit(20, DIM, seed=77)
    exclude = [[f"n{3 * i}", f"n{i}"] for i in range(20)]
    for where in FILTERS:
        for options in ({}, {"exclude": exclude}):
            ids, scores = one.search(queries, 15, where=where, **options)
            wanted_ids, wanted = other.search(queries, 15, where=where, **options)
            if exact:
                assert ids == wanted_ids
            for own, own_wanted in zip(scores, wanted, strict=True):
                np.testing.assert_allclose(own, own_wanted, atol=2e-6)


def changed(notes, seed=1):
    """What a store holds after a while: notes replaced, changed, hidden, removed, removed and new."""
    now = {name: dict(note) for name, note in notes.items()}
    names = list(now)
    fresh = unit(60, DIM, seed=seed)
    for name, vector in zip(names[:30], fresh[:30], strict=True):  # another vector
        now[name]["vector"] = vector.tolist()
    for name in names[30:60]:  # the same vector, other attributes
        now[name] |= {"hidden": not now[name]["hidden"], "category": CATEGORIES[1], "expires_at": None}
    for name in names[60:90]:
        now[name] |= {"topics": [TOPICS[3], TOPICS[0]], "published_at": None}
    for name in names[90:120]:
        del now[name]
    for i, vector in enumerate(fresh[30:]):
        now[f"new {i}"] = now[names[i]] | {"note_id": f"new {i}", "vector": vector.tolist(), "hidden": False}
    return dict(reversed(now.items()))  # the store has no order


@pytest.mark.parametrize("exact_below", [0, 20_000])
def test_a_loaded_graph_answers_as_the_saved_one(tmp_path, exact_below):
    table, notes = world(400, DIM)
    index = HnswIndex(DIM, exact_below=exact_below)
    index.upsert(table)
    index.measure_recall()
    index.write_graph(tmp_path / "index")
    again = HnswIndex.load(tmp_path / "index", table, exact_below=exact_below)
    assert (len(again), again.dim, again.kind, again.recall) == (400, DIM, "hnsw", index.recall)
    assert again.dead_share() == 0
    same_answers(again, index)
    np.testing.assert_array_equal(again.vectors(list(notes)), index.vectors(list(notes)))


@pytest.mark.parametrize("exact_below", [0, 20_000])
def test_a_loaded_graph_is_what_the_store_holds_now(tmp_path, exact_below):
    _, notes = world(400, DIM)
    made_of(notes).write_graph(tmp_path / "index")
    now = changed(notes)
    loaded = HnswIndex.load(tmp_path / "index", table_of(now), exact_below=exact_below)
    # Rows that changed or are gone are dead: 30 other vectors, 30 removed; topics need no new row here.
    assert len(loaded) == len(now) == 400
    assert loaded.dead_share() == pytest.approx(60 / 460)
    assert loaded.contains([*list(notes)[90:120], "new 0"]).tolist() == [False] * 30 + [True]
    same_answers(loaded, made_of(now, exact_below=exact_below), exact=exact_below > 0)
    for where in FILTERS:
        check(loaded, now, unit(10, DIM, seed=5), 20, where=where, exact=exact_below > 0)
    # It goes on as any other: what is written now, and what it is saved as.
    later = changed(now, seed=2)
    loaded.upsert(table_of(later))
    loaded.remove(now.keys() - later.keys())
    same_answers(loaded, made_of(later, exact_below=exact_below), exact=exact_below > 0)
    loaded.write_graph(tmp_path / "index")
    again = HnswIndex.load(tmp_path / "index", table_of(later), exact_below=exact_below)
    assert again.dead_share() == loaded.dead_share()
    same_answers(again, loaded)
    check(again, later, unit(10, DIM, seed=6), 20, exact=exact_below > 0)


def test_a_note_that_got_its_former_vector_back_is_found_once(tmp_path):
    index = HnswIndex(8)
    index.upsert(one_hot(["a", "b", "c"]))
    index.upsert(entries(["a"], np.eye(8)[[5]]))  # the row of the first vector is dead
    index.write_graph(tmp_path / "index")
    loaded = HnswIndex.load(tmp_path / "index", one_hot(["a", "b", "c"]))
    assert found_ids(loaded) == ["a", "b", "c"]
    np.testing.assert_array_equal(loaded.vectors(["a"]), np.eye(8)[[0]])


def test_a_note_with_an_empty_id_is_not_taken_for_a_dead_row(tmp_path):
    index = HnswIndex(8)
    index.upsert(one_hot(["a", "", "c"]))
    index.remove(["a"])
    index.write_graph(tmp_path / "index")
    loaded = HnswIndex.load(tmp_path / "index", one_hot(["a", "", "c"]).slice(1))
    assert (found_ids(loaded), len(loaded)) == (["", "c"], 2)
    index.write_graph(tmp_path / "index")


def test_empty_ones(tmp_path):
    index = HnswIndex(8)
    index.write_graph(tmp_path / "index")
    assert found_ids(HnswIndex.load(tmp_path / "index", one_hot([]))) == []
    assert found_ids(HnswIndex.load(tmp_path / "index", one_hot(["a", "b"]))) == ["a", "b"]
    index.upsert(one_hot(["a", "b"]))
    index.write_graph(tmp_path / "index")
    emptied = HnswIndex.load(tmp_path / "index", one_hot([]))
    assert (found_ids(emptied), len(emptied), emptied.dead_share()) == ([], 0, 1.0)


@pytest.fixture
def saved(tmp_path):
    index = HnswIndex(8)
    index.upsert(one_hot(["a", "b", "c"]))
    index.write_graph(tmp_path / "index")
    return tmp_path / "index"


def test_what_is_not_there_or_of_another_dimension_cannot_be_loaded(saved, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        HnswIndex.load(tmp_path / "nowhere", one_hot(["a"]))
    with pytest.raises(
        DataError, match=r"holds 3 vectors of 8 dimensions and 3 ids, but the vectors of the store have 5"
    ):
        HnswIndex.load(saved, entries(["a"], np.eye(5)[:1]))
    ids = read_parquet(saved / "rows.parquet")
    write_parquet(ids.slice(1), saved / "rows.parquet", force=True)
    agree(saved)
    with pytest.raises(DataError, match="and 2 ids"):
        HnswIndex.load(saved, one_hot(["a"]))


@pytest.mark.parametrize("name", ["graph.faiss", "rows.parquet", "index.json"])
@pytest.mark.parametrize("content", [b"", b"what is this", None])
def test_a_damaged_file_is_told(saved, name, content):
    if content is None:
        content = (saved / name).read_bytes()[:-5]
    (saved / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        HnswIndex.load(saved, one_hot(["a", "b", "c"]))


def test_a_flipped_bit_of_the_graph_is_told_wherever_it_is(saved):
    """FAISS itself notices some of them; a link to another note is as good as any to it."""
    whole = (saved / "graph.faiss").read_bytes()
    for at in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (saved / "graph.faiss").write_bytes(damaged)
        with pytest.raises(DataError, match=r"graph\.faiss is damaged"):
            HnswIndex.load(saved, one_hot(["a", "b", "c"]))


def test_a_failed_save_leaves_the_former_one(saved, monkeypatch):
    index = HnswIndex(8)
    index.upsert(one_hot(["x"]))
    monkeypatch.setattr("notellm.store.index.hnsw.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.write_graph(saved)
    assert found_ids(HnswIndex.load(saved, one_hot(["a", "b", "c"]))) == ["a", "b", "c"]
    assert [path.name for path in saved.parent.iterdir()] == ["index"]


# -------------------------------------------------------------------- recall


def test_recall_is_one_where_the_graph_looks_at_everything(tmp_path):
    _, notes = world(60, DIM)
    index = made_of(notes)
    visible = len(found_ids(index, queries=unit(1, DIM)))
    assert 0 < visible < 60
    wanted = {"k": 100.0, "queries": float(visible), "recall": 1.0}
    assert index.measure_recall() == index.recall == wanted
    index.write_graph(tmp_path / "index")
    assert json.loads((tmp_path / "index" / "index.json").read_text()) == {"dim": DIM, "recall": wanted}


def test_recall_is_the_share_of_the_nearest_that_the_graph_finds(monkeypatch):
    table, _ = world(700, DIM)
    index = HnswIndex(DIM, exact_below=0)
    index.upsert(table)
    follow = HnswIndex._follow_graph

    def half_blind(self, queries, width, allowed):
        rows, scores = follow(self, queries, width, allowed)
        rows[:, width // 2 :] = -1
        return rows, scores

    whole = index.measure_recall(k=10, queries=50)
    assert 0.98 <= whole["recall"] <= 1
    monkeypatch.setattr(HnswIndex, "_follow_graph", half_blind)
    half = index.measure_recall(k=10, queries=50)
    assert half["recall"] == pytest.approx(whole["recall"] / 2, abs=0.02)
    assert (half["k"], half["queries"], index.recall) == (10, 50, half)


def test_recall_of_nothing_is_one():
    assert HnswIndex(8).measure_recall() == {"k": 100.0, "queries": 0.0, "recall": 1.0}


# -------------------------------------------------------------------- what a search costs


def test_a_search_for_which_the_graph_would_take_longer_is_exact(monkeypatch):
    rows = unit(600, 16, seed=1)
    index = HnswIndex(16, exact_below=5)
    index.upsert(entries([f"n{i}" for i in range(600)], rows))
    followed: list[int] = []
    follow = HnswIndex._follow_graph

    def counted(self, *given):
        followed.append(1)
        return follow(self, *given)

    monkeypatch.setattr(HnswIndex, "_follow_graph", counted)
    monkeypatch.setattr(hnsw, "_COST", 1)  # 600 rows, 64 notes weighed
    index.search(rows[:1], 10)
    assert followed == [1]
    ((found,), _) = index.search(rows[:1], 250)  # 750 notes would be weighed
    assert followed == [1]
    assert found == [f"n{i}" for i in np.argsort(-(rows @ rows[0]), kind="stable")[:250]]
