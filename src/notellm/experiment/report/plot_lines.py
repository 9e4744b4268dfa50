"""Plots of training curves, and of how often what was predicted with a probability came true."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from notellm.experiment.report.blocks import Drawing
from notellm.experiment.report.findings import Row, distinct
from notellm.experiment.report.plot_style import (
    INK,
    Names,
    Style,
    axes,
    draw,
    legend,
    legend_height,
    named,
    style,
)
from notellm.experiment.report.tables import table_name
from notellm.experiment.report.words import form_of, line, option_name
from notellm.experiment.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LINES = 10


def curve_drawings(results: Results, looks: Mapping[str, Style], names: Names, width: float) -> list[Drawing]:
    """Draw each figure of the trainings over the steps: of the methods, and of the settings of each option.

    Args:
        results: the results.
        looks: style of each method.
        names: makes the names of the plots.
        width: width of a plot in points.
    """
    rows = [
        row
        for row in results.frames["curves"].to_dicts()
        if row["value"] is not None and row["step"] is not None and math.isfinite(row["value"])
    ]
    drawings = []
    for table, part, figure in dict.fromkeys((row["table"], row["part"], row["figure"]) for row in rows):
        here = [row for row in rows if (row["table"], row["part"], row["figure"]) == (table, part, figure)]
        several = len(distinct(row["method"] for row in here)) > 1
        lines: dict[str, list[Row]] = {}
        for row in here:
            key = f"{row['setting']}, {row['method']}" if several else row["setting"]
            lines.setdefault(key if part else row["method"], []).append(row)
        lines = {key: found for key, found in list(lines.items())[:_MOST_LINES] if len(found) > 1}
        if not lines:
            continue
        chosen = {key: style(i) if part else looks[key] for i, key in enumerate(lines)}
        what = f"{line(part)}, {option_name(part)}" if part else table_name(table)
        caption = f"{what}: {line(figure)} of the validation part during the training."
        if len(distinct(row["seed"] for row in here)) > 1:
            caption += " Thin lines are single seeds, thick ones their mean."
        name = names("training", table, part, figure)
        svg = _curves(name, caption, figure, lines, chosen, width)
        drawings.append(Drawing(name, "training", svg, caption))
    return drawings


def _curves(
    name: str,
    caption: str,
    figure_name: str,
    lines: Mapping[str, Sequence[Row]],
    looks: Mapping[str, Style],
    width: float,
) -> str:
    """Draw lines over the steps of a training."""
    form = form_of(figure_name, max(row["value"] for rows in lines.values() for row in rows))
    entries = [(named(key), looks[key]) for key in lines]
    left, below, tall = 52.0, 40.0, 150.0
    height = below + tall + legend_height([text for text, _ in entries], width)

    def paint(figure: "Figure") -> None:
        plot = axes(figure, left, below, width - left - 16, tall)
        for key, rows in lines.items():
            look = looks[key]
            by_seed: dict[int, dict[int, float]] = {}
            for row in rows:
                by_seed.setdefault(row["seed"] or 0, {})[row["step"]] = form.scale * row["value"]
            if len(by_seed) > 1:
                for values in by_seed.values():
                    steps = sorted(values)
                    plot.plot(steps, [values[s] for s in steps], color=look.colour, alpha=0.4, linewidth=0.8)
            common = sorted(set.intersection(*(set(values) for values in by_seed.values())))
            mean = [sum(values[s] for values in by_seed.values()) / len(by_seed) for s in common]
            every = max(1, len(common) // 8)
            plot.plot(common, mean, color=look.colour, linestyle=look.line, marker=look.sign, markevery=every)
        plot.set_xlabel("training step")
        plot.set_ylabel(f"{line(figure_name)}{',' if form.unit else ''}{form.unit}")
        plot.locator_params(nbins=6)
        legend(figure, entries, height - 2, width, lines=True)

    return draw(name, caption, width, height, paint)


def reliability_drawings(
    results: Results, looks: Mapping[str, Style], names: Names, width: float
) -> list[Drawing]:
    """Draw observed shares over predicted probabilities, with the number of predictions below.

    Args:
        results: the results.
        looks: style of each method.
        names: makes the names of the plots.
        width: width of a plot in points.
    """
    rows = [
        row
        for row in results.frames["reliability"].to_dicts()
        if row["predicted"] is not None and row["observed"] is not None and row["count"]
    ]
    drawings = []
    for table in distinct(row["table"] for row in rows):
        lines: dict[str, list[Row]] = {}
        for row in rows:
            if row["table"] == table:
                lines.setdefault(row["method"], []).append(row)
        for found in lines.values():
            found.sort(key=lambda row: row["predicted"])
        caption = (
            f"{table_name(table)}: how often came true what was predicted with a probability. On the dotted "
            "line a probability is what it says; below it the method is too sure. The lower plot counts the "
            "predictions."
        )
        name = names("reliability", table)
        drawings.append(Drawing(name, table, _reliability(name, caption, lines, looks, width), caption))
    return drawings


def _reliability(
    name: str,
    caption: str,
    lines: Mapping[str, Sequence[Row]],
    looks: Mapping[str, Style],
    width: float,
) -> str:
    entries = [(named(method), looks[method]) for method in lines]
    left, below, low, gap = 52.0, 40.0, 62.0, 12.0
    side = width - left - 16
    tall = 0.72 * side
    height = below + low + gap + tall + legend_height([text for text, _ in entries], width)

    def paint(figure: "Figure") -> None:
        plot = axes(figure, left, below + low + gap, side, tall)
        counts = axes(figure, left, below, side, low)
        plot.plot([0, 100], [0, 100], color=INK, linestyle=":", linewidth=1)
        for method, rows in lines.items():
            look = looks[method]
            x = [100 * row["predicted"] for row in rows]
            plot.plot(
                x,
                [100 * row["observed"] for row in rows],
                color=look.colour,
                linestyle=look.line,
                marker=look.sign,
            )
            number = [row["count"] for row in rows]
            counts.plot(
                x,
                number,
                color=look.colour,
                linestyle=look.line,
                marker=look.sign,
                markersize=4,
                linewidth=1.2,
            )
        for each in (plot, counts):
            each.set_xlim(-2, 102)
        plot.set_ylim(-2, 102)
        plot.set_xticks(range(0, 101, 20), [""] * 6)
        counts.set_xticks(range(0, 101, 20))
        counts.set_yscale("log")
        counts.set_ylim(bottom=0.8)
        counts.minorticks_off()
        counts.yaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
        counts.set_xlabel("predicted probability, %")
        counts.set_ylabel("predictions")
        plot.set_ylabel("came true, %")
        legend(figure, entries, height - 2, width, lines=True)

    return draw(name, caption, width, height, paint)
