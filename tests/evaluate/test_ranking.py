import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from notellm.errors import ConfigError, DataError
from notellm.evaluate import ranking_figures
from notellm.evaluate.ranking import (
    cold_groups,
    evaluate_ranking,
    ranking_difference,
    ranking_table,
)


def table(users, labels):
    ids = pa.array([str(user) for user in users])
    return pa.table({"user_id": ids, "label": pa.array(np.asarray(labels, bool))})


def evaluate(users, labels, scores, **options):
    chosen: dict[str, Any] = {"resamples": 20, "ks": (2,)} | options
    return evaluate_ranking(table(users, labels), scores, **chosen)


def means(result):
    return {name: figure.mean for name, figure in result.figures.items()}


def drawn(seed, rows=60, users=9, levels=6):
    """Rows with many ties; user 0 has one label only, user 1 one row."""
    draw = np.random.default_rng(seed)
    user = draw.integers(2, users, rows)
    user[:5], user[5] = 0, 1
    label = draw.random(rows) < 0.5
    label[:5] = seed % 2 == 0
    return user, label, draw.integers(0, levels, rows) / 4 - 1


def test_closed_form():
    """AUC: of 2 x 3 pairs two are won and one tied; user a's note is 2nd of 3, user b's ties."""
    result = evaluate("aaabb", [0, 1, 0, 1, 0], [0.9, 0.5, 0.1, 0.7, 0.7])
    assert means(result) == pytest.approx(
        {
            "AUC": (1 + 1 + 0.5) / 6,
            "UAUC": (0.5 + 0.5) / 2,
            "NDCG@2": (1 / np.log2(3) + (1 + 1 / np.log2(3)) / 2) / 2,
        }
    )
    assert (result.rows, result.users) == (5, 2)
    assert result.counted == {"AUC": 5, "UAUC": 2, "NDCG@2": 2}


