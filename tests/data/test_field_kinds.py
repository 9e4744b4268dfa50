"""Kinds of tables that people have, beside those of the other tests: read right, reported, or refused."""

import gzip
import json

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from notellm.data.problems import Report
from notellm.data.read import read_clicks, read_notes
from notellm.data.reading.options import ReadOptions
from notellm.data.validate import validate
from notellm.errors import DataError

NOTES = "note_id,title\nn1,Red lamp\nn2,Blue sofa\n"
ABOUT_ABSENT = "no column"


def put(folder, content, name="t.csv"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def counts(report: Report) -> dict[str, int]:
    return {each.problem: each.count for each in report.problems if not each.problem.startswith(ABOUT_ABSENT)}


def notes_of(path, **options):
    """Return the ids and titles of a file of notes, and what was reported."""
    result = read_notes(path, options=ReadOptions(**options))
    rows = [(row["note_id"], row["title"]) for row in result.table.to_pylist()]
    return rows, counts(result.report)


LAMP_AND_SOFA = [("n1", "Red lamp"), ("n2", "Blue sofa")]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("# exported today\n# by the shop, all\n" + NOTES, {"lines above the header": 2}),
        ("Product list,\n\n" + NOTES, {"lines above the header": 1}),
        ("\n\n" + NOTES, {}),
        (
            "sep=;\n" + NOTES.replace(",", ";"),
            {"lines above the header": 1, "separator that the name does not tell": 3},
        ),
        (NOTES.replace("n2", "Note_ID,title\nn2"), {"the header again as a row": 1}),
        (NOTES.replace("n2", "\ufeffnote_id,title\nn2"), {"the header again as a row": 1}),
        (NOTES.replace("n1", "string,varchar(80)\nn1"), {"a row of types below the header": 1}),
        (
            "| note_id | title |\n|:--|---:|\n| n1 | Red lamp |\n| n2 | Blue sofa |\n",
            {"a rule below the header": 1, "separator that the name does not tell": 4},
        ),
        (
            "+----+----+\n| note_id | title |\n+----+----+\n| n1 | Red lamp |\n| n2 | Blue sofa |\n",
            {
                "lines above the header": 1,
                "separator that the name does not tell": 4,
                "other number of cells than the header": 1,
            },
        ),
    ],
    ids=["comments", "title", "blank", "Excel's sep", "header twice", "marks", "types", "Markdown", "MySQL"],
)
def test_lines_that_are_no_rows_are_left_out_and_counted(tmp_path, text, reported):
    assert notes_of(put(tmp_path, text)) == (LAMP_AND_SOFA, reported)


def test_the_lines_of_the_report_count_from_the_top_of_the_file(tmp_path):
    path = put(tmp_path, "Product list\n" + NOTES + "n3,a,b\n")
    reported = {each.problem: each.example for each in read_notes(path).report.problems}
    assert reported["other number of cells than the header"] == "line 5: 3 cells, not 2"


@pytest.mark.parametrize("title", ["title", "note_id", "---", "# hash"])
def test_titles_that_look_like_headings_stay(tmp_path, title):
    rows, reported = notes_of(put(tmp_path, f"note_id,title\nn1,a\nn2,{title}\n"))
    assert rows == [("n1", "a"), ("n2", title)]
    assert reported == {}


def test_spaces_before_quotes(tmp_path):
    text = 'note_id, title\n1, "A lamp, red"\n2, "A sofa"\n3, Desk\n'
    rows, reported = notes_of(put(tmp_path, text))
    assert rows == [("1", "A lamp, red"), ("2", "A sofa"), ("3", "Desk")]
    assert reported == {"spaces before quotes": 2}


@pytest.mark.parametrize("line", ['1,"He said, ""no"" twice"', '1, "Best" pan'])
def test_quotes_after_a_space_that_are_text_stay(tmp_path, line):
    rows, reported = notes_of(put(tmp_path, f"note_id,title\n{line}\n2,Desk\n"))
    assert rows[0][1] == ('He said, "no" twice' if "no" in line else '"Best" pan')
    assert "spaces before quotes" not in reported


