"""How a report writes figures, options and texts of the data: units, digits, names, visible characters.

A ``Form`` says how a figure is written and which direction is better. Shares of found or rightly written
notes are percentages; AUC, UAUC and NDCG are shares with four decimals, as in the papers.
"""

import math
import re
from dataclasses import dataclass

#: Characters that nobody sees or that turn the writing direction, and surrogates, which cannot be encoded.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)
NONE = "–"  # stands for a number that there is not
#: What the names of options mean, for the axes and the tables of ablations.
_OPTIONS = {
    "alpha": "weight of the writing loss, α",
    "batch": "pairs in a batch",
    "batch_pairs": "pairs in a batch",
    "dim": "dimensions of the vector",
    "epochs": "passes over the pairs",
    "learning_rate": "learning rate of the layers",
    "lexical_share": "share of the words in hybrid search",
    "tau": "starting log inverse temperature, τ",
    "title_tokens": "tokens of the title in the prompt",
    "content_tokens": "tokens of the content in the prompt",
    "topic_share": "share of notes that write topics, r",
    "bits": "bits of a code",
    "losses": "losses that are trained",
    "top": "related notes that a note keeps, t",
    "upper": "highest score of a pair, u",
    "lower": "lowest score of a pair, l",
    "template": "wording of the prompt",
    "learn_tau": "temperature",
    "mask_false_negatives": "other related notes in a batch",
    "sampling_correction": "popularity of negatives",
    "tiny_layers": "layers of the tiny backbone",
    "tiny_hidden": "hidden size of the tiny backbone",
}
_RANKING = re.compile(r"(u?auc|n?dcg)\b|ndcg@", re.IGNORECASE)
_LOWER_IS_BETTER = re.compile(r"ill-?formed|\bece\b|error|brier|log ?loss|\bloss\b|perplexity", re.IGNORECASE)
_NUMBER = re.compile(r"loss|brier|perplexity|^topics$|topics a note", re.IGNORECASE)
_NEITHER = re.compile(r"^topics$|topics a note|\bnovel\b", re.IGNORECASE)
_RECALL = re.compile(r"R(?:ecall)?@(\d+)")


@dataclass(frozen=True)
class Form:
    """How a figure is written.

    Attributes:
        scale: what the value is multiplied by: 100 for a percentage, else 1.
        decimals: digits after the point.
        better: 1 if more is better, -1 if less is, 0 if neither is.
    """

    scale: float
    decimals: int
    better: int

    @property
    def unit(self) -> str:
        """``" %"`` for a percentage, else nothing."""
        return " %" if self.scale == 100 else ""

    @property
    def points(self) -> str:
        """``" points"`` for a difference of percentages, else nothing."""
        return " points" if self.scale == 100 else ""

    def number(self, value: float | None, *, sign: bool = False) -> str:
        """Return a value as a number without its unit; a dash where there is none.

        Args:
            value: the value as the frames hold it.
            sign: write a plus, too, as for a difference.
        """
        if value is None or not math.isfinite(value):
            return NONE
        text = f"{self.scale * value:{'+' if sign else ''},.{self.decimals}f}"
        return text.replace("-", "−")

    def interval(self, low: float | None, high: float | None, *, sign: bool = False) -> str:
        """Return an interval in brackets; nothing where an end is missing."""
        if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
            return ""
        return f"[{self.number(low, sign=sign)}, {self.number(high, sign=sign)}]"

    def deviation(self, value: float | None) -> str:
        """Return the standard deviation over seeds as ``± 0.3``; nothing where there is none."""
        return "" if value is None or not math.isfinite(value) else f"± {self.number(value)}"


#: What breakdowns group by, where their names do not say it.
_BREAKDOWNS = {
    "known": "clicks in training",
    "length": "length of the text",
    "language": "script of the text",
}


def form_of(figure: str, largest: float = 1.0) -> Form:
    """Return how a figure is written.

    Args:
        figure: its name.
        largest: the largest value in its column; shares that are all small get another decimal.
    """
    better = 0 if _NEITHER.search(figure) else -1 if _LOWER_IS_BETTER.search(figure) else 1
    if _RANKING.match(figure):
        return Form(1, 4, better)
    if _NUMBER.search(figure):
        return Form(1, 2, better)
    return Form(100, 2 if largest < 0.1 else 1, better)


def recall_depth(figure: str) -> int | None:
    """Return k of ``R@k``; None for another figure."""
    match = _RECALL.fullmatch(figure)
    return None if match is None else int(match[1])


def option_name(part: str) -> str:
    """Return what an option means, as "weight of the writing loss, α"; its name if that is not known."""
    return _OPTIONS.get(part, part.replace("_", " "))


def number_of(text: str) -> float | None:
    """Return the finite number that a setting is; None for a word."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def probability(p: float | None) -> str:
    """Return a p-value as ``p = 0.031`` or ``p < 0.001``; nothing where there is none."""
    if p is None or not math.isfinite(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def duration(seconds: float | None) -> str:
    """Return a time as ``12.4 s``, ``3 min 20 s`` or ``1 h 05 min``; a dash where there is none."""
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def count(value: float | None) -> str:
    """Return a count with separated thousands, with a decimal if it is below 100 and no whole number."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:,.1f}"


def visible(text: str) -> str:
    r"""Return a text in which characters that are not seen or turn the direction read as ``\u202e``."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def line(text: str) -> str:
    """Return a text of the data on one line, with every character visible."""
    return visible(" ".join(text.split()))


def breakdown_name(breakdown: str) -> str:
    """Return what a breakdown groups by, in words."""
    return _BREAKDOWNS.get(breakdown, line(breakdown))


def listed(names: list[str]) -> str:
    """Return names as ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def shortened(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters, its end replaced by an ellipsis."""
    text = line(text)
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
