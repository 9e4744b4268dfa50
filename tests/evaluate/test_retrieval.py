import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from notellm.data.matrices import click_matrix
from notellm.data.schema import CLICKS, PAIRS
from notellm.errors import ConfigError, DataError
from notellm.evaluate import retrieval as module
from notellm.evaluate.retrieval import (
    constant_scorer,
    evaluate_related,
    paired_difference,
    sparse_cosine_scorer,
    targets_from_pairs,
    vector_scorer,
)
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions


def scorer_of(matrix):
    return lambda queries: np.asarray(matrix, np.float32)[queries]


def evaluate(scorer, pool, queries, targets, ks=(1, 2), **options):
    options = {"resamples": 50, "progress": False} | options
    return evaluate_related(scorer, pool, queries, targets, ks=ks, **options)


def means(result):
    return {name: figure.mean for name, figure in result.figures.items()}


def test_hand_computed():
    """Ranks 1, 2 and 3 among the three other notes."""
    scores = [[9, 3, 2, 1], [5, 9, 3, 4], [3, 2, 9, 1], [0, 0, 0, 0]]
    result = evaluate(scorer_of(scores), "abcd", "abc", "bdd")
    assert result.per_query["MRR"].tolist() == [1, 1 / 2, 1 / 3]
    assert means(result) == pytest.approx({"R@1": 1 / 3, "R@2": 2 / 3, "MRR": 11 / 18})
    assert (result.pool, result.queries, result.query_ids) == (4, 3, ("a", "b", "c"))


def test_only_the_query_leaves_the_pool():
    """The query scores itself highest, and other queries stay candidates."""
    scores = [[99, 1, 2], [2, 99, 1], [0, 0, 99]]
    result = evaluate(scorer_of(scores), "abc", "ab", "bc")
    assert result.per_query["MRR"].tolist() == [1 / 2, 1 / 2]


def test_ties_count_half_so_a_constant_stands_in_the_middle():
    pool = [str(i) for i in range(101)]
    result = evaluate(constant_scorer(np.ones(101)), pool, pool[:50], pool[50:100], ks=(50, 51))
    # 100 candidates: rank 1 + 99 / 2 = 50.5 for every target.
    assert means(result) == pytest.approx({"R@50": 0, "R@51": 1, "MRR": 1 / 50.5})


def test_minus_infinity_excludes_without_a_gift():
    scores = [[0, -math.inf, -math.inf, 5]]
    result = evaluate(scorer_of(scores * 4), "abcd", "a", "b")
    assert result.per_query["MRR"].tolist() == [1 / 2.5]


def test_several_targets():
    """Targets of a at ranks 1 and 3: half of them within 2, the best rank is 1."""
    scores = [[0, 9, 8, 7]] * 4
    result = evaluate(scorer_of(scores), "abcd", ["a", "b", "a"], ["b", "c", "d"])
    assert result.query_ids == ("a", "b")
    assert result.per_query["R@2"].tolist() == [0.5, 1.0]
    assert result.per_query["MRR"].tolist() == [1.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_rank_is_the_mean_over_random_tie_breaking(pool, seed):
    """Against a brute force: the mean of the first and the last place that the ties allow."""
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 4, (pool, pool)).astype(np.float32)
    rows = [(q, t) for q in range(pool) for t in range(pool) if q != t]
    ranks = module._ranks(
        scorer_of(scores),
        np.arange(pool),
        np.array([q for q, _ in rows]),
        np.array([t for _, t in rows]),
        pool,
        "random",
        progress=False,
    )
    for (query, target), rank in zip(rows, ranks, strict=True):
        others = sorted((scores[query, c] for c in range(pool) if c != query), reverse=True)
        places = [i + 1 for i, score in enumerate(others) if score == scores[query, target]]
        assert rank == (places[0] + places[-1]) / 2


def test_blocks_do_not_change_the_result(monkeypatch):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 8))
    pool = [f"n{i}" for i in range(60)]
    arguments = vector_scorer(vectors), pool, pool[:40], pool[20:]
    whole = evaluate(*arguments, ks=(5,))
    monkeypatch.setattr(module, "_CELLS", 60 * 7)
    sizes = []

    def spy(queries):
        sizes.append(len(queries))
        return arguments[0](queries)

    blocked = evaluate(spy, *arguments[1:], ks=(5,))
    assert sizes == [7, 7, 7, 7, 7, 5]
    assert blocked.figures == whole.figures


def checkerboard(colours=4, notes=8, users=5):
    """Users of a colour click all its notes: in each colour every two notes are related."""
    rows = [
        {
            "user_id": f"{colour}-{user}",
            "note_id": f"{colour}-{note}",
            "timestamp": (note * 7 + user * 3) % notes * 10**6 + 10**15,
            "event": "click",
        }
        for colour in range(colours)
        for user in range(users)
        for note in range(notes)
    ]
    return pa.Table.from_pylist(rows, CLICKS), [
        f"{colour}-{note}" for colour in range(colours) for note in range(notes)
    ]


def test_checkerboard_recall_is_exactly_one():
    clicks, pool = checkerboard()
    pairs = mine_pairs(clicks, PairOptions(lower=0, top=100), progress=False)
    queries, targets = targets_from_pairs(pairs)
    assert len(queries) == len(pool)
    colours = np.eye(4)[[int(note[0]) for note in pool]]
    for scorer in (vector_scorer(colours), sparse_cosine_scorer(click_matrix(pool, clicks))):
        result = evaluate(scorer, pool, queries, targets, ks=(3, 7))
        assert means(result)["R@7"] == 1.0
        # Seven notes of the colour tie: the expected rank is 4, not within 3.
        assert means(result)["R@3"] == 0.0
        assert result.figures["R@7"].low == result.figures["R@7"].high == 1.0


