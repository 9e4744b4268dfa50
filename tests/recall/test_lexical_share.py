"""The lexical share is that of the best validation figures, and the default where these cannot tell."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from notellm.data.schema import NOTES, PAIRS
from notellm.lexical.hybrid import DEFAULT_SHARE
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.trainer import Validation

COUNT = 120


def made(*, by_words: bool, by_vectors: bool, count: int = COUNT):
    """Pairs of notes that are near by their words, by their vectors, by both or by neither."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((count, 12))
    rare = [f"w{draw.integers(10**9)}" for _ in range(count)]
    if by_vectors:
        vectors[1::2] = vectors[::2] + 0.8 * vectors[1::2]
    if by_words:
        rare[1::2] = rare[::2]
    else:  # other notes have the words
        rare[2::2] = rare[1:-1:2]
    rest: dict[str, Any] = {"content": "", "topics": [], "category": "", "published_at": None}
    rows = [{"note_id": f"n{i:03d}", "title": f"the same {rare[i]}", **rest} for i in range(count)]
    pairs = [
        {"source": f"n{i:03d}", "target": f"n{i ^ 1:03d}", "score": 1.0, "users": 2} for i in range(count)
    ]
    table = pa.Table.from_pylist(pairs, PAIRS)
    return Validation(pa.Table.from_pylist(rows, NOTES), table), vectors.astype(np.float32)


@pytest.mark.parametrize(
    ("by_words", "by_vectors", "least", "most"), [(True, False, 0.6, 1.0), (False, True, 0.0, 0.3)]
)
def test_what_tells_more_counts_more(by_words, by_vectors, least, most):
    validation, vectors = made(by_words=by_words, by_vectors=by_vectors)
    found = fit_lexical_share(validation, validation.notes, vectors)
    assert least <= found["share"] <= most
    assert found["queries"] == COUNT
    assert max(found["mean"].values()) == found["mean"][str(found["share"])]


def test_the_default_stays_where_validation_cannot_tell():
    validation, vectors = made(by_words=True, by_vectors=True)  # every share finds all
    assert fit_lexical_share(validation, validation.notes, vectors)["share"] == DEFAULT_SHARE


def test_few_queries_are_no_reason():
    validation, vectors = made(by_words=False, by_vectors=True, count=40)
    found = fit_lexical_share(validation, validation.notes, vectors)
    assert found == {"share": DEFAULT_SHARE, "queries": 40, "mean": {}}
