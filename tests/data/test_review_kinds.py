"""Kinds of tables that a review of the readers found: each was wrong in silence, or ended in a traceback."""

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from notellm.data.cells.markup import without_markup
from notellm.data.cells.options import CellOptions
from notellm.data.cells.times import times
from notellm.data.cells.topics import topics
from notellm.data.log import Coded
from notellm.data.problems import Report
from notellm.data.ratings import numbers_of
from notellm.data.read import read_clicks, read_notes
from notellm.data.reading.options import ReadOptions
from notellm.errors import ConfigError, DataError
from tests.commands import run
from tests.data.cells.reading import problems, read


def put(folder, name, content):
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content, encoding="utf-8")
    return path


def text_of(moments):
    return [None if each is None else each.isoformat()[:16] for each in moments]


@pytest.mark.parametrize("kind", [pa.int64(), pa.string()])
def test_a_stated_format_holds_for_numbers_too(kind):
    values = [2019030412, 2019030413] if kind == pa.int64() else ["2019030412", "2019030413"]
    found, _ = read(times, values, kind, CellOptions(time_format="%Y%m%d%H"))
    assert text_of(found) == ["2019-03-04T12:00", "2019-03-04T13:00"]
    with pytest.raises(ConfigError, match="no form of times"):
        read(times, values, kind, CellOptions(time_format="nonsense"))


def test_dates_with_points_are_day_first_unless_the_column_or_the_option_says_otherwise():
    assert text_of(read(times, ["03.04.2019"])[0]) == ["2019-04-03T00:00"]
    found, report = read(times, ["03.25.2019", "03.04.2019"])
    assert text_of(found) == ["2019-03-25T00:00", "2019-03-04T00:00"]
    assert report.options == ["--time-format month-first"]
    options = CellOptions(time_format="month-first")
    assert text_of(read(times, ["03.04.2019"], options=options)[0]) == ["2019-03-04T00:00"]


@pytest.mark.parametrize("text", ["Mon Mar 04 12:00:00 CST 2019", "2019-03-04T12:00:00[Europe/Berlin]"])
def test_zones_that_are_not_known_make_no_time(text):
    found, report = read(times, [text])
    assert found == [None]
    assert problems(report) == {"unreadable time": 1}


def test_a_stated_quoting_keeps_cells_over_several_lines_whole(tmp_path):
    path = put(tmp_path, "n.csv", 'note_id,content\n1,plain\n2,"Steps:\n1, mix\n2, bake"\n3,"a, b"\n')
    table = read_notes(path, options=ReadOptions(quoting="double")).table
    assert table["note_id"].to_pylist() == ["1", "2", "3"]
    assert table["content"].to_pylist()[1] == "Steps:\n1, mix\n2, bake"


def test_numbers_may_be_words_for_a_missing_value(tmp_path):
    path = put(tmp_path, "c.csv", "user_id,note_id,timestamp\n0,5,1600000000\n7,5,-1\n")
    result = read_clicks(path, options=ReadOptions(missing="0,-1"))
    assert result.table["user_id"].to_pylist() == [None, "7"]
    assert text_of(result.table["timestamp"].to_pylist()) == ["2020-09-13T12:26", None]
    assert sum(each.count for each in result.report.problems if "missing value" in each.problem) == 2


def test_names_in_other_letters_in_json_are_pointed_at(tmp_path):
    path = put(tmp_path, "n.jsonl", '{"note_id": "1", "Title": "x", "content": "y"}\n')
    report = read_notes(path).report
    row = next(each for each in report.problems if each.problem == "no column 'title'")
    assert "Title" in row.example
    assert len(report.serious)


def test_markup_in_topics_does_not_break_their_list():
    found, report = read(topics, ['["say &quot;hi&quot;, you", "b"]'])
    assert found == [['say "hi", you', "b"]]
    assert problems(report) == {"HTML entity": 1}


@pytest.mark.parametrize("content", ['1,"Hello, world"\n2,b\n', '\n1,"a\nb"\n2,b\n', "1,a\r2,b\r"])
def test_files_without_a_header_have_the_width_of_their_first_row(tmp_path, content):
    options = ReadOptions(header=False, columns={"note_id": "#1", "title": "#2"})
    table = read_notes(put(tmp_path, "n.csv", content), options=options).table
    assert table["note_id"].to_pylist() == ["1", "2"]
    assert table["title"].to_pylist()[1] == "b"


