import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from polars.testing import assert_frame_equal

from notellm.artifacts.manifest import check_whole
from notellm.errors import DataError, MissingDependencyError, StorageError
from notellm.experiment.report.write import read_results, write_report
from notellm.experiment.results import FRAMES, Results, frame
from notellm.files import read_parquet, write_parquet
from notellm.record import fingerprint, make_record, read_record
from tests.experiment.results import HOSTILE, figure, realistic


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A written report of realistic results with a hostile title; tests must not change it."""
    folder = tmp_path_factory.mktemp("reports") / "report"
    write_report(realistic(HOSTILE), folder)
    return folder


def small(title="small"):
    """Results with one plot."""
    results = Results(title)
    rows = [figure("recall", "a", f"R@{k}", 0.1 * i, 9) for i, k in enumerate((10, 100), 1)]
    results.frames["figures"] = frame("figures", rows)
    return results


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_report_has_its_page_text_plots_and_figures(written):
    names = set(files(written))
    assert names >= {"report.html", "report.md", "results.json", "record.json", "manifest.json"}
    assert names >= {f"{name}.parquet" for name in FRAMES}
    check_whole(written)
    text = (written / "report.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"!\[[^]]*\]\((plots/[^)]+)\)", text))
    assert shown == {name for name in names if name.startswith("plots/")}
    assert len(shown) == 14


def test_plots_as_files_are_whole_and_legible_on_any_background(written):
    for path in (written / "plots").iterdir():
        svg = path.read_text(encoding="utf-8")
        assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
        assert svg.count("xmlns") == 1
        assert "background: #fff" in svg.partition(">")[0]


def test_what_is_read_back_is_what_was_written(written):
    wanted, found = realistic(HOSTILE), read_results(written)
    for name in FRAMES:
        assert_frame_equal(found.frames[name], wanted.frames[name])
        assert read_parquet(written / f"{name}.parquet").column_names == list(FRAMES[name])
    for name in ("title", "facts", "checks", "claims", "examples", "left_out"):
        assert getattr(found, name) == getattr(wanted, name)


def test_a_report_drawn_again_from_its_own_files_has_the_same_bytes(written, tmp_path):
    write_report(read_results(written), tmp_path / "again")
    assert files(tmp_path / "again") == files(written)


def test_an_earlier_report_is_replaced_whole(tmp_path):
    earlier = small()
    place = {"note_id": "n1", "category": "food", "x": 0.0, "y": 1.0}
    earlier.frames["map"] = frame("map", [place])
    write_report(earlier, tmp_path / "report")
    assert (tmp_path / "report" / "plots" / "map.svg").is_file()
    write_report(small(), tmp_path / "report")
    assert [path.name for path in (tmp_path / "report" / "plots").iterdir()] == ["recall-curves.svg"]
    assert read_results(tmp_path / "report").title == "small"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report"]


def test_files_of_others_and_edited_reports_are_kept(tmp_path):
    folder = tmp_path / "report"
    write_report(small(), folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"notes\.txt"):
        write_report(small(), folder, force=True)
    (folder / "notes.txt").unlink()
    (folder / "report.md").write_text("edited")
    with pytest.raises(StorageError, match=r"report\.md changed"):
        write_report(small(), folder)
    write_report(small("new"), folder, force=True)
    assert read_results(folder).title == "new"


def test_the_record_names_the_frames_and_the_figures_of_each_method(written):
    record = read_record(written)
    assert record["kind"] == "report"
    assert set(record["data"]) == set(FRAMES)
    table = read_parquet(written / "figures.parquet")
    assert record["data"]["figures"] == {"rows": table.num_rows, "fingerprint": fingerprint(table)}
    assert record["metrics"]["recall: NoteLLM, hybrid"]["R@100"] == 0.413


def test_a_given_record_is_kept(tmp_path):
    record = make_record(kind="report", config={"seeds": 3}, data={}, seed=7)
    write_report(small(), tmp_path / "report", record=record)
    assert read_record(tmp_path / "report") == record


def test_without_matplotlib_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        write_report(small(), tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", ["missing", "columns"])
def test_frames_of_another_form_are_refused(tmp_path, change):
    results = small()
    if change == "missing":
        del results.frames["costs"]
    else:
        results.frames["costs"] = results.frames["costs"].drop("steps")
    with pytest.raises(DataError, match=r"the frame 'costs' is .*it needs the columns table, part"):
        write_report(results, tmp_path / "report")
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_missing_files_are_named(tmp_path):
    folder = tmp_path / "report"
    with pytest.raises(StorageError, match=r"no such file: .*results\.json"):
        read_results(folder)
    write_report(small(), folder)
    values = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    others: list[Any] = [[], {**values, "checks": [{"name": "x"}]}, {**values, "examples": {"found": [{}]}}]
    for broken in others:
        (folder / "results.json").write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(DataError, match=r"results\.json is not the results of an experiment"):
            read_results(folder)
    (folder / "results.json").write_text(json.dumps(values), encoding="utf-8")
    write_parquet(read_parquet(folder / "map.parquet").drop_columns("x"), folder / "map.parquet", force=True)
    with pytest.raises(DataError, match="the frame 'map' is with the columns"):
        read_results(folder)
    (folder / "map.parquet").unlink()
    with pytest.raises(StorageError, match=r"no such file: .*map\.parquet"):
        read_results(folder)


def test_a_command_that_is_no_text_is_written_as_what_it_is(tmp_path):
    results = small("a\ud800b")
    results.facts["command"] = "notellm experiment d\udce9p\udcf4t"
    write_report(results, tmp_path / "report")
    assert "d\\udce9p\\udcf4t" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert read_results(tmp_path / "report").title == "a\\ud800b"


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_markdown_has_the_tables_of_the_page(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    head, rows = next(
        (cells(lines[0]), [cells(each) for each in lines[2:]])
        for block in text.split("\n\n")
        if (lines := block.splitlines()) and lines[0].startswith("| method | seeds | R@10 ")
    )
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert table["NoteLLM, hybrid"]["R@100"] == "41.3 ± 0.4 ★ [39.3, 43.3]"
    assert table["TF-IDF"]["R@100"] == "32.9 [30.9, 34.9]"
    assert "2,167 queries; pool of 5,766 notes" in text
    assert "| alpha: weight of the writing loss, α |" in text.replace("*", "")
    page = (written / "report.html").read_text(encoding="utf-8")
    titles = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [title.replace("&#x27;", "'") for title in titles]


def test_a_hostile_text_is_no_markup_in_markdown(written):
    text = (written / "report.md").read_text(encoding="utf-8")
    lines = [each for each in text.splitlines() if "evil" in each]
    assert lines
    for each in lines:
        assert r"\<script>" in each
        assert not re.search(r"(?<!\\)<[a-z/]", each)
        assert not re.search(r"(?<!\\)\]\(", each)
        assert "http://" not in each
        assert r"\`code\` \*\*bold\*\*" in each
    for each in text.splitlines():
        if each.startswith("|"):
            assert each.endswith("|")


def test_rows_of_a_markdown_table_have_as_many_cells_as_its_head(written):
    for block in Path(written / "report.md").read_text(encoding="utf-8").split("\n\n"):
        rows = [cells(each) for each in block.splitlines() if each.startswith("|")]
        assert len({len(row) for row in rows}) <= 1
