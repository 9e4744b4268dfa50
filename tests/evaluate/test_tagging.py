import pytest

from notellm.errors import DataError
from notellm.evaluate.tagging import distinct, notes_with_truth, tagging_table
from notellm.evaluate.tagging_categories import evaluate_categories
from notellm.evaluate.tagging_topics import evaluate_topics


def test_names_are_compared_stripped_and_case_folded():
    assert distinct(["Tea ", "STRASSE", "tea", "straße"]) == ["tea", "strasse"]


def test_notes_without_truth_are_left_out():
    assert notes_with_truth("topics", [[], [], []], [["a"], [], ["b"]]) == [0, 2]


def test_bad_rankings_are_named():
    with pytest.raises(DataError, match="1 rankings of topics for 2 notes"):
        notes_with_truth("topics", [[]], [["a"], ["b"]])
    with pytest.raises(DataError, match="none of 2 notes has categories"):
        notes_with_truth("categories", [[], []], ["", ""])
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(DataError, match="the probability of 'a' is"):
            notes_with_truth("categories", [[("a", wrong)]], ["a"])


def test_tables_show_percentages_by_method():
    categories = [
        evaluate_categories([[(found, 1.0)]], ["tea"], ["tea"], name=found) for found in ("tea", "coffee")
    ]
    assert tagging_table("Category", categories).text().splitlines() == [
        "Category, %",
        "method  notes  accuracy  macro-F1  top-5    ECE  ill-formed",
        "tea         1     100.0     100.0  100.0    0.0         0.0",
        "coffee      1       0.0       0.0    0.0  100.0       100.0",
    ]


def test_tables_show_means_as_they_are():
    topics = evaluate_topics([[("tea", 1.0)]], [1], [["tea", "cup"]], known=[], name="copied")
    lines = tagging_table("Topics", [topics]).markdown().splitlines()
    assert lines[0] == "Topics, %; topics as a number"
    assert lines[2].startswith("| method | notes | F1 | F1@1 |")
    assert lines[2].endswith("| RG-L | topics |")
    assert lines[4].startswith("| copied | 1 | 66.7 |")
    assert lines[4].endswith("| 1.0 |")


def test_tables_fit_a_terminal():
    full = [[(str(i), 1.0) for i in range(10)]]
    topics = evaluate_topics(full * 1_000, [10] * 1_000, [["1"]] * 1_000, known=[], name="x" * 23)
    assert max(map(len, tagging_table("Topics", [topics]).text().splitlines())) <= 110
    categories = evaluate_categories(full * 1_000, ["1"] * 1_000, [], name="x" * 23)
    assert max(map(len, tagging_table("Category", [categories]).text().splitlines())) <= 110


def test_unlike_results_are_refused():
    one = evaluate_topics([[]], [0], [["a"]], known=[])
    two = evaluate_topics([[], []], [0, 0], [["a"], ["b"]], known=[])
    with pytest.raises(DataError, match="not on the same notes"):
        tagging_table("Topics", [one, two])
