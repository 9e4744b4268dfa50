"""How the plots of a report are drawn: colours, signs, places in points, and clean SVG.

Methods differ by colour (Okabe and Ito 2008, told apart by colour-blind readers), sign and line at once.
Texts stay texts, in the font of the page. Ink is ``currentColor``, so that a plot suits a light and a dark
page. The same results give the same bytes.
"""

import re
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from notellm.errors import MissingDependencyError
from notellm.experiment.report.words import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Stands for the colour of texts until the SVG is cleaned.
INK = "#1b1f24"
GREY = "#8a9199"
#: Those of Okabe and Ito but black; the page has lighter ones of the same numbers for a dark background.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_SIGNS = ("o", "s", "^", "D", "v", "P", "X", "p")
_LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)))
SIZE = 10.0  # of texts, in points
_LONGEST_NAME = 30  # characters of a name in a plot
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "notellm",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so that places do not depend on the machine
    "font.size": SIZE,
    "text.color": INK,
    "text.parse_math": False,  # names are no formulas
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": SIZE,
    "ytick.labelsize": SIZE,
    "axes.labelsize": SIZE,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Style:
    """How a method or a group is drawn."""

    colour: str
    sign: str
    line: Any


def style(place: int) -> Style:
    """Return the style of the method at a place; no two of the first 280 are equal."""
    colours = (*COLOURS[:-1], INK)  # yellow lines are hard to see on white
    return Style(colours[place % len(colours)], _SIGNS[place % len(_SIGNS)], _LINES[place % len(_LINES)])


def check_matplotlib() -> None:
    """Check that plots can be drawn; long work that ends in a report calls this before it begins.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401, PLC0415
    except ImportError as error:
        raise MissingDependencyError(
            "the plots of a report need matplotlib: pip install 'notellm[experiment]'"
        ) from error


def draw(name: str, description: str, width: float, height: float, paint: Callable[["Figure"], None]) -> str:
    """Draw a plot and return it as an ``svg`` element of HTML; as a file it needs its name space.

    Args:
        name: name of the plot, with which the ids in it begin.
        description: what is to be seen, for those who do not see it.
        width: its width in points.
        height: its height in points.
        paint: draws into the empty figure.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    check_matplotlib()
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(), warnings.catch_warnings():
        # Places are computed with a font that lacks Chinese characters, but the page has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        mpl.rcdefaults()  # a style that the user has chosen does not count
        mpl.rcParams.update(_SETTINGS)
        figure = Figure(figsize=(width / 72, height / 72))
        FigureCanvasSVG(figure)
        paint(figure)
        text = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
    return _clean(text.getvalue(), name, description, width, height)


def _clean(text: str, name: str, description: str, width: float, height: float) -> str:
    """Return the SVG of matplotlib without metadata, fonts, the colour of ink, and ids nobody refers to."""
    root = ET.fromstring(text)  # noqa: S314  # what matplotlib has written
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata":
            root.remove(child)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SVG}}}style":  # would hold for the whole page
                parent.remove(child)
    new_ids = _new_ids(root, name)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")  # within a page the name space is implied
        link = element.attrib.pop(_XLINK, None)
        if link is not None:
            element.set("href", f"#{new_ids[link.removeprefix('#')]}")
        old = element.attrib.pop("id", None)
        if old in new_ids:
            element.set("id", new_ids[old])
        for key, value in list(element.attrib.items()):
            if key in ("style", "clip-path", "fill", "stroke"):
                element.set(key, _plain(value, new_ids))
        if element.text is not None and not element.text.strip():
            element.text = None
        element.tail = None
    root.attrib.clear()
    root.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width * 4 / 3:.0f}",
        "height": f"{height * 4 / 3:.0f}",
        "role": "img",
        "aria-label": description,
        "style": "stroke-linejoin: round; stroke-linecap: butt",
    }
    return ET.tostring(root, encoding="unicode")


def _new_ids(root: ET.Element, name: str) -> dict[str, str]:
    """Return new ids, which no other plot has, for those that something refers to."""
    wanted: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            found = [value.removeprefix("#")] if key == _XLINK else re.findall(r"url\(#([^)]+)\)", value)
            for each in found:
                wanted.setdefault(each, f"{name}-{len(wanted)}")
    return wanted


def _plain(value: str, new_ids: Mapping[str, str]) -> str:
    value = re.sub(r"url\(#([^)]+)\)", lambda match: f"url(#{new_ids[match[1]]})", value)
    value = re.sub(r"font: (?:[a-z]+ )*([\d.]+px) [^;]*", r"font-size: \1", value)
    value = re.sub(r"font-family: [^;]*;?\s*", "", value)
    return value.replace(INK, "currentColor")


