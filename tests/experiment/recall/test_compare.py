"""Methods are compared on the same queries and resamples, over their seeds."""

import dataclasses

import numpy as np
import pytest

from notellm.errors import DataError
from notellm.evaluate.retrieval import evaluate_related, paired_difference, vector_scorer
from notellm.experiment.recall.compare import Measured, difference_rows, figure_rows, paired

NOTES = [f"n{i}" for i in range(60)]
DRAWS: dict[str, int] = {"resamples": 500, "seed": 0}


def result(seed, noise=0.5):
    """Notes of a pair are near each other, up to noise."""
    draw = np.random.default_rng(seed)
    base = np.repeat(np.random.default_rng(1).normal(size=(30, 8)), 2, axis=0)
    vectors = base + noise * draw.normal(size=base.shape)
    queries, targets = NOTES[::2], NOTES[1::2]
    return evaluate_related(vector_scorer(vectors), NOTES, queries, targets, ks=(1, 10), progress=False)


def rows_by(rows, *names):
    return {tuple(row[name] for name in names): row for row in rows}


def test_the_mean_of_one_seed_is_that_of_its_result():
    found = result(0)
    rows = rows_by(figure_rows("recall", [Measured("a", [found])], {}, **DRAWS), "figure", "group")
    for name, interval in found.figures.items():
        row = rows[name, "all"]
        assert row["mean"] == pytest.approx(interval.mean)
        assert row["low"] <= row["mean"] <= row["high"]
        assert (row["seeds"], row["deviation"], row["count"], row["pool"]) == (1, None, 30, 60)


def test_seeds_are_averaged_and_their_deviation_is_that_of_their_means():
    runs = [result(0), result(1), result(2)]
    (row,) = [
        each for each in figure_rows("recall", [Measured("a", runs)], {}, **DRAWS) if each["figure"] == "MRR"
    ]
    means = [run.figures["MRR"].mean for run in runs]
    assert row["mean"] == pytest.approx(np.mean(means))
    assert row["deviation"] == pytest.approx(np.std(means, ddof=1))
    assert row["seeds"] == 3


def test_groups_hold_their_own_queries():
    found = result(0)
    first = np.arange(30) < 10
    groups = {"age": {"old": first, "new": ~first}}
    rows = rows_by(figure_rows("recall", [Measured("a", [found])], groups, **DRAWS), "group", "figure")
    assert rows["old", "MRR"]["mean"] == pytest.approx(found.per_query["MRR"][:10].mean())
    assert rows["old", "MRR"]["count"] + rows["new", "MRR"]["count"] == rows["all", "MRR"]["count"]
    assert rows["old", "MRR"]["breakdown"] == "age"


def test_a_method_less_itself_is_nothing():
    found = result(0)
    (row, *_) = difference_rows("recall", [Measured("b", [found])], Measured("a", [found]), **DRAWS)
    assert (row["difference"], row["low"], row["high"], row["p"], row["p_adjusted"]) == (0, 0, 0, 1, 1)


def test_differences_have_the_sign_and_the_intervals_of_paired_differences():
    good, bad = result(0, noise=0.3), result(0, noise=1.5)
    rows = rows_by(
        difference_rows("recall", [Measured("bad", [bad])], Measured("good", [good]), **DRAWS), "figure"
    )
    wanted = paired_difference(bad, good, resamples=4_000)
    for (figure,), row in rows.items():
        assert row["against"] == "good"
        assert row["difference"] == pytest.approx(wanted[figure].mean)
        assert row["low"] == pytest.approx(wanted[figure].low, abs=0.05)
        assert row["high"] == pytest.approx(wanted[figure].high, abs=0.05)
    assert rows["MRR",]["difference"] < 0
    assert rows["MRR",]["p"] < 0.01


def test_correction_never_makes_a_difference_more_significant():
    against = Measured("a", [result(0)])
    others = [Measured(str(seed), [result(seed, noise=0.4 + seed / 20)]) for seed in range(1, 6)]
    rows = difference_rows("recall", [against, *others], against, **DRAWS)
    assert {row["method"] for row in rows} == {each.name for each in others}
    assert {row["comparisons"] for row in rows} == {len(others)}
    assert all(row["p_adjusted"] >= row["p"] for row in rows)


def test_methods_of_other_queries_are_refused():
    found = result(0)
    other = dataclasses.replace(found, query_ids=found.query_ids[::-1])
    with pytest.raises(DataError, match="b and a were measured on different queries or pools"):
        figure_rows("recall", [Measured("a", [found]), Measured("b", [other])], {}, **DRAWS)


def test_two_methods_are_compared_on_the_same_queries():
    good, bad = Measured("good", [result(0, noise=0.3)]), Measured("bad", [result(0, noise=1.5)])
    interval, p = paired(good, bad, "MRR", **DRAWS)
    assert interval.mean == pytest.approx(good.mean("MRR") - bad.mean("MRR"))
    assert interval.low > 0
    assert p is not None
    assert p < 0.01
    back, same = paired(bad, good, "MRR", **DRAWS)
    assert back.mean == pytest.approx(-interval.mean)
    assert same == p


def test_a_difference_within_the_spread_of_the_seeds_is_not_told():
    """Two methods whose seeds differ more than they do: one seed of each looks like a difference."""
    first = Measured("first", [result(0, noise=0.2), result(1, noise=1.2)])
    second = Measured("second", [result(2, noise=0.3), result(3, noise=1.3)])
    seeds, p = paired(first, second, "MRR", **DRAWS)
    alone, _ = paired(Measured("a", first.runs[:1]), Measured("b", second.runs[:1]), "MRR", **DRAWS)
    assert seeds.high - seeds.low > alone.high - alone.low
    assert p is not None
    assert p > 0.05


def test_too_few_queries_are_not_tested():
    few = evaluate_related(
        vector_scorer(np.random.default_rng(0).normal(size=(60, 4))),
        NOTES,
        NOTES[:3],
        NOTES[3:6],
        progress=False,
    )
    other = evaluate_related(
        vector_scorer(np.random.default_rng(1).normal(size=(60, 4))),
        NOTES,
        NOTES[:3],
        NOTES[3:6],
        progress=False,
    )
    rows = difference_rows("recall", [Measured("a", [few])], Measured("b", [other]), **DRAWS)
    assert {(row["p"], row["p_adjusted"]) for row in rows} == {(None, None)}


def test_a_variant_that_equals_the_method_is_compared_like_any_other():
    found = result(0)
    rows = difference_rows(
        "ablation", [Measured("a", [found], "upper", "5")], Measured("a", [found]), **DRAWS
    )
    assert {row["difference"] for row in rows} == {0}
