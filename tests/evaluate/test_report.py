import json

import numpy as np
import pytest

from notellm.errors import DataError
from notellm.evaluate.report import as_json, markdown_table, text_table
from notellm.evaluate.retrieval import constant_scorer, evaluate_related, vector_scorer

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
    table = markdown_table([result("popularity"), result("vectors", vector_scorer(vectors))])
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
    table = markdown_table(results)
    assert "20 queries, 4 of high exposure;" in table
    cells = [line.split(" | ")[:2] for line in table.splitlines()[4:]]
    assert cells == [
        ["| one", "all"],
        ["| two", "all"],
        ["| one", "high exposure"],
        ["| two", "high exposure"],
    ]


def test_text_is_aligned():
    lines = text_table([result("a"), result("a longer name")]).splitlines()[1:]
    assert len(lines) == 3
    assert len({line.index("all") for line in lines[1:]}) == 1
    assert len({len(line) for line in lines}) == 1


def test_json_goes_round():
    values = as_json(result("a", exposure=np.arange(40)))
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["pool"] == 40
    assert values["figures"]["R@10"]["mean"] == 0.5
    assert values["by_exposure"]["low"]["queries"] == 12


def test_unlike_results_are_refused():
    with pytest.raises(DataError, match="give one or more"):
        markdown_table([])
    with pytest.raises(DataError, match="a and b are not on the same pool"):
        text_table([result("a"), result("b", queries=10)])
