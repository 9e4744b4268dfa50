import re
from html.parser import HTMLParser
from typing import Any

import polars as pl
import pytest

from notellm.experiment.report.findings import Findings
from notellm.experiment.report.page import html_page
from notellm.experiment.report.plots import draw_plots
from notellm.experiment.report.sections import build_report
from notellm.experiment.report.words import duration, form_of, option_name, probability, visible
from notellm.experiment.results import FRAMES, Results, frame
from tests.experiment.results import HOSTILE, RECALL, difference, figure, realistic

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """What a page holds: all start tags, texts by place, tables as rows of cells.

    A cell is its classes and its texts, one for each of its lines.
    """

    def __init__(self, text):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.path: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[Any] = []
        self.sections: dict[Any, str] = {}
        self.text = ""
        self.order: list[Any] = []
        self.feed(text)
        assert not self.path, "a tag is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.path.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append((self.section(), []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append((dict(attrs).get("class", ""), []))
        elif tag == "section":
            self.sections[dict(attrs)["id"]] = ""
            self.order.append(dict(attrs)["id"])
        elif tag == "div" and dict(attrs).get("class") == "alarm":
            self.order.append("alarm")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.path, f"</{tag}> closes nothing"
        assert self.path.pop()[0] == tag

    def handle_data(self, data):
        inside = [tag for tag, _ in self.path]
        if "style" in inside or "title" in inside:
            return
        self.text += data
        if self.section() is not None:
            self.sections[self.section()] += data
        if ("td" in inside or "th" in inside) and "svg" not in inside:
            self.tables[-1][1][-1][-1][1].append(data)

    def section(self):
        return next((attrs["id"] for tag, attrs in self.path if tag == "section"), None)

    def table(self, section, at=0):
        """A table of a section by row and column: (classes, texts)."""
        found = [rows for place, rows in self.tables if place == section][at]
        head = ["".join(texts) for _, texts in found[0]]
        return {
            "".join(row[0][1]): dict(zip(head[1:], row[1:], strict=True))
            for row in found[1:]
            if len(row) == len(head)
        }


def page_of(results, drawings=()):
    return Page(html_page(build_report(results, list(drawings))))


@pytest.fixture(scope="module")
def page():
    """The page of realistic results with a hostile title, with its plots; tests must not change it."""
    results = realistic(HOSTILE)
    return page_of(results, draw_plots(results))


def small(*rows, differences=()):
    results = Results("small")
    results.frames["figures"] = frame("figures", list(rows))
    results.frames["differences"] = frame("differences", list(differences))
    return page_of(results)


def number(text):
    return float(text.split()[0].replace(",", "").replace("−", "-"))


def test_the_page_needs_nothing_else_and_runs_nothing(page):
    for tag, attrs in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "form", "base", "image")
        for name, value in attrs.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "data", "action", "xlink:href")
            assert name != "href" or value.startswith("#")
            assert "http:" not in (value or "")
            assert "https:" not in (value or "")


def test_links_lead_to_places_of_the_page(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    wanted = {attrs["href"].removeprefix("#") for _, attrs in page.tags if "href" in attrs}
    labels = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert wanted | labels <= set(ids)
    assert set(page.sections) <= wanted


def test_a_hostile_text_stays_text_and_shows_its_hidden_characters(page):
    shown = page.sections["examples"]
    assert visible(HOSTILE) in shown
    assert "\\u202e" in shown
    assert "\\u001b[31m" in shown
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x1b]", page.text)


def test_hostile_names_of_everything_stay_text():
    results = realistic()
    for name, table in results.frames.items():
        texts = [
            c for c, kind in FRAMES[name].items() if kind == pl.String and c not in ("table", "breakdown")
        ]
        hostile = [(pl.col(c) + HOSTILE).alias(c) for c in texts if c not in ("group", "part", "setting")]
        results.frames[name] = table.with_columns(hostile)
    results.title += HOSTILE
    results.facts = {key + HOSTILE: value + HOSTILE for key, value in results.facts.items()}
    results.left_out.append(HOSTILE)
    plain = {tag for tag, _ in page_of(realistic()).tags}
    found = page_of(results)
    assert {tag for tag, _ in found.tags} <= plain
    assert found.text.count("<script>") > 20


