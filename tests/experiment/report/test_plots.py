import re
import sys
from itertools import pairwise
from xml.etree import ElementTree as ET

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.errors import MissingDependencyError
from notellm.experiment.report.plot_ablations import Sweep
from notellm.experiment.report.plot_style import Names, apart, check_matplotlib, legend_rows, style
from notellm.experiment.report.plots import draw_plots
from notellm.experiment.results import FRAMES, Results, frame
from tests.experiment.results import figure, realistic


@pytest.fixture(scope="module")
def drawings():
    """The plots of realistic results by name; tests must not change them."""
    return {drawing.name: drawing for drawing in draw_plots(realistic())}


def texts(svg):
    return ["".join(element.itertext()).strip() for element in ET.fromstring(svg).iter("text")]


def with_figures(*rows):
    results = Results("small")
    results.frames["figures"] = frame("figures", list(rows))
    return results


def ablation(part, *settings, name="R@100"):
    return [
        figure("ablation", "NoteLLM", name, 0.3 + 0.01 * i, 100, part=part, setting=setting)
        for i, setting in enumerate(settings)
    ]


def test_every_kind_of_plot_is_drawn(drawings):
    assert list(drawings) == [
        "recall-curves",
        "ablation-alpha",
        "ablation-topic-share",
        "ablation-batch",
        "ablation-dim",
        "ablation-training",
        "breakdown-recall-exposure",
        "breakdown-recall-category",
        "breakdown-rank-what-training-has-seen",
        "training-recall-r-100",
        "training-ablation-alpha-loss",
        "reliability-writing",
        "reliability-rank",
        "map",
    ]


def test_plots_are_svg_that_refers_to_nothing_outside_and_runs_nothing(drawings):
    for drawing in drawings.values():
        for svg in filter(None, (drawing.svg, drawing.small)):
            for element in ET.fromstring(svg).iter():
                assert element.tag not in ("script", "style", "image", "foreignObject", "a")
                for name, value in element.attrib.items():
                    assert not name.lower().startswith("on")
                    assert name != "href" or value.startswith("#")
                    assert "http" not in value


def test_ids_are_unique_over_all_plots_and_every_reference_has_its_target(drawings):
    whole = "".join(drawing.svg + drawing.small for drawing in drawings.values())
    ids = re.findall(r'\bid="([^"]+)"', whole)
    assert len(ids) == len(set(ids)) > 20
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole)) >= {("map-1", "")}
    assert {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole)} == set(ids)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("recall-curves", ["Recall@k, % of queries", "k, number of nearest notes looked at (logarithmic)"]),
        ("ablation-alpha", ["R@100, %", "accuracy, %", "weight of the writing loss, α (logarithmic)"]),
        ("ablation-topic-share", ["R@100, %", "accuracy, %", "share of notes that write topics, r"]),
        ("breakdown-recall-exposure", ["R@100, %", "low", "high", "NoteLLM, hybrid"]),
        ("breakdown-recall-category", ["R@100, %", "food", "家居", "BM25"]),
        ("breakdown-rank-what-training-has-seen", ["AUC", "warm", "cold user"]),
        ("training-recall-r-100", ["training step", "R@100, %"]),
        ("training-ablation-alpha-loss", ["training step", "loss", "0.01"]),
        ("reliability-rank", ["predicted probability, %", "came true, %", "predictions", "BinMF"]),
        ("map", ["first direction, no unit", "second direction, no unit"]),
    ],
)
def test_axes_have_labels_with_units(drawings, name, labels):
    assert set(labels) <= set(texts(drawings[name].svg))


def test_recall_curves_name_every_method_beside_its_line_and_every_k(drawings):
    said = texts(drawings["recall-curves"].svg)
    assert {"TF-IDF", "NoteLLM", "NoteLLM, hybrid", "10", "100", "1,000"} <= set(said)
    assert {"TF-IDF", "NoteLLM, hybrid"} <= set(texts(drawings["recall-curves"].small))


def test_points_are_where_their_figures_are():
    """Twice the recall is twice as high above the axis."""
    rows = [
        figure("recall", "one", f"R@{k}", mean, 100, low=None, high=None, pool=1000)
        for k, mean in ((10, 0.2), (100, 0.4), (1000, 0.8))
    ]
    (drawing,) = draw_plots(with_figures(*rows))
    signs = [use for use in ET.fromstring(drawing.svg).iter("use") if "#0072b2" in use.get("style", "")]
    x, y = ([float(use.get(axis, "nan")) for use in signs[-3:]] for axis in "xy")
    zero = next(
        float(t.get("y", "nan"))
        for t in ET.fromstring(drawing.svg).iter("text")
        if "".join(t.itertext()) == "0" and t.get("y")
    )
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.01)  # decades
    assert y[0] - y[1] == pytest.approx((y[1] - y[2]) / 2, abs=0.01)
    assert abs((zero - y[0]) - (y[0] - y[1])) < 6  # the text stands a little below its tick


def test_zero_stands_apart_on_a_logarithmic_axis():
    sweep = Sweep(["0", "0.001", "0.01", "1"], [0, 0.001, 0.01, 1], None, "alpha")
    assert "logarithmic" in sweep.label
    assert sweep.place["0"] == sweep.zero
    assert sweep.place["0.001"] - sweep.place["0"] >= 0.3
    assert sweep.place["0.01"] - sweep.place["0.001"] == pytest.approx(1)
    low, high = sweep.limits
    assert low < sweep.place["0"] < sweep.place["1"] < high


