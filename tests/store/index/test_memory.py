"""The indexes in memory: the contract, and what becomes of rows that no note uses any more."""

import numpy as np
import pytest

pytest.importorskip("faiss")

from notellm.store.index.exact import ExactIndex
from notellm.store.index.filters import Filter
from notellm.store.index.hnsw import HnswIndex
from notellm.vectors import search
from tests.store.index.contract import TOPICS, IndexContract, check, entries, unit, world
from tests.store.index.test_hnsw import DIM, FILTERS, changed, same_answers, table_of


class TestExact(IndexContract):
    kind = option = "exact"
    index_class = ExactIndex
    is_saved = False

    @pytest.fixture
    def make(self):
        return ExactIndex


class TestHnsw(IndexContract):
    """The graph answers even where few notes are allowed, which by default are read exactly."""

    exact = False
    kind = option = "hnsw"
    index_class = HnswIndex
    measures_recall = True

    @pytest.fixture
    def make(self):
        return lambda dim: HnswIndex(dim, exact_below=0)


# -------------------------------------------------------------------- dead rows


@pytest.mark.parametrize(
    "make", [ExactIndex, lambda dim: HnswIndex(dim, exact_below=0)], ids=["exact", "hnsw"]
)
def test_dead_rows_are_never_returned(make):
    """Each note moves again and again; what it was is nearest to the query, and yet never comes."""
    index = make(DIM)
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
    exact = ExactIndex(DIM)
    indexes = {"exact": exact, "hnsw": HnswIndex(DIM)}
    gone = list(notes)[:250]
    for index in indexes.values():
        index.upsert(table)
        index.remove(gone)
        assert index.dead_share() == pytest.approx(250 / 1_200)  # not yet worth it
        index.remove(list(notes)[250:300])
    assert indexes["exact"].dead_share() == 0
    assert exact._matrix.values.shape == (900, DIM)
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
