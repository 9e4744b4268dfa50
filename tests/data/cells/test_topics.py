"""Topics: every form in which lists are written into a cell."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.cells.options import CellOptions
from notellm.data.cells.topics import topics
from notellm.errors import DataError
from tests.data.cells.reading import problems, read


@pytest.mark.parametrize(
    ("cell", "expected", "problem"),
    [
        ("['lentils', '60-minutes-or-less']", ["lentils", "60-minutes-or-less"], "topics as a Python list"),
        ("""['figs', "baker's choice"]""", ["figs", "baker's choice"], "topics as a Python list"),
        ("('a', 'b')", ["a", "b"], "topics as a Python list"),
        ("[u'Action', u'Indie']", ["Action", "Indie"], "topics as a Python list"),
        ('["a", "b|c"]', ["a", "b|c"], None),
        (
            '[{"id": 28, "name": "Action"}, {"id": 12, "name": "Adventure"}]',
            ["Action", "Adventure"],
            "nested value",
        ),
        ("[{'id': 28, 'name': 'Action'}]", ["Action"], "nested value"),
        ('{"Indie": 12, "Action": 3}', ["Indie", "Action"], "nested value"),
        ('[["Books", "Novels"], ["Books", "Sea"]]', ["Books", "Novels", "Books", "Sea"], None),
        ("Noodles, Soup, Late Night", ["Noodles", "Soup", "Late Night"], "topics separated by a guess"),
        ("Bikes;Repair", ["Bikes", "Repair"], "topics separated by a guess"),
        ("Bikes, old;Repair", ["Bikes, old", "Repair"], "topics separated by a guess"),
        ("#tea #lake", ["tea", "lake"], "topics as hashtags"),
        ("Arts &amp; Crafts", ["Arts & Crafts"], "HTML entity"),
        ("[not a list", ["[not a list"], "topics start with [ or { but are no list"),
        ("one topic", ["one topic"], None),
        ("[]", [], None),
        ("nan", [], "word for a missing value"),
    ],
)
def test_every_form_of_a_list(cell, expected, problem):
    found, report = read(topics, [cell])
    assert found == [expected]
    assert (problem in problems(report)) if problem else not problems(report)


def test_one_bar_in_the_column_makes_commas_text():
    found, report = read(topics, ["a|b", "Paris, Texas", "x; y"])
    assert found == [["a", "b"], ["Paris, Texas"], ["x; y"]]
    assert not problems(report)


def test_the_separator_is_an_option_and_a_guess_states_it():
    _, report = read(topics, ["Noodles, Soup"])
    assert report.options == ["--topic-separator ','"]
    assert read(topics, ["Noodles, Soup"], options=CellOptions(topic_separator="none"))[0] == [
        ["Noodles, Soup"]
    ]
    found, report = read(topics, ["a/b", "c"], options=CellOptions(topic_separator="/"))
    assert found == [["a", "b"], ["c"]]
    assert not problems(report)


def test_lists_of_objects_and_missing_words_in_lists():
    found, report = read(topics, [[{"name": "sea"}, {"name": "boats"}], None])
    assert found == [["sea", "boats"], []]
    assert problems(report) == {"nested value": 1}
    found, report = read(topics, [["a", "nan"], ["NULL"], ["b"]])
    assert found == [["a"], [], ["b"]]
    assert problems(report) == {"word for a missing value": 2}
    with pytest.raises(DataError, match="members x, y"):
        read(topics, [[{"x": "a", "y": "b"}]])


def test_a_column_of_nan_has_no_topics():
    assert read(topics, [float("nan")] * 2, pa.float64())[0] == [[], []]


@settings(deadline=None)
@given(
    st.lists(
        st.text(st.characters(categories=["L", "N", "Zs"])).map(lambda text: "w" + " ".join(text.split())),
        max_size=5,
    )
)
def test_lists_come_back_from_json_python_and_arrow(words):
    import json

    for cell in (json.dumps(words), json.dumps(words, ensure_ascii=False), repr(words)):
        assert read(topics, [cell])[0] == [words]
    assert read(topics, [words], pa.list_(pa.string()))[0] == [words]