@pytest.mark.parametrize("settings", [["0", "0.2", "0.4", "1"], ["-1", "1", "100"], ["32", "64", "128"]])
def test_settings_within_a_decade_or_below_zero_have_a_plain_axis(settings):
    sweep = Sweep(settings, [float(setting) for setting in settings], None, "option")
    assert sweep.label == "option"
    assert sweep.zero is None
    assert sweep.place == {setting: float(setting) for setting in settings}


def test_settings_that_are_crowded_are_not_all_written():
    settings = [str(number) for number in range(1000, 1060)]
    shown = Sweep(settings, [float(s) for s in settings], None, "steps").ticks(200)
    assert shown[0] == "1000"
    assert 2 <= len(shown) < 10


def test_settings_that_are_words_are_rows():
    (drawing,) = draw_plots(with_figures(*ablation("training", "default", "without CSFT", "3")))
    assert {"default", "without CSFT", "3", "R@100, %"} <= set(texts(drawing.svg))


def test_an_ablation_without_figures_of_writing_has_one_panel_and_one_setting_has_no_plot():
    (drawing,) = draw_plots(with_figures(*ablation("dim", "16", "64"), *ablation("bits", "32")))
    assert drawing.name == "ablation-dim"
    assert [text for text in texts(drawing.svg) if text.endswith("%")] == ["R@100, %"]


@pytest.mark.parametrize(
    ("kept", "own"),
    [
        ("figures", "ablation-dim"),
        ("curves", "training"),
        ("map", "map"),
        ("reliability", "reliability"),
        ("costs", "none"),
        ("differences", "none"),
    ],
)
def test_a_plot_without_data_is_not_drawn(kept, own, drawings):
    results = realistic()
    results.frames = {name: frame(name) for name in FRAMES} | {kept: results.frames[kept]}
    if kept == "figures":
        results.frames[kept] = results.frames[kept].filter(pl.col("part") == "dim")
    found = {drawing.name for drawing in draw_plots(results)}
    assert found == {name for name in drawings if name.startswith(own)}


def test_results_without_numbers_are_no_plot():
    rows = [figure("recall", "one", f"R@{k}", None, 0, low=None, high=None) for k in (10, 100)]
    assert draw_plots(with_figures(*rows)) == []


def test_at_most_eight_categories_are_coloured():
    rows = [
        {"note_id": f"{kind}-{i}", "category": f"kind {kind}", "x": float(i), "y": float(kind)}
        for kind in range(12)
        for i in range(30 - kind)
    ]
    results = Results("map")
    results.frames["map"] = frame("map", [*rows, {"note_id": "none", "x": 0.0, "y": None}])
    (drawing,) = draw_plots(results)
    said = [text for text in texts(drawing.svg) if re.search(r"\(\d+\)", text)]
    assert [text.partition(" (")[0] for text in said] == [*(f"kind {i}" for i in range(8)), "others"]
    assert sum(int(re.findall(r"\((\d+)\)", text)[0]) for text in said) == len(rows)


def test_names_of_the_data_are_text_and_no_formula(recwarn):
    name = "$x^2$ <b>家居</b> & \u202e"
    rows = [figure("recall", name, f"R@{k}", 0.1 * i + 0.2, 10) for i, k in enumerate((10, 100))]
    (drawing,) = draw_plots(with_figures(*rows))
    assert any(text.startswith("$x^2$ <b>家居</b> & \\u202e") for text in texts(drawing.svg))
    assert not [warning for warning in recwarn if "lyph" in str(warning.message)]


def test_a_plot_does_not_depend_on_the_users_style_and_leaves_it_alone():
    import matplotlib as mpl

    results = with_figures(*ablation("alpha", "0", "0.01", "1"))
    first = draw_plots(results)
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "red", "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert draw_plots(results) == first
        assert dict(mpl.rcParams) == before


def test_plots_are_drawn_without_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert draw_plots(with_figures(*ablation("dim", "16", "64")))


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    check_matplotlib()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'notellm\[experiment\]'"):
        check_matplotlib()
    with pytest.raises(MissingDependencyError, match="matplotlib"):
        draw_plots(with_figures(*ablation("dim", "16", "64")))
    assert draw_plots(Results("nothing to draw")) == []


def test_methods_differ_by_more_than_their_colour():
    looks = [style(i) for i in range(24)]
    assert len({(look.sign, str(look.line)) for look in looks}) == 24
    assert len({look.colour for look in looks[:7]}) == 7
    assert len({look.sign for look in looks[:8]}) == 8


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_names_at_the_ends_of_lines_do_not_overlap_and_keep_their_order(places):
    moved = apart(places, 5, 0, 100)
    assert all(-0.5 <= place <= 100.5 for place in moved)
    inside = sorted(zip(places, moved, strict=True))
    ordered = [place for _, place in inside]
    assert all(b - a >= 4 for a, b in pairwise(sorted(ordered)))
    for (a, moved_a), (b, moved_b) in pairwise(inside):
        assert a == b or moved_a < moved_b


def test_a_legend_takes_the_rows_that_it_needs():
    assert legend_rows(["a", "b"], 300) == [[0, 1]]
    assert legend_rows(["a" * 30, "b" * 30], 300) == [[0], [1]]


def test_names_of_plots_are_plain_and_differ():
    names = Names()
    given_names = [names("ablation", part) for part in ("../../x", "X", "家居", "")]
    assert given_names == ["ablation-x", "ablation-x-2", "ablation", "ablation-2"]
