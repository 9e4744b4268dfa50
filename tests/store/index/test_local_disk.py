"""A saved graph: loaded with what the store holds now it answers as one that was made of that."""

import json

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("faiss")

from notellm.errors import ConfigError, DataError, StorageError
from notellm.files import read_parquet, write_parquet
from notellm.store.index.base import entries_schema
from notellm.store.index.filters import Filter
from notellm.store.index.local import LocalIndex
from notellm.vectors import search
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
    index = LocalIndex(DIM, "hnsw", **options)
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
    index = LocalIndex(DIM, "hnsw", exact_below=exact_below)
    index.upsert(table)
    index.measure_recall()
    index.save(tmp_path / "index")
    again = LocalIndex.load(tmp_path / "index", table, exact_below=exact_below)
    assert (len(again), again.dim, again.kind, again.recall) == (400, DIM, "hnsw", index.recall)
    assert again.dead_share() == 0
    same_answers(again, index)
    np.testing.assert_array_equal(again.vectors(list(notes)), index.vectors(list(notes)))


@pytest.mark.parametrize("exact_below", [0, 20_000])
def test_a_loaded_graph_is_what_the_store_holds_now(tmp_path, exact_below):
    _, notes = world(400, DIM)
    made_of(notes).save(tmp_path / "index")
    now = changed(notes)
    loaded = LocalIndex.load(tmp_path / "index", table_of(now), exact_below=exact_below)
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
    loaded.save(tmp_path / "index")
    again = LocalIndex.load(tmp_path / "index", table_of(later), exact_below=exact_below)
    assert again.dead_share() == loaded.dead_share()
    same_answers(again, loaded)
    check(again, later, unit(10, DIM, seed=6), 20, exact=exact_below > 0)


def test_a_note_that_got_its_former_vector_back_is_found_once(tmp_path):
    index = LocalIndex(8, "hnsw")
    index.upsert(one_hot(["a", "b", "c"]))
    index.upsert(entries(["a"], np.eye(8)[[5]]))  # the row of the first vector is dead
    index.save(tmp_path / "index")
    loaded = LocalIndex.load(tmp_path / "index", one_hot(["a", "b", "c"]))
    assert found_ids(loaded) == ["a", "b", "c"]
    np.testing.assert_array_equal(loaded.vectors(["a"]), np.eye(8)[[0]])


def test_a_note_with_an_empty_id_is_not_taken_for_a_dead_row(tmp_path):
    index = LocalIndex(8, "hnsw")
    index.upsert(one_hot(["a", "", "c"]))
    index.remove(["a"])
    index.save(tmp_path / "index")
    loaded = LocalIndex.load(tmp_path / "index", one_hot(["a", "", "c"]).slice(1))
    assert (found_ids(loaded), len(loaded)) == (["", "c"], 2)
    index.save(tmp_path / "index")


def test_empty_ones(tmp_path):
    index = LocalIndex(8, "hnsw")
    index.save(tmp_path / "index")
    assert found_ids(LocalIndex.load(tmp_path / "index", one_hot([]))) == []
    assert found_ids(LocalIndex.load(tmp_path / "index", one_hot(["a", "b"]))) == ["a", "b"]
    index.upsert(one_hot(["a", "b"]))
    index.save(tmp_path / "index")
    emptied = LocalIndex.load(tmp_path / "index", one_hot([]))
    assert (found_ids(emptied), len(emptied), emptied.dead_share()) == ([], 0, 1.0)


def test_an_exact_index_is_not_saved(tmp_path):
    with pytest.raises(ConfigError, match="an exact index is not saved; make it from the store's vectors"):
        LocalIndex(8).save(tmp_path / "index")
    assert not (tmp_path / "index").exists()