def test_a_quoted_cell_of_more_than_the_limit_of_the_csv_module(tmp_path):
    rows, reported = notes_of(put(tmp_path, f'note_id,title\n1,"{"a, " * 70_000}b"\n2,c\n'))
    assert len(rows) == 2
    assert reported == {}


def clicks_of(path, **options):
    """Return users and notes of a log, and what was reported."""
    result = read_clicks(path, options=ReadOptions(**options))
    rows = [(row["user_id"], row["note_id"]) for row in result.table.to_pylist()]
    return rows, counts(result.report)


@pytest.mark.parametrize(
    ("ids", "read", "reported"),
    [
        (['"1,234"', '"1,235"', "999"], ["1234", "1235", "999"], {"id with commas for thousands": 2}),
        (['"=""007"""', '"=""008"""'], ["007", "008"], {"id as a formula of Excel": 2}),
        (["007", "7"], ["007", "7"], {"ids that differ in leading zeros alone": 1}),
        (["1e5", "100000"], ["1e5", "100000"], {"id written as a floating point number": 1}),
        (["NA", "5"], ["NA", "5"], {"id that may stand for a missing one, or a total": 1}),
        (["1", "Total"], ["1", "Total"], {"id that may stand for a missing one, or a total": 1}),
        (["'n1'", "'n2'"], ["'n1'", "'n2'"], {"id that begins with a quote mark": 2}),
        (["(null)", "5"], [None, "5"], {"word for a missing value": 1}),
        # What looks alike and stays without a word.
        (['"1,234"', "2345"], ["1,234", "2345"], {}),
        (['"a,123"', '"1,2345"'], ["a,123", "1,2345"], {}),
        (["1e5", "a3f", "007"], ["1e5", "a3f", "007"], {}),
        (["totals", "=1", "0", "-1"], ["totals", "=1", "0", "-1"], {}),
    ],
)
def test_forms_of_ids(tmp_path, ids, read, reported):
    text = "note_id,title\n" + "".join(f"{each},a\n" for each in ids)
    rows, found = notes_of(put(tmp_path, text))
    assert [note for note, _ in rows] == read
    assert found == reported


def test_users_that_may_be_nobody_are_counted(tmp_path):
    text = "user_id,note_id\nanonymous,1\nu1,1\nanonymous,2\n"
    rows, found = clicks_of(put(tmp_path, text))
    assert [user for user, _ in rows] == ["anonymous", "u1", "anonymous"]
    assert found == {"id that may stand for a missing one, or a total": 2}


@pytest.mark.parametrize(("kind", "largest"), [(pa.float32(), 2.0**24), (pa.float64(), 2.0**53)])
def test_ids_that_their_float_cannot_hold(tmp_path, kind, largest):
    path = tmp_path / "n.parquet"
    pq.write_table(pa.table({"note_id": pa.array([largest, 3.0]).cast(kind), "title": ["a", "b"]}), path)
    assert notes_of(path)[1] == {"id written as a floating point number": 1}


@pytest.mark.parametrize("word", ["#REF!", "#NAME?", "UNKNOWN"])
def test_errors_of_excel_in_texts_are_counted(tmp_path, word):
    rows, found = notes_of(put(tmp_path, f"note_id,title\n1,{word}\n2,#1 hit\n"))
    assert [title for _, title in rows] == [word, "#1 hit"]
    assert found == {"may stand for a missing value": 1}


def test_a_list_of_missing_words_reports_the_usual_ones_that_it_lacks(tmp_path):
    rows, found = notes_of(put(tmp_path, "note_id,title\n1,NA\n2,NULL\n"), missing="NA")
    assert [title for _, title in rows] == [None, "NULL"]
    assert found == {"word for a missing value": 1, "may stand for a missing value": 1}


