"""Comparing methods of retrieval on the same queries, over several training seeds.

A figure of a method is the mean over its seeds and over the queries. Intervals and p-values say how far a
figure or a difference would move on other queries and, for methods with several seeds, with other seeds:
both are resampled, the same queries for all methods. The p-values of all methods by one figure are corrected
for their number (``statistics.holm``). Fewer than ``LEAST`` queries are not tested.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from notellm.errors import DataError
from notellm.evaluate.bootstrap import DRAWS, Interval
from notellm.evaluate.retrieval import RetrievalResult
from notellm.experiment.statistics import LEAST, bootstrap_p, holm

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """A method measured on the queries of a table, once for each training seed.

    Attributes:
        name: name in tables.
        runs: the result of each seed, or the only one of a method without seeds.
        part: of an ablation, the option that varies.
        setting: of an ablation, its value.
    """

    name: str
    runs: Sequence[RetrievalResult]
    part: str = ""
    setting: str = ""

    @property
    def figures(self) -> list[str]:
        """Names of its figures, "R@k" by ascending k, then "MRR"."""
        return list(self.runs[0].per_query)

    def mean(self, figure: str) -> float:
        """Return the mean of a figure over seeds and queries."""
        return float(np.mean([run.per_query[figure].mean() for run in self.runs]))

    def row(self, table: str) -> dict[str, Any]:
        """Return what names the method in a frame of the results."""
        return {"table": table, "part": self.part, "setting": self.setting, "method": self.name}


def figure_rows(
    table: str,
    methods: Sequence[Measured],
    groups: Mapping[str, Mapping[str, npt.NDArray[np.bool_]]],
    *,
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the figures of methods for all queries and for groups of them, as rows of ``results.FIGURES``.

    Args:
        table: name of the table.
        methods: the methods, all measured on the same queries.
        groups: by breakdown and group, which queries it has, (queries,).
        resamples: number of bootstrap resamples.
        seed: seed of the draws.

    Raises:
        DataError: if the methods were measured on different queries.
    """
    _check_comparable(methods)
    if not methods:
        return []
    everything = {"": {"all": np.ones(methods[0].runs[0].queries, np.bool_)}}
    rows = []
    for breakdown, parts in {**everything, **groups}.items():
        for group, mask in parts.items():
            for method, resampled in zip(methods, _resampled(methods, mask, resamples, seed), strict=True):
                low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
                for column, name in enumerate(method.figures):
                    of_seeds = [float(run.per_query[name][mask].mean()) for run in method.runs]
                    rows.append(
                        {
                            **method.row(table),
                            "breakdown": breakdown,
                            "group": group,
                            "figure": name,
                            "mean": float(np.mean(of_seeds)),
                            "low": float(low[column]),
                            "high": float(high[column]),
                            "deviation": float(np.std(of_seeds, ddof=1)) if len(of_seeds) > 1 else None,
                            "seeds": len(of_seeds),
                            "count": int(mask.sum()),
                            "pool": method.runs[0].pool,
                        }
                    )
    return rows


def difference_rows(
    table: str, methods: Sequence[Measured], against: Measured, *, resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return methods less one of them on the same queries, as rows of ``results.DIFFERENCES``.

    Args:
        table: name of the table.
        methods: the methods; the one they are compared with may be among them.
        against: the method they are compared with.
        resamples: number of bootstrap resamples.
        seed: seed of the draws.

    Raises:
        DataError: if the methods were measured on different queries.
    """
    others = [each for each in methods if each.row("") != against.row("")]
    _check_comparable([against, *others])
    rows: list[dict[str, Any]] = []
    reference, *resampled = _resampled([against, *others], None, resamples, seed)
    for column, figure in enumerate(against.figures):  # a family: all methods by one figure
        family = []
        for method, values in zip(others, resampled, strict=True):
            difference, p = _tested(method, against, figure, values[:, column] - reference[:, column])
            family.append(
                {
                    **method.row(table),
                    "against": against.name,
                    "figure": figure,
                    "difference": difference.mean,
                    "low": difference.low,
                    "high": difference.high,
                    "p": p,
                    "comparisons": len(others),
                }
            )
        known = [row["p"] for row in family if row["p"] is not None]
        adjusted = iter(holm(known).tolist())
        rows += [row | {"p_adjusted": None if row["p"] is None else next(adjusted)} for row in family]
    return rows


def paired(
    first: Measured, second: Measured, figure: str, *, resamples: int, seed: int
) -> tuple[Interval, float | None]:
    """Return the mean of one method less another with its interval, and its two-sided p-value.

    Args:
        first: one method.
        second: the other one, measured on the same queries.
        figure: name of the figure that is compared.
        resamples: number of bootstrap resamples.
        seed: seed of the draws.

    Returns:
        The difference, and its p-value; None if there are too few queries to test.
    """
    column = first.figures.index(figure)
    better, worse = _resampled([first, second], None, resamples, seed)
    return _tested(first, second, figure, better[:, column] - worse[:, column])


def _tested(
    first: Measured, second: Measured, figure: str, resampled: Floats
) -> tuple[Interval, float | None]:
    """Return a difference with its interval and p-value, from its resampled values (resamples,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    interval = Interval(first.mean(figure) - second.mean(figure), float(low), float(high))
    return interval, bootstrap_p(resampled) if first.runs[0].queries >= LEAST else None


def _resampled(
    methods: Sequence[Measured], mask: npt.NDArray[np.bool_] | None, resamples: int, seed: int
) -> list[Floats]:
    """Return the resampled means of each method, (resamples, figures); queries, and seeds, are resampled.

    Args:
        methods: the methods.
        mask: (queries,) which queries count; None for all.
        resamples: number of resamples.
        seed: seed of the draws.
    """
    columns = [
        run.per_query[name] if mask is None else run.per_query[name][mask]
        for method in methods
        for run in method.runs
        for name in method.figures
    ]
    values = np.stack(columns, axis=1).astype(np.float64)  # queries x (methods, seeds, figures)
    count = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, DRAWS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, count, (size, count))
        # How often each query is drawn; one matrix product then gives the means of all columns.
        offsets = drawn + count * np.arange(size)[:, None]
        times = np.bincount(offsets.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times @ values / count
    result, first = [], 0
    for method in methods:
        seeds, figures = len(method.runs), len(method.figures)
        own = means[:, first : first + seeds * figures].reshape(resamples, seeds, figures)
        first += seeds * figures
        if seeds > 1:
            own = np.take_along_axis(own, generator.integers(0, seeds, (resamples, seeds, 1)), axis=1)
        result.append(own.mean(axis=1))
    return result


def _check_comparable(methods: Sequence[Measured]) -> None:
    for method in methods:
        for run in method.runs:
            first = methods[0].runs[0]
            if (run.query_ids, run.pool) != (first.query_ids, first.pool):
                raise DataError(
                    f"{method.name} and {methods[0].name} were measured on different queries or pools; "
                    "measure both on the same ones"
                )