@pytest.fixture
def saved(tmp_path):
    index = LocalIndex(8, "hnsw")
    index.upsert(one_hot(["a", "b", "c"]))
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_what_is_not_there_or_of_another_dimension_cannot_be_loaded(saved, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        LocalIndex.load(tmp_path / "nowhere", one_hot(["a"]))
    with pytest.raises(
        DataError, match=r"holds 3 vectors of 8 dimensions and 3 ids, the store vectors of 5; b"
    ):
        LocalIndex.load(saved, entries(["a"], np.eye(5)[:1]))
    ids = read_parquet(saved / "rows.parquet")
    write_parquet(ids.slice(1), saved / "rows.parquet", force=True)
    agree(saved)
    with pytest.raises(DataError, match="and 2 ids"):
        LocalIndex.load(saved, one_hot(["a"]))


@pytest.mark.parametrize("name", ["graph.faiss", "rows.parquet", "index.json"])
@pytest.mark.parametrize("content", [b"", b"what is this", None])
def test_a_damaged_file_is_told(saved, name, content):
    if content is None:
        content = (saved / name).read_bytes()[:-5]
    (saved / name).write_bytes(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        LocalIndex.load(saved, one_hot(["a", "b", "c"]))


def test_a_flipped_bit_of_the_graph_is_told_wherever_it_is(saved):
    """FAISS itself notices some of them; a link to another note is as good as any to it."""
    whole = (saved / "graph.faiss").read_bytes()
    for at in range(0, len(whole), 61):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (saved / "graph.faiss").write_bytes(damaged)
        with pytest.raises(DataError, match=r"graph\.faiss is damaged"):
            LocalIndex.load(saved, one_hot(["a", "b", "c"]))


def test_a_failed_save_leaves_the_former_one(saved, monkeypatch):
    index = LocalIndex(8, "hnsw")
    index.upsert(one_hot(["x"]))
    monkeypatch.setattr("notellm.store.index.local.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.save(saved)
    assert found_ids(LocalIndex.load(saved, one_hot(["a", "b", "c"]))) == ["a", "b", "c"]
    assert [path.name for path in saved.parent.iterdir()] == ["index"]


# -------------------------------------------------------------------- recall


def test_recall_is_one_where_the_graph_looks_at_everything(tmp_path):
    _, notes = world(60, DIM)
    index = made_of(notes)
    visible = len(found_ids(index, queries=unit(1, DIM)))
    assert 0 < visible < 60
    wanted = {"k": 100.0, "queries": float(visible), "recall": 1.0}
    assert index.measure_recall() == index.recall == wanted
    index.save(tmp_path / "index")
    assert json.loads((tmp_path / "index" / "index.json").read_text()) == {"dim": DIM, "recall": wanted}


def test_recall_is_the_share_of_the_nearest_that_the_graph_finds(monkeypatch):
    table, _ = world(700, DIM)
    index = LocalIndex(DIM, "hnsw", exact_below=0)
    index.upsert(table)
    follow = LocalIndex._follow_graph

    def half_blind(self, graph, queries, width, count, selector):
        rows, scores = follow(self, graph, queries, width, count, selector)
        rows[:, width // 2 :] = -1
        return rows, scores

    whole = index.measure_recall(k=10, queries=50)
    assert 0.98 <= whole["recall"] <= 1
    monkeypatch.setattr(LocalIndex, "_follow_graph", half_blind)
    half = index.measure_recall(k=10, queries=50)
    assert half["recall"] == pytest.approx(whole["recall"] / 2, abs=0.02)
    assert (half["k"], half["queries"], index.recall) == (10, 50, half)


def test_recall_of_exact_search_and_of_nothing():
    exact = LocalIndex(8)
    exact.upsert(one_hot(["a", "b"]))
    assert exact.measure_recall() == {"k": 100.0, "queries": 2.0, "recall": 1.0}
    assert exact.recall is None
    assert LocalIndex(8, "hnsw").measure_recall() == {"k": 100.0, "queries": 0.0, "recall": 1.0}


# -------------------------------------------------------------------- dead rows


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
def test_dead_rows_are_never_returned(kind):
    """Each note moves again and again; what it was is nearest to the query, and yet never comes."""
    index = LocalIndex(DIM, kind, exact_below=0)
    query = unit(1, DIM, seed=3)
    near = query + 0.01 * unit(50, DIM, seed=4)
    names = [f"n{i}" for i in range(50)]
    index.upsert(entries(names, near / np.linalg.norm(near, axis=1, keepdims=True)))
    for seed in range(5):
        index.upsert(entries(names, unit(50, DIM, seed=10 + seed)))
    index.remove(names[:5])
    (ids,), (scores,) = index.search(query, 50)
    vectors = unit(50, DIM, seed=14)[5:]
    rows, wanted = search(vectors, query, 45)
    assert ids == [names[5 + row] for row in rows[0]]
    np.testing.assert_allclose(scores, wanted[0], atol=2e-6)
    assert index.dead_share() == pytest.approx(1 - 45 / 300)
    assert len(index) == 45


def test_exact_search_drops_its_dead_rows_and_a_graph_keeps_them():
    table, notes = world(1_200, DIM)
    indexes = {kind: LocalIndex(DIM, kind) for kind in ("exact", "hnsw")}
    gone = list(notes)[:250]
    for index in indexes.values():
        index.upsert(table)
        index.remove(gone)
        assert index.dead_share() == pytest.approx(250 / 1_200)  # not yet worth it
        index.remove(list(notes)[250:300])
    assert indexes["exact"].dead_share() == 0
    assert indexes["exact"]._matrix.values.shape == (900, DIM)
    assert indexes["hnsw"].dead_share() == 0.25
    left = dict(list(notes.items())[300:])
    for index in indexes.values():
        for where in FILTERS:
            check(index, left, unit(10, DIM, seed=8), 30, where=where)
    same_answers(indexes["exact"], indexes["hnsw"])
    # Rows have other places now; writing goes on by id.
    later = changed(left)
    indexes["exact"].upsert(table_of(later))
    indexes["exact"].remove(left.keys() - later.keys())
    for where in [*FILTERS, Filter(topics=[TOPICS[3]])]:
        check(indexes["exact"], later, unit(10, DIM, seed=9), 30, where=where)