def log_of(path, **options):
    """Return the notes of a log's clicks, and what was reported, in words."""
    result = read_clicks(path, options=ReadOptions(**options))
    kept = result.table.filter(pa.compute.equal(result.table["event"], "click"))
    return kept["note_id"].to_pylist(), {each.problem: each for each in result.report.problems}


def log(column, cells):
    rows = "".join(f"u{n},{n},2024-01-01,{cell}\n" for n, cell in enumerate(cells))
    return f"user_id,note_id,timestamp,{column}\n{rows}"


@pytest.mark.parametrize(
    ("column", "cells", "kept", "problem"),
    [
        ("liked", ["True", "no", "yes", "false"], ["0", "2"], "rating in words"),
        ("liked", ["👍", "👎", "like", "dislike"], ["0", "2"], "rating in words"),
        ("plays", ['"1,234"', "0", '"2,000,000"', "0.5"], ["0", "2"], "rating with commas"),
        ("rating", ['"4,5"', '"0,125"', "1", "0"], ["0", "2"], "rating with commas"),
    ],
)
def test_ratings_that_are_no_plain_numbers(tmp_path, column, cells, kept, problem):
    path = put(tmp_path, log(column, cells))
    found, reported = log_of(path, columns={"rating": column}, min_rating=1)
    assert found == kept
    assert problem in reported


@pytest.mark.parametrize("cell", ["5 stars", "★★", "4/5", "bad"])
def test_ratings_in_other_words_are_counted_or_refused(tmp_path, cell):
    path = put(tmp_path, log("rating", [cell, cell]))
    assert log_of(path)[1]["rating that is no number"].count == 2
    with pytest.raises(DataError, match=r"must be a number.*--clicks-column event=rating --event WORD=click"):
        log_of(path, min_rating=3)


@pytest.mark.parametrize(
    ("column", "ours"),
    [
        ("is_click", "rating"),
        ("UserRating", "rating"),
        ("rating (1-5)", "rating"),
        ("label", "rating"),
        ("voted_up", "rating"),
        ("watch_seconds", "rating"),
        ("event_type", "event"),
        ("behavior", "event"),
    ],
)
def test_a_column_that_says_which_rows_count_is_never_passed_over_in_silence(tmp_path, column, ours):
    kept, reported = log_of(put(tmp_path, log(column, ["1", "0"])))
    assert len(kept) == 2
    assert f"{ours}={column}" in reported[f"column that may be the {ours}"].action


@pytest.mark.parametrize("column", ["session", "price", "country", "device", "platform", "position"])
def test_other_columns_of_a_log_are_left_out_without_a_word(tmp_path, column):
    assert log_of(put(tmp_path, log(column, ["1", "0"])))[1] == {}


def test_a_missing_column_names_those_that_may_be_it(tmp_path):
    path = put(tmp_path, "user_id,note_id,event_time\n1,1,2024-01-01\n")
    assert log_of(path)[1]["no column 'timestamp'"].example == "perhaps event_time"
    path = put(tmp_path, "note_id,title,description,Genres,brand\n1,a,b,c,d\n")
    examples = {each.problem: each.example for each in read_notes(path).report.problems}
    assert examples["no column 'content'"] == "perhaps description"
    assert examples["no column 'topics'"] == "perhaps Genres"
    assert examples["no column 'published_at'"] == ""


def test_missing_events_and_events_of_several_words_name_the_option(tmp_path):
    path = put(tmp_path, log("event", ["click", "", "add to cart", "add to cart"]))
    clicks = read_clicks(path).table
    notes = pa.table({"note_id": ["0", "1", "2", "3"], "title": ["a"] * 4})
    reported = {each.problem: each for each in validate(notes, clicks)[2].problems}
    assert reported["missing event"].count == 1
    assert "--event =click" in reported["missing event"].action
    assert "--event 'add to cart=click'" in reported["unknown event"].action
    assert log_of(path, events={"": "click", "add to cart": "drop"})[0] == ["0", "1"]


