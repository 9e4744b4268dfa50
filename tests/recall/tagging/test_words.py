"""The evidence of words is complement naive Bayes; mentions are shares of a name's own words."""

import random

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.naive_bayes import ComplementNB

from notellm.lexical.terms import term_counts, terms
from notellm.recall.tagging import words as words_module
from notellm.recall.tagging.names import Names
from notellm.recall.tagging.words import Words

TEXTS = [
    "garlic soup with bread",
    "bread and butter bread",
    "star and moon and star",
    "moon orbit telescope",
    "海滩攻略 酒店",
    "酒店 机票 海滩",
    "",
    "garlic moon",
]
ANSWERS = [["food"], ["food", "baking"], ["sky"], ["sky", "science"], ["旅行"], ["旅行"], ["food"], []]
NEW = ["garlic bread", "moon over the 海滩", "nothing that is known", "", "star star star"]


def dense(texts, answers, names, new, alpha=words_module._ALPHA):
    """The formula of the module, with a column for each term and logs of the whole."""
    vocabulary = sorted({term for text in [*texts, *new] for term in terms(text)})
    place = {term: number for number, term in enumerate(vocabulary)}

    def counts(some):
        matrix = np.zeros((len(some), len(vocabulary)))
        for row, text in enumerate(some):
            for term in terms(text):
                matrix[row, place[term]] += 1
        return matrix

    known = counts(texts)
    idf = np.log((1 + len(texts)) / (1 + (known > 0).sum(axis=0))) + 1

    def weighted(some):
        values = np.where(some > 0, 1 + np.log(np.maximum(some, 1)), 0) * idf
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        return values / np.where(norms > 0, norms, 1)

    x, z = weighted(known), weighted(counts(new))
    of_term = x.sum(axis=0)
    scores = np.zeros((len(new), len(names)))
    for number in range(len(names)):
        of_name = x[[names.number(names.names[number]) in names.numbers(row) for row in answers]].sum(axis=0)
        rest = np.log(np.maximum(1 - of_name / (of_term + alpha), 1e-6))
        whole = np.log(np.maximum(1 - of_name.sum() / of_term.sum(), 1e-6))
        scores[:, number] = z.sum(axis=1) * whole - z @ rest
    return scores


@pytest.fixture
def names() -> Names:
    return Names(name for row in ANSWERS for name in row)


def test_the_evidence_is_that_of_the_formula(names):
    words = Words(term_counts(TEXTS), names.matrix(ANSWERS), names.names)
    np.testing.assert_allclose(
        words.evidence(term_counts(NEW)), dense(TEXTS, ANSWERS, names, NEW), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_of_random_notes_too(seed):
    rng = random.Random(seed)
    vocabulary = [f"word{i}" for i in range(30)] + list("海滩机票酒店")
    texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 12))) for _ in range(60)]
    answers = [rng.sample(["a", "b", "c", "d"], rng.randint(0, 3)) for _ in texts]
    names = Names(name for row in answers for name in row)
    words = Words(term_counts(texts), names.matrix(answers), names.names)
    np.testing.assert_allclose(
        words.evidence(term_counts(texts[:9])), dense(texts, answers, names, texts[:9]), rtol=1e-3, atol=1e-4
    )


def test_one_category_for_each_note_is_ranked_as_by_complement_naive_bayes():
    """With many notes, so that what is added to each term hardly counts (scikit-learn adds it elsewhere)."""
    rng = np.random.default_rng(0)
    themes = rng.dirichlet(np.full(40, 0.3), size=4)
    true = rng.integers(0, 4, 800)
    texts = [" ".join(f"w{word:02d}" for word in rng.choice(40, 12, p=themes[label])) for label in true]
    answers = [[f"c{label}"] for label in true]
    names = Names(f"c{label}" for label in true)
    counts = term_counts(texts)
    words = Words(counts, names.matrix(answers), names.names)
    vectors = words_module._weighted(counts, words._idf)
    labels = [names.number(row[0]) for row in answers]
    used = np.flatnonzero(np.asarray(vectors.sum(axis=0)).ravel())
    theirs = ComplementNB(alpha=words_module._ALPHA).fit(vectors[:, used], labels)
    found = words.evidence(counts[:200]).argmax(axis=1)
    assert (found == theirs.predict(vectors[:200, used])).mean() > 0.97
    assert (found == labels[:200]).mean() > 0.8


def test_words_speak_for_the_names_whose_notes_have_them(names):
    words = Words(term_counts(TEXTS), names.matrix(ANSWERS), names.names)
    food, sky, travel = (names.number(name) for name in ("food", "sky", "旅行"))
    garlic, stars, beach = words.evidence(term_counts(["garlic bread", "moon and star", "海滩酒店"]))
    assert garlic.argmax() == food
    assert stars.argmax() == sky
    assert beach.argmax() == travel
    np.testing.assert_array_equal(words.evidence(term_counts([""])), 0)


def test_a_note_mentions_a_name_whose_words_it_has():
    names = ["cold brew", "旅行", "C++", "!!!", "tea"]
    words = Words(term_counts(["tea"]), sp.csr_matrix((1, len(names))), names)
    texts = ["I love COLD-brew!", "我的旅行笔记", "c is a language", "cold", "nothing", ""]
    found = words.mentions(term_counts(texts))
    np.testing.assert_allclose(found[0, :2], [1, 0], atol=1e-6)
    np.testing.assert_allclose(found[1, :2], [0, 1], atol=1e-6)
    assert found[2, 2] == pytest.approx(1)
    assert 0 < found[3, 0] < 1
    np.testing.assert_array_equal(found[4:], 0)
    np.testing.assert_array_equal(found[:, 3], 0)  # a name without words is never mentioned
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6


def test_names_that_are_added_have_the_evidence_of_the_notes_that_bring_them(names):
    words = Words(term_counts(TEXTS), names.matrix(ANSWERS), names.names)
    new = term_counts(NEW)
    before = words.evidence(new)
    carried = np.zeros((len(NEW), 2), dtype=np.float32)
    carried[2, 0] = 1  # no note carries the second name
    words.add_names(["garlic bread", "new"], new, sp.csr_matrix(carried))
    after = words.evidence(new)
    np.testing.assert_array_equal(after[:, : len(names)], before)
    np.testing.assert_array_equal(after[:, -1], 0)
    assert after[2, len(names)] > max(before[2].max(), 0)  # its own text speaks most for it
    assert after[2, len(names)] > after[[0, 1, 3, 4], len(names)].max()
    assert words.mentions(term_counts(NEW))[0, len(names)] == pytest.approx(1)
    whole = Words(term_counts(TEXTS), names.matrix(ANSWERS), [*names.names])
    np.testing.assert_allclose(
        words.mentions(term_counts(NEW))[:, : len(names)], whole.mentions(term_counts(NEW)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("texts", "answers"),
    [
        ([], []),
        (["one note"], [["a"]]),
        (["", "", "!!"], [["a"], ["a"], ["b"]]),
        (["same words", "same words"], [["a"], ["a"]]),
        (["word " * 100_000], [["a"]]),
    ],
)
def test_the_evidence_is_finite(texts, answers):
    names = Names(name for row in answers for name in row)
    words = Words(term_counts(texts), names.matrix(answers), names.names)
    for some in (["one note"], [""], ["word"], ["never seen"]):
        assert np.isfinite(words.evidence(term_counts(some))).all()
        assert np.isfinite(words.mentions(term_counts(some))).all()
        assert words.evidence(term_counts(some)).shape == (1, len(names))
