import unicodedata

from notellm.data.problems import PROBLEMS, Report


def test_only_what_happened_is_reported():
    report = Report()
    report.add("nothing", "here", 0, "", "nothing done")
    assert len(report) == 0
    assert str(report) == "no problems found"
    assert report.table().num_rows == 0


def test_table_has_a_row_a_kind_and_reports_join():
    first, second = Report(), Report()
    first.add("empty id", "notes: note_id", 3, "x", "rows dropped")
    second.add("click twice", "clicks", 1_234_567, None, "the first row kept")
    table = (first + second).table()
    assert table.schema.equals(PROBLEMS)
    assert table.column("count").to_pylist() == [3, 1_234_567]
    assert len(first) == 1


def test_rendering_is_one_aligned_table_whatever_the_example_holds():
    report = Report()
    report.add("a", "w", 1, "two\nlines\x00 and a tab\t", "done")
    report.add("b", "w", 22, "汉字" * 100, "done")
    report.add("c", "w", 1_000, "\ud800 lone", "done")
    lines = str(report).splitlines()
    assert len(lines) == 2 + 3
    assert "1,000" in lines[-1]
    assert "\\n" in lines[2]

    def width(text):
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

    # The last column starts at the same place in every line.
    assert {width(line[: line.rindex("done")]) for line in lines[2:]} == {
        width(lines[0][: lines[0].rindex("action")])
    }