def topics_of(folder, cells, **options):
    path = put(
        folder, "note_id\ttitle\ttopics\n" + "".join(f"{cell}\ta\t{cell}\n" for cell in cells), "t.tsv"
    )
    result = read_notes(path, options=ReadOptions(quoting="none", **options))
    return result.table["topics"].to_pylist(), counts(result.report)


@pytest.mark.parametrize(
    ("cells", "topics", "problem"),
    [
        (["['a' 'b c']", "['d']"], [["a", "b c"], ["d"]], "topics as a Python list"),
        (["array(['a', 'b'], dtype=object)", "[]"], [["a", "b"], []], "topics as a Python list"),
        (["('a',)", "('b', 'c')"], [["a"], ["b", "c"]], "topics as a Python list"),
        (['{a,"b c"}', "{}"], [["a", "b c"], []], "topics in brackets without quotes"),
        (["[a, b]", "[c]"], [["a", "b"], ["c"]], "topics in brackets without quotes"),
        (["<python><c#>", "<img>"], [["python", "c#"], ["img"]], "topics in angle brackets"),
        (["#美食##家 居#", "#c#"], [["美食", "家 居"], ["c"]], "topics as hashtags"),
        (["#a, #b", "#c,#d", "#e#f"], [["a", "b"], ["c", "d"], ["e", "f"]], "topics as hashtags"),
        (["美食，旅行", "家居；灯"], [["美食", "旅行"], ["家居", "灯"]], "topics separated by a guess"),
        (["'a','b'", "'c'"], [["a", "b"], ["'c'"]], "topics separated by a guess"),
        (['{"a": true, "b": false, "c": 2, "d": 0}'], [["a", "c"]], "nested value"),
    ],
)
def test_forms_of_topics(tmp_path, cells, topics, problem):
    found, reported = topics_of(tmp_path, cells)
    assert found == topics
    assert problem in reported


def test_a_comma_in_few_topics_is_part_of_them(tmp_path):
    cells = ["Washington, D.C.", "Paris", "Rome"]
    assert topics_of(tmp_path, cells) == (
        [[each] for each in cells],
        {"topics with a comma that may separate": 1},
    )
    assert topics_of(tmp_path, cells, topic_separator=",")[0][0] == ["Washington", "D.C."]
    # Its parts are topics elsewhere, or most cells have one: then it separates.
    assert topics_of(tmp_path, ["tea, food", "food", "sea"])[0] == [["tea", "food"], ["food"], ["sea"]]
    assert topics_of(tmp_path, ["tea, food", "sea"])[0] == [["tea", "food"], ["sea"]]


@pytest.mark.parametrize(
    ("cells", "mark"), [(["a > b", "a > c"], ">"), (["a/b", "a/c"], "/"), (["a · b", "c · d"], "·")]
)
def test_marks_that_may_separate_topics_are_counted(tmp_path, cells, mark):
    found, reported = topics_of(tmp_path, cells)
    assert found == [[each] for each in cells]
    assert reported == {"topics that may be several": 2}
    assert len(topics_of(tmp_path, cells, topic_separator=mark)[0][0]) == 2