def width_of(text: str, size: float = SIZE) -> float:
    """Return about how wide a text is, in points; Chinese characters count full."""
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return size * (1.02 * wide + 0.6 * (len(text) - wide))


def named(text: str) -> str:
    """Return a name from the data as it stands in a plot."""
    return shortened(text, _LONGEST_NAME)


def axes(figure: "Figure", left: float, bottom: float, width: float, height: float) -> "Axes":
    """Add axes to a figure at a place in points."""
    across, up = 72 * figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def apart(places: Sequence[float], gap: float, least: float, most: float) -> list[float]:
    """Return places moved apart as little as needed to have a gap, in the same order, within limits."""
    if not places:
        return []
    gap = min(gap, (most - least) / max(1, len(places) - 1))
    order = sorted(range(len(places)), key=lambda i: (places[i], i))
    moved = [min(max(places[i], least), most) for i in order]
    for _ in range(200):
        worst = 0.0
        for i in range(len(moved) - 1):
            lack = gap - (moved[i + 1] - moved[i])
            if lack > 1e-6:
                moved[i] -= lack / 2
                moved[i + 1] += lack / 2
                worst = max(worst, lack)
        below, above = max(0.0, least - moved[0]), max(0.0, moved[-1] - most)
        moved[0] += below
        moved[-1] -= above
        if max(worst, below, above) < 0.01:
            break
    result = [0.0] * len(places)
    for i, place in zip(order, moved, strict=True):
        result[i] = place
    return result


def label_ends(plot: "Axes", ends: Sequence[tuple[float, float, str, Style]], *, gap: float = 13.0) -> None:
    """Write names to the right of the ends of lines, each joined with its end.

    Args:
        plot: the axes, whose limits are set.
        ends: x and y of an end in data, its name and its style.
        gap: least distance of two names in points.
    """
    low, high = plot.get_ylim()
    height = plot.get_window_extent().height * 72 / plot.figure.dpi
    across = plot.get_window_extent().width * 72 / plot.figure.dpi
    left, right = plot.get_xlim()
    places = [(y - low) / (high - low) * height for _, y, _, _ in ends]
    for (x, y, name, look), place in zip(ends, apart(places, gap, 0, height), strict=True):
        start = (x - left) / (right - left) * across
        plot.annotate(
            name,
            xy=(x, y),
            xytext=(across - start + 16, place - (y - low) / (high - low) * height),
            textcoords="offset points",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": look.colour,
                "linewidth": 0.8,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def legend_rows(names: Sequence[str], width: float) -> list[list[int]]:
    """Return which entries of a legend stand in which of its rows, by their places."""
    rows: list[list[int]] = [[]]
    used = 0.0
    for i, name in enumerate(names):
        need = 26 + width_of(name) + 12
        if rows[-1] and used + need > width:
            rows.append([])
            used = 0.0
        rows[-1].append(i)
        used += need
    return rows


def legend_height(names: Sequence[str], width: float) -> float:
    """Return the height of a legend in points."""
    return 15.0 * len(legend_rows(names, width)) + 4


def legend(
    figure: "Figure", entries: Sequence[tuple[str, Style]], top: float, width: float, *, lines: bool
) -> None:
    """Write a legend from the left edge, in as many rows as it needs.

    Args:
        figure: the figure.
        entries: names and their styles.
        top: its upper edge in points from below.
        width: its width in points.
        lines: show lines through the signs.
    """
    names = [name for name, _ in entries]
    height = legend_height(names, width)
    plot = axes(figure, 0, top - height, width, height)
    plot.set_axis_off()
    plot.set_xlim(0, width)
    plot.set_ylim(0, height)
    for i, row in enumerate(legend_rows(names, width)):
        left, y = 4.0, height - 15 * i - 8
        for place in row:
            name, look = entries[place]
            if lines:
                plot.plot([left, left + 20], [y, y], color=look.colour, linestyle=look.line)
            plot.plot(left + 10, y, color=look.colour, marker=look.sign, linestyle="none")
            plot.text(left + 26, y, name, va="center_baseline")
            left += 26 + width_of(name) + 12


class Names:
    """Makes names of plots that serve as names of files and as ids, each once."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def __call__(self, *parts: str) -> str:
        """Return a name made of some parts, such as ``ablation-topic-share``."""
        plain = "-".join(
            filter(None, (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts))
        )
        name, number = plain[:60], 1
        while name in self._given:
            number += 1
            name = f"{plain[:60]}-{number}"
        self._given.add(name)
        return name
