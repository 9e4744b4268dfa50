import pytest

from notellm.store.local import LocalIndex
from tests.store.contract import IndexContract


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