def test_a_perfect_and_a_constant_method():
    user, label, _ = drawn(0)
    perfect = evaluate(user, label, label)
    assert means(perfect) == {"AUC": 1.0, "UAUC": 1.0, "NDCG@2": 1.0}
    assert all(figure.low == figure.high == 1.0 for figure in perfect.figures.values())
    constant = evaluate(user, label, np.zeros(60))
    for figure in ("AUC", "UAUC"):
        value = constant.figures[figure]
        assert value.mean == value.low == value.high == 0.5


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40))
def test_against_scikit_learn(seed, k, levels):
    user, label, score = drawn(seed, levels=levels)
    result = evaluate(user, label, score, ks=(k,), resamples=2)
    auc, ndcg = [], []
    for own in (user == one for one in np.unique(user)):
        if 0 < label[own].sum() < own.sum():
            auc.append(roc_auc_score(label[own], score[own]))
        if label[own].any():
            one_row = own.sum() == 1  # which scikit-learn refuses
            ndcg.append(1.0 if one_row else ndcg_score(label[own][None], score[own][None], k=k))
    assert len(auc) > 3
    assert len(auc) < len(np.unique(user))
    assert result.counted == {"AUC": 60, "UAUC": len(auc), f"NDCG@{k}": len(ndcg)}
    expected = {"AUC": roc_auc_score(label, score), "UAUC": np.mean(auc), f"NDCG@{k}": np.mean(ndcg)}
    assert means(result) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_scores_counts(seed):
    user, label, score = drawn(seed)
    plain = evaluate(user, label, score)
    assert evaluate(user, label, np.exp(score) * 7 - 100).figures == plain.figures
    shuffled = np.random.default_rng(seed).permutation(60)
    assert means(evaluate(user[shuffled], label[shuffled], score[shuffled])) == pytest.approx(means(plain))
    # UAUC and NDCG do not see what is added for a user, AUC does.
    moved = means(evaluate(user, label, score + user))
    assert moved["UAUC"] == means(plain)["UAUC"]
    assert moved["NDCG@2"] == means(plain)["NDCG@2"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_reversal(seed):
    user, label, score = drawn(seed)
    forth, back = means(evaluate(user, label, score)), means(evaluate(user, label, -score))
    for figure in ("AUC", "UAUC"):
        assert forth[figure] + back[figure] == pytest.approx(1)
    swapped = means(evaluate(user, ~label, score))
    assert swapped["AUC"] == pytest.approx(back["AUC"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70))
def test_resampled_auc_is_that_of_the_resampled_rows(seed, block):
    """The counts by score, against scikit-learn on the rows that the same draws pick."""
    _, label, score = drawn(seed)
    enjoyed, others = score[label], score[~label]
    assume(len(enjoyed) > 1)
    draw = np.random.default_rng(seed)
    expected = []
    for start in range(0, 7, size := max(1, block // 10)):
        count = min(size, 7 - start)
        picked = [part[draw.integers(0, len(part), (count, len(part)))] for part in (enjoyed, others)]
        expected += [
            roc_auc_score(label[np.argsort(~label, kind="stable")], np.concatenate(rows))
            for rows in zip(*picked, strict=True)
        ]
    low, high = np.quantile(expected, [0.025, 0.975])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking_figures, "DRAWS", 60 * size)
        interval = ranking_figures.auc_interval(label, score, 7, seed)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_interval_of_auc_covers_the_truth_about_95_times_in_100():
    """Normal scores a distance 1 apart: the true AUC is the normal distribution's value at 1 / sqrt 2."""
    truth, covered = 0.7602499, 0
    draw = np.random.default_rng(0)
    for trial in range(200):
        label = draw.random(150) < 0.4
        interval = ranking_figures.auc_interval(label, draw.normal(size=150) + label, 200, trial)
        assert interval.low <= interval.mean <= interval.high
        covered += interval.low <= truth <= interval.high
    assert 0.90 <= covered / 200 <= 0.99


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_difference_is_that_of_the_figures(seed):
    user, label, score = drawn(seed)
    assume(0 < label.sum() < len(label))
    rows = table(user, label)
    other = np.random.default_rng(seed).permutation(score)
    forth, back = (ranking_difference(rows, *pair, resamples=20) for pair in ((score, other), (other, score)))
    one, two = means(evaluate(user, label, score)), means(evaluate(user, label, other))
    for figure, value in forth.items():
        assert value.mean == pytest.approx(one[figure] - two[figure])
        assert (back[figure].low, back[figure].high) == pytest.approx((-value.high, -value.low))
    assert set(forth) == {"AUC", "UAUC"} & set(one)
    alike = ranking_difference(rows, score, 2 * score, resamples=20)  # the same order
    assert all((value.low, value.mean, value.high) == (0, 0, 0) for value in alike.values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_weighted_auc_is_scikit_learns(seed):
    user, label, score = drawn(seed)
    weights = np.random.default_rng(seed).integers(0, 3, (4, int(user.max()) + 1))
    found = ranking_figures.weighted_aucs(user, label, score, list(weights))
    for of_user, auc in zip(weights, found, strict=True):
        kept = of_user[user] > 0
        if 0 < label[kept].sum() < kept.sum():
            assert auc == pytest.approx(roc_auc_score(label, score, sample_weight=of_user[user]))
        else:
            assert np.isnan(auc)


def test_a_difference_tells_what_two_intervals_do_not():
    """One method is the other with less noise: each is uncertain by which users there are."""
    draw = np.random.default_rng(0)
    user = np.repeat(np.arange(150), 8)
    label = draw.random(len(user)) < np.repeat(draw.random(150), 8)
    noise = draw.normal(size=len(user))
    better, worse = label + 1.5 * noise, label + 2.0 * noise
    apart = [evaluate(user, label, scores).figures["AUC"] for scores in (better, worse)]
    assert apart[0].low < apart[1].high
    assert ranking_difference(table(user, label), better, worse)["AUC"].low > 0


def test_intervals_are_seeded():
    user, label, score = drawn(4)
    one = evaluate(user, label, score, seed=1)
    assert one == evaluate(user, label, score, seed=1)
    other = evaluate(user, label, score, seed=2)
    assert means(other) == means(one)
    for figure in one.figures:
        assert one.figures[figure] != other.figures[figure]


def test_groups():
    user, label, score = drawn(6)
    odd = user % 2 == 1
    one_label = label & (user > 2)
    result = evaluate(
        user,
        label,
        score,
        warm=odd,
        groups={"enjoyed": one_label, "none": np.zeros(60, bool), "everything": np.ones(60, bool)},
    )
    assert list(result.by_group) == ["warm", "cold", "enjoyed", "everything"]
    alone = evaluate(user[odd], label[odd], score[odd])
    assert result.by_group["warm"].figures == alone.figures
    assert result.by_group["warm"].rows + result.by_group["cold"].rows == result.rows == 60
    assert result.by_group["everything"].figures == result.figures
    # One label: nothing to tell apart, and every order is the best.
    assert list(result.by_group["enjoyed"].figures) == ["NDCG@2"]
    assert result.by_group["enjoyed"].figures["NDCG@2"].mean == 1.0
    assert result.by_group["enjoyed"].counted == {"NDCG@2": len(np.unique(user[one_label]))}


def test_users_of_one_label_leave_no_uauc():
    result = evaluate("aabb", [1, 1, 0, 0], [1, 2, 3, 4])
    assert means(result) == {"AUC": 0.0, "NDCG@2": 1.0}


def test_cold_groups():
    train = pa.table({"user_id": ["u", "v"], "note_id": ["a", "b"]})
    rows = pa.table({"user_id": ["u", "new", "v", "new"], "note_id": ["b", "a", "x", "x"]})
    groups = cold_groups(train, rows)
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "warm": [True, False, False, False],
        "cold user": [False, True, False, True],
        "cold item": [False, False, True, True],
    }
    result = evaluate(rows["user_id"].to_pylist(), [1, 0, 1, 0], [1, 2, 3, 4], groups=groups)
    assert result.by_group["cold user"].rows == 2


def test_scores_and_groups_that_cannot_be_judged():
    rows, score = table("aabb", [1, 0, 1, 0]), np.arange(4.0)
    for options, message in (
        ({"scores": score[:3]}, r"shape \(3,\): give one per impression, \(4,\)"),
        ({"scores": score[:, None]}, r"shape \(4, 1\)"),
        ({"scores": [1, np.nan, 2, np.nan]}, "2 of 4 scores of method are NaN, the first in row 1"),
        ({"warm": [True]}, r"group 'warm' is bool of shape \(1,\)"),
        ({"groups": {"g": [0, 1, 0, 1]}}, "group 'g' is int64"),
        ({"warm": [True] * 4, "groups": {"warm": [True] * 4}}, "group 'warm' is given twice"),
        ({"impressions": table("aa", [1, 1]), "scores": [1, 2]}, "all 2 labels are True"),
        ({"impressions": table("aa", [0, 0]), "scores": [1, 2]}, "all 2 labels are False"),
        ({"impressions": rows.slice(0, 0), "scores": []}, "there are no impressions"),
        ({"impressions": rows.drop(["label"])}, "no column 'label'"),
    ):
        given = {"impressions": rows, "scores": score} | options
        with pytest.raises(DataError, match=message):
            evaluate_ranking(**given)
    for options, message in (({"ks": ()}, "ks is"), ({"ks": (0,)}, "ks is"), ({"resamples": 0}, "resamples")):
        with pytest.raises(ConfigError, match=message):
            evaluate_ranking(rows, score, **options)


def test_infinite_scores_have_a_place():
    assert means(evaluate("aaaa", [1, 0, 1, 0], [np.inf, 3, 2, -np.inf]))["AUC"] == 0.75


def both(**options):
    user, label, score = drawn(8)
    groups = {"warm": user > 4, "cold item": label}
    return [
        evaluate(user, label, scores, name=name, groups=groups, **options)
        for name, scores in (("one", score), ("perfect", label))
    ]


def test_markdown():
    lines = ranking_table(both()).markdown().splitlines()
    assert lines[0].startswith("60 impressions of 9 users; UAUC over the users with both labels")
    assert lines[2] == "| method | group | rows | users | with both labels | AUC | UAUC | NDCG@2 |"
    assert [line.split(" | ")[:2] for line in lines[4:]] == [
        [f"| {name}", group] for group in ("all", "warm", "cold item") for name in ("one", "perfect")
    ]
    assert "| perfect | all | 60 | 9 | 7 | 1.0000 [1.0000, 1.0000] |" in lines[5]
    assert " | 0 | - | - | 1.0000 [1.0000, 1.0000] |" in lines[-1]


def test_text_is_aligned():
    lines = ranking_table(both()).text().splitlines()[1:]
    assert len(lines) == 7
    assert len({len(line) for line in lines}) == 1


def test_json_goes_round():
    result = both()[0]
    values = result.to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["figures"]["AUC"]["mean"] == result.figures["AUC"].mean
    assert values["by_group"]["cold item"]["counted"] == {"NDCG@2": result.by_group["cold item"].users}


def test_unlike_results_are_refused():
    with pytest.raises(DataError, match="give one or more"):
        ranking_table([])
    with pytest.raises(DataError, match="one and one are not on the same rows"):
        ranking_table([both()[0], both(ks=(3,))[0]])
