"""Exact search against a sort in plain Python, ties included; with words, the mean of both scores."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import notellm.vectors as vectors_module
from notellm.data.schema import NOTES
from notellm.errors import ConfigError, DataError
from notellm.recall.related import Words, related_by_id, related_by_vector
from notellm.vectors import search


def by_sorting(vectors: np.ndarray, query: np.ndarray, k: int, barred: int = -1) -> list[int]:
    scores = [(-float(row @ query), i) for i, row in enumerate(vectors) if i != barred]
    return [i for _, i in sorted(scores)[:k]]


def whole_numbers(n: int, dim: int, seed: int) -> np.ndarray:
    """Few different small whole numbers: many exact ties, and sums without rounding."""
    return np.random.default_rng(seed).integers(-1, 2, (n, dim)).astype(np.float32)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 200), st.integers(1, 4), st.integers(1, 50), st.integers(0, 10**6), st.booleans())
def test_search_is_a_sort_with_ties_to_the_first(n: int, dim: int, k: int, seed: int, excluded: bool):
    vectors, queries = whole_numbers(n, dim, seed), whole_numbers(7, dim, seed + 1)
    barred = np.random.default_rng(seed).integers(-1, n, 7) if excluded else np.full(7, -1)
    found, cosines = search(vectors, queries, k, exclude=barred if excluded else None)
    assert found.shape == cosines.shape == (7, k)
    for query, bar, rows, values in zip(queries, barred, found, cosines, strict=True):
        wanted = by_sorting(vectors, query, k, int(bar))
        assert rows.tolist() == wanted + [-1] * (k - len(wanted))
        assert values[: len(wanted)].tolist() == [float(vectors[i] @ query) for i in wanted]
        assert np.isneginf(values[len(wanted) :]).all()


def test_there_are_ties_to_break():
    vectors = whole_numbers(40, 2, 0)
    found, cosines = search(vectors, vectors[:1], 10)
    assert len(set(cosines[0].tolist())) < 5
    assert found[0].tolist() == by_sorting(vectors, vectors[0], 10)


def test_blocks_do_not_matter(monkeypatch):
    vectors = whole_numbers(30, 3, 2)
    whole = search(vectors, vectors, 5, exclude=np.arange(30))
    monkeypatch.setattr(vectors_module, "_BLOCK_BYTES", 4 * 30 * 4)
    blocked = search(vectors, vectors, 5, exclude=np.arange(30))
    np.testing.assert_array_equal(whole[0], blocked[0])
    np.testing.assert_array_equal(whole[1], blocked[1])


def test_tiles_do_not_matter_and_a_filter_may_leave_notes_side_by_side(monkeypatch):
    vectors, queries = whole_numbers(400, 3, 3), whole_numbers(5, 3, 4)
    allowed = np.zeros(400, dtype=bool)
    allowed[100:180] = True
    whole, filtered = search(vectors, queries, 2), search(vectors, queries, 2, allowed=allowed)
    for query, rows in zip(queries, filtered[0], strict=True):
        assert rows.tolist() == [100 + row for row in by_sorting(vectors[100:180], query, 2)]
    monkeypatch.setattr(vectors_module, "_TILE", 7)
    for one, other in zip(
        (*whole, *filtered),
        (*search(vectors, queries, 2), *search(vectors, queries, 2, allowed=allowed)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_related_by_id_never_gives_the_note_itself():
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    ids = ["a", "b", "c", "d"]
    assert related_by_id(ids, vectors, ["b", "a"], k=1) == [[("a", 1.0)], [("b", 1.0)]]
    (everything,) = related_by_id(ids, vectors, ["c"], k=10)
    assert [name for name, _ in everything] == ["a", "b", "d"]
    assert related_by_id(ids, vectors, []) == []


def test_related_by_vector_gives_names_and_cosines():
    vectors = np.eye(3, dtype=np.float32)
    query = np.array([[0.6, 0.8, 0.0]], dtype=np.float32)
    (found,) = related_by_vector(["a", "b", "c"], vectors, query, k=2)
    assert [name for name, _ in found] == ["b", "a"]
    assert [cosine for _, cosine in found] == pytest.approx([0.8, 0.6])


WORDS = ["tea", "coffee", "soup", "bread", "moon", "garlic", "lake", "camp"]


def worded(count: int, share: float, seed: int = 0) -> tuple[list[str], np.ndarray, Words]:
    """Notes with random vectors and words; ids, vectors and the words."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((count, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"n{i}" for i in range(count)]
    empty = {"category": "", "published_at": None}
    rows = [
        {
            "note_id": note_id,
            "title": " ".join(draw.choice(WORDS, 3)),
            "content": "",
            "topics": ["x"],
            **empty,
        }
        for note_id in ids
    ]
    draw.shuffle(rows)  # the table of notes has another order than the vectors
    return ids, vectors, Words.of(ids, pa.Table.from_pylist(rows, NOTES), share)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_with_words_the_score_is_the_mean_of_both(share):
    ids, vectors, words = worded(150, share)
    lexical = words.index.scores(words.texts, ids)
    scores = (1 - share) * vectors @ vectors.T + share * lexical
    np.fill_diagonal(scores, -np.inf)
    for row, found in enumerate(related_by_id(ids, vectors, ids, k=7, words=words)):
        assert [score for _, score in found] == pytest.approx(np.sort(scores[row])[::-1][:7], abs=1e-5)
        assert [scores[row, ids.index(name)] for name, _ in found] == pytest.approx(
            [score for _, score in found], abs=1e-5
        )
    (new,) = related_by_vector(ids, vectors, vectors[:1], k=3, words=words, texts=[words.texts[0]])
    assert new[0][0] == "n0"
    assert new[0][1] == pytest.approx(1, abs=1e-5)


def test_without_a_share_words_are_not_read():
    ids, vectors, words = worded(20, 0.0)
    assert related_by_id(ids, vectors, ids[:3], words=words) == related_by_id(ids, vectors, ids[:3])


def test_a_note_without_words_is_named():
    ids, _, _ = worded(3, 0.5)
    with pytest.raises(
        DataError, match="1 of 4 notes that have a vector are not among the notes, such as 'z'"
    ):
        Words.of([*ids, "z"], pa.Table.from_pylist([{"note_id": i} for i in ids]), 0.5)


def test_what_cannot_be_searched():
    vectors = np.eye(2, dtype=np.float32)
    with pytest.raises(ConfigError, match="k is 0; ask for at least 1 related note"):
        search(vectors, vectors, 0)
    with pytest.raises(DataError, match="the vectors have 2 dimensions and the queries 3"):
        search(vectors, np.eye(3, dtype=np.float32), 1)
    with pytest.raises(DataError, match="the note 'z' is not among the 2 embedded notes"):
        related_by_id(["a", "b"], vectors, ["z"])
    with pytest.raises(DataError, match="there are no embedded notes"):
        related_by_id([], np.empty((0, 2), dtype=np.float32), ["z"])
