import math

import pytest

from notellm.data.reading import objects
from notellm.data.reading.objects import parse_object


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"a": [1, null, true], "b": "caf\\u00e9"}\n', {"a": [1, None, True], "b": "café"}),
        ("{u'id': u'10', 'tags': [u'Action', \"Pilot's\"], 'price': None, 'early': False}\n", None),
        ("  {'a': ('x', 1.5)}  ", {"a": ("x", 1.5)}),
        (r"{'path': 'C:\dir', 'u': '\u00e9'}", {"path": "C:\\dir", "u": "é"}),
        ("[1, 2]", [1, 2]),
        ('"text"', "text"),
        ("null", None),
    ],
)
def test_a_line_is_json_or_a_python_literal(line, value):
    if line.startswith("{u'id'"):
        value = {"id": "10", "tags": ["Action", "Pilot's"], "price": None, "early": False}
    assert parse_object(line) == value


def test_json_is_tried_first():
    assert math.isnan(parse_object('{"a": NaN}')["a"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no value",
        "{'a': __import__('os').getcwd()}",
        "{'a': 1",
        '{"a": 1} {"b": 2}',
        "{'a': 1}\x00",
        "{'a': [" * 30 + "]}" * 30 + "'",
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 100_000,
        "-" * 100_000 + "1",
        "(" * 50_000 + "1" + ")" * 50_000,
        "{{}: 1}",
        "'\ud800' + 1",
    ],
)
def test_anything_else_is_one_error(line):
    with pytest.raises(ValueError, match=r"neither JSON|nested too deeply"):
        parse_object(line)


def test_lines_without_end_are_not_parsed(monkeypatch):
    monkeypatch.setattr(objects, "LONGEST", 50)
    monkeypatch.setattr(objects, "LONGEST_LITERAL", 20)
    assert parse_object('{"a": "0123456789012345"}') == {"a": "0123456789012345"}
    with pytest.raises(ValueError, match="25 characters are too many for a Python literal"):
        parse_object("{'a': '0123456789012345'}")
    with pytest.raises(ValueError, match="a line of 51 characters; at most 50"):
        parse_object("1" * 51)
