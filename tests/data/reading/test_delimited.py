"""Rows of delimited text: quotes that are closed, quotes that are not, and rows that do not fit."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.problems import Report
from notellm.data.read import read_clicks, read_notes
from notellm.data.reading import delimited, encoding
from notellm.data.reading.delimited import read_delimited
from notellm.data.reading.dialect import Dialect
from notellm.data.reading.options import ReadOptions
from notellm.errors import DataError
from tests.data.reading.files import found, problems, put

STRAY, RAGGED, QUOTES = (
    "stray quote mark",
    "other number of cells than the header",
    "quotes by other rules than two for one",
)


def notes_of(path, **options):
    """Return (id, title, content) of each row, and the report."""
    result = read_notes(path, options=ReadOptions(missing="", markup="keep", **options))
    names = [name for name in ("note_id", "title", "content") if name in result.roles]
    rows = list(zip(*(result.table[name].to_pylist() for name in names), strict=True))
    return rows, result.report


def plain(count, separator=",", first=0):
    return [separator.join([str(first + i), f"title {i}", f"text {i}"]) for i in range(count)]


def rows_of(lines, separator=","):
    return [tuple(line.split(separator)) for line in lines]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of some hundred characters instead of 4 MiB."""
    whole = encoding.decoded_blocks

    def cut(path, of):
        rest = ""
        for block in whole(path, of):
            for line in io.StringIO(rest + block, newline=""):
                rest += line
                if len(rest) > 300:
                    yield rest
                    rest = ""
        if rest:
            yield rest

    monkeypatch.setattr("notellm.data.reading.table.decoded_blocks", cut)


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::", "\x01"])
def test_every_separator(tmp_path, separator):
    lines = ["note_id,title,content", "1,a b,x", "2,,y", '3,"q, ""r""",z', '4,"two\nlines",']
    rows = [next(csv.reader([line])) for line in lines]
    rows[3][1] = f"q{separator}r"
    text = "".join(
        separator.join(f'"{cell}"' if separator in cell or "\n" in cell else cell for cell in row) + "\n"
        for row in rows
    )
    found_rows, report = notes_of(put(tmp_path, "n.csv", text))
    assert found_rows == [
        ("1", "a b", "x"),
        ("2", "", "y"),
        ("3", f"q{separator}r", "z"),
        ("4", "two\nlines", ""),
    ]
    assert not {STRAY, RAGGED, QUOTES} & set(problems(report))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_every_line_end(tmp_path, end, last):
    text = end.join(["note_id,title,content", "1,a,x", '2,"b, c",y', "3,d,z"]) + (end if last else "")
    found_rows, report = notes_of(put(tmp_path, "n.csv", text))
    assert found_rows == [("1", "a", "x"), ("2", "b, c", "y"), ("3", "d", "z")]
    assert not problems(report)


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("place", [0, 1, 20, 38, 39])
@pytest.mark.parametrize("stray", ['"title', 'ti"tle', 'title"', '"ti"tle', '"title" more', '12" disc'])
@pytest.mark.usefixtures("small_blocks")
def test_a_stray_quote_takes_no_other_row(tmp_path, separator, place, stray):
    """At the beginning, at the border of blocks, in the middle and at the end of the file."""
    lines = plain(40, separator)
    parts = lines[place].split(separator)
    lines[place] = separator.join([parts[0], stray, parts[2]])
    text = "\n".join([separator.join(["note_id", "title", "content"]), *lines]) + "\n"
    for name, options in (("guessed", {}), ("stated", {"quoting": "double"})):
        found_rows, report = notes_of(put(tmp_path, f"{name}.txt", text), separator=separator, **options)
        assert found_rows == rows_of(lines, separator), name
        if stray.startswith('"'):
            assert {STRAY, QUOTES} & set(problems(report)), name
        assert RAGGED not in problems(report)


@pytest.mark.parametrize("place", [0, 1, 5, 20, 38, 39])
@pytest.mark.usefixtures("small_blocks")
def test_a_stray_quote_among_well_quoted_rows(tmp_path, place):
    lines = [f'{i},"title, {i}",text {i}' for i in range(40)]
    expected = [(str(i), f"title, {i}", f"text {i}") for i in range(40)]
    lines[place] = f'{place},"never closed,text'
    expected[place] = (str(place), '"never closed', "text")
    path = put(tmp_path, "n.csv", "note_id,title,content\n" + "\n".join(lines) + "\n")
    found_rows, report = notes_of(path)
    assert found_rows == expected
    row = found(report, STRAY)
    assert (row.count, row.example) == (1, f"line {place + 2}: {lines[place]}")


