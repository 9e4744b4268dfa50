"""Separator and quoting: told by the rows, not by the name of the file."""

import pytest

from notellm.data.problems import Report
from notellm.data.reading.dialect import Dialect, quoting_of, separator_of

NAMES = {"note_id", "title", "content", "user_id", "timestamp"}
SEPARATORS = [",", "\t", ";", "|", "::", "\x01"]


def told(name, sample, chosen=None):
    report = Report()
    return separator_of(name, sample, NAMES, chosen, report), report


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("name", ["n.csv", "n.tsv", "n.txt", "n"])
def test_the_separator_is_the_one_that_gives_the_columns(name, separator):
    sample = (
        separator.join(["note_id", "title"]) + "\n" + separator.join(["1", "Tea, black; green|white"]) + "\n"
    )
    found, report = told(name, sample)
    assert found == separator
    by_name = "\t" if name == "n.tsv" else ","
    assert len(report) == (separator != by_name)
    for problem in report.problems:
        shown = "tab" if separator == "\t" else separator
        assert (problem.count, problem.option) == (2, f"--separator '{shown}'")


def test_the_rows_decide_where_no_name_is_ours():
    assert told("n.csv", "a;b;c\n1,5;2,5;3\n1;2;3\n")[0] == ";"
    assert told("n.csv", "a|b\n1|x, y\n2|z\n")[0] == "|"
    assert told("n.tsv", "a,b\n1,2\n")[0] == ","


def test_separators_in_quotes_do_not_count():
    rows = 'note_id;title\n1;"a, b, c"\n2;"d, e, f"\n3;"g, h, i"\n'
    assert told("n.csv", rows)[0] == ";"
    assert told("n.csv", 'note_id,title\n1,"a;b"\n2,"c;d"\n')[0] == ","


def test_one_column_and_nothing():
    assert told("n.csv", "note_id\n1\n2\n")[0] == ","
    assert told("n.tsv", "\n\n")[0] == "\t"


@pytest.mark.parametrize(
    ("chosen", "separator"),
    [
        ("tab", "\t"),
        ("\\t", "\t"),
        ("comma", ","),
        ("semicolon", ";"),
        ("pipe", "|"),
        ("space", " "),
        ("~", "~"),
    ],
)
def test_a_stated_separator_may_be_a_word(chosen, separator):
    found, report = told("n.csv", "note_id,title\n1,a\n", chosen)
    assert (found, len(report)) == (separator, 0)


@pytest.mark.parametrize(
    ("sample", "quoting"),
    [
        ("a,b\n1,2\n", "double"),
        ('a,b\n1,"x, y"\n', "double"),
        ('a,b\n1,"x ""y"""\n', "double"),
        ('a,b\n1,"x\ny"\n2,"z"\n', "double"),
        ('a,b\n1,"x \\"y\\", z"\n2,"q \\"r\\""\n', "backslash"),
        ('a,b\n1,x "y"\n', "double"),  # quotes inside a cell mean nothing in any way
        ('a,b\n1,"x\n2,y\n3,z\n', "none"),  # never closed
        ('a,b\n1,"x" y\n2,z\n', "none"),  # text after a closing quote
        ('a,b\n1,"x, y"\n2,"never\n3,z\n', "double"),  # most rows are well quoted
    ],
)
def test_quoting_is_told_by_the_rows(sample, quoting):
    assert quoting_of(sample, ",", None, whole=True).quoting == quoting


def test_a_row_that_the_sample_cuts_off_proves_nothing():
    sample = 'a,b\n1,"begins here\nand goes on\n'
    assert quoting_of(sample, ",", None, whole=False).quoting == "double"
    assert quoting_of(sample, ",", None, whole=True).quoting == "none"


def test_a_stated_quoting_is_no_guess():
    assert quoting_of('a,b\n1,"x\n', ",", "double", whole=True) == Dialect(",", "double", is_guess=False)


def test_text_is_prepared_and_cells_are_restored():
    movies = Dialect("::", "double")
    assert movies.prepared("a::b:c") == "a\x1fb:c"
    assert movies.restored(["b\x1fc"]) == ["b::c"]
    escaped = Dialect(",", "backslash")
    text = escaped.prepared('"x \\"y\\" C:\\\\d",\\N')
    assert text.count('"') == 2
    assert escaped.restored([text]) == ['"x "y" C:\\d",\\N']
    assert Dialect(",", "double").prepared('\\"') == '\\"'
