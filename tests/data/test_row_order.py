"""Logs without times: an order of ids or ratings is no order in time."""

import random

import numpy as np
import pyarrow as pa
import pytest

from notellm.data.log import Coded
from notellm.data.read import read_clicks
from notellm.data.reading.options import ReadOptions
from notellm.data.row_order import order_of_ids


def order(per_user, others=None):
    users = coded(str(user) for user, notes in enumerate(per_user) for _ in notes)
    notes = coded(note for notes in per_user for note in notes)
    return order_of_ids(users, notes, others)


def coded(values):
    return Coded.of(pa.chunked_array([pa.array(values, pa.string())]))


def shuffled(count, seed=0):
    numbers = list(range(count))
    random.Random(seed).shuffle(numbers)
    return numbers


@pytest.mark.parametrize("users", [1, 3])
def test_ids_that_rise_or_fall_as_numbers(users):
    """Not as text: 9 is before 10."""
    notes = [str(number) for number in range(1, 200, 7)]
    assert order([notes] * users) == "note_id, rising"
    assert order([notes[::-1]] * users) == "note_id, falling"


def test_ids_that_rise_or_fall_as_text():
    notes = sorted(f"n{number}" for number in range(1, 200, 7))
    assert order([notes, notes[:5]]) == "note_id, rising"
    assert order([notes[::-1]]) == "note_id, falling"
    numeric = [f"n{number}" for number in range(1, 200, 7)]
    assert order([numeric]) == ""  # n8, n15, n22: neither as text nor as numbers


def test_the_order_of_clicks_is_no_order_of_ids():
    for seed in range(20):
        assert order([list(map(str, shuffled(40, seed)))]) == ""
        assert order([list(map(str, shuffled(8, seed + each))) for each in range(30)]) == ""


def test_a_few_steps_of_another_kind_do_not_hide_the_order():
    notes = [str(number) for number in range(200)]
    notes[50], notes[51] = notes[51], notes[50]
    assert order([notes]) == "note_id, rising"
    for place in range(0, 200, 10):
        notes[place], notes[place + 5] = notes[place + 5], notes[place]
    assert order([notes]) == ""


@pytest.mark.parametrize("rows", [0, 1, 2, 20])
def test_too_few_rows_show_nothing(rows):
    assert order([[str(number) for number in range(rows)]]) == ""
    assert order([["1", "2"]] * 19) == ""  # one step a user
    assert order([["1", "2"]] * 20) == "note_id, rising"


def test_rows_of_a_user_need_not_stand_together():
    users, notes = [], []
    for number in range(30):
        for user in ("a", "b", "c"):
            users.append(user)
            notes.append(str(number * 7 + ord(user)))
    assert order_of_ids(coded(users), coded(notes)) == "note_id, rising"


def test_the_same_note_again_is_no_step():
    assert order([["1"] * 50]) == ""
    assert order([[str(number) for number in range(25) for _ in range(2)]]) == "note_id, rising"


def test_a_column_of_weights_by_which_rows_are_sorted():
    notes = list(map(str, shuffled(30)))
    falling = np.array([1000.0 - 7 * place for place in range(30)])
    assert order([notes], {"weight": falling}) == "weight, falling"
    assert order([notes], {"weight": np.array(shuffled(30, 5), float)}) == ""
    with_holes = np.array([np.nan if place % 9 == 0 else float(place) for place in range(40)])
    assert order([list(map(str, shuffled(40)))], {"weight": with_holes}) == "weight, rising"


def test_missing_ids_are_no_steps():
    users = ["u"] * 30 + [None] * 30
    notes = [None if place % 10 == 0 else str(place) for place in range(30)] + ["5"] * 30
    assert order_of_ids(coded(users), coded(notes)) == "note_id, rising"


def read(folder, rows, header="user_id,note_id", **options):
    (folder / "c.csv").write_text(header + "\n" + "".join(rows))
    result = read_clicks(folder / "c.csv", options=ReadOptions(**options))
    seconds = [time.timestamp() for time in result.table["timestamp"].to_pylist()]
    return seconds, {each.problem: each for each in result.report.problems}


def test_a_log_in_the_order_of_ids_has_no_times(tmp_path):
    rows = [f"u,{number}\n" for number in range(30)]
    seconds, problems = read(tmp_path, rows)
    assert set(seconds) == {0.0}
    row = problems["no column 'timestamp', and no order in time"]
    assert (row.count, row.option) == (30, "--order none")
    assert row.example == "rows of users are sorted by note_id, rising"
    seconds, problems = read(tmp_path, rows, order="rows")
    assert seconds == [float(number + 1) for number in range(30)]
    assert not problems


def test_a_log_in_another_order_has_the_order_of_its_rows(tmp_path):
    rows = [f"u,{number}\n" for number in shuffled(30)]
    seconds, problems = read(tmp_path, rows)
    assert seconds == [float(number + 1) for number in range(30)]
    assert problems["no column 'timestamp'"].option == "--order rows"
    assert set(read(tmp_path, rows, order="none")[0]) == {0.0}


def test_a_log_sorted_by_its_column_of_ratings(tmp_path):
    rows = [f"u,{number},{900 - 3 * place}\n" for place, number in enumerate(shuffled(30))]
    seconds, problems = read(tmp_path, rows, "user_id,note_id,weight")
    assert set(seconds) == {0.0}
    assert "weight, falling" in problems["no column 'timestamp', and no order in time"].example