@pytest.mark.usefixtures("small_blocks")
def test_two_stray_quotes_do_not_hide_the_rows_between_them(tmp_path):
    for first, second in ((3, 4), (3, 9), (2, 35), (0, 39)):
        lines = [f'{i},"title, {i}",text {i}' if i % 5 == 1 else f"{i},title {i},text {i}" for i in range(40)]
        expected = [(str(i), f"title, {i}" if i % 5 == 1 else f"title {i}", f"text {i}") for i in range(40)]
        for place in (first, second):
            lines[place] = f'{place},"stray,text'
            expected[place] = (str(place), '"stray', "text")
        path = put(tmp_path, "n.csv", "note_id,title,content\n" + "\n".join(lines) + "\n")
        found_rows, report = notes_of(path)
        assert found_rows == expected, (first, second)
        assert problems(report)[STRAY] == 2


@pytest.mark.usefixtures("small_blocks")
def test_quotes_in_a_quoted_cell_that_are_not_doubled(tmp_path):
    lines = [f'{i},"title, {i}",text {i}' for i in range(30)]
    lines[7] = '7,"The "best" tea, ever",text 7'
    lines[8] = '8,"a "quote" over\ntwo lines, too",text 8'
    found_rows, report = notes_of(put(tmp_path, "n.csv", "note_id,title,content\n" + "\n".join(lines) + "\n"))
    assert len(found_rows) == 30
    assert found_rows[7] == ("7", 'The "best" tea, ever', "text 7")
    assert found_rows[8] == ("8", 'a "quote" over\ntwo lines, too', "text 8")
    assert problems(report) == {STRAY: 2}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.usefixtures("small_blocks")
def test_cells_over_many_lines_stay_whole(tmp_path, end):
    """Also where lines of a cell look like rows in part, and where a block ends in a cell."""
    cell = end.join(["First, mix.", "", "1. bake it, then", "2. eat it", 'say ""mm""', "end"])
    lines = [f'{i},"title, {i}","{cell}"' for i in range(40)]
    path = put(tmp_path, "n.csv", "note_id,title,content" + end + end.join(lines) + end)
    found_rows, report = notes_of(path)
    inner = cell.replace('""', '"')
    assert found_rows == [(str(i), f"title, {i}", inner) for i in range(40)]
    assert not problems(report)


@pytest.mark.usefixtures("small_blocks")
def test_a_cell_of_ten_thousand_lines_stays_whole(tmp_path):
    cell = "".join(f"line {i}, of verse\n" for i in range(10_000))
    found_rows, report = notes_of(
        put(tmp_path, "n.csv", f'note_id,title,content\n1,"a, b","{cell}"\n2,c,d\n')
    )
    assert found_rows == [("1", "a, b", cell.strip()), ("2", "c", "d")]
    assert not problems(report)


@pytest.mark.usefixtures("small_blocks")
def test_backslash_quoting_over_blocks(tmp_path):
    lines = [f'{i},"say \\"{i}\\", twice",C:\\dir' for i in range(40)]
    found_rows, report = notes_of(put(tmp_path, "n.csv", "note_id,title,content\n" + "\n".join(lines) + "\n"))
    assert found_rows == [(str(i), f'say "{i}", twice', "C:\\dir") for i in range(40)]
    assert found(report, QUOTES).option == "--quoting 'notes=backslash'"


def test_escaped_quotes_in_cells_without_quotes(tmp_path):
    path = put(tmp_path, "n.csv", 'note_id,title,content\n1,\\"a\\" b,\\"\n2,"c, \\"d\\"",e\\\\\n')
    found_rows, report = notes_of(path, quoting="backslash")
    assert found_rows == [("1", '"a" b', '"'), ("2", 'c, "d"', "e\\")]
    assert not problems(report)


