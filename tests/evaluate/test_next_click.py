import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from notellm.errors import ConfigError, DataError
from notellm.evaluate.next_click import evaluate_recommendations, next_click_table

NOTES = [f"n{i}" for i in range(12)]


def evaluate(recommended, relevant, **options):
    return evaluate_recommendations(recommended, relevant, **{"resamples": 20} | options)


def means(result):
    return {name: figure.mean for name, figure in result.figures.items()}


def test_closed_form():
    """u finds 1 of 3 within 2, at place 2; v finds its one note at place 1; w gets nothing."""
    result = evaluate(
        {"u": ["x", "a", "b"], "v": ["d"], "stranger": ["a"]},
        {"u": {"a", "b", "c"}, "v": ["d"], "w": {"a"}, "empty": set()},
        ks=(2, 3),
    )
    assert (result.users, result.served, result.user_ids) == (3, 2, ("u", "v", "w"))
    second = 1 / np.log2(3)
    assert result.per_user["R@2"].tolist() == [1 / 3, 1, 0]
    assert result.per_user["R@3"].tolist() == [2 / 3, 1, 0]
    assert result.per_user["NDCG@2"] == pytest.approx([second / (1 + second), 1, 0])
    assert result.per_user["NDCG@3"] == pytest.approx([(second + 0.5) / (1 + second + 0.5), 1, 0])
    assert means(result)["R@2"] == pytest.approx(4 / 9)


def test_recall_has_a_ceiling_and_ndcg_has_not():
    result = evaluate({"u": NOTES[:2]}, {"u": NOTES}, ks=(2,))
    assert means(result) == {"R@2": 2 / 12, "NDCG@2": 1.0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_against_brute_force(seed, k):
    draw = np.random.default_rng(seed)
    lists = {f"u{i}": [str(note) for note in draw.permutation(NOTES)] for i in range(8)}
    wanted = {user: set(draw.choice(NOTES, draw.integers(1, 6), replace=False)) for user in lists}
    result = evaluate(lists, wanted, ks=(k,), resamples=1)
    for i, (user, notes) in enumerate(lists.items()):
        gain = np.array([[note in wanted[user] for note in notes]])
        expected = ndcg_score(gain, -np.arange(12)[None], k=k)
        assert result.per_user[f"NDCG@{k}"][i] == pytest.approx(expected)
        assert result.per_user[f"R@{k}"][i] == len(set(notes[:k]) & wanted[user]) / len(wanted[user])
        cut = evaluate({user: notes[:k]}, {user: wanted[user]}, ks=(k, 99), resamples=1)
        assert cut.per_user["R@99"] == cut.per_user[f"R@{k}"]  # a short list ends early


def test_pairs_are_as_good_as_a_mapping():
    lists, wanted = {"u": ["a", "b"], "v": ["b"]}, {"v": {"b"}, "u": {"c"}}
    assert evaluate(lists, wanted).figures == evaluate(iter(lists.items()), wanted).figures


def test_intervals_are_over_users_and_seeded():
    draw = np.random.default_rng(0)
    hits = draw.random(400) < 0.3
    lists = {f"u{i}": ["a" if hit else "b"] for i, hit in enumerate(hits)}
    wanted = {user: {"a"} for user in lists}
    one = evaluate(lists, wanted, ks=(1,), resamples=500, seed=1)
    figure = one.figures["R@1"]
    assert figure.mean == hits.mean()
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * hits.std() / 20, rel=0.15)
    assert one.figures == evaluate(lists, wanted, ks=(1,), resamples=500, seed=1).figures
    assert one.figures != evaluate(lists, wanted, ks=(1,), resamples=500, seed=2).figures


def test_what_cannot_be_judged():
    for lists, wanted, message in (
        ([("u", ["a"]), ("u", ["b"])], {"u": {"a"}}, "user 'u' has two lists"),
        ({"u": ["a", "b", "a"]}, {"u": {"a"}}, "list of user 'u' contains note 'a' twice"),
        ({"u": ["a"]}, {"u": set()}, "none of 1 users has held-out notes"),
        ({"u": ["a"]}, {}, "none of 0 users"),
        ({"1": ["a"]}, {"01": {"a"}}, "none of 1 users with held-out notes has a list, such as '01'"),
    ):
        with pytest.raises(DataError, match=message):
            evaluate(lists, wanted)
    for options, message in (
        ({"ks": ()}, "ks is"),
        ({"ks": (5, 0)}, "ks is"),
        ({"resamples": 0}, "resamples"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate({"u": ["a"]}, {"u": {"a"}}, **options)


def test_tables_and_json():
    results = [
        evaluate(lists, {"u": {"a"}, "v": {"b"}}, name=name, ks=(1,))
        for name, lists in (("popularity", {"u": ["a"]}), ("notellm", {"u": ["a"], "v": ["b"]}))
    ]
    lines = next_click_table(results).markdown().splitlines()
    assert lines[0].startswith("2 users with held-out clicks; %")
    assert lines[2] == "| method | users served | R@1 | NDCG@1 |"
    assert lines[5] == "| notellm | 2 | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] |"
    assert len({len(line) for line in next_click_table(results).text().splitlines()[1:]}) == 1
    values = results[0].to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["users"], values["served"], values["figures"]["R@1"]["mean"]) == (2, 1, 0.5)
    with pytest.raises(DataError, match="give one or more"):
        next_click_table([])
    with pytest.raises(DataError, match="not on the same users"):
        next_click_table([results[0], evaluate({"u": ["a"]}, {"u": {"a"}}, ks=(1,))])
