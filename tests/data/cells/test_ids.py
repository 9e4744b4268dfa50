"""Ids: whole numbers with and without fraction are one id, missing values are nobody."""

from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.cells.ids import ids
from notellm.data.cells.options import CellOptions
from notellm.errors import DataError
from tests.data.cells.reading import problems, read

FLOAT = "whole number with a fraction as an id"


@pytest.mark.parametrize(
    ("values", "expected", "count"),
    [
        (["7", "7.0", "8", "8.0"], ["7", "7", "8", "8"], 2),  # two exports, one of them with holes
        (["12.0", "", None, "7.0"], ["12", "", None, "7"], 2),
        (["12.0", "anna"], ["12", "anna"], 1),  # one odd row does not make all others unknown
        (["-3.000", "0.0"], ["-3", "0"], 2),
        (["007.0", "0042"], ["007.0", "0042"], 0),  # a float has no leading zeros
        (["1.0", "1.1", "2.0"], ["1.0", "1.1", "2.0"], 0),  # versions
        (["v1.0", "2.0"], ["v1.0", "2.0"], 0),
        (["0001", "1"], ["0001", "1"], 0),
    ],
)
def test_whole_numbers_in_text(values, expected, count):
    found, report = read(ids, values)
    assert found == expected
    assert problems(report).get(FLOAT, 0) == count


def test_decimals_are_whole_numbers_too():
    found, report = read(ids, [Decimal("12.00"), None], pa.decimal128(10, 2))
    assert found == ["12", None]
    assert problems(report) == {FLOAT: 1}


@pytest.mark.parametrize("word", ["nan", "NULL", "None", "N/A", "\\N", "<NA>", " NaN "])
def test_a_word_for_a_missing_value_is_nobody(word):
    found, report = read(ids, ["u1", word, word, "u2"])
    assert found == ["u1", None, None, "u2"]
    assert problems(report) == {"word for a missing value": 2}
    assert "--missing" in report.problems[0].action


def test_missing_words_are_an_option():
    assert read(ids, ["nan", "-1"], options=CellOptions(missing="-1"))[0] == ["nan", None]
    assert read(ids, ["nan"], options=CellOptions(missing=""))[0] == ["nan"]


@pytest.mark.parametrize("text", ["Nanjing", "nullable", "n/a/b", "Nonesuch", "banana"])
def test_words_inside_an_id_stay(text):
    assert read(ids, [text]) == ([text], read(ids, ["x"])[1])


def test_invisible_characters_at_the_ends_are_taken_off():
    found, report = read(ids, ["\ufeff7", "7\u200b", "a\u200db"])
    assert found == ["7", "7", "a\u200db"]
    assert problems(report) == {"invisible characters in an id": 3}


def test_infinite_numbers_are_no_ids():
    found, report = read(ids, [1.0, float("inf"), float("nan")], pa.float64())
    assert found == ["1", None, None]
    assert problems(report) == {"infinite number as an id": 1}


def test_objects_give_their_id_or_name_their_members():
    kind = pa.struct([("$oid", pa.string())])
    found, report = read(ids, [{"$oid": "64f0"}, None], kind)
    assert found == ["64f0", None]
    assert problems(report) == {"nested value": 1}
    with pytest.raises(
        DataError,
        match=r"object with the members a, b; say which is meant with the columns option, as --column c=c\.a",
    ):
        read(ids, [{"a": "x", "b": "y"}])
    with pytest.raises(DataError, match=r"--column c=c\.0"):
        read(ids, [["x", "y"]])


@settings(deadline=None)
@given(st.lists(st.integers(min_value=-(10**12), max_value=10**12), min_size=1))
def test_integers_are_the_same_id_in_every_type(numbers):
    expected = [str(number) for number in numbers]
    assert read(ids, numbers, pa.int64())[0] == expected
    assert read(ids, [float(number) for number in numbers], pa.float64())[0] == expected
    assert read(ids, [f"{number}.0" for number in numbers])[0] == expected
    assert read(ids, expected)[0] == expected
