"""Look-ups in the frames of an experiment: the value of a method, the best one, and those level with it.

A method is level with the best one of a figure if their paired difference has a corrected p of ``SURE`` or
more. The best one is chosen among methods that were measured on equally many queries in equally large pools.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from notellm.evaluate.baselines import OF_TEST_CLICKS
from notellm.experiment.report.words import Form, form_of, number_of, recall_depth
from notellm.experiment.results import Results

#: A difference is taken for real if its corrected p is below this.
SURE = 0.05
ALL = ("", "all")  # breakdown and group of all queries
ABLATION = "ablation"
#: The methods that the best one of a table is compared with in the answer: a simple one, then the default.
_LANDMARKS = {
    "recall": ("TF-IDF", "NoteLLM"),
    "writing": ("linear classifier", "NoteLLM"),
    "rank": ("BinMF", "BinLLM"),
}
_HEADLINES = ("R@100", "accuracy", "AUC", "UAUC", "F1")

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Difference:
    """A method less another one on the same queries; the fields are the columns of the frame."""

    method: str
    against: str
    figure: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_adjusted: float | None
    comparisons: int | None

    @property
    def sure(self) -> bool:
        """Whether the difference is larger than chance explains, after the correction."""
        return self.p_adjusted is not None and self.p_adjusted < SURE

    def reversed(self) -> "Difference":
        """Return the other method less this one."""
        value, low, high = (None if x is None else -x for x in (self.difference, self.high, self.low))
        return replace(self, method=self.against, against=self.method, difference=value, low=low, high=high)


class Findings:
    """The frames of results by what is asked of them.

    Args:
        results: the results.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self._figures: list[Row] = results.frames["figures"].to_dicts()
        self._differences: list[Row] = results.frames["differences"].to_dicts()
        self._forms: dict[tuple[str, str], Form] = {}
        self._by_table: dict[str, list[Row]] = {}
        self._places: dict[tuple[str, ...], Row] = {}
        for row in self._figures:
            self._by_table.setdefault(row["table"], []).append(row)
            place = ("table", "part", "setting", "breakdown", "group", "method", "figure")
            self._places[tuple(row[name] for name in place)] = row

    def rows(self, table: str, **where: str) -> list[Row]:
        """Return the rows of figures of a table whose columns have the given values, in their order."""
        return [
            row
            for row in self._by_table.get(table, [])
            if all(row[column] == value for column, value in where.items())
        ]

    def row(
        self,
        table: str,
        method: str,
        figure: str,
        *,
        breakdown: str = "",
        group: str = "all",
        part: str = "",
        setting: str = "",
    ) -> Row | None:
        """Return the row of one figure of a method; None if it was not measured."""
        return self._places.get((table, part, setting, breakdown, group, method, figure))

    def methods(self, table: str | None = None) -> list[str]:
        """Return the methods of a table, or of all, in their order; those of ablations come last."""
        rows = self._figures if table is None else self.rows(table)
        return distinct(row["method"] for row in sorted(rows, key=lambda row: row["table"] == ABLATION))

    def figures(self, table: str, **where: str) -> list[str]:
        """Return the figures of a table in their order, the R@k among them by k."""
        names = distinct(row["figure"] for row in self.rows(table, **where))
        deep = sorted(
            (name for name in names if recall_depth(name)), key=lambda name: recall_depth(name) or 0
        )
        rest = iter(deep)
        return [next(rest) if recall_depth(name) else name for name in names]

    def groups(self, table: str, breakdown: str) -> list[str]:
        """Return the groups of a breakdown in their order."""
        return distinct(row["group"] for row in self.rows(table, breakdown=breakdown))

    def breakdowns(self, table: str) -> list[str]:
        """Return the breakdowns of a table in their order, without that of all queries."""
        return [name for name in distinct(row["breakdown"] for row in self.rows(table)) if name]

    def headline(self, names: list[str]) -> str | None:
        """Return the figure that a table is summed up by: R@100, accuracy, AUC, or the first one."""
        for wanted in _HEADLINES:
            for name in names:
                if name == wanted or name.endswith(f" {wanted}"):
                    return name
        return names[0] if names else None

    def form(self, table: str, figure: str) -> Form:
        """Return how a figure of a table is written."""
        if (table, figure) not in self._forms:
            values = [abs(row["mean"]) for row in self.rows(table, figure=figure) if row["mean"] is not None]
            self._forms[table, figure] = form_of(figure, max(values, default=1.0))
        return self._forms[table, figure]

    def best(self, table: str, figure: str, breakdown: str = "", group: str = "all") -> str | None:
        """Return the method with the best mean of a figure; None if none is better than another."""
        return next(iter(self.winners(table, figure, breakdown, group)), None)

    def winners(self, table: str, figure: str, breakdown: str = "", group: str = "all") -> list[str]:
        """Return the methods that share the best mean of a figure.

        Only methods with the most common number of queries and size of the pool count, and none that knows
        the test clicks.
        """
        better = self.form(table, figure).better
        rows = [
            row
            for row in self.rows(table, figure=figure, breakdown=breakdown, group=group)
            if row["mean"] is not None and math.isfinite(row["mean"]) and row["method"] != OF_TEST_CLICKS
        ]
        if not better or len(rows) < 2:
            return []
        common = basis(rows)
        comparable = [row for row in rows if (row["count"], row["pool"]) == common]
        most = max(better * row["mean"] for row in comparable)
        return [str(row["method"]) for row in comparable if better * row["mean"] == most]

    def level(self, table: str, figure: str) -> list[str]:
        """Return the methods that cannot be told from the best one of a figure."""
        best = self.best(table, figure)
        if best is None:
            return []
        return [
            method
            for method in self.methods(table)
            if method != best
            and (difference := self.difference(table, best, method, figure)) is not None
            and difference.p_adjusted is not None
            and not difference.sure
        ]

    def untested(self, table: str, figure: str) -> list[str]:
        """Return the methods with a figure that were not compared with the best one of it."""
        best = self.best(table, figure)
        if best is None:
            return []
        return [
            method
            for method in self.methods(table)
            if method != best
            and self.row(table, method, figure) is not None
            and self.difference(table, best, method, figure) is None
        ]

    def differences(self, table: str, part: str | None = None) -> list[tuple[Row, Difference]]:
        """Return the rows of differences of a table, and of a part of an ablation, in their order."""
        return [
            (row, _difference(row))
            for row in self._differences
            if row["table"] == table and part in (None, row["part"])
        ]

    def difference(self, table: str, method: str, against: str, figure: str) -> Difference | None:
        """Return a method less another one, in whichever order they were compared; None if they were not."""
        for row in self._differences:
            if row["table"] == table and not row["part"] and row["figure"] == figure:
                if (row["method"], row["against"]) == (method, against):
                    return _difference(row)
                if (row["against"], row["method"]) == (method, against):
                    return _difference(row).reversed()
        return None

    def landmarks(self, table: str) -> list[str]:
        """Return the methods that the best one is compared with in the answer: simple, default, others."""
        named = [name for name in _LANDMARKS.get(table, ()) if name in self.methods(table)]
        against = distinct(row["against"] for row, _ in self.differences(table))
        return distinct([*named, *against])[:4]

    def default(self, table: str) -> str | None:
        """Return the method that is this project's default in a table; None if it was not measured."""
        wanted = _LANDMARKS.get(table, ("", ""))[-1]
        return wanted if wanted in self.methods(table) else None

    def parts(self) -> list[str]:
        """Return the options that the ablations vary, in their order."""
        return distinct(row["part"] for row in self.rows(ABLATION))

    def settings(self, part: str) -> list[str]:
        """Return the settings of an option, by their number if all are numbers, else in their order."""
        names = distinct(row["setting"] for row in self.rows(ABLATION, part=part))
        numbers = {name: number_of(name) for name in names}
        if any(value is None for value in numbers.values()):
            return names
        return sorted(names, key=lambda name: numbers[name] or 0.0)

    def reference(self, part: str) -> str | None:
        """Return the setting that the others of an option were compared with; None if that is not told.

        It is the one setting that no row of differences has, or the setting that ``against`` names.
        """
        settings = self.settings(part)
        rows = [row for row, _ in self.differences(ABLATION, part)]
        compared = {row["setting"] for row in rows}
        left = [name for name in settings if name not in compared]
        named = [name for name in settings if any(row["against"] == name for row in rows)]
        if named:
            return named[0]
        return left[0] if compared and len(left) == 1 else None


def distinct(names: Iterable[T]) -> list[T]:
    """Return names without repetitions, in the order of their first place."""
    return list(dict.fromkeys(names))


def basis(rows: Sequence[Row]) -> tuple[int | None, int | None] | None:
    """Return the number of queries and the size of the pool that most rows have; None without rows.

    Rows without a mean count only if there are no others. Of two that are as common, it is the one with more
    queries.
    """
    found = [(row["count"], row["pool"]) for row in rows if row["mean"] is not None] or [
        (row["count"], row["pool"]) for row in rows
    ]
    counts = Counter(found)
    return max(counts, key=lambda each: (counts[each], each[0] or 0), default=None)


def _difference(row: Row) -> Difference:
    names = ("method", "against", "figure", "difference", "low", "high", "p", "p_adjusted", "comparisons")
    return Difference(**{name: row[name] for name in names})
