"""Scores are those of BM25; an index that notes join and leave is like one made at once."""

import math
import random
import threading
from collections import Counter
from zlib import crc32

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.data.schema import NOTES
from notellm.errors import ConfigError, DataError
from notellm.lexical import index as lexical
from notellm.lexical import terms as terms_module
from notellm.lexical.hybrid import check_share, hybrid_scores
from notellm.lexical.index import LexicalIndex
from notellm.lexical.terms import BUCKETS, note_text, term_counts, terms, texts_of

WORDS = ["tea", "coffee", "soup", "bread", "海滩", "酒店", "telescope", "moon", "garlic", "walks"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=12)


def test_terms_of_spaced_and_unspaced_scripts():
    assert list(terms("A Cat")) == ["a", "cat"]
    assert list(terms("cats")) == ["cats", "#cat", "#ats"]
    assert list(terms("抹茶店")) == ["抹", "茶", "店", "抹茶", "茶店"]
    assert list(terms("去Paris咖啡 7!")) == [
        *("去", "paris", "#par", "#ari", "#ris"),
        *("咖", "啡", "咖啡", "7"),
    ]
    assert list(terms("ＡＢＣ")) == list(terms("abc"))
    assert list(terms("... 🎉 _")) == []


def test_a_text_is_title_topics_and_content():
    note = {"note_id": "a", "title": "t", "content": "c", "topics": ["x", "y"], "category": "no"}
    notes = pa.Table.from_pylist([note | {"published_at": None}], NOTES)
    assert texts_of(notes) == ["t\nx\ny\nc"] == [note_text("t", ("x", "y"), "c")]
    assert texts_of(notes, with_topics=False) == ["t\nc"]


def test_terms_are_counted():
    counts = term_counts(["tea tea 茶", ""])
    assert counts.shape == (2, BUCKETS)
    assert sorted(counts.data) == [1, 2]
    assert term_counts([]).shape == (0, BUCKETS)
    assert term_counts(["\ud800 lone surrogate"]).nnz > 0


def bm25(query: str, notes: list[str]) -> np.ndarray:
    """The formula, term by term."""
    counted = [Counter(terms(note)) for note in notes]
    mean = sum(map(Counter.total, counted)) / len(notes)

    def score(counts: Counter[str]) -> float:
        total = 0.0
        for term in set(terms(query)):
            having = sum(term in other for other in counted)
            idf = math.log(1 + (len(notes) - having + 0.5) / (having + 0.5))
            dampened = 1.2 * (0.25 + 0.75 * counts.total() / max(mean, 1))
            total += idf * counts[term] * 2.2 / (counts[term] + dampened)
        return total

    own = score(Counter(terms(query)))
    return np.array([score(counts) / own if own else 0 for counts in counted])


def test_terms_are_counted_in_parts_as_in_one(monkeypatch):
    draw = random.Random(1)
    some = ["", *(" ".join(draw.choices(WORDS, k=draw.randrange(9))) for _ in range(20)), ""]
    whole = term_counts(some)
    for row, text in enumerate(some):
        wanted = Counter(crc32(term.encode()) % BUCKETS for term in terms(text))
        assert dict(zip(whole[row].indices.tolist(), whole[row].data.tolist(), strict=True)) == wanted
    monkeypatch.setattr(terms_module, "_TOGETHER", 3)
    parts = term_counts(some)
    assert parts.shape == whole.shape
    assert (parts != whole).nnz == 0
    assert all((np.diff(parts[row].indices) > 0).all() for row in range(len(some)))


def test_many_and_few_terms_are_counted_alike(monkeypatch):
    some = ["tea and bread", "tea", "moon soup", "海滩酒店"]
    few = LexicalIndex("abcd", some)
    monkeypatch.setattr(lexical, "_FEW_TERMS", 0)
    many = LexicalIndex("abcd", some)
    for index in (few, many):
        index.remove(["b"])
    np.testing.assert_array_equal(few._having, many._having)
    np.testing.assert_array_equal(few.scores(["tea"], "abcd"), many.scores(["tea"], "abcd"))


@given(texts, texts, st.integers(1, 5))
def test_scores_are_those_of_bm25_and_the_best_are_found(some, queries, k):
    ids = [f"n{i}" for i in range(len(some))]
    index = LexicalIndex(ids, some)
    excluded = [(ids[row % len(ids)],) for row in range(len(queries))]
    for query, barred, hits in zip(
        queries,
        excluded,
        index.search(queries, k, exclude=excluded, others=[ids] * len(queries)),
        strict=True,
    ):
        wanted = bm25(query, some)
        np.testing.assert_allclose(hits.others, wanted, rtol=1e-4, atol=1e-6)
        wanted[ids.index(barred[0])] = 0
        best = sorted((score for score in wanted.tolist() if score > 0), reverse=True)[:k]
        np.testing.assert_allclose(hits.scores, best, rtol=1e-4)
        np.testing.assert_allclose([wanted[ids.index(note_id)] for note_id in hits.ids], best, rtol=1e-4)
    np.testing.assert_allclose(index.scores(queries, ids)[0], bm25(queries[0], some), rtol=1e-4, atol=1e-6)