@pytest.mark.parametrize("cell", ["C#", "#1 hit", "[Live] music", "AC/DC", "R&B", "C++", "(un)known", "a<b"])
def test_topics_that_look_like_lists_stay_whole(tmp_path, cell):
    assert topics_of(tmp_path, [cell, "tea", "sea"])[0] == [[cell], ["tea"], ["sea"]]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Escape it as &lt;b&gt; and close it with &lt;/b&gt;.", "Escape it as <b> and close it with </b>."),
        ("<p>Write &lt;b&gt;so&lt;/b&gt;</p>", "Write <b>so</b>"),
        ("&lt;script&gt; is closed by &lt;/script&gt;", "<script> is closed by </script>"),
        ("&lt;p&gt;From a &lt;b&gt;feed&lt;/b&gt;&lt;/p&gt;", "From a feed"),
    ],
)
def test_escaped_tags_of_a_text_about_tags_stay(tmp_path, text, read):
    assert notes_of(put(tmp_path, f"note_id,title\n1,{text}\n"))[0] == [("1", read)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cafÃ© crÃ¨me", "text that was decoded by another encoding"),
        ("donâ€™t", "text that was decoded by another encoding"),
        ("Crï¿½a", "text that was decoded by another encoding"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "text that was decoded by another encoding"),
        (r"caf\u00e9", "escapes of characters in a text"),
    ],
)
def test_damage_of_an_earlier_export_is_counted(tmp_path, text, problem):
    assert notes_of(put(tmp_path, f"note_id,title\n1,{text}\n")) == ([("1", text)], {problem: 1})


@pytest.mark.parametrize(
    "text", ["PÃO DE QUEIJO", "Âme", "Ñandú", "Ðuro", r"C:\users\new", "â", "None of us", "NaN bread"]
)
def test_texts_that_look_damaged_stay_without_a_word(tmp_path, text):
    assert notes_of(put(tmp_path, f"note_id,title\n1,{text}\n")) == ([("1", text)], {})


A_AND_B = [("1", "A"), ("2", "B")]
ROWS = [{"note_id": 1, "title": "A"}, {"note_id": 2, "title": "B"}]


@pytest.mark.parametrize(
    "value",
    [
        {"data": ROWS, "total": 2},
        {"took": 1, "hits": {"total": 2, "hits": [{"_id": "x", "_source": row} for row in ROWS]}},
        {"data": {"products": {"edges": [{"cursor": "x", "node": row} for row in ROWS]}}},
        {"type": "FeatureCollection", "features": [{"geometry": {}, "properties": row} for row in ROWS]},
        {"n1": ROWS[0], "n2": ROWS[1]},
        [{"node": row} for row in ROWS],
        {"note_id": [1, 2], "title": ["A", "B"], "brand": ["x", "y"]},
        {"note_id": {"0": 1, "1": 2}, "title": {"0": "A", "1": "B"}},
        {"columns": ["note_id", "title"], "index": [0, 1], "data": [[1, "A"], [2, "B"]]},
        {
            "documents": [
                {"name": "x", "fields": {"note_id": {"integerValue": n}, "title": {"stringValue": title}}}
                for n, title in (("1", "A"), ("2", "B"))
            ]
        },
    ],
    ids=["API", "Elastic", "GraphQL", "GeoJSON", "keys", "nodes", "columns", "pandas", "split", "Firestore"],
)
def test_rows_inside_of_json(tmp_path, value):
    rows, reported = notes_of(put(tmp_path, json.dumps(value), "t.json"))
    assert rows == A_AND_B
    assert reported["rows inside of another value"] == 2


@pytest.mark.parametrize(
    "row",
    [
        {"note_id": 1, "related": [{"note_id": 2, "title": "B"}], "title": "A"},
        {"note_id": 1, "comments": ROWS, "title": "A", "data": ROWS},
    ],
)
def test_rows_with_rows_inside_of_them_are_rows(tmp_path, row):
    assert notes_of(put(tmp_path, json.dumps(row), "t.json")) == ([("1", "A")], {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"notes": ROWS, "old": ROWS}, "no column 'note_id'"),
        ({"note_id": [1, 2], "title": "A"}, "write a row for each entry"),
        (
            {"note_id": {"type": "uri", "value": "7"}, "title": {"type": "x", "value": "A"}},
            "say which is meant",
        ),
    ],
)
def test_json_whose_rows_are_not_obvious_is_refused(tmp_path, value, message):
    with pytest.raises(DataError, match=message):
        read_notes(put(tmp_path, json.dumps(value), "t.json"))


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ('{"note_id":1,"title":"A"}{"note_id":2,"title":"B"}\n', {}),
        ('{"note_id":1,"title":"A"}, {"note_id":2,"title":"B"},\n', {}),
        ('{"note_id":1,"title":"A"},\n{"note_id":2,"title":"B"},\n', {}),
        ('{"note_id":1,"title":"x","title":"A"}\n{"note_id":2,"title":"B"}\n', {"key twice in an object": 1}),
        (
            '{"note_id":1,"title":"A"}\n{"note_id":2,"title":"B","category":Infinity}\n',
            {"NaN or infinite number": 1},
        ),
        (
            '\ufeff{"note_id":1,"title":"A"}\n{"note_id":2,"title":"B","category":NaN}\n',
            {"NaN or infinite number": 1},
        ),
    ],
    ids=["two a line", "commas between", "commas at ends", "key twice", "infinity", "NaN"],
)
def test_json_lines_of_other_writers(tmp_path, text, reported):
    assert notes_of(put(tmp_path, text, "t.json")) == (A_AND_B, reported)


