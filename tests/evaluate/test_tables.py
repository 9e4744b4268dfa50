import json

import numpy as np
import pytest

from notellm.errors import DataError
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.retrieval import constant_scorer, evaluate_related, retrieval_table, vector_scorer
from notellm.evaluate.tables import Table

POOL = [f"n{i}" for i in range(40)]


def result(name, scorer=None, queries=20, exposure=None):
    return evaluate_related(
        scorer or constant_scorer(np.arange(40)),
        POOL,
        POOL[:queries],
        POOL[20 : 20 + queries],
        ks=(10, 39),
        name=name,
        exposure=exposure,
        resamples=50,
        progress=False,
    )


def test_markdown():
    vectors = np.tile(np.eye(20), (2, 1))
    table = retrieval_table([result("popularity"), result("vectors", vector_scorer(vectors))]).markdown()
    lines = table.splitlines()
    assert lines[0].startswith("20 queries; pool of 40 notes")
    assert lines[2] == "| method | queries | R@10 | R@39 | MRR |"
    assert lines[4].startswith("| popularity | all | 50.0 [")
    assert lines[5] == (
        "| vectors | all | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] |"
    )


def test_exposure_groups_follow_the_whole():
    exposure = np.arange(40)[::-1]  # queries n0 to n19 are the most exposed
    results = [result(name, exposure=exposure) for name in ("one", "two")]
    table = retrieval_table(results).markdown()
    assert "20 queries, 4 of high exposure;" in table
    cells = [line.split(" | ")[:2] for line in table.splitlines()[4:]]
    assert cells == [
        ["| one", "all"],
        ["| two", "all"],
        ["| one", "high exposure"],
        ["| two", "high exposure"],
    ]


def test_text_is_aligned():
    lines = retrieval_table([result("a"), result("a longer name")]).text().splitlines()[1:]
    assert len(lines) == 3
    assert len({line.index("all") for line in lines[1:]}) == 1
    assert len({len(line) for line in lines}) == 1


def test_json_goes_round():
    values = result("a", exposure=np.arange(40)).to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["pool"] == 40
    assert values["figures"]["R@10"]["mean"] == 0.5
    assert values["by_exposure"]["low"]["queries"] == 12


def test_unlike_results_are_refused():
    with pytest.raises(DataError, match="give one or more"):
        retrieval_table([])
    with pytest.raises(DataError, match="a and b are not on the same pool"):
        retrieval_table([result("a"), result("b", queries=10)])


def test_a_table_may_have_no_caption():
    table = Table(["name", "size"], [["a", "10"], ["b", "9"]])
    assert table.text() == "name  size\na       10\nb        9\n"
    assert table.markdown() == "| name | size |\n| --- | ---: |\n| a | 10 |\n| b | 9 |\n"


def test_an_interval_is_formatted_with_its_ends():
    assert f"{Interval(0.5, 0.25, 0.75).percent():+.1f}" == "+50.0 [+25.0, +75.0]"
