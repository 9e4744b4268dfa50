import pytest

from notellm.errors import DataError
from notellm.evaluate.tagging import evaluate_categories, evaluate_topics


def test_categories_by_hand():
    result = evaluate_categories(
        [" Food\n", "travel", "poetry", "anything"],
        ["food", "food", "Travel", ""],
        ["Food", "Travel"],
    )
    assert result.notes == 3
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.ill_formed == pytest.approx(1 / 3)


def test_equal_topics_are_perfect():
    topics = [["green tea", "kyoto", "slow mornings"], ["抹茶", "京都旅行", "慢生活"]]
    result = evaluate_topics(topics, topics)
    assert result.notes == 2
    for name in ("bleu4", "rouge1", "rouge2", "rouge_l", "precision", "recall", "f1"):
        assert getattr(result, name) == pytest.approx(1.0)


def test_chinese_topics_share_characters():
    """抹茶 and 抹茶店: tokens 抹 茶 and 抹 茶 店, so P 2/2, R 2/3 for ROUGE-1; 1/1, 1/2 for 2."""
    result = evaluate_topics([["抹茶"]], [["抹茶店"]])
    assert result.rouge1 == pytest.approx(0.8)
    assert result.rouge2 == pytest.approx(2 / 3)
    assert result.rouge_l == pytest.approx(0.8)
    assert result.f1 == 0.0
    assert evaluate_topics([["咖啡"]], [["抹茶店"]]).rouge1 == 0.0


def test_chinese_bleu_counts_characters():
    """5 of 6 characters in place: precisions 5/6, 4/5, 3/4, 2/3, no brevity penalty."""
    result = evaluate_topics([["京都旅行慢店"]], [["京都旅行慢活"]])
    assert result.bleu4 == pytest.approx((5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25, abs=1e-4)


def test_mixed_scripts_and_order():
    result = evaluate_topics([["kyoto", "抹茶"]], [["抹茶", "Kyoto"]])
    assert result.rouge1 == pytest.approx(1.0)
    assert result.rouge2 == pytest.approx(0.5)  # 抹 茶 of (kyoto 抹, 抹 茶) and (抹 茶, 茶 kyoto)
    assert result.rouge_l == pytest.approx(2 / 3)
    assert result.f1 == 1.0


def test_whole_topics_by_hand():
    """One of two generated is one of four own; a repeated topic counts once."""
    result = evaluate_topics(
        [["Tea ", "tea", "rain"], [], ["left out"]], [["tea", "cup", "pot", "leaf"], ["x"], []]
    )
    assert result.notes == 2
    assert result.precision == pytest.approx(0.5 / 2)
    assert result.recall == pytest.approx(0.25 / 2)
    assert result.f1 == pytest.approx((2 * 0.5 * 0.25 / 0.75) / 2)


def test_bad_input_is_named():
    with pytest.raises(DataError, match="1 generated topics for 2 notes"):
        evaluate_topics([["a"]], [["a"], ["b"]])
    with pytest.raises(DataError, match="none of 1 notes has topics"):
        evaluate_topics([["a"]], [[]])
    with pytest.raises(DataError, match="none of 2 notes has categories"):
        evaluate_categories(["a", "b"], ["", ""], ["a"])
