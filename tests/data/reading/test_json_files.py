"""JSON in every layout, with nested values, exact numbers and damage."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.cells.markup import INVISIBLE
from notellm.data.read import read_clicks, read_notes
from notellm.data.reading import encoding, json_files
from notellm.data.reading.options import ReadOptions
from notellm.errors import DataError
from tests.data.reading.files import found, problems, put

ROWS = [
    {"note_id": 1, "title": "Tea", "topics": ["a", "b"]},
    {"note_id": 2, "title": 'say "x" {not} [this]', "topics": []},
    {"note_id": 3, "title": "two\nlines, 茶 🍵"},
]
EXPECTED = [("1", "Tea", ["a", "b"]), ("2", 'say "x" {not} [this]', []), ("3", "two\nlines, 茶 🍵", [])]


def notes_of(path, **columns):
    result = read_notes(path, columns=columns, options=ReadOptions(missing=""))
    names = ("note_id", "title", "topics")
    rows = zip(*(result.table[name].to_pylist() for name in names), strict=True)
    return [(note, title, topics or []) for note, title, topics in rows], result.report


LAYOUTS = {
    "lines": "".join(json.dumps(row) + "\n" for row in ROWS),
    "lines without the last end": "\n".join(json.dumps(row) for row in ROWS),
    "lines with Windows ends": "".join(json.dumps(row) + "\r\n" for row in ROWS),
    "empty lines between": "\n\n" + "\n\n \n".join(json.dumps(row) for row in ROWS),
    "letters as they are": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS),
    "a byte order mark": "\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS),
    "a list on one line": json.dumps(ROWS),
    "a list over several lines": json.dumps(ROWS, indent=2),
    "a list, an object on each line": "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n",
    "objects over several lines": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "objects on one line": " ".join(json.dumps(row) for row in ROWS),
    "objects without anything between": "".join(json.dumps(row) for row in ROWS),
    "several objects on some lines": "\n".join(
        [json.dumps(ROWS[0]), json.dumps(ROWS[1]) + json.dumps(ROWS[2])]
    ),
    "objects with commas": ",\n".join(json.dumps(row, indent=1) for row in ROWS) + ",\n",
    "several lists": json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:], indent=1),
    "a list in a byte order mark": "\ufeff" + json.dumps(ROWS, indent=1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["n.json", "n.jsonl", "n.csv"])
def test_every_layout_gives_the_same_rows(tmp_path, layout, name):
    rows, report = notes_of(put(tmp_path, name, LAYOUTS[layout]))
    assert rows == EXPECTED
    assert not problems(report)


def test_python_literals(tmp_path):
    rows, report = notes_of(put(tmp_path, "n.json", "".join(f"{row!r}\n" for row in ROWS)))
    assert rows == EXPECTED
    row = found(report, "Python literal instead of JSON")
    assert (row.count, row.example[:7]) == (3, "line 1:")


def test_literals_of_python_2_among_json(tmp_path):
    text = "{\"note_id\": 1, \"title\": \"a\"}\n{u'note_id': u'2', u'title': u'caf\\xe9', 'x': None}\n"
    rows, report = notes_of(put(tmp_path, "n.jsonl", text))
    assert rows == [("1", "a", []), ("2", "café", [])]
    assert found(report, "Python literal instead of JSON").example.startswith("line 2:")


def read_blocks(folder, text, size):
    """Read text in blocks of some characters, wherever they end."""
    whole = encoding.decoded_blocks

    def cut(*given):
        every = "".join(whole(*given))
        return (every[i : i + size] for i in range(0, len(every), size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("notellm.data.reading.table.decoded_blocks", cut)
        rows, report = notes_of(put(folder, "blocks.json", text))
    return [row[:2] for row in rows], report


@pytest.mark.parametrize(
    "layout", ["a list on one line", "a list over several lines", "objects over several lines"]
)
@pytest.mark.parametrize("size", [1, 7, 50])
def test_a_list_over_many_blocks(tmp_path, layout, size):
    rows, report = read_blocks(tmp_path, LAYOUTS[layout], size)
    assert rows == [(note, title) for note, title, _ in EXPECTED]
    assert not problems(report)


@pytest.mark.parametrize(
    ("text", "kept", "line"),
    [
        ('{"note_id": 1, "title": "a"}\n{"note_id": 2, "ti', ["1"], "line 2"),
        ('[\n{"note_id": 1, "title": "a"},\n{"note_id": 2, "ti', ["1"], "line 3"),
        ('[{"note_id": 1, "title": "a"}, {"note_id": 2, "ti', ["1"], "line 1"),
        ('{\n"note_id": 1,\n"title": "a"\n}\n{\n"note_id": 2,\n"ti', ["1"], "line 5"),
    ],
)
def test_a_cut_off_end_is_reported(tmp_path, text, kept, line):
    rows, report = notes_of(put(tmp_path, "n.json", text))
    assert [row[0] for row in rows] == kept
    row = found(report, "no JSON object")
    assert (row.count, row.example.startswith(line)) == (1, True)


def test_a_list_without_its_last_bracket_has_all_of_its_objects(tmp_path):
    rows, _ = notes_of(put(tmp_path, "n.json", json.dumps(ROWS, indent=1)[:-2]))
    assert rows == EXPECTED


def test_damage_inside_a_list_ends_it_and_is_reported(tmp_path):
    text = '[{"note_id": 1, "title": "a"},\n{"note_id": 2, oops},\n{"note_id": 3, "title": "c"}]'
    rows, report = notes_of(put(tmp_path, "n.json", text))
    assert rows[0][0] == "1"
    assert found(report, "no JSON object").example.startswith("line 2")


def test_values_that_are_no_objects_are_left_out(tmp_path):
    text = '{"note_id": 1, "title": "a"}\n7\n"text"\nnull\n[{"note_id": 2}]\n'
    rows, report = notes_of(put(tmp_path, "n.jsonl", text))
    assert [row[0] for row in rows] == ["1"]
    assert found(report, "no JSON object").count == 4


def test_nothing_that_is_an_object_is_an_error(tmp_path):
    with pytest.raises(
        DataError, match=r"has no JSON object; line 1: int, not an object; write one object per line"
    ):
        notes_of(put(tmp_path, "n.json", "[1, 2]"))


def test_exports_of_document_stores(tmp_path):
    text = (
        '{"note_id": {"$oid": "64f0aa01"}, "title": "Tea", "category": {"_id": 3, "name": "Food"},'
        ' "topics": [{"id": 1, "name": "tea"}, {"id": 2, "name": "slow food"}],'
        ' "published_at": {"$date": {"$numberLong": "1569918600000"}}}\n'
        '{"note_id": {"$oid": "64f0aa02"}, "title": {"#text": "Tee"}, "category": null, "topics": {"tea": 3},'
        ' "published_at": {"$date": "2019-10-01T08:30:00Z"}}\n'
    )
    result = read_notes(put(tmp_path, "n.json", text))
    first, second = result.table.to_pylist()
    moment = datetime(2019, 10, 1, 8, 30, tzinfo=UTC)
    assert [first["note_id"], first["topics"], first["category"], first["published_at"]] == [
        "64f0aa01", ["tea", "slow food"], "Food", moment,
    ]  # fmt: skip
    assert [second["note_id"], second["title"], second["topics"], second["published_at"]] == [
        "64f0aa02", "Tee", ["tea"], moment,
    ]  # fmt: skip
    nested = [each for each in result.report.problems if each.problem == "nested value"]
    assert {each.where.split()[-1]: each.count for each in nested} == {
        "note_id": 2, "title": 1, "category": 1, "topics": 2, "published_at": 2,
    }  # fmt: skip


def test_paths_and_places_are_columns(tmp_path):
    text = (
        '{"doc": {"key": 7, "texts": [{"en": "Tea", "de": "Tee"}], "tags": ["a"]}}\n'
        '{"doc": {"key": 8, "texts": [], "tags": null}}\n{"doc": null}\n'
    )
    path = put(tmp_path, "n.jsonl", text)
    rows, _ = notes_of(path, note_id="doc.key", title="doc.texts.0.de", topics="doc.tags")
    assert rows == [("7", "Tee", ["a"]), ("8", None, []), (None, None, [])]
    rows, _ = notes_of(put(tmp_path, "d.jsonl", '{"a.b": 1, "title": "x"}\n'), note_id="a.b")
    assert rows == [("1", "x", [])]  # a name with a point is a name first
    with pytest.raises(DataError, match=r"no column 'dox\.key'.*its columns are 'doc'"):
        notes_of(path, note_id="dox.key", title="doc.texts.0.de")


def test_numbers_keep_all_of_their_digits(tmp_path):
    text = "".join(
        '{"user_id": "u", "note_id": ' + number + "}\n"
        for number in ("9007199254740993", "12345678901234567890", "7.0", "-3", "1e3", "NaN", "null", "true")
    )
    result = read_clicks(put(tmp_path, "c.jsonl", text))
    found_ids = result.table["note_id"].to_pylist()
    assert found_ids == ["9007199254740993", "12345678901234567890", "7", "-3", "1000", None, None, "true"]


def test_columns_that_come_late_or_only_sometimes(tmp_path):
    lines = [f'{{"note_id": {i}, "title": "t"}}' for i in range(3)] + [
        '{"note_id": 9, "category": "c", "title": "t"}'
    ]
    read = read_notes(put(tmp_path, "n.jsonl", "\n".join(lines))).table
    assert read["category"].to_pylist() == [None, None, None, "c"]


def test_a_value_longer_than_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_files, "LONGEST", 200)
    text = '[{"note_id": 1, "title": "a"},\n{"note_id": 2, "title": "' + "x" * 500 + " never ends"
    rows, report = notes_of(put(tmp_path, "n.json", text))
    assert [row[0] for row in rows] == ["1"]
    assert found(report, "no JSON object").count == 1


def _bare(title):
    """A title without white space and invisible characters at its ends."""
    return re.sub(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$", "", title.strip())


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<&"), max_size=8)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"note_id": st.integers(), "title": texts}), min_size=1, max_size=6),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
    st.integers(1, 40),
)
def test_any_texts_in_a_list_cut_anywhere(tmp_path_factory, rows, indent, ascii_only, size):
    expected = [(str(row["note_id"]), _bare(row["title"])) for row in rows]
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    found_rows, _ = read_blocks(tmp_path_factory.getbasetemp(), text, size)
    assert [(note, title or "") for note, title in found_rows] == expected