def test_a_guessed_rating_stops_nothing(tmp_path):
    put(tmp_path / "parts", "a.csv", "user_id,note_id,timestamp,stars\nu,1,1600000000,4\n")
    put(tmp_path / "parts", "b.csv", "user_id,note_id,timestamp\nu,2,1600000001\n")
    result = read_clicks(tmp_path / "parts")
    assert result.table.num_rows == 2
    assert "stars" in str(result.report)
    nested = '{"user_id": "u", "note_id": "1", "timestamp": 1600000000, "ratings": {"food": 4, "room": 2}}\n'
    result = read_clicks(put(tmp_path, "c.jsonl", nested))
    assert result.table.num_rows == 1
    assert "column that is named like a rating" in {each.problem for each in result.report.problems}


def test_odd_separators_and_nested_events_are_no_tracebacks(tmp_path):
    path = put(tmp_path, "n.csv", "note_id§title\n1§a, b\n")
    assert read_notes(path, options=ReadOptions(separator="§")).table["title"].to_pylist() == ["a, b"]
    with pytest.raises(ConfigError, match="separator is ''"):
        ReadOptions(separator="")
    table = pa.table({"user_id": ["u"], "note_id": ["1"], "event": [["click"]]})
    pq.write_table(table, tmp_path / "c.parquet")
    assert read_clicks(tmp_path / "c.parquet").table["event"].to_pylist() == ["click"]


@pytest.mark.parametrize("text", ["<!--" * 50_000, "<script>" * 50_000, "2019/3/4" + " " * 100_000 + "x"])
def test_long_texts_do_not_take_minutes(text):
    """Quadratic time takes longer than the limit of a test."""
    assert without_markup(pl.Series([text]), "t", Report(), CellOptions()).to_list() == [text]
    found, report = read(times, [text, "2019-01-01", "2019-01-01"])
    assert found[0] is None
    assert problems(report) == {"unreadable time": 1}


def test_many_rows_with_quotes_inside_do_not_take_minutes(tmp_path):
    rows = "".join(f'{i},"a" b,c,d\n' for i in range(5_000))
    path = put(tmp_path, "n.csv", 'note_id,title,content\n0,"a, b",c\n' + rows)
    result = read_notes(path)
    assert {each.count for each in result.report.problems if "cells" in each.problem} == {5_000}


def test_users_stand_in_order_of_appearance_whatever_the_dictionary_of_a_file():
    column = pa.chunked_array(
        [pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 1], pa.int32()), ["a", "b"])]
    )
    coded = Coded.of(column)
    assert coded.values.to_pylist() == ["b", "a"]
    assert coded.array().to_pylist() == ["b", None, "a", "b"]


def test_a_decimal_comma_without_a_whole_part_is_no_thousand():
    found = numbers_of(pa.chunked_array([["4", ",5"]]), "t: rating", Report()).to_list()
    assert found == [4.0, None]  # and no click: it is reported as no number


def test_a_sample_has_as_many_rows_as_were_asked_for(tmp_path):
    rows = "".join(f"u{i},{i},{1_600_000_000 + i}\n" for i in range(3_000))
    path = put(tmp_path, "c.csv", "user_id,note_id,timestamp\n" + rows)
    assert read_clicks(path, options=ReadOptions(rows=10)).table.num_rows == 10


def test_a_sample_of_parquet_crosses_row_groups(tmp_path):
    table = pa.table(
        {"user_id": [f"u{i}" for i in range(50)], "note_id": ["1"] * 50, "stars": list(range(50))}
    )
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=4)
    result = read_clicks(tmp_path / "c.parquet", options=ReadOptions(rows=10, order="rows"))
    assert result.table["user_id"].to_pylist() == [f"u{i}" for i in range(10)]
    assert "column that looks like a rating" in {each.problem for each in result.report.problems}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--clicks", "x.csv"), "--clicks goes with --notes"),
        (("--hashtags",), "--hashtags goes with --notes"),
        (("--notes-column", "note_id=x"), "--notes-column goes with --notes"),
        (("--column", "note_id=x"), "--column goes with --notes"),
        (("--separator", ";"), "leave out --separator"),
        (("--min-rating", "4"), "leave out --min-rating"),
    ],
)
def test_options_of_files_do_not_go_with_a_dataset(tmp_path, capsys, options, says):
    assert run("prepare", "--dataset", "sample", *options, "-o", tmp_path / "data") == 2
    assert says in capsys.readouterr().err


def test_what_cannot_be_a_rating_is_an_error_when_it_is_asked_for(tmp_path):
    path = put(tmp_path, "c.csv", "user_id,note_id,timestamp,stars\nu,1,1600000000,good\n")
    with pytest.raises(DataError, match="rating"):
        read_clicks(path, options=ReadOptions(min_rating=4))
