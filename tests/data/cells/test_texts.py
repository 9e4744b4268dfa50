"""Texts: missing values, HTML and invisible characters, and nested values."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.cells.options import CellOptions
from notellm.data.cells.texts import texts
from notellm.errors import DataError
from tests.data.cells.reading import problems, read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("<b>Grind</b> it.<br />Then &quot;taste&quot;&#39;s it", 'Grind it. Then "taste"\'s it'),
        ("5 &lt; 7", "5 < 7"),
        ("caf&eacute; &#x1F375; &nbsp;now", "café 🍵  now"),
        ("<p>One</p><p>Two</p>", "One Two"),
        ('<a href="http://x.example/?a=1">here</a>', "here"),
        ("&lt;p&gt;escaped&lt;/p&gt;", "escaped"),
        ("a&amp;amp;b", "a&b"),
        ("<script>alert('x')</script>Seen", "Seen"),
        ("<!-- hidden -->Seen", "Seen"),
    ],
)
def test_markup_is_read_as_text(text, expected):
    found, report = read(texts, [text, "plain"])
    assert found == [expected, "plain"]
    assert set(problems(report)) <= {"HTML entity", "HTML tag"}
    assert problems(report)
    assert read(texts, [text], options=CellOptions(markup="keep")) == ([text], read(texts, ["x"])[1])


@pytest.mark.parametrize(
    "text",
    [
        "5 < 7 > 3",
        "I <3 tea",
        "vector<int> and map<a, b>",
        "how to use the <b> tag",
        "AT&T",
        "?a=1&copy=2",
        "&unknown;",
        "</s><s>",
        "a & b;",
    ],
)
def test_what_only_looks_like_markup_stays(text):
    assert read(texts, [text]) == ([text], read(texts, ["x"])[1])


@pytest.mark.parametrize("text", ["\u200b", "\ufeff\u200b \u2060", "\u00ad"])
def test_a_text_of_invisible_characters_is_empty(text):
    found, report = read(texts, [text, "a\u200db"])
    assert found == ["", "a\u200db"]
    assert problems(report) == {"invisible characters around a text": 1}


def test_missing_values_in_every_form():
    found, report = read(
        texts, ["nan", "NULL", "\\N", "None", "N/A", "", None, "Nan's bread", "null and void"]
    )
    assert found == [None, None, None, None, None, "", None, "Nan's bread", "null and void"]
    assert problems(report) == {"word for a missing value": 5}


def test_words_that_may_be_missing_values_stay_and_are_reported():
    found, report = read(texts, ["NA", "none", "x", "NA"])
    assert found == ["NA", "none", "x", "NA"]
    assert problems(report) == {"may stand for a missing value": 3}
    assert read(texts, ["NA"], options=CellOptions(missing="NA"))[0] == [None]


def test_numbers_and_nan():
    found, report = read(texts, [3.0, float("nan"), None], pa.float64())
    assert found == ["3", None, None]
    assert problems(report) == {"NaN in a text column": 1}
    assert read(texts, [1.5, 2.0], pa.float64())[0] == ["1.5", "2.0"]
    assert read(texts, [float("nan")] * 3, pa.float64())[0] == [None] * 3


def test_nested_texts():
    found, report = read(texts, [{"id": 7, "name": "travel"}, None])
    assert found == ["travel", None]
    assert problems(report) == {"nested value": 1}
    with pytest.raises(
        DataError, match=r"members en, de; say which is meant with the columns option, as --column c=c\.en"
    ):
        read(texts, [{"en": "Harbour", "de": "Hafen"}])
    with pytest.raises(DataError, match="is the list"):
        read(texts, [["travel", "sea"]])
    assert read(texts, [["travel"], []])[0] == ["travel", None]


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<&"), min_size=1), min_size=1
    )
)
def test_texts_without_markup_stay_but_for_their_ends(values):
    found, _ = read(texts, values, options=CellOptions(missing=""))
    for value, cell in zip(values, found, strict=True):
        assert cell in value