def test_every_figure_of_recall_is_in_its_row_and_column(page):
    table = page.table("recall")
    assert list(table) == list(RECALL)
    for method, means in RECALL.items():
        for name, mean in zip(("R@10", "R@100", "R@1000", "MRR"), means, strict=True):
            classes, lines = table[method][name]
            decimals = 2 if name == "MRR" else 1
            assert number(lines[0]) == pytest.approx(100 * mean, abs=0.5 / 10**decimals)
            low, high = 100 * max(0, mean - 0.02), 100 * (mean + 0.02)
            assert lines[-1] == f"[{low:.{decimals}f}, {high:.{decimals}f}]"
            assert ("± 0.4" in lines[0]) == (method.startswith("NoteLLM"))
            assert "number" in classes
    assert "2,167 queries; pool of 5,766 notes" in page.sections["recall"]


def test_the_best_of_each_column_is_marked_and_no_other(page):
    for section, at in (("recall", 0), ("writing", 0), ("writing", 1), ("rank", 0)):
        table = page.table(section, at)
        for name in next(iter(table.values())):
            values = {method: number(row[name][1][0]) for method, row in table.items()}
            marked = {method for method, row in table.items() if "best" in row[name][0].split()}
            least = name in ("ECE", "ill-formed")
            wanted = min(values.values()) if least else max(values.values())
            if name in ("seeds", "topics"):
                assert not marked
            else:
                assert marked == {method for method, value in values.items() if value == wanted}


def test_what_cannot_be_told_from_the_best_is_marked(page):
    table = page.table("recall")
    marked = {
        (method, name)
        for method, row in table.items()
        for name, (classes, _) in row.items()
        if "level" in classes.split()
    }
    rows = (
        realistic()
        .frames["differences"]
        .filter(
            (pl.col("table") == "recall")
            & (pl.col("against") == "NoteLLM, hybrid")
            & (pl.col("p_adjusted") >= 0.05)
        )
    )
    assert marked == set(rows.select("method", "figure").rows())
    assert ("NoteLLM", "R@100") in marked
    assert ("TF-IDF", "R@100") not in marked


def test_differences_show_interval_and_both_p_values_in_their_row(page):
    rows = [rows for place, rows in page.tables if place == "recall"][1]
    against, found = "", {}
    for row in rows[1:]:
        if len(row) != 5:
            against = "".join(row[0][1]).removeprefix("less ")
        else:
            for name, (classes, lines) in zip(("R@10", "R@100", "R@1000", "MRR"), row[1:], strict=True):
                found["".join(row[0][1]), against, name] = classes, lines
    wanted = realistic().frames["differences"].filter(pl.col("table") == "recall").to_dicts()
    assert len(found) == len(wanted)
    for row in wanted:
        classes, lines = found[row["method"], row["against"], row["figure"]]
        text = " ".join(lines)
        assert number(lines[0]) == pytest.approx(100 * row["difference"], abs=0.051)
        for p in (row["p"], row["p_adjusted"]):
            assert ("< 0.001" if p < 0.001 else f"{p:.3f}") in text
        sure = row["p_adjusted"] < 0.05
        mark = "same" if not sure else "ahead" if row["difference"] > 0 else "behind"
        assert mark in classes.split()
    assert "44 comparisons" in page.sections["recall"]


def test_less_is_better_is_ahead_where_the_figure_falls():
    rows = [figure("writing", name, "ill-formed", mean, 100) for name, mean in (("a", 0.2), ("b", 0.1))]
    found = small(*rows, differences=[difference("writing", "b", "a", "ill-formed", -0.1, 0.0001, 1)])
    assert "ahead" in found.table("writing", 1)["b"]["ill-formed"][0]
    assert "best" in found.table("writing")["b"]["ill-formed"][0]
    assert "Ahead of a (20.0 %) by 10.0 points" in " ".join(found.sections["answer"].split())


