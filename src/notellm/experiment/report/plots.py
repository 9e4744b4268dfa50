"""The plots of a report: recall curves, ablations, groups, training curves, a map, reliability.

A plot is drawn only where the results have its data. Bars and bands are 95 % intervals over queries.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from notellm.experiment.report.blocks import Drawing
from notellm.experiment.report.findings import Findings, Row, distinct
from notellm.experiment.report.plot_ablations import ablation_drawings
from notellm.experiment.report.plot_lines import curve_drawings, reliability_drawings
from notellm.experiment.report.plot_style import (
    COLOURS,
    GREY,
    INK,
    Names,
    Style,
    axes,
    draw,
    label_ends,
    legend,
    legend_height,
    named,
    style,
    width_of,
)
from notellm.experiment.report.tables import table_name
from notellm.experiment.report.words import breakdown_name, line, recall_depth
from notellm.experiment.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, NARROW = 540.0, 345.0  # widths in points
_MOST_CURVES = 10
_FEW_GROUPS = 4  # of a breakdown, which are signs in the row of a method
_MOST_GROUPS = 24
_MOST_METHODS = 4  # of a breakdown with many groups
_COLOURED = 8  # categories


def draw_plots(results: Results) -> list[Drawing]:
    """Draw every plot that the results have data for.

    Raises:
        MissingDependencyError: if matplotlib is not installed and there is something to draw.
    """
    findings, names = Findings(results), Names()
    frames = results.frames
    methods = [  # the first ones have the strongest colours
        *(findings.default(table) for table in ("recall", "rank")),
        *(name for table in ("recall", "rank") for name in findings.landmarks(table)),
        *findings.methods(),
        *frames["curves"]["method"].to_list(),
        *frames["reliability"]["method"].to_list(),
    ]
    looks = {method: style(i) for i, method in enumerate(distinct(filter(None, methods)))}
    return [
        *_recall_curves(findings, looks, names),
        *ablation_drawings(findings, looks, names, NARROW),
        *_breakdowns(findings, looks, names),
        *curve_drawings(results, looks, names, NARROW),
        *reliability_drawings(results, looks, names, NARROW),
        *_map(results, names),
    ]


def _recall_curves(findings: Findings, looks: Mapping[str, Style], names: Names) -> list[Drawing]:
    """Draw Recall@k over k with a line for each method."""
    depths = {
        figure: k
        for figure in findings.figures("recall", breakdown="")
        if (k := recall_depth(figure)) is not None
    }
    if len(depths) < 2:
        return []
    curves: dict[str, list[tuple[int, Row]]] = {}
    for method in findings.methods("recall"):
        found = [
            (k, row)
            for figure, k in depths.items()
            if (row := findings.row("recall", method, figure)) is not None and row["mean"] is not None
        ]
        if found:
            curves[method] = found
    if not curves:
        return []
    shown = _best_methods(findings, "recall", list(depths), list(curves), _MOST_CURVES)
    curves = {method: found for method, found in curves.items() if method in shown}
    caption = (
        "Share of queries whose related note is among the k nearest notes. Higher is better; bars are 95 % "
        "intervals over queries."
    )
    left_out = len(findings.methods("recall")) - len(curves)
    if left_out > 0:
        caption += f" The {len(curves)} best of {len(findings.methods('recall'))} methods are drawn."
    ticks = sorted(depths.values())
    entries = [(named(method), looks[method]) for method in curves]
    room = max(width_of(name) for name, _ in entries) + 24
    above = legend_height([name for name, _ in entries], NARROW)

    def paint(figure: "Figure") -> None:
        plot = axes(figure, 46, 40, WIDE - 46 - room, 240)
        _curves(plot, curves, ticks, looks)
        ends = [
            (found[-1][0], 100 * found[-1][1]["mean"], named(method), looks[method])
            for method, found in curves.items()
        ]
        label_ends(plot, ends)

    def paint_small(figure: "Figure") -> None:
        _curves(axes(figure, 46, 40, NARROW - 46 - 12, 210), curves, ticks, looks)
        legend(figure, entries, 250 + above, NARROW, lines=True)

    name = names("recall-curves")
    wide = draw(name, caption, WIDE, 292, paint)
    small = draw(f"{name}-small", caption, NARROW, 250 + above, paint_small)
    return [Drawing(name, "recall", wide, caption, wide=True, small=small)]


def _curves(
    plot: "Axes",
    curves: Mapping[str, Sequence[tuple[int, Row]]],
    ticks: Sequence[int],
    looks: Mapping[str, Style],
) -> None:
    """Draw lines over k with intervals."""
    plot.set_xscale("log")
    highest = max(_end(row, "high") for found in curves.values() for _, row in found)
    plot.set_ylim(0, min(102.0, 105 * highest) or 1.0)
    plot.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    plot.set_xticks(ticks, [f"{k:,}" for k in ticks])
    plot.minorticks_off()
    for i, (method, found) in enumerate(curves.items()):
        look = looks[method]
        aside = (ticks[-1] / ticks[0]) ** (0.008 * (i - (len(curves) - 1) / 2))  # intervals stay apart
        plot.errorbar(
            [k * aside for k, _ in found],
            [100 * row["mean"] for _, row in found],
            yerr=_errors([row for _, row in found], 100),
            color=look.colour,
            marker=look.sign,
            linestyle=look.line,
            elinewidth=1.2,
            capsize=2,
        )
    plot.set_xlabel("k, number of nearest notes looked at (logarithmic)")
    plot.set_ylabel("Recall@k, % of queries")


def _best_methods(
    findings: Findings, table: str, figures: Sequence[str], among: Sequence[str], most: int
) -> list[str]:
    """Return the best of some methods by the headline of a table, with those that all are compared with."""
    figure = findings.headline(list(figures)) or ""
    better = findings.form(table, figure).better or 1
    means = {
        method: better * row["mean"]
        for method in among
        if (row := findings.row(table, method, figure)) is not None and row["mean"] is not None
    }
    order = sorted(means, key=lambda method: -means[method])
    landmarks = [method for method in findings.landmarks(table) if method in means]
    first = distinct([*order[:1], *landmarks])[:most]
    chosen = distinct([*first, *order])[:most]
    return [method for method in among if method in chosen]


def _end(row: Row, side: str) -> float:
    """Return an end of the interval of a row, or its mean where it has no interval."""
    value = row[side]
    return float(row["mean"] if value is None or not math.isfinite(value) else value)


def _errors(rows: Sequence[Row], scale: float) -> list[list[float]]:
    """Return how far the intervals of rows reach below and above their means."""
    below = [scale * max(0.0, row["mean"] - _end(row, "low")) for row in rows]
    return [below, [scale * max(0.0, _end(row, "high") - row["mean"]) for row in rows]]


def _breakdowns(findings: Findings, looks: Mapping[str, Style], names: Names) -> list[Drawing]:
    """Draw the headline of each table by the groups of each of its breakdowns."""
    drawings = []
    for table in ("recall", "writing", "rank"):
        for breakdown in findings.breakdowns(table):
            figure = findings.headline(findings.figures(table, breakdown=breakdown)) or ""
            rows = [
                row
                for row in findings.rows(table, breakdown=breakdown, figure=figure)
                if row["mean"] is not None and math.isfinite(row["mean"])
            ]
            groups = distinct(row["group"] for row in rows)
            if not groups:
                continue
            methods = distinct(row["method"] for row in rows)
            name = names("breakdown", table, breakdown)
            what = f"{table_name(table)}: {line(figure)} by {breakdown_name(breakdown)}."
            if len(groups) <= _FEW_GROUPS:
                group_looks = {group: style(i) for i, group in enumerate(groups)}
                cells = [(row["method"], row["group"], row) for row in rows]
                drawing = _dots(findings, table, figure, cells, methods, group_looks, what, name)
            else:
                counts = {row["group"]: row["count"] or 0 for row in rows}
                largest = sorted(groups, key=lambda group: -counts[group])[:_MOST_GROUPS]
                kept = _best_methods(findings, table, [figure], methods, _MOST_METHODS)
                kept = kept or methods[:_MOST_METHODS]
                cells = [
                    (row["group"], row["method"], row)
                    for row in rows
                    if row["group"] in largest and row["method"] in kept
                ]
                if len(largest) < len(groups):
                    what += f" The {len(largest)} largest of {len(groups)} groups."
                shown = [group for group in groups if group in largest]
                method_looks = {method: looks[method] for method in kept}
                drawing = _dots(findings, table, figure, cells, shown, method_looks, what, name)
            drawings.append(drawing)
    return drawings


def _dots(
    findings: Findings,
    table: str,
    figure_name: str,
    cells: Sequence[tuple[str, str, Row]],
    rows: Sequence[str],
    looks: Mapping[str, Style],
    what: str,
    name: str,
) -> Drawing:
    """Draw dots with intervals: a line of the plot for each of ``rows``, a sign for each of ``looks``."""
    form = findings.form(table, figure_name)
    signs = list(looks)
    entries = [(named(sign), looks[sign]) for sign in signs]
    left = min(150.0, max(width_of(named(row)) for row in rows) + 12)
    step = 9.0 * len(signs) + 7
    below, above = 40.0, legend_height([text for text, _ in entries], NARROW)
    height = below + step * len(rows) + above + 6

    def paint(figure: "Figure") -> None:
        plot = axes(figure, left, below, NARROW - left - 14, step * len(rows))
        plot.set_ylim(step * len(rows), 0)
        plot.set_yticks([step * (i + 0.5) for i in range(len(rows))], [named(row) for row in rows])
        plot.grid(visible=False, axis="y")
        plot.tick_params(axis="y", length=0)
        for place in range(1, len(rows)):
            plot.axhline(step * place, color=INK, alpha=0.14, linewidth=0.7)
        for row_name, sign, row in cells:
            look = looks[sign]
            y = step * rows.index(row_name) + 3.5 + 9.0 * (signs.index(sign) + 0.5)
            plot.errorbar(
                [form.scale * row["mean"]],
                [y],
                xerr=_errors([row], form.scale),
                color=look.colour,
                marker=look.sign,
                linestyle="none",
                elinewidth=1.4,
                capsize=2,
            )
        plot.set_xlabel(f"{line(figure_name)}{',' if form.unit else ''}{form.unit}")
        legend(figure, entries, height - 2, NARROW, lines=False)

    better = {1: " Further right is better.", -1: " Further left is better.", 0: ""}[form.better]
    caption = f"{what}{better} Bars are 95 % intervals."
    return Drawing(name, "breakdowns", draw(name, caption, NARROW, height, paint), caption)


def _map(results: Results, names: Names) -> list[Drawing]:
    """Draw the notes as points by their vectors in two dimensions, coloured by category."""
    rows = [
        row
        for row in results.frames["map"].to_dicts()
        if row["x"] is not None and row["y"] is not None and math.isfinite(row["x"] + row["y"])
    ]
    if not rows:
        return []
    counts = Counter(row["category"] for row in rows if row["category"])
    coloured = [name for name, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:_COLOURED]
    colours = (*COLOURS, INK)
    looks = {name: Style(colours[i], style(i).sign, "none") for i, name in enumerate(coloured)}
    others = [row for row in rows if row["category"] not in looks]
    size = min(32.0, max(7.0, 12_000 / len(rows)))
    entries = [(f"{named(category)} ({counts[category]:,})", look) for category, look in looks.items()]
    if others:
        entries.append((f"others ({len(others):,})", Style(GREY, "o", "none")))
    above = legend_height([name for name, _ in entries], NARROW)
    side = NARROW - 24

    def paint(figure: "Figure") -> None:
        plot = axes(figure, 18, 22, side, side)
        plot.set_xticks([])
        plot.set_yticks([])
        plot.set_xlabel("first direction, no unit")
        plot.set_ylabel("second direction, no unit")
        x = [row["x"] for row in others]
        y = [row["y"] for row in others]
        plot.scatter(x, y, s=size * 0.7, c=GREY, marker="o", linewidths=0, alpha=0.55)
        for category, look in looks.items():
            here = [row for row in rows if row["category"] == category]
            x = [row["x"] for row in here]
            y = [row["y"] for row in here]
            plot.scatter(
                x, y, s=size, c=look.colour, marker=look.sign, linewidths=0.3, edgecolors=INK, alpha=0.85
            )
        legend(figure, entries, side + 26 + above, NARROW, lines=False)

    caption = (
        f"{len(rows):,} notes by their vectors, brought down to two dimensions. Notes near each other have "
        "similar vectors; directions and distances across the map mean little."
    )
    if coloured:
        caption += " Colours and signs are the most frequent categories."
    name = names("map")
    return [Drawing(name, "map", draw(name, caption, NARROW, side + 28 + above, paint), caption)]