def test_an_infinite_id_is_none(tmp_path):
    path = put(tmp_path, '{"note_id":Infinity,"title":"A"}\n', "t.json")
    assert notes_of(path) == ([(None, "A")], {"NaN or infinite number": 1})


@pytest.mark.parametrize(
    "topics",
    [
        {"SS": ["a", "b"]},
        {"L": [{"S": "a"}, {"S": "b"}]},
        {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}},
    ],
)
def test_topics_with_the_types_of_stores(tmp_path, topics):
    path = put(tmp_path, json.dumps({"note_id": 1, "title": {"NULL": True}, "topics": topics}), "t.json")
    assert read_notes(path).table.to_pylist()[0]["topics"] == ["a", "b"]
    assert notes_of(path)[0] == [("1", None)]


def test_json_in_utf_16(tmp_path):
    for encoding in ("utf-16", "utf-16-le"):
        path = put(tmp_path, json.dumps(ROWS).encode(encoding), "t.json")
        assert notes_of(path) == (A_AND_B, {"text in UTF-16 or UTF-32": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(gzip.compress(NOTES.encode())), "compressed twice"),
        (gzip.compress(b"n.csv".ljust(257, b"\0") + b"ustar\0" + bytes(250)), "a tar archive"),
        (bytes(range(1, 32)) * 20, "is no text"),
    ],
    ids=["gzip in gzip", "tar", "bytes"],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_notes(put(tmp_path, content, "t.csv"))


def times_of(folder, cells):
    rows = "".join(f"u;{n};{cell}\n" for n, cell in enumerate(cells))
    result = read_clicks(
        put(folder, f"user_id;note_id;timestamp\n{rows}"), options=ReadOptions(separator=";")
    )
    return [
        time and time.strftime("%Y-%m-%d %H:%M") for time in result.table["timestamp"].to_pylist()
    ], counts(result.report)


@pytest.mark.parametrize(
    ("cell", "time"),
    [
        ("10/Oct/2000:13:55:36 -0700", "2000-10-10 20:55"),
        ("02/Jan/2024 03:04", "2024-01-02 03:04"),
        ("1. März 2024 10:00", "2024-03-01 10:00"),
        ("1 février 2024", "2024-02-01 00:00"),
        ("1er août 2024", "2024-08-01 00:00"),
        ("1 de enero de 2024", "2024-01-01 00:00"),
        ("1 января 2024 г. 10:00", "2024-01-01 10:00"),
        ("2024년 3월 1일 10:00", "2024-03-01 10:00"),
        ("/Date(1700000000000+0100)/", "2023-11-14 22:13"),
    ],
)
def test_times_of_other_programs_and_languages(tmp_path, cell, time):
    assert times_of(tmp_path, [cell]) == ([time], {})


