import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.errors import DataError
from notellm.evaluate.tagging_topics import evaluate_topics

SHARES = ("precision", "recall", "f1", "f1_at_1", "f1_at_3", "f1_at_5", "precision_at_1", "ndcg_at_10")


def certain(topics):
    """Rankings of topics with probability 1, all of which are published."""
    return [[(topic, 1.0) for topic in each] for each in topics], [len(each) for each in topics]


def published(topics, true):
    ranked, written = certain(topics)
    return evaluate_topics(ranked, written, true, known=[])


def test_equal_topics_are_perfect():
    topics = [["green tea", "kyoto", "slow mornings"], ["抹茶", "京都旅行", "慢生活"]]
    result = published(topics, topics)
    assert result.notes == 2
    for name in ("bleu4", "rouge1", "rouge2", "rouge_l", "precision", "recall", "f1", "f1_at_3", "f1_at_5"):
        assert getattr(result, name) == pytest.approx(1.0)
    assert result.precision_at_1 == result.ndcg_at_10 == 1
    assert result.f1_at_1 == pytest.approx(0.5)  # one of three: precision 1, recall 1/3
    assert result.published == 3


def test_chinese_topics_share_characters():
    """抹茶 and 抹茶店: tokens 抹 茶 and 抹 茶 店, so P 2/2, R 2/3 for ROUGE-1; 1/1, 1/2 for 2."""
    result = published([["抹茶"]], [["抹茶店"]])
    assert result.rouge1 == pytest.approx(0.8)
    assert result.rouge2 == pytest.approx(2 / 3)
    assert result.rouge_l == pytest.approx(0.8)
    assert result.f1 == 0.0
    assert published([["咖啡"]], [["抹茶店"]]).rouge1 == 0.0


def test_chinese_bleu_counts_characters():
    """5 of 6 characters in place: precisions 5/6, 4/5, 3/4, 2/3, no brevity penalty."""
    result = published([["京都旅行慢店"]], [["京都旅行慢活"]])
    assert result.bleu4 == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25, abs=1e-4)


def test_mixed_scripts_and_order():
    result = published([["kyoto", "抹茶"]], [["抹茶", "Kyoto"]])
    assert result.rouge1 == pytest.approx(1.0)
    assert result.rouge2 == pytest.approx(0.5)  # 抹 茶 of (kyoto 抹, 抹 茶) and (抹 茶, 茶 kyoto)
    assert result.rouge_l == pytest.approx(2 / 3)
    assert result.f1 == 1.0


def test_whole_topics_by_hand():
    """One of two published is one of four own; a repeated topic counts once."""
    result = published(
        [["Tea ", "tea", "rain"], [], ["left out"]], [["tea", "cup", "pot", "leaf"], ["x"], []]
    )
    assert result.notes == 2
    assert result.precision == pytest.approx(0.5 / 2)
    assert result.recall == pytest.approx(0.25 / 2)
    assert result.f1 == pytest.approx((2 * 0.5 * 0.25 / 0.75) / 2)
    assert result.published == 1


def test_rankings_by_hand():
    """True: a, b. Ranked: x, a, y, z, b, of which the first two are published."""
    ranking = [("x", 0.9), ("a", 0.8), ("y", 0.7), ("z", 0.6), ("B ", 0.5)]
    result = evaluate_topics([ranking], [2], [["a", "b"]], known=["A", "q"])
    assert (result.precision, result.recall, result.f1) == pytest.approx((1 / 2, 1 / 2, 1 / 2))
    assert result.f1_at_1 == result.precision_at_1 == 0
    assert result.f1_at_3 == pytest.approx(2 * 1 / (3 + 2))
    assert result.f1_at_5 == pytest.approx(2 * 2 / (5 + 2))
    gain, ideal = 1 / math.log2(3) + 1 / math.log2(6), 1 + 1 / math.log2(3)
    assert result.ndcg_at_10 == pytest.approx(gain / ideal)
    assert result.novel == 0.5  # x, which no train note carries; a has another case there
    assert result.published == 2


def test_a_ranking_of_ten_true_topics_is_ideal_for_more_than_ten():
    topics = [f"t{i}" for i in range(12)]
    ranked, written = certain([topics[:10]])
    result = evaluate_topics(ranked, written, [topics], known=topics)
    assert result.ndcg_at_10 == pytest.approx(1)
    assert result.novel == 0


def test_names_after_the_tenth_gain_nothing():
    result = published([[*(f"x{i}" for i in range(10)), "a"]], [["a"]])
    assert result.ndcg_at_10 == 0
    assert result.recall == 1


def test_empty_rankings_count_zero():
    result = published([[], []], [["a"], ["b"]])
    assert all(getattr(result, name) == 0 for name in (*SHARES, "novel", "bleu4", "rouge1", "published"))


def test_bad_numbers_are_named():
    with pytest.raises(DataError, match="1 numbers of topics for 2 notes"):
        evaluate_topics([[], []], [0], [["a"], ["b"]], known=[])
    for wrong in (-1, 2):
        with pytest.raises(DataError, match="topics to publish of 1: give 0 to 1"):
            evaluate_topics([[("a", 1.0)]], [wrong], [["a"]], known=[])
    with pytest.raises(DataError, match="none of 1 notes has topics"):
        published([["a"]], [[]])


def test_json_has_all_figures_but_the_name():
    values = published([["a"]], [["a"]]).to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert {"notes", "novel", "bleu4", "published", *SHARES} <= values.keys()
    assert "name" not in values


TOPICS = st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f"]), max_size=7)


@given(st.lists(st.tuples(TOPICS, TOPICS.filter(bool)), min_size=1, max_size=8), st.integers(0, 99))
def test_figures_are_shares_and_do_not_depend_on_the_order_of_notes(notes, seed):
    order = np.random.default_rng(seed).permutation(len(notes))
    first, second = (
        published([notes[i][0] for i in rows], [notes[i][1] for i in rows])
        for rows in (range(len(notes)), order)
    )
    assert first.to_json() == pytest.approx(second.to_json())
    assert all(-1e-9 <= getattr(first, name) <= 1 + 1e-9 for name in (*SHARES, "novel", "rouge1", "bleu4"))
    assert first.f1 <= (first.precision + first.recall) / 2 + 1e-9