def test_rank_has_warm_and_cold_rows_beside_all_and_four_decimals(page):
    row = page.table("rank")["BinLLM"]
    assert list(row) == [
        "seeds",
        "AUC",
        "UAUC",
        "AUC, warm",
        "UAUC, warm",
        "AUC, cold user",
        "UAUC, cold user",
    ]
    assert row["AUC"][1][0].startswith("0.7478")
    assert row["AUC, warm"][1][0].startswith("0.7828")
    assert "AUC: 10,401 rows; UAUC: 1,230 users" in page.sections["rank"]


def test_every_setting_of_the_ablations_has_its_figures_and_change(page):
    rows = next(rows for place, rows in page.tables if place == "ablations")
    cells = {}
    part = ""
    for row in rows[1:]:
        if len(row) != 3:
            part = "".join(row[0][1]).partition(":")[0]
        else:
            cells[part, row[0][1][0]] = row
    wanted = realistic().frames["figures"].filter(pl.col("table") == "ablation")
    assert set(cells) == set(wanted.select("part", "setting").unique().rows())
    for row in wanted.to_dicts():
        cell = cells[row["part"], row["setting"]][1 if row["figure"] == "R@100" else 2]
        assert number(cell[1][0]) == pytest.approx(100 * row["mean"], abs=0.051)
    assert cells["alpha", "0.01"][0][1] == ["0.01", "reference"]
    assert "Δ −2.2 [−3.4, −1.0]" in cells["alpha", "1"][1][1]
    assert "behind" in cells["alpha", "1"][1][0]
    assert "ahead" in cells["alpha", "1"][2][0]


def test_breakdowns_show_every_group_with_its_number_of_queries(page):
    text = page.sections["breakdowns"]
    assert "low: 705 queries; pool of 5,766 notes" in text
    assert "high: 214 queries" in text
    many = page.table("breakdowns", 1)
    assert set(many["food320 queries"]) == {"TF-IDF", "BM25", "NoteLLM", "NoteLLM, hybrid"}
    assert "Pool of 5,766 notes" in text


def test_the_answer_names_the_best_how_far_it_is_ahead_and_what_is_not_certain(page):
    answer = " ".join(page.sections["answer"].split())
    assert (
        "NoteLLM, hybrid finds the related note among the 100 nearest of a pool of 5,766 notes for 41.3 %"
        in answer
    )
    assert "Ahead of TF-IDF (32.9 %) by 8.4 points [7.2, 9.6], corrected p < 0.001." in answer
    assert "Not certain: ahead of NoteLLM, the default (40.5 %), by 0.8 points" in answer
    assert "cannot tell NoteLLM, hybrid from NoteLLM, contrastive only" in answer
    assert "BinLLM, the default, is the best of 5 methods by AUC: 0.7478" in answer
    assert "Every check for leaks passed (2 of 2)." in answer
    assert "Of 3 claims of the papers, these data confirm 1, contradict 1, and cannot decide 1." in answer


def test_an_advantage_that_was_not_tested_says_so():
    rows = [figure("recall", name, "R@100", mean, 50) for name, mean in (("TF-IDF", 0.3), ("NoteLLM", 0.4))]
    answer = " ".join(small(*rows).sections["answer"].split())
    assert (
        "Ahead of TF-IDF (30.0 %) by 10.0 points; whether that is more than chance was not tested." in answer
    )


def test_methods_measured_on_fewer_queries_are_not_best():
    rows = [figure("recall", name, "R@100", 0.3 + i / 100, 500, pool=900) for i, name in enumerate("abc")]
    rows.append(figure("recall", "few", "R@100", 0.9, 20, pool=40))
    table = small(*rows).table("recall")
    assert "best" in table["c"]["R@100"][0]
    assert "best" not in table["few"]["R@100"][0]
    assert "of 20 only" in table["few"]["R@100"][1]


def test_a_failed_check_is_loud_and_comes_first():
    found = page_of(realistic(leak=True))
    assert found.order[:2] == ["alarm", "answer"]
    assert "must not be relied on" in found.text
    assert found.text.index("3 of 5,766, such as n17") < found.text.index("The answer in short")
    assert "1 of 2 checks for leaks failed." in found.sections["answer"]
    assert "alarm" not in page_of(realistic()).order


