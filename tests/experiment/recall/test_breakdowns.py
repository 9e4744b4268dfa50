"""Groups of queries on notes made by hand: who is in which group, and what is left out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from notellm.data.schema import CLICKS, NOTES
from notellm.data.split import Part, Split
from notellm.errors import DataError
from notellm.evaluate.baselines import popularity
from notellm.evaluate.retrieval import evaluate_related, vector_scorer
from notellm.experiment.recall.breakdowns import query_groups, script_of

START = datetime(2024, 1, 1, tzinfo=UTC)


def notes(*rows: dict[str, Any]) -> pa.Table:
    empty: dict[str, Any] = {"title": "", "content": "", "topics": [], "category": "", "published_at": None}
    return pa.Table.from_pylist([empty | {"note_id": f"n{i}"} | row for i, row in enumerate(rows)], NOTES)


def clicks(counts: dict[str, int], event: str = "click") -> pa.Table:
    """So many clicks on each note, each by another user."""
    rows = [
        {"user_id": f"u{i}", "note_id": name, "timestamp": START + timedelta(hours=i), "event": event}
        for name, count in counts.items()
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, CLICKS)


def split_of(test: pa.Table, clicked: pa.Table | None = None, train: Part | None = None) -> Split:
    """A split whose parts share no note, unless train is given."""
    other = test.slice(0, 0)
    empty = Part(other, CLICKS.empty_table())
    return Split(train or empty, empty, Part(test, CLICKS.empty_table() if clicked is None else clicked))


def members(groups: dict[str, Any], breakdown: str, ids: list[str]) -> dict[str, list[str]]:
    """The ids in each group, which do not overlap."""
    found = groups[breakdown]
    assert all(mask.dtype == np.bool_ and mask.shape == (len(ids),) for mask in found.values())
    assert np.sum(list(found.values()), axis=0).max() <= 1
    return {
        name: [each for each, is_in in zip(ids, mask, strict=True) if is_in] for name, mask in found.items()
    }


# ---------------------------------------------------------------- exposure


def test_exposure_is_compared_with_the_pool_not_with_the_queries():
    pool = notes(*[{"title": f"t{i}"} for i in range(10)])
    counts = {f"n{i}": i for i in range(10)}
    ids = ["n9", "n8", "n5", "n2", "n3"]
    groups, remarks = query_groups(ids, split_of(pool, clicks(counts)), least=1)
    # 0.3 of 0..9 is 2.7, 0.9 is 8.1
    assert members(groups, "exposure", ids) == {"low": ["n2"], "middle": ["n8", "n5", "n3"], "high": ["n9"]}
    assert remarks == []


def test_low_and_high_exposure_are_those_of_the_evaluation():
    rng = np.random.default_rng(3)
    pool = notes(*[{"title": f"t{i}"} for i in range(60)])
    clicked = clicks({f"n{i}": int(count) for i, count in enumerate(rng.integers(0, 9, 60))})
    ids = [f"n{i}" for i in rng.permutation(60)[:40]]
    targets = [f"n{(int(each[1:]) + 1) % 60}" for each in ids]
    result = evaluate_related(
        vector_scorer(rng.standard_normal((60, 4))),
        pool["note_id"],
        ids,
        targets,
        ks=(10,),
        exposure=popularity(pool["note_id"], clicked),
        resamples=1,
        progress=False,
    )
    groups, _ = query_groups(ids, split_of(pool, clicked), least=1)
    found = members(groups, "exposure", ids)
    assert {name: tuple(found[name]) for name in ("low", "high")} == {
        name: part.query_ids for name, part in result.by_exposure.items()
    }
    assert found["low"]
    assert found["high"]


def test_views_are_no_exposure():
    pool = notes(*[{"title": f"t{i}"} for i in range(4)])
    log = pa.concat_tables([clicks({"n0": 1, "n1": 2}), clicks({"n2": 9}, "view")])
    ids = ["n0", "n1", "n2", "n3"]
    groups, _ = query_groups(ids, split_of(pool, log), least=1)
    assert members(groups, "exposure", ids)["low"] == ["n2", "n3"]
    assert members(groups, "exposure", ids)["high"] == ["n1"]


# ---------------------------------------------------------------- known in train


def test_in_a_split_by_time_queries_are_cold_or_have_few_or_many_clicks_in_train():
    pool = notes(*[{"title": f"t{i}"} for i in range(6)])
    train = Part(pool.slice(0, 4), clicks({"n0": 1, "n1": 5, "n2": 2, "n3": 9}))
    ids = ["n5", "n3", "n0", "n1", "n4", "n2"]
    groups, _ = query_groups(ids, split_of(pool, clicks({"n5": 3}), train), least=1)
    assert members(groups, "known", ids) == {"cold": ["n5", "n4"], "few": ["n0", "n2"], "many": ["n3", "n1"]}


def test_a_split_by_note_has_no_known_queries():
    pool = notes(*[{"title": f"t{i}"} for i in range(4)])
    train = Part(notes({"note_id": "other", "title": "x"}), clicks({"other": 3}))
    groups, remarks = query_groups(["n0", "n1"], split_of(pool, clicks({"n1": 3}), train), least=1)
    assert "known" not in groups
    assert remarks == []


# ---------------------------------------------------------------- category


def test_the_most_frequent_categories_are_groups_and_the_rest_is_other():
    names = [name for i, name in enumerate("abcdefghij") for _ in range(10 - i)] + ["", ""]
    pool = notes(*[{"title": f"t{i}", "category": name} for i, name in enumerate(names)])
    ids = pool["note_id"].to_pylist()
    groups, _ = query_groups(ids, split_of(pool), least=1)
    found = members(groups, "category", ids)
    assert list(found) == [*"abcdefgh", "other", "none"]
    assert [len(each) for each in found.values()] == [10, 9, 8, 7, 6, 5, 4, 3, 2 + 1, 2]
    assert found["a"] == ids[:10]


def test_equally_frequent_categories_are_ordered_by_name_however_the_queries_are():
    pool = notes(*[{"title": f"t{i}", "category": f"c{i % 12:02}"} for i in range(24)])
    ids = pool["note_id"].to_pylist()
    one, _ = query_groups(ids, split_of(pool), least=1)
    two, _ = query_groups(ids[::-1], split_of(pool), least=1)
    assert list(one["category"]) == list(two["category"]) == [*(f"c{i:02}" for i in range(8)), "other"]
    for name, mask in one["category"].items():
        np.testing.assert_array_equal(mask, two["category"][name][::-1])


def test_a_category_that_is_called_other_is_not_counted_twice():
    pool = notes(*[{"title": f"t{i}", "category": ("other", "a")[i % 2]} for i in range(6)])
    ids = pool["note_id"].to_pylist()
    groups, _ = query_groups(ids, split_of(pool), least=1)
    assert members(groups, "category", ids) == {"a": ["n1", "n3", "n5"], "other": ["n0", "n2", "n4"]}


def test_one_category_for_all_is_no_breakdown():
    pool = notes(*[{"title": "t" * (i + 1), "category": "a"} for i in range(6)])
    groups, remarks = query_groups(pool["note_id"], split_of(pool), least=1)
    assert list(groups) == ["length"]
    assert remarks == []


# ---------------------------------------------------------------- length


def test_length_is_by_thirds_of_the_characters_of_title_and_content():
    lengths = [(3, 0), (0, 90), (1, 1), (10, 10), (5, 10), (50, 50)]
    pool = notes(*[{"title": "海" * a, "content": "x" * b, "topics": ["t" * 99]} for a, b in lengths])
    ids = ["n1", "n0", "n2", "n5", "n3", "n4"]
    groups, _ = query_groups(ids, split_of(pool), least=1)
    assert members(groups, "length", ids) == {
        "short": ["n0", "n2"],
        "middle": ["n3", "n4"],
        "long": ["n1", "n5"],
    }


# ---------------------------------------------------------------- language


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Garlic soup, 100 %", "Latin"),
        ("海滩机票 abc", "Han"),
        ("Суп с чесноком and bread", "Cyrillic"),
        ("ガーリックスープ", "Kana"),
        ("にんにくのスープを作る", "Kana"),
        ("마늘 수프", "Hangul"),
        ("حساء الثوم", "Arabic"),
        ("Σκορδόσουπα", "Greek"),
        ("Ｇａｒｌｉｃ", "Latin"),  # full width
        ("𝐆𝐚𝐫𝐥𝐢𝐜", "Latin"),  # mathematical bold
        ("2024-01-01 🙂 !?", "none"),
        ("", "none"),
        ("ab 海滩", "Latin"),  # as many: the first counts
    ],
)
def test_the_script_of_most_letters_counts(text: str, script: str):
    assert script_of(text) == script


def written(*counts: tuple[str, int]) -> pa.Table:
    """Notes in some scripts, all with as many characters."""
    return notes(*[{"title": text} for text, count in counts for _ in range(count)])


def test_scripts_are_groups_where_two_are_common():
    pool = written(("soup", 90), ("海滩机票", 20), ("супы", 5), ("σούπ", 4), ("1234", 1))
    ids = pool["note_id"].to_pylist()
    groups, _ = query_groups(ids, split_of(pool), least=1)
    found = members(groups, "language", ids)
    assert {name: len(each) for name, each in found.items()} == {
        "Latin": 90,
        "Han": 20,
        "other": 9,
        "none": 1,
    }
    without, remarks = query_groups(ids, split_of(pool), least=1, language=False)
    assert "language" not in without
    assert remarks == []


def test_a_rare_second_script_is_no_breakdown():
    for han, is_told in ((5, True), (4, False)):
        pool = written(("soup", 100 - han), ("海滩机票", han))
        groups, _ = query_groups(pool["note_id"], split_of(pool), least=1)
        assert ("language" in groups) == is_told


# ---------------------------------------------------------------- small groups


def test_small_groups_are_left_out_and_told():
    pool = notes(
        *[{"title": "x" * (i + 1), "category": "aaabbc"[i // 10]} for i in range(60)],
    )
    ids = pool["note_id"].to_pylist()
    groups, remarks = query_groups(ids, split_of(pool))
    assert {name: len(each) for name, each in members(groups, "length", ids).items()} == {
        "short": 20,
        "middle": 20,
        "long": 20,
    }
    assert list(groups["category"]) == ["a", "b"]
    assert remarks == ["Groups by category: 'c' (10) left out; a group needs 20 of the 60 queries."]
    groups, remarks = query_groups(ids, split_of(pool), least=21)
    assert groups == {}  # of the categories only one is left, which there is nothing to compare with
    assert remarks[1] == (
        "Groups by length: 'short' (20), 'middle' (20), 'long' (20) left out; "
        "a group needs 21 of the 60 queries."
    )


def test_without_queries_there_are_no_groups():
    pool = written(("soup", 3))
    assert query_groups([], split_of(pool)) == ({}, [])


def test_a_query_that_is_not_in_the_test_part_is_named():
    pool = written(("soup", 3))
    with pytest.raises(DataError, match="1 of 2 queries are no notes of the test part, such as 'x'"):
        query_groups(["n1", "x"], split_of(pool))
