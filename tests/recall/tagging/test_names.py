"""Spellings that differ only in form are one name; other names stay apart."""

import numpy as np
import pytest

from notellm.recall.tagging.names import Names, name_key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("#Cold-Brew", "cold brew"),
        ("coldbrew", "Cold_Brew"),
        ("ＣＯＬＤ　ＢＲＥＷ", "cold brew"),
        ("Straße", "STRASSE"),
        ("＃旅行", "旅行"),
        ("カフェ・バー", "カフェバー"),
        (" tea ", "tea"),
        ("cafe\u0301", "café"),
        ("T–shirt", "t-shirt"),
    ],
)
def test_spellings_of_one_name(one, other):
    assert name_key(one) == name_key(other)


def test_names_that_stay_apart():
    different = ["C", "C++", "C#", "F#", ".NET", "net", "café", "cafe", "100%", "100", "!", "?", "🍰", "🍕"]
    assert len({name_key(name) for name in different}) == len(different)
    assert len(Names(different)) == len(different)


@pytest.mark.parametrize("name", ["#", "##", "-", "_", "・", "—"])
def test_a_name_of_signs_alone_has_a_key(name):
    assert name_key(name)


def test_the_most_frequent_spelling_wins_and_frequent_names_come_first():
    names = Names(["Tea", "cold brew", "Cold Brew", "cold brew", "#coldbrew", "tea", "tea", "soup"])
    assert names.names == ["cold brew", "tea", "soup"]
    assert [names.number(name) for name in ("COLD-BREW", "#tea", "Soup", "bread")] == [0, 1, 2, None]


def test_the_order_of_the_spellings_does_not_matter():
    spellings = ["b", "a", "A", "B", "c", "C", "c"]
    assert Names(spellings).names == Names(reversed(spellings)).names
    assert len(Names(["", " ", "\n"])) == 0


def test_a_note_carries_each_name_once():
    names = Names(["tea", "soup", "tea"])
    matrix = names.matrix([["Tea", "#tea", "soup"], [], ["unknown"], ["soup"]])
    np.testing.assert_array_equal(matrix.toarray(), [[1, 1], [0, 0], [0, 0], [0, 1]])
    assert names.numbers(["soup", "bread", "TEA", "soup"]) == [1, 0]
    assert Names([]).matrix([["a"], []]).shape == (2, 0)


def test_new_names_are_added_at_the_end():
    names = Names(["tea", "tea", "soup"])
    assert names.add(["bread", "SOUP", "Bread", " ", "cake"]) == ["bread", "cake"]
    assert names.names == ["tea", "soup", "bread", "cake"]
    assert names.number("#bread") == 2
