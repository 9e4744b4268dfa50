import numpy as np
import pytest

from notellm.store.index import local
from notellm.store.index.local import LocalIndex
from tests.store.index.contract import IndexContract, entries, unit


class TestExact(IndexContract):
    @pytest.fixture
    def make(self):
        return LocalIndex


class TestHnsw(IndexContract):
    """The graph answers even where few notes are allowed, which by default are read exactly."""

    exact = False

    @pytest.fixture
    def make(self):
        return lambda dim: LocalIndex(dim, "hnsw", exact_below=0)


def test_a_search_for_which_the_graph_would_take_longer_is_exact(monkeypatch):
    rows = unit(600, 16, seed=1)
    index = LocalIndex(16, "hnsw", exact_below=5)
    index.upsert(entries([f"n{i}" for i in range(600)], rows))
    followed: list[int] = []
    follow = LocalIndex._follow_graph

    def counted(self, *given):
        followed.append(1)
        return follow(self, *given)

    monkeypatch.setattr(LocalIndex, "_follow_graph", counted)
    monkeypatch.setattr(local, "_COST", 1)  # 600 rows, 64 notes weighed
    index.search(rows[:1], 10)
    assert followed == [1]
    ((found,), _) = index.search(rows[:1], 250)  # 750 notes would be weighed
    assert followed == [1]
    assert found == [f"n{i}" for i in np.argsort(-(rows @ rows[0]), kind="stable")[:250]]
