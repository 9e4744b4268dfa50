"""Every leak that is put into good tables is found by its check, and by no check for something else."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from notellm.data.impressions import impressions_from_clicks
from notellm.data.sample_world import sample_world
from notellm.data.schema import CLICKS, IMPRESSIONS, NOTES, PAIRS
from notellm.data.split import Part, Split, split_by_note, split_by_time, split_impressions
from notellm.errors import ConfigError, DataError
from notellm.experiment.leakage import check_impressions, check_split, check_topics_hidden, require
from notellm.experiment.results import Check
from notellm.pairs.local import mine_pairs
from notellm.recall.prompt import TaskTemplate, builtin_templates, load_template

Pairs = dict[str, pa.Table]
START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def world() -> Any:
    return sample_world(notes=260, users=120, clicks=4_000, bots=0, seed=5)


def mined(split: Split) -> Pairs:
    return {
        name: mine_pairs(getattr(split, name).clicks, progress=False) for name in ("train", "valid", "test")
    }


@pytest.fixture(scope="module")
def by_note(world: Any) -> tuple[Split, Pairs]:
    split = split_by_note(world.notes, world.clicks, valid=0.15)
    return split, mined(split)


@pytest.fixture(scope="module")
def by_time(world: Any) -> tuple[Split, Pairs]:
    split = split_by_time(world.notes, world.clicks)
    return split, mined(split)


def failed(checks: list[Check]) -> dict[str, str]:
    """The details of the failed checks by name."""
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check.detail for check in checks if not check.passed}


def with_notes(split: Split, name: str, *more: pa.Table) -> Split:
    part = getattr(split, name)
    changed: dict[str, Any] = {name: Part(pa.concat_tables([part.notes, *more]), part.clicks)}
    return replace(split, **changed)


def with_clicks(split: Split, name: str, *more: pa.Table) -> Split:
    part = getattr(split, name)
    changed: dict[str, Any] = {name: Part(part.notes, pa.concat_tables([part.clicks, *more]))}
    return replace(split, **changed)


def note(note_id: str, title: str, content: str = "") -> pa.Table:
    row = {"note_id": note_id, "title": title, "content": content, "topics": [], "category": ""}
    return pa.Table.from_pylist([row | {"published_at": None}], schema=NOTES)


# ---------------------------------------------------------------- good splits


def test_a_good_split_passes_and_says_what_was_counted(by_note: Any, by_time: Any):
    for (split, pairs), by in ((by_note, "note"), (by_time, "time")):
        checks = check_split(split, pairs, by=by)
        assert failed(checks) == {}
        assert len(checks) >= 10
        assert all(check.detail.startswith("0 of ") for check in checks)
        assert not any(check.detail.startswith("0 of 0 ") for check in checks)
        require(checks)


def test_a_split_without_validation_or_pairs_passes(world: Any):
    split = split_by_note(world.notes, world.clicks, valid=0)
    checks = check_split(split, {}, by="note", near_duplicates=None)
    assert failed(checks) == {}
    assert not any("validation" in check.name or "pairs" in check.name for check in checks)


def test_parts_without_a_pair_pass(by_note: Any):
    split, pairs = by_note
    for empty in (PAIRS.empty_table(), pa.Table.from_batches([], PAIRS)):
        assert failed(check_split(split, dict.fromkeys(pairs, empty), by="note", near_duplicates=None)) == {}


# ---------------------------------------------------------------- leaks of a split by note


def test_a_note_in_two_parts_is_found(by_note: Any):
    split, pairs = by_note
    leaked = split.test.notes.slice(2, 3)
    found = failed(check_split(with_notes(split, "train", leaked), pairs, by="note", near_duplicates=None))
    name = "a test note among the training notes"
    assert name in found
    assert found[name].startswith(f"3 of {split.test.notes.num_rows} test notes, such as ")
    assert repr(leaked["note_id"][0].as_py()) in found[name]
    assert "notellm split" in found[name]


def test_a_test_note_in_the_training_pairs_is_found(by_note: Any):
    split, pairs = by_note
    pair = pairs["test"].slice(0, 1)
    for name in ("train", "valid"):
        leaking = pairs | {name: pa.concat_tables([pairs[name], pair])}
        found = failed(check_split(split, leaking, by="note", near_duplicates=None))
        word = {"train": "training", "valid": "validation"}[name]
        assert f"a test note in the {word} pairs" in found
        assert f"a note that is no {word} note in the {word} pairs" in found
        assert ("a note of the validation pairs among the test queries" in found) == (name == "valid")
        assert repr(pair["source"][0].as_py()) in found[f"a test note in the {word} pairs"]
        assert "notellm pairs" in found[f"a test note in the {word} pairs"]


def test_a_click_on_a_note_of_another_part_is_found(by_note: Any):
    split, pairs = by_note
    name = "a click of a part on a note that is not in the part"
    leaking = with_clicks(split, "train", split.test.clicks.slice(0, 2))
    found = failed(check_split(leaking, pairs, by="note", near_duplicates=None))
    assert list(found) == [name]
    assert found[name].startswith("2 of ")
    click = split.test.clicks.slice(0, 1).to_pylist()[0]
    assert f"user {click['user_id']!r} and note {click['note_id']!r}" in found[name]


@pytest.mark.parametrize("part", ["train", "valid"])
def test_an_equal_text_across_the_split_is_found(by_note: Any, part: str):
    split, pairs = by_note
    split = with_notes(split, part, note("known", "Garlic SOUP", "with bread"))
    split = with_notes(split, "test", note("new", "garlic  soup", "with bread"))
    checks = check_split(split, pairs, by="note")
    assert failed(checks) == {
        "a test note with the text of a note of an earlier part": (
            f"1 of {split.test.notes.num_rows} test notes, such as 'new' like 'known'; "
            "keep equal texts in one part with notellm split --by note"
        )
    }
    assert checks[-1].detail.startswith("0 of ")  # an equal text is not counted again as nearly equal


def test_a_nearly_equal_text_is_a_warning(by_note: Any):
    split, pairs = by_note
    words = " ".join(f"word{i}" for i in range(40))
    split = with_notes(split, "train", note("known", "garlic soup", words))
    split = with_notes(split, "test", note("new", "garlic soup", f"{words} more"))
    *others, near = check_split(split, pairs, by="note")
    assert all(check.passed and "warning" not in check.detail for check in others)
    assert near.passed
    assert near.detail == (
        f"warning, not a failure: 1 of {split.test.notes.num_rows} test notes, such as 'new' like 'known'"
    )
    assert "Jaccard index 0.8 or more" in near.name
    without = check_split(split, pairs, by="note", near_duplicates=None)
    assert [check.name for check in without] == [check.name for check in others]


def test_notes_without_a_text_are_not_alike(by_note: Any):
    split, pairs = by_note
    split = with_notes(with_notes(split, "train", note("a", "")), "test", note("b", ""))
    assert failed(check_split(split, pairs, by="note")) == {}


# ---------------------------------------------------------------- leaks of a split by time


def test_a_training_click_after_the_cut_is_found(by_time: Any):
    split, pairs = by_time
    cut = pc.min(split.valid.clicks["timestamp"]).as_py()
    known = split.train.notes["note_id"][0].as_py()
    for shift, count in ((timedelta(microseconds=-1), 0), (timedelta(0), 1), (timedelta(days=1), 1)):
        click = {"user_id": "u", "note_id": known, "timestamp": cut + shift, "event": "view"}
        more = pa.Table.from_pylist([click], schema=CLICKS)
        found = failed(check_split(with_clicks(split, "train", more), pairs, by="time", near_duplicates=None))
        name = "a training click that is not older than the first validation or test click"
        assert list(found) == [name] * count
        assert not count or found[name].startswith("1 of ")


def test_a_validation_click_after_the_first_test_click_is_found(by_time: Any):
    split, pairs = by_time
    click = split.test.clicks.filter(
        pc.is_in(split.test.clicks["note_id"], value_set=split.valid.notes["note_id"].combine_chunks())
    ).slice(0, 1)
    found = failed(check_split(with_clicks(split, "valid", click), pairs, by="time", near_duplicates=None))
    assert list(found) == ["a validation click that is not older than the first test click"]


def test_a_training_note_from_after_the_cut_is_found(by_time: Any):
    split, pairs = by_time
    new = split.test.notes.filter(
        pc.invert(
            pc.is_in(split.test.notes["note_id"], value_set=split.valid.notes["note_id"].combine_chunks())
        )
    )
    assert new.num_rows
    found = failed(check_split(with_notes(split, "train", new), pairs, by="time", near_duplicates=None))
    (name,) = found
    assert name.startswith("a training note that nobody had published or clicked before")
    assert found[name].startswith(f"{new.num_rows} of ")
    pair = {"source": new["note_id"][0].as_py(), "target": "x", "score": 1.0, "users": 2}
    leaking = pairs | {"train": pa.Table.from_pylist([pair], schema=PAIRS)}
    assert list(failed(check_split(split, leaking, by="time", near_duplicates=None))) == [
        "a note that is no training note in the training pairs"
    ]


def test_a_text_that_is_published_again_is_a_warning_in_a_split_by_time(by_time: Any):
    split, pairs = by_time
    twin = split.train.notes.slice(0, 1).to_pylist()[0] | {"note_id": "again", "published_at": None}
    split = with_notes(split, "test", pa.Table.from_pylist([twin], schema=NOTES))
    checks = check_split(split, pairs, by="time", near_duplicates=None)
    assert failed(checks) == {}
    assert checks[-1].detail.startswith("warning, not a failure: 1 of ")
    assert "'again' like " in checks[-1].detail


def test_what_a_split_is_by_is_checked(by_note: Any):
    split, pairs = by_note
    with pytest.raises(ConfigError, match="by is 'user'; a split is by note or by time"):
        check_split(split, pairs, by="user")
    with pytest.raises(ConfigError, match=r"near_duplicates is 0\.1"):
        check_split(split, pairs, by="note", near_duplicates=0.1)


# ---------------------------------------------------------------- stopping


def test_the_first_failed_check_stops_the_experiment():
    good, bad, worse = Check("a", True, "0 of 3"), Check("b", False, "1 of 3"), Check("c", False, "2 of 3")
    require([])
    require([good])
    with pytest.raises(DataError, match=r"there is b: 1 of 3 \(and 1 more of 3 checks failed\)$"):
        require([good, bad, worse])
    with pytest.raises(DataError, match=r"there is c: 2 of 3$"):
        require([good, worse])


# ---------------------------------------------------------------- impressions


def row(user: str, note_id: str, day: int, *history: str, label: bool = True) -> dict[str, Any]:
    time = START + timedelta(days=day)
    return {"user_id": user, "note_id": note_id, "label": label, "timestamp": time, "history": history}


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=IMPRESSIONS)


def three(change: Callable[[list[dict[str, Any]]], Any] = lambda _: None) -> list[pa.Table]:
    """Six rows of two users, two in each part; ``change`` spoils them first."""
    rows = [
        row("u", "a", 0),
        row("v", "b", 1, label=False),
        row("u", "b", 2, "a"),
        row("v", "c", 3),
        row("u", "c", 4, "a", "b"),
        row("v", "a", 5, "c", "unknown"),
    ]
    change(rows)
    return [table(*rows[start : start + 2]) for start in (0, 2, 4)]


def test_good_impressions_pass(world: Any):
    assert failed(check_impressions(*three())) == {}
    parts = split_impressions(impressions_from_clicks(world.clicks))
    checks = check_impressions(*parts)
    assert failed(checks) == {}
    assert len(checks) == 6
    require(checks)


def test_a_log_of_orders_passes_too(world: Any):
    clicks = world.clicks
    order = pc.sort_indices(clicks, [("user_id", "ascending"), ("timestamp", "ascending")])
    clicks = clicks.take(order)
    users = np.array(clicks["user_id"].to_pylist())
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    nth = np.arange(len(users)) - np.repeat(starts, np.diff(np.r_[starts, len(users)]))
    times = pa.array(nth * 1_000_000, pa.int64()).cast(CLICKS.field("timestamp").type)
    clicks = clicks.set_column(2, CLICKS.field("timestamp"), times)
    parts = split_impressions(impressions_from_clicks(clicks))
    assert failed(check_impressions(*parts)) == {}
    train, valid, test = parts
    found = failed(check_impressions(pa.concat_tables([train, test.slice(0, 1)]), valid, test))
    assert "a test row (user, note, time) among the training rows" in found
    last = test.to_pylist()[-1]
    late = last | {"timestamp": last["timestamp"] + timedelta(days=1), "note_id": "later", "history": []}
    train = pa.concat_tables([train, pa.Table.from_pylist([late], schema=IMPRESSIONS)])
    found = failed(check_impressions(train, valid, test))
    (name,) = found
    assert name == "a test row that is older than a training row of its user"
    mine = pc.sum(pc.equal(test["user_id"], last["user_id"])).as_py()
    assert found[name].startswith(f"{mine} of ")  # only of that user


def test_a_test_row_in_train_is_found():
    train, valid, test = three()
    found = failed(check_impressions(pa.concat_tables([train, test.slice(1, 1)]), valid, test))
    assert found["a test row (user, note, time) among the training rows"].startswith(
        "1 of 2 test rows, such as user 'v' and note 'a'"
    )
    found = failed(check_impressions(train, pa.concat_tables([valid, test.slice(0, 1)]), test))
    assert list(found) == ["a test row (user, note, time) among the validation rows"]
    found = failed(check_impressions(train, pa.concat_tables([valid, train.slice(0, 1)]), test))
    assert list(found) == ["a validation row (user, note, time) among the training rows"]


def test_the_same_note_shown_again_is_another_row():
    def again(rows: list[dict[str, Any]]) -> None:
        rows[5] = row("v", "b", 5)  # a negative of train, shown again

    assert failed(check_impressions(*three(again))) == {}


def test_a_test_row_older_than_train_is_found():
    def older(rows: list[dict[str, Any]]) -> None:
        rows[4] = row("u", "c", 0, label=False)

    found = failed(check_impressions(*three(older)))
    assert list(found) == ["a test row that is older than a training row"]
    (detail,) = found.values()
    assert detail.startswith("1 of 2 test rows, such as user 'u' and note 'c'; split the impressions by time")


@pytest.mark.parametrize("place", range(6))
def test_a_history_with_the_note_of_its_row_is_found(place: int):
    def own(rows: list[dict[str, Any]]) -> None:
        rows[place]["history"] = (*rows[place]["history"], rows[place]["note_id"])

    found = failed(check_impressions(*three(own)))
    assert list(found) == ["a history that holds the note of its own row"]
    (detail,) = found.values()
    _, valid, _ = three(own)
    assert detail.startswith("1 of 6 rows, such as user ")
    assert valid.num_rows == 2


@pytest.mark.parametrize(
    ("place", "held", "is_late"),
    [
        (0, "b", True),  # u likes b on day 2
        (0, "c", True),  # ... and c in the test part
        (2, "c", True),
        (1, "c", True),  # the history of a negative row counts as well
        (5, "b", False),  # v never liked b, so nobody knows when
        (3, "a", True),
        (4, "a", False),  # twice the same, but before
    ],
)
def test_a_history_with_what_the_user_liked_later_is_found(place: int, held: str, is_late: bool):
    def spoilt(rows: list[dict[str, Any]]) -> None:
        rows[place]["history"] = (*rows[place]["history"], held)

    found = failed(check_impressions(*three(spoilt)))
    assert list(found) == ["a history that holds a note that the user liked only after the row"] * is_late


def test_a_note_that_was_liked_before_and_again_later_may_be_in_a_history():
    def again(rows: list[dict[str, Any]]) -> None:
        rows[5] = row("u", "a", 5)
        rows[2]["history"] = ("a",)

    assert failed(check_impressions(*three(again))) == {}


def test_histories_are_compared_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch):
    def spoilt(rows: list[dict[str, Any]]) -> None:
        rows[3]["history"] = ("x", "y", "z", "a")

    wanted = failed(check_impressions(*three(spoilt)))
    assert len(wanted) == 1
    for size in (1, 3, 100):
        monkeypatch.setattr("notellm.experiment.impression_rows._ENTRIES", size)
        assert failed(check_impressions(*three(spoilt))) == wanted
    pieces = [pa.concat_tables([part.slice(0, 1), part.slice(1)]) for part in three(spoilt)]
    assert failed(check_impressions(*pieces)) == wanted


def test_an_empty_validation_part_is_left_out():
    train, valid, test = three()
    checks = check_impressions(train, valid.slice(0, 0), test)
    assert failed(checks) == {}
    assert not any("validation" in check.name for check in checks)
    assert check_impressions(*[valid.slice(0, 0)] * 3) == []


def test_without_a_positive_row_nothing_can_be_dated():
    rows = [row("u", str(day), day, *map(str, range(day, 6)), label=False) for day in range(6)]
    parts = [table(*rows[start : start + 2]) for start in (0, 2, 4)]
    assert list(failed(check_impressions(*parts))) == ["a history that holds the note of its own row"]


# ---------------------------------------------------------------- topics


@pytest.mark.parametrize("name", builtin_templates())
def test_no_template_of_ours_tells_the_topics_that_it_asks_for(name: str):
    check = check_topics_hidden(name)
    assert check == Check(
        f"a topic in the prompt of the template {name} that asks for it", True, "0 of 20 prompts"
    )


@pytest.mark.parametrize("field", ["{topics}", "({topics})", "#{topics}"])
def test_a_template_that_tells_them_is_found(field: str):
    english = load_template("english")
    task = TaskTemplate(f"{field} {english.topics.prompt}", english.topics.guidance, english.topics.output)
    check = check_topics_hidden(replace(english, topics=task))
    assert not check.passed
    assert check.detail.startswith("20 of 20 prompts, such as ('zyx0', 'qvw0 jkz0'); take the topics out")
    with pytest.raises(DataError, match=r"a topic in the prompt of the template .* that asks for it"):
        require([check])


def test_an_unknown_template_is_refused():
    with pytest.raises(ConfigError, match="no template 'klingon'"):
        check_topics_hidden("klingon")
