"""Hybrid search orders by both scores together, whatever brought a note; filters hold for both parts."""

import numpy as np
import pytest

from notellm.errors import ConfigError
from notellm.lexical.index import LexicalIndex
from notellm.store.hybrid import hybrid_search
from notellm.store.index.exact import ExactIndex
from notellm.store.index.filters import Filter
from notellm.store.rows import StoredNote, rows_of

WORDS = ["tea", "coffee", "soup", "bread", "telescope", "moon", "garlic", "walks", "lake", "camp"]
COUNT = 900


@pytest.fixture(scope="module")
def parts():
    """An index, the same notes by their words, their vectors and texts; every ninth note is hidden."""
    draw = np.random.default_rng(2)
    vectors = draw.standard_normal((COUNT, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = [" ".join(draw.choice(WORDS, 4)) + f" word{row % 50}" for row in range(COUNT)]
    notes = [
        StoredNote(note_id=f"n{row}", title=text, category="odd" if row % 2 else "even", hidden=row % 9 == 0)
        for row, text in enumerate(texts)
    ]
    index = ExactIndex(8)
    index.upsert(rows_of(notes, vectors))
    return index, LexicalIndex([note.note_id for note in notes], texts), vectors, texts


def in_full(parts, row, share, allowed):
    """Scores of all allowed notes by the definition."""
    _, lexical, vectors, texts = parts
    words = lexical.scores([texts[row]], [f"n{other}" for other in range(COUNT)])[0]
    scores = (1 - share) * (vectors @ vectors[row]) + share * words
    scores[~allowed] = -np.inf
    return scores


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_order_is_that_of_the_definition(parts, share, k):
    index, lexical, vectors, texts = parts
    rows = [3, 4, 500]
    exclude = [{f"n{row}"} for row in rows]
    hits = hybrid_search(
        index, lexical, vectors[rows], [texts[row] for row in rows], k, share=share, exclude=exclude
    )
    for row, found in zip(rows, hits, strict=True):
        allowed = (np.arange(COUNT) % 9 > 0) & (np.arange(COUNT) != row)
        wanted = in_full(parts, row, share, allowed)
        np.testing.assert_allclose(found.scores, np.sort(wanted)[::-1][:k], atol=1e-5)
        places = [int(note_id[1:]) for note_id in found.ids]
        np.testing.assert_allclose(wanted[places], found.scores, atol=1e-5)
        np.testing.assert_allclose(found.cosines, vectors[places] @ vectors[row], atol=1e-5)
        np.testing.assert_allclose(
            (1 - share) * found.cosines + share * found.lexical, found.scores, atol=1e-5
        )
        assert len(set(found.ids)) == len(found.ids) == k


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (Filter(categories=["odd"]), lambda row: row % 2 == 1),
        (Filter(allow=[f"n{row}" for row in range(40)], deny=["n1"]), lambda row: 1 < row < 40),
        (Filter(deny=[f"n{row}" for row in range(0, COUNT, 5)]), lambda row: row % 5 > 0),
        (Filter(allow=[]), lambda _: False),
    ],
)
def test_filters_hold_for_both_parts(parts, where, passes):
    index, lexical, vectors, texts = parts
    wanted = {f"n{row}" for row in range(COUNT) if row % 9 and passes(row)}
    (hits,) = hybrid_search(index, lexical, vectors[:1], texts[:1], COUNT, share=0.5, where=where)
    assert set(hits.ids) == wanted
    (few,) = hybrid_search(index, lexical, vectors[:1], texts[:1], 5, share=0.5, where=where)
    assert few.ids == hits.ids[:5]


def test_words_bring_what_no_vector_is_near_to():
    vectors = np.tile(np.array([[1, 0]], np.float32), (400, 1))
    vectors[-1] = [-1, 0]
    texts = ["tea and bread"] * 399 + ["a rare telescope"]
    ids = [f"n{row}" for row in range(400)]
    index = ExactIndex(2)
    index.upsert(rows_of([StoredNote(note_id=note_id) for note_id in ids], vectors))
    lexical = LexicalIndex(ids, texts)
    (hits,) = hybrid_search(index, lexical, vectors[:1], ["my telescope"], 3, share=0.9)
    assert hits.ids[0] == "n399"
    assert hits.cosines[0] == pytest.approx(-1)
    (hits,) = hybrid_search(index, lexical, vectors[:1], ["my telescope"], 3, share=0.0)
    assert hits.lexical is None
    assert "n399" not in hits.ids


def test_an_index_with_a_limit_is_asked_for_no_more(parts, monkeypatch):
    index, lexical, vectors, texts = parts
    monkeypatch.setattr(ExactIndex, "most_results", 20)
    (hits,) = hybrid_search(index, lexical, vectors[:1], texts[:1], 20, share=0.5)
    assert len(hits.ids) == 20
    with pytest.raises(ConfigError, match="at most 20 notes"):
        hybrid_search(index, lexical, vectors[:1], texts[:1], 21, share=0.5)


def test_bad_options_are_named(parts):
    index, lexical, vectors, texts = parts
    with pytest.raises(ConfigError, match="lexical share is 2"):
        hybrid_search(index, lexical, vectors[:1], texts[:1], 5, share=2)
    with pytest.raises(ConfigError, match="k is 0"):
        hybrid_search(index, lexical, vectors[:1], texts[:1], 0, share=0.5)