def pair_table(rows):
    return pa.Table.from_pylist([dict(zip(PAIRS.names, row, strict=True)) for row in rows], schema=PAIRS)


def test_targets():
    pairs = pair_table(
        [
            ("b", "z", 2.0, 1),  # too few users
            ("b", "y", 1.0, 2),
            ("a", "c", 1.0, 2),
            ("a", "d", 1.0, 3),
            ("a", "b", 1.0, 3),
        ]
    )
    queries, targets = targets_from_pairs(pairs)
    assert (queries.to_pylist(), targets.to_pylist()) == (["a", "b"], ["b", "y"])
    queries, targets = targets_from_pairs(pairs, best_only=False)
    assert queries.to_pylist() == ["a", "a", "a", "b"]
    assert targets.to_pylist() == ["b", "d", "c", "y"]
    assert targets_from_pairs(pairs, min_users=1)[1].to_pylist() == ["b", "z"]
    with pytest.raises(DataError, match="none of 5 pairs has 9 users"):
        targets_from_pairs(pairs, min_users=9)


def test_exposure_groups():
    """Exposure 0 to 9: low is at most the 30 % quantile 2.7, high above the 90 % quantile 8.1."""
    pool = list("abcdefghij")
    neighbour = np.eye(10)[[1, 0, 3, 2, 5, 4, 7, 6, 9, 8]]
    result = evaluate(scorer_of(neighbour), pool, "abcij", "badji", exposure=np.arange(10))
    assert result.by_exposure["low"].query_ids == ("a", "b", "c")
    assert result.by_exposure["high"].query_ids == ("j",)
    assert result.by_exposure["low"].pool == 10
    assert means(result.by_exposure["low"])["R@1"] == 1.0


def test_a_group_without_queries_is_left_out():
    result = evaluate(scorer_of(np.eye(3)), "abc", "a", "b", exposure=[5, 5, 5])
    assert list(result.by_exposure) == ["low"]


def test_bootstrap_is_seeded():
    draw = np.random.default_rng(0)
    pool = [f"n{i}" for i in range(50)]
    scorer = vector_scorer(draw.normal(size=(50, 4)))

    def run(seed):
        return evaluate(scorer, pool, pool[:40], pool[10:], ks=(10,), seed=seed)

    assert run(1).figures == run(1).figures
    assert run(1).figures != run(2).figures
    assert means(run(1)) == means(run(2))


def test_paired_difference_cancels_what_is_common():
    """Ranks differ widely between queries; one method is better on every tenth query."""
    draw = np.random.default_rng(0)
    pool = [f"n{i}" for i in range(200)]
    base = draw.normal(size=(200, 200)).astype(np.float32)
    better = base.copy()
    queries, targets = np.arange(100), np.arange(100, 200)
    better[queries[::10], targets[::10]] = 99
    asked = [pool[i] for i in queries], [pool[i] for i in targets]
    first = evaluate(scorer_of(better), pool, *asked, ks=(50,), name="better")
    second = evaluate(scorer_of(base), pool, *asked, ks=(50,), name="base")
    difference = paired_difference(first, second)
    assert list(difference) == ["R@50", "MRR"]
    expected = first.figures["R@50"].mean - second.figures["R@50"].mean
    assert difference["R@50"].mean == pytest.approx(expected)
    assert difference["R@50"].low >= 0
    assert difference["MRR"].low > 0
    width = difference["R@50"].high - difference["R@50"].low
    assert width < first.figures["R@50"].high - first.figures["R@50"].low
    same = paired_difference(first, first)["MRR"]
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    with pytest.raises(DataError, match="same queries and pool"):
        paired_difference(first, evaluate(scorer_of(base), pool, *(a[:9] for a in asked)))


def test_zero_rows_score_zero():
    dense = np.array([[1.0, 0], [0, 0], [2, 0]])
    expected = [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    queries = np.arange(3)
    assert vector_scorer(dense)(queries).tolist() == expected
    assert sparse_cosine_scorer(sparse.csr_array(dense))(queries).tolist() == expected


def test_sparse_and_dense_cosine_agree():
    matrix = sparse.random_array((30, 20), density=0.3, rng=np.random.default_rng(0))
    queries = np.array([3, 7, 7])
    dense = vector_scorer(matrix.toarray())(queries)
    assert dense.dtype == sparse_cosine_scorer(matrix)(queries).dtype == np.float32
    assert np.allclose(dense, sparse_cosine_scorer(matrix)(queries), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": "ax"}, "1 of 2 query ids are not in the pool, such as 'x'"),
        ({"targets": "bx"}, "1 of 2 target ids are not in the pool"),
        ({"targets": "b"}, "2 queries and 1 targets"),
        ({"queries": "", "targets": ""}, "0 queries"),
        ({"targets": "bb"}, "its own target"),
        ({"pool_ids": "abca"}, "an id twice"),
        ({"exposure": [1, 2]}, r"exposure has shape \(2,\)"),
        ({"scorer": lambda q: np.zeros((len(q), 2))}, "returned shape"),
        ({"scorer": lambda q: np.full((len(q), 3), np.nan)}, "NaN"),
    ],
)
def test_bad_data_is_named(change, message):
    good = {"scorer": scorer_of(np.eye(3)), "pool_ids": "abc", "queries": "ab", "targets": "bc"}
    assert evaluate_related(**good, resamples=1, progress=False).queries == 2
    with pytest.raises(DataError, match=message):
        evaluate_related(**(good | change), progress=False)


@pytest.mark.parametrize("options", [{"ks": ()}, {"ks": (0, 5)}, {"resamples": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ConfigError):
        evaluate(scorer_of(np.eye(3)), "abc", "a", "b", **options)
