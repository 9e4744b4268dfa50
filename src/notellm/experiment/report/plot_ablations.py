"""Plots of ablations: a figure over the settings of an option, with one of writing below it.

Numbers are on an axis, which is logarithmic where they span decades; zero, which has no logarithm, then
stands apart on the left. Words are rows of dots. A dotted line marks the reference: the setting that the
others were compared with.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from notellm.experiment.report.blocks import Drawing
from notellm.experiment.report.findings import ABLATION, Findings, Row, distinct
from notellm.experiment.report.plot_style import (
    INK,
    Names,
    Style,
    axes,
    draw,
    legend,
    legend_height,
    named,
    width_of,
)
from notellm.experiment.report.words import Form, line, number_of, option_name, recall_depth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SPAN = 8.0  # positive settings whose ratio is at least this have a logarithmic axis
_NOT_WRITING = ("MRR", "avg", "AUC", "UAUC", "NDCG", "nDCG", "steps", "seconds")


@dataclass(frozen=True)
class Panel:
    """One figure of a part for every method and setting.

    Attributes:
        figure: its name.
        form: how it is written.
        rows: its rows by method and setting.
    """

    figure: str
    form: Form
    rows: Mapping[str, Mapping[str, Row]]

    @property
    def label(self) -> str:
        """Label of its axis."""
        return f"{line(self.figure)}{',' if self.form.unit else ''}{self.form.unit}"


def ablation_drawings(
    findings: Findings, looks: Mapping[str, Style], names: Names, width: float
) -> list[Drawing]:
    """Draw a plot for each option with two settings or more.

    Args:
        findings: the results.
        looks: style of each method.
        names: makes the names of the plots.
        width: width of a plot in points.
    """
    drawings = []
    for part in findings.parts():
        settings = findings.settings(part)
        panels = _panels(findings, part)
        if len(settings) < 2 or not panels:
            continue
        numbers = [number_of(setting) for setting in settings]
        name = names("ablation", part)
        caption = _caption(findings, part, panels)
        known = [number for number in numbers if number is not None]
        if len(known) == len(settings):
            sweep = Sweep(settings, known, findings.reference(part), option_name(part))
            svg = _sweep(name, caption, panels, sweep, looks, width)
        else:
            svg = _dots(name, caption, panels, settings, findings.reference(part), looks, width)
        drawings.append(Drawing(name, "ablations", svg, caption))
    return drawings


def _caption(findings: Findings, part: str, panels: Sequence[Panel]) -> str:
    figures = " and ".join(line(panel.figure) for panel in panels)
    compared = " The dotted line marks the reference." if findings.reference(part) is not None else ""
    return f"{line(part)}: {figures} by {option_name(part)}. Bands and bars are 95 % intervals.{compared}"


def _panels(findings: Findings, part: str) -> list[Panel]:
    """Return the figure that sums up a part, and one of writing where there is one."""
    figures = findings.figures(ABLATION, part=part)
    writing = [name for name in figures if recall_depth(name) is None and not name.startswith(_NOT_WRITING)]
    first = findings.headline([name for name in figures if name not in writing])
    second = findings.headline(writing)
    panels = []
    for figure in filter(None, (first, second)):
        rows: dict[str, dict[str, Row]] = {}
        for row in findings.rows(ABLATION, part=part, figure=figure, breakdown=""):
            if row["mean"] is not None and math.isfinite(row["mean"]):
                rows.setdefault(row["method"], {})[row["setting"]] = row
        if rows:
            panels.append(Panel(figure, findings.form(ABLATION, figure), rows))
    return panels


class Sweep:
    """Where the numbers of an option stand on their axis.

    Args:
        settings: the settings, ascending.
        numbers: the same as numbers.
        reference: the setting that the others were compared with; None if that is not known.
        label: what the option means.
    """

    def __init__(
        self, settings: Sequence[str], numbers: Sequence[float], reference: str | None, label: str
    ) -> None:
        positive = [number for number in numbers if number > 0]
        logarithmic = min(numbers) >= 0 and len(positive) > 1 and max(positive) >= _SPAN * min(positive)
        places = [math.log10(n) if n > 0 else math.nan for n in numbers] if logarithmic else list(numbers)
        self.zero: float | None = None
        if logarithmic and len(positive) < len(numbers):
            low, high = math.log10(min(positive)), math.log10(max(positive))
            self.zero = low - max(0.25 * (high - low), 0.3)
            places = [self.zero if math.isnan(place) else place for place in places]
        self.place = dict(zip(settings, places, strict=True))
        self.reference = reference
        self.label = f"{label}{' (logarithmic)' if logarithmic else ''}"

    @property
    def limits(self) -> tuple[float, float]:
        """Both ends of the axis."""
        low, high = min(self.place.values()), max(self.place.values())
        margin = 0.06 * (high - low) or 0.5
        return low - margin, high + margin

    def ticks(self, width: float) -> list[str]:
        """Return the settings that are written below an axis of some points, so that none overlap."""
        low, high = self.limits
        kept: list[str] = []
        for setting, place in self.place.items():
            gap = (width_of(setting) + (width_of(kept[-1]) if kept else 0)) / 2 + 4
            if not kept or (place - self.place[kept[-1]]) / (high - low) * width >= gap:
                kept.append(setting)
        return kept


def _sweep(
    name: str,
    caption: str,
    panels: Sequence[Panel],
    sweep: Sweep,
    looks: Mapping[str, Style],
    width: float,
) -> str:
    """Draw figures over an axis of numbers, one above the other."""
    methods = distinct(method for panel in panels for method in panel.rows)
    entries = [(named(method), looks[method]) for method in methods] if len(methods) > 1 else []
    above = legend_height([text for text, _ in entries], width) if entries else 6.0
    left, below, tall, gap = 52.0, 40.0, 130.0, 14.0
    height = below + tall * len(panels) + gap * (len(panels) - 1) + above

    def paint(figure: "Figure") -> None:
        across = width - left - 14
        for i, panel in enumerate(reversed(panels)):
            plot = axes(figure, left, below + i * (tall + gap), across, tall)
            plot.set_xlim(*sweep.limits)
            shown = sweep.ticks(across)
            plot.set_xticks([sweep.place[each] for each in shown], [line(s) if not i else "" for s in shown])
            for method in methods:
                _line(plot, panel, method, sweep, looks[method])
            if sweep.reference in sweep.place:
                plot.axvline(sweep.place[sweep.reference], color=INK, linestyle=":", linewidth=1)
            plot.set_ylabel(panel.label)
            plot.locator_params(axis="y", nbins=5)
            if sweep.zero is not None:
                _gap(plot, sweep)
            if not i:
                plot.set_xlabel(sweep.label)
        if entries:
            legend(figure, entries, height - 2, width, lines=True)

    return draw(name, caption, width, height, paint)


def _line(plot: "Axes", panel: Panel, method: str, sweep: Sweep, look: Style) -> None:
    """Draw one method: a line with a band, and zero, if it stands apart, as a sign with a bar."""
    found = [(sweep.place[s], row) for s, row in panel.rows.get(method, {}).items() if s in sweep.place]
    found.sort(key=lambda each: each[0])
    if not found:
        return
    x = [place for place, _ in found]
    mean, low, high = ([panel.form.scale * v for v in column] for column in _columns([r for _, r in found]))
    from_ = 1 if sweep.zero is not None and x[0] == sweep.zero else 0
    plot.fill_between(x[from_:], low[from_:], high[from_:], color=look.colour, alpha=0.18, linewidth=0)
    plot.plot(x[from_:], mean[from_:], color=look.colour, linestyle=look.line, marker=look.sign)
    if from_:
        error = [[mean[0] - low[0]], [high[0] - mean[0]]]
        plot.errorbar(x[:1], mean[:1], yerr=error, color=look.colour, marker=look.sign, capsize=2)
        plot.plot(x[:2], mean[:2], color=look.colour, linestyle=":", linewidth=1.2)


def _gap(plot: "Axes", sweep: Sweep) -> None:
    """Mark that the axis is broken between zero and the smallest setting."""
    positive = min(place for place in sweep.place.values() if place != sweep.zero)
    middle = ((sweep.zero or 0.0) + positive) / 2
    low, high = sweep.limits
    for shift in (-0.006, 0.006):
        x = (middle - low) / (high - low) + shift
        line_ = plot.plot([x - 0.008, x + 0.008], [-0.03, 0.03], transform=plot.transAxes, color=INK)[0]
        line_.set_clip_on(False)
        line_.set_linewidth(0.9)


def _columns(rows: Sequence[Row]) -> tuple[list[float], list[float], list[float]]:
    """Return the means and both ends of the intervals; the mean where there is no interval."""
    mean = [float(row["mean"]) for row in rows]
    ends = []
    for side in ("low", "high"):
        values = [row[side] for row in rows]
        ends.append(
            [m if v is None or not math.isfinite(v) else float(v) for v, m in zip(values, mean, strict=True)]
        )
    low, high = ends
    return (
        mean,
        [min(a, b) for a, b in zip(low, mean, strict=True)],
        [max(a, b) for a, b in zip(high, mean, strict=True)],
    )


def _dots(
    name: str,
    caption: str,
    panels: Sequence[Panel],
    settings: Sequence[str],
    reference: str | None,
    looks: Mapping[str, Style],
    width: float,
) -> str:
    """Draw settings that are words as rows of dots with intervals, the figures side by side."""
    methods = distinct(method for panel in panels for method in panel.rows)
    entries = [(named(method), looks[method]) for method in methods] if len(methods) > 1 else []
    above = legend_height([text for text, _ in entries], width) if entries else 4.0
    left = min(150.0, max(width_of(named(setting)) for setting in settings) + 12)
    below, gap, step = 40.0, 18.0, 10.0 * len(methods) + 10
    height = below + step * len(settings) + above + 4
    across = (width - left - 14 - gap * (len(panels) - 1)) / len(panels)

    def paint(figure: "Figure") -> None:
        for i, panel in enumerate(panels):
            plot = axes(figure, left + i * (across + gap), below, across, step * len(settings))
            plot.set_ylim(step * len(settings), 0)
            texts = [named(setting) if not i else "" for setting in settings]
            plot.set_yticks([step * (place + 0.5) for place in range(len(settings))], texts)
            plot.tick_params(axis="y", length=0)
            plot.grid(visible=False, axis="y")
            for at, method in enumerate(methods):
                rows = panel.rows.get(method, {})
                look = looks[method]
                for setting in (each for each in settings if each in rows):
                    mean, low, high = (panel.form.scale * v[0] for v in _columns([rows[setting]]))
                    y = step * settings.index(setting) + 5 + 10 * (at + 0.5)
                    error = [[mean - low], [high - mean]]
                    plot.errorbar(
                        [mean],
                        [y],
                        xerr=error,
                        color=look.colour,
                        marker=look.sign,
                        capsize=2,
                        elinewidth=1.4,
                    )
                if reference is not None and reference in rows and len(methods) == 1:
                    mean = panel.form.scale * rows[reference]["mean"]
                    plot.axvline(mean, color=INK, linestyle=":", linewidth=1)
            plot.set_xlabel(panel.label)
            plot.locator_params(axis="x", nbins=4)
        if entries:
            legend(figure, entries, height - 2, width, lines=False)

    return draw(name, caption, width, height, paint)