@pytest.mark.usefixtures("small_blocks")
def test_without_quoting_every_quote_is_text(tmp_path):
    lines = [f'{i}\t"title" {i}\tfor 5" discs' for i in range(40)]
    path = put(tmp_path, "n.tsv", "note_id\ttitle\tcontent\n" + "\n".join(lines) + "\n")
    for options in ({}, {"quoting": "none"}):
        found_rows, report = notes_of(path, **options)
        assert found_rows == [(str(i), f'"title" {i}', 'for 5" discs') for i in range(40)]
        assert set(problems(report)) == ({QUOTES} if not options else set())


def test_trailing_separators_and_ragged_rows(tmp_path):
    text = "note_id,title,\n1,a,\n2,b,,,\n3\n4,c,d,e\n\n5,f,\n"
    found_rows, report = notes_of(put(tmp_path, "n.csv", text))
    assert found_rows == [("1", "a"), ("2", "b"), ("5", "f")]
    row = found(report, RAGGED)
    assert (row.count, row.example) == (2, "line 4: 1 cells, not 3")
    found_rows, report = notes_of(put(tmp_path, "m.csv", "note_id,title\n1,a,\n2,b,,\n"))
    assert found_rows == [("1", "a"), ("2", "b")]
    row = found(report, "empty cells after the last column")  # a cell before them may have been two
    assert (row.count, row.example) == (2, "line 2: 1,a,")


@pytest.mark.usefixtures("small_blocks")
def test_lines_are_counted_over_blocks_and_cells_of_several_lines(tmp_path):
    lines = [f'{i},"two\nlines, {i}",text' for i in range(50)]
    text = "note_id,title,content\n" + "\n".join(lines) + "\nragged\n"
    _, report = notes_of(put(tmp_path, "n.csv", text))
    assert found(report, RAGGED).example == "line 102: 1 cells, not 3"


def test_nul_and_control_characters_stay_in_their_cells(tmp_path):
    text = "note_id,title,content\n1,a\x00b,x\x0by\n2,c\x85d,e\u2028f\x1cg\n"
    for quote in ("", '3,"q, r",s\n'):
        found_rows, _ = notes_of(put(tmp_path, "n.csv", text + quote))
        assert found_rows[:2] == [("1", "a\x00b", "x\x0by"), ("2", "c\x85d", "e\u2028f\x1cg")]


def test_no_row_that_fits_is_an_error_with_a_way_out(tmp_path):
    path = put(tmp_path, "c.csv", "user_id,note_id\n1;2\n3;4\n")
    with pytest.raises(
        DataError, match=r"all 2 have another number of cells.*line 2: 1 cells, not 2.*--separator"
    ):
        read_clicks(path)


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"'), max_size=6)
any_cells = st.text(
    st.one_of(st.sampled_from('",\n a'), st.characters(exclude_categories=["Cs", "Cc"])), max_size=6
)
PLACES = {"note_id": 0, "title": 1, "content": 2}


def table_of(text, *, by_csv):
    """Read text by Arrow where that is possible, or by the csv module alone."""
    report = Report()
    if by_csv:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(delimited._Reader, "split", lambda *_: None)
            return table_of(text, by_csv=False)
    dialect = Dialect(",", "double", is_guess=False)
    table = read_delimited([text], Path("n.csv"), lambda _: PLACES, report, dialect)
    return table.to_pydict(), [vars(each) for each in report.problems]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(cells, min_size=1, max_size=4), max_size=8), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_arrow_and_the_csv_module_read_the_same(rows, end):
    text = "note_id,title,content" + end + "".join(",".join(row) + end for row in rows) + "9,a,b" + end
    assert table_of(text, by_csv=False) == table_of(text, by_csv=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(any_cells, any_cells), min_size=1, max_size=12), st.integers(1, 60))
def test_well_quoted_rows_are_read_as_they_are_in_blocks_of_any_size(rows, size):
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    numbered = [(f"n{i}", *row) for i, row in enumerate(rows)]
    writer.writerows([("note_id", "title", "content"), *numbered])
    lines = list(io.StringIO(out.getvalue(), newline=""))
    blocks = ["".join(lines[i : i + size]) for i in range(0, len(lines), size)]
    report = Report()
    dialect = Dialect(",", "double", is_guess=False)
    table = read_delimited(blocks, Path("n.csv"), lambda _: PLACES, report, dialect)
    assert list(zip(*table.to_pydict().values(), strict=True)) == numbered
    assert not len(report)
