"""Whether the new models take over: only if they are not worse, and nothing speaks against comparing them.

The new model is worse if, for "recall" or for "recommend", the deciding figure of the same users

    is lower beyond chance:   the 95 % interval of the difference lies below 0, or
    is lower by more than allowed:   difference < -margin x figure of the serving model.

Where users could open only what the serving models had shown, a lower figure is expected even of a better
model. Then only the second rule holds, with a wider margin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notellm.evaluate.tables import Table
from notellm.renew.comparison import Figures


@dataclass(frozen=True)
class Decision:
    """The outcome of a comparison.

    Attributes:
        takes_over: whether the new models take over.
        reasons: why they do, or why they do not, in sentences.
        figures: the figures by kind of list; empty if nothing was compared.
    """

    takes_over: bool
    reasons: Sequence[str]
    figures: Mapping[str, Figures]

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON values."""
        return {
            "takes_over": self.takes_over,
            "reasons": list(self.reasons),
            "figures": {kind: figures.to_json() for kind, figures in self.figures.items()},
        }

    def table(self) -> Table:
        """Return the figures as a table, in %."""
        rows = [
            [kind, name, *(f"{getattr(each, part)[name].percent():.1f}" for part in _PARTS)]
            for kind, each in self.figures.items()
            for name in each.difference
        ]
        return Table(["list", "figure", "serving", "new", "difference"], rows, "% [95 % interval over users]")


_PARTS = ("serving", "renewed", "difference")


def decide(figures: Mapping[str, Figures], *, margin: float, from_lists: bool = False) -> Decision:
    """Decide by the figures of both models.

    Args:
        figures: the figures by kind of list.
        margin: share of the serving model's figure by which the new one may be lower.
        from_lists: whether the figures count clicks on lists of the serving models.
    """
    worse, fine = [], []
    for kind, each in figures.items():
        name = each.deciding
        before, after = each.serving[name].mean, each.renewed[name].mean
        difference = each.difference[name]
        said = (
            f"{name} of {kind} is {100 * after:.1f} %, that of the serving model {100 * before:.1f} % "
            f"(difference {difference.percent():+.1f})"
        )
        if difference.high < 0 and not from_lists:
            worse.append(f"{said}: lower beyond chance")
        elif not difference.mean >= -margin * before:  # also if it is no number
            worse.append(f"{said}: lower by more than {100 * margin:g} % of it")
        else:
            fine.append(f"{said}: not worse")
    reasons = worse or fine
    if from_lists:
        reasons.append(
            "users could open only what the serving models had shown, so these figures favour them; clicks "
            "from elsewhere, or exploring (notellm serve --explore), would tell more"
        )
    return Decision(not worse, reasons, figures)


def stays(*reasons: str) -> Decision:
    """Return the decision that the serving models stay for reasons other than their figures."""
    return Decision(False, reasons, {})