def test_among_many_notes_common_terms_bring_no_notes_but_count(monkeypatch):
    draw = random.Random(5)
    common, rare = [f"c{i}" for i in range(5)], [f"r{i}" for i in range(400)]
    some = [" ".join(draw.sample(common, 3) + draw.choices(rare, k=3)) for _ in range(2_000)]
    ids = [f"n{i}" for i in range(len(some))]
    index = LexicalIndex(ids, some)
    queries = [*some[:40], "c0 c1"]
    exact = index.search(queries, 5)
    monkeypatch.setattr(lexical, "_POSTINGS", 100)
    pruned = index.search(queries, 5)
    for wanted, hits in zip(exact, pruned, strict=True):
        np.testing.assert_allclose(hits.scores, wanted.scores, rtol=1e-4)
    assert pruned[-1].ids == exact[-1].ids  # a query of common terms alone


def test_a_note_is_as_similar_to_itself_as_can_be():
    index = LexicalIndex(["a", "b", "c"], ["cold brew coffee", "cold soup", ""])
    assert index.scores(["cold brew coffee"], ["a", "never there"]).tolist() == [[pytest.approx(1), 0]]
    assert index.scores([""], ["a", "c"]).tolist() == [[0, 0]]


def test_equal_notes_come_in_the_order_in_which_they_were_written():
    index = LexicalIndex(["b", "a", "c"], ["tea", "tea", "tea"])
    assert index.search(["tea"], 2)[0].ids == ["b", "a"]


def test_an_index_that_was_written_often_answers_as_one_made_at_once():
    draw = random.Random(3)
    index = LexicalIndex()
    notes: dict[str, str] = {}
    for _ in range(300):
        note_id = f"n{draw.randrange(60)}"
        if draw.random() < 0.3:
            index.remove([note_id, "never there"])
            notes.pop(note_id, None)
        else:
            some = {
                note_id: " ".join(draw.choices(WORDS, k=4)),
                f"n{draw.randrange(60)}": draw.choice(WORDS),
            }
            index.upsert(list(some), list(some.values()))
            notes |= some
        assert len(index) == len(notes)
    fresh = LexicalIndex(list(notes), list(notes.values()))
    for word in WORDS:
        (found,), (wanted,) = index.search([word], 99), fresh.search([word], 99)
        scores = dict(zip(wanted.ids, wanted.scores.tolist(), strict=True))
        assert scores.keys() == set(found.ids)
        np.testing.assert_allclose(found.scores, [scores[note_id] for note_id in found.ids], rtol=1e-4)


def test_a_new_note_is_found_at_once_and_a_removed_one_never():
    index = LexicalIndex([f"n{i}" for i in range(100)], ["tea and bread"] * 100)
    index.upsert(["new"], ["cold brew coffee"])
    assert index.search(["coffee"], 5)[0].ids == ["new"]
    index.upsert(["new"], ["garlic soup"])
    assert index.search(["coffee"], 5)[0].ids == []
    assert index.search(["soup"], 5)[0].ids == ["new"]
    index.remove(["new"])
    assert index.search(["soup"], 5)[0].ids == []
    assert index.scores(["soup"], ["new", "n1"]).tolist() == [[0, 0]]


def test_there_are_few_pieces_however_often_it_is_written():
    index = LexicalIndex()
    for i in range(200):
        index.upsert([f"n{i}"], [WORDS[i % len(WORDS)]])
    assert len(index._pieces) <= 9


def test_threads_may_share_an_index():
    index = LexicalIndex(["keep"], ["tea"])
    failures: list[Exception] = []

    def write(name: str) -> None:
        for i in range(60):
            index.upsert([f"{name}{i}"], ["tea"])
            index.remove([f"{name}{i - 5}"])

    def read() -> None:
        try:
            for _ in range(120):
                (hits,) = index.search(["tea"], 1_000)
                assert "keep" in hits.ids
                assert len(hits.ids) == len(set(hits.ids)) == len(hits.scores)
        except Exception as error:  # noqa: BLE001 - the main thread reports it
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    threads += [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(index) == 11


def test_bad_input_is_named():
    with pytest.raises(DataError, match="2 note ids and 1 texts"):
        LexicalIndex(["a", "b"], ["tea"])
    with pytest.raises(ConfigError, match="k is 0"):
        LexicalIndex().search(["tea"], 0)
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"0 \(vectors only\) to 1 \(words only\)"):
            check_share(share)
    (hits,) = LexicalIndex().search(["tea"], 3, exclude=[("a",)], others=[["a"]])
    assert (hits.ids, hits.others.tolist()) == ([], [0])


def test_the_share_goes_from_vectors_only_to_words_only():
    cosines, words = np.array([0.5, -0.5], np.float32), np.array([0.0, 1.0], np.float32)
    np.testing.assert_array_equal(hybrid_scores(cosines, words, 0.0), cosines)
    np.testing.assert_array_equal(hybrid_scores(cosines, words, 1.0), words)
    np.testing.assert_allclose(hybrid_scores(cosines, words, 0.4), [0.3, 0.1], atol=1e-6)