@pytest.mark.parametrize(
    "cell", ["1 brumaire 2024", "31 février 2024", "10/Abc/2000:13:55:36", "/Date(x)/", "1er"]
)
def test_times_in_no_form_are_counted(tmp_path, cell):
    assert times_of(tmp_path, [cell]) == ([None], {"unreadable time": 1})


def test_ticks_of_net_are_no_nanoseconds_of_1990(tmp_path):
    found, reported = times_of(tmp_path, ["638400000000000000", "638400000600000000"])
    assert found == ["2024-01-04 21:20", "2024-01-04 21:21"]
    assert reported == {"a number that is 100 ns since the year 1, as .NET counts": 2}
    assert times_of(tmp_path, ["1700000000000000000"]) == (["2023-11-14 22:13"], {})


def test_times_as_floats_of_32_bits_are_counted(tmp_path):
    table = {"user_id": ["u"], "note_id": ["1"], "timestamp": pa.array([1.7e9]).cast(pa.float32())}
    pq.write_table(pa.table(table), tmp_path / "c.parquet")
    assert counts(read_clicks(tmp_path / "c.parquet").report) == {"time as a float of 32 bits": 1}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("赤いランプと台所", "shift_jis"),
        ("紅色的檯燈很好看", "big5"),
        ("Красная лампа", "cp1251"),
    ],
)
def test_an_encoding_is_not_taken_for_damaged_utf_8(tmp_path, text, encoding):
    rows, reported = notes_of(put(tmp_path, f"note_id,title\n1,{text}\n".encode(encoding)))
    assert rows == [("1", text)]
    assert list(reported) == ["text that is not UTF-8"]


def test_lines_in_two_encodings(tmp_path):
    lines = [b"note_id,title", "1,café".encode(), "2,café".encode("cp1252"), "3,don’t".encode("cp1252")]
    rows, reported = notes_of(put(tmp_path, b"\n".join(lines)))
    assert rows == [("1", "café"), ("2", "café"), ("3", "don’t")]
    assert reported == {"lines in UTF-8 and in another encoding": 2}


def test_a_cut_character_is_damage_and_no_other_encoding(tmp_path):
    content = "note_id,title\n1,déjà vu café\n2,caf".encode() + b"\xc3\n3," + "Ä".encode()[:1] + b"\n"
    rows, reported = notes_of(put(tmp_path, content))
    assert rows == [("1", "déjà vu café"), ("2", "caf\ufffd"), ("3", "\ufffd")]
    assert reported == {"broken UTF-8": 2}


def test_parts_that_are_empty_or_lack_columns_are_counted(tmp_path):
    put(tmp_path, "note_id,title,category\n1,A,x\n", "category=a/p1.csv")
    put(tmp_path, "title,note_id\nB,2\n", "p2.csv")
    put(tmp_path, "", "p3.csv")
    rows, reported = notes_of(tmp_path)
    assert rows == A_AND_B
    assert reported == {
        "table in several files": 2,
        "files without 'category'": 1,
        "columns in folder names": 1,
        "empty file": 1,
    }


def test_a_folder_with_another_file_says_how_to_leave_it_out(tmp_path):
    put(tmp_path, NOTES, "notes.csv")
    put(tmp_path, "user_id,note_id\nu,1\n", "clicks.csv")
    with pytest.raises(DataError, match=r"clicks\.csv is one of 2 files: leave it out with a pattern"):
        read_notes(tmp_path)


def test_a_missing_column_of_json_says_nothing_of_header_lines(tmp_path):
    with pytest.raises(DataError, match="no column 'note_id'") as error:
        read_notes(put(tmp_path, '{"id": 1, "title": "A"}', "t.json"))
    assert "--no-header" not in str(error.value)
    with pytest.raises(DataError, match="--separator says what is between cells"):
        read_notes(put(tmp_path, "note_id^title\n1^A\n"))


def test_titles_that_name_a_type_stay(tmp_path):
    assert notes_of(put(tmp_path, "note_id,title\n1,String\n2,date\n"))[0] == [("1", "String"), ("2", "date")]