def test_claims_examples_costs_and_facts_are_shown(page):
    assert "does not hold" in page.sections["claims"]
    assert "R@100 84.02 with, 75.38 without" in page.sections["claims"]
    assert "has rank 2,311.5" in page.sections["examples"]
    assert "0.882 ✓ related" in page.sections["examples"]
    assert "11 min 34 s" in page.sections["costs"]
    assert "41,200" in page.sections["costs"]
    assert "--rank-backbone" in page.sections["left-out"]
    assert "notellm experiment data/microlens --seeds 3" in page.sections["how"]
    assert "torch 2.13.0" in page.sections["how"]


def test_every_section_of_figures_says_what_it_asks(page):
    for key in set(page.sections) - {"answer", "glossary", "left-out", "how"}:
        intro = next(attrs for tag, attrs in page.tags if attrs.get("id") == f"{key}-title")
        assert intro
        assert "?" in page.sections[key][:400]


def test_sections_without_data_are_left_out():
    assert list(page_of(Results("empty")).sections) == ["answer"]
    whole = list(page_of(realistic()).sections)
    assert {"recall", "writing", "rank", "ablations", "breakdowns", "costs", "glossary"} <= set(whole)
    results = realistic()
    results.frames["figures"] = results.frames["figures"].filter(pl.col("table") == "recall")
    results.frames["differences"] = frame("differences")
    results.frames["costs"] = frame("costs")
    results.claims, results.checks, results.left_out = [], [], []
    results.examples = {"found": [], "missed": []}
    assert list(page_of(results).sections) == ["answer", "recall", "breakdowns", "how", "glossary"]


def test_terms_are_explained_only_where_they_are_used():
    rows = [figure("rank", name, "AUC", mean, 50) for name, mean in (("BinMF", 0.6), ("BinLLM", 0.7))]
    glossary = small(*rows).sections["glossary"]
    assert "BinLLM" in glossary
    assert "BLEU" not in glossary


def test_null_figures_are_dashes():
    rows = [
        figure("recall", "a", "R@100", None, 0, low=None, high=None),
        figure("recall", "b", "R@100", 0.5, 9),
    ]
    assert small(*rows).table("recall")["a"]["R@100"][1] == ["–", "of 0 only"]


def test_a_method_that_was_compared_the_other_way_round_is_found():
    results = Results("one")
    results.frames["differences"] = frame("differences", [difference("recall", "a", "b", "MRR", 0.1, 0.2, 1)])
    found = Findings(results).difference("recall", "b", "a", "MRR")
    assert found is not None
    assert (found.difference, found.method, found.p_adjusted) == (-0.1, "b", 0.8)
    assert (found.low, found.high) == pytest.approx((-0.112, -0.088))


@pytest.mark.parametrize(
    ("name", "value", "text", "better"),
    [
        ("R@100", 0.4131, "41.3", 1),
        ("ill-formed", 0.005, "0.5", -1),
        ("ECE", 0.123, "12.3", -1),
        ("AUC", 0.74784, "0.7478", 1),
        ("nDCG@10", 0.5, "0.5000", 1),
        ("validation loss", 2.5, "2.50", -1),
        ("topics", 3.41, "3.41", 0),
        ("BLEU-4", float("nan"), "–", 1),
    ],
)
def test_figures_are_written_in_their_unit(name, value, text, better):
    assert form_of(name).number(value) == text
    assert form_of(name).better == better


def test_numbers_signs_times_and_names():
    assert form_of("R@10").number(-0.012, sign=True) == "−1.2"
    assert form_of("R@10").number(0.012, sign=True) == "+1.2"
    assert form_of("R@10", 0.05).number(0.0138) == "1.38"
    assert [probability(p) for p in (0.0004, 0.0312, 1.0, None)] == [
        "p < 0.001",
        "p = 0.031",
        "p = 1.000",
        "",
    ]
    assert [duration(s) for s in (3.21, 59.99, 200, 3599.7, 3900, None)] == [
        "3.2 s",
        "1 min 00 s",
        "3 min 20 s",
        "1 h 00 min",
        "1 h 05 min",
        "–",
    ]
    assert option_name("warm_up") == "warm up"
