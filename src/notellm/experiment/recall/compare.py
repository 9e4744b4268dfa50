"""Comparing methods of retrieval on the same queries, over several training seeds.

A figure of a method is the mean over its seeds and over the queries. Its interval says how far it would move
on other queries: queries are resampled, the figures of the seeds stay together. How far it moves with the
seed is the standard deviation of the means of the seeds. Methods are compared on the same resamples, and the
p-values of all methods by one figure are corrected for their number (``statistics.holm``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from notellm.errors import DataError
from notellm.evaluate.bootstrap import DRAWS, Interval
from notellm.evaluate.retrieval import RetrievalResult
from notellm.experiment.statistics import bootstrap_p, holm

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
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

    def per_query(self, figure: str) -> Floats:
        """Return the values of a figure for each query, (queries,), means over the seeds."""
        return np.asarray(np.mean([run.per_query[figure] for run in self.runs], axis=0), np.float64)

    @property
    def figures(self) -> list[str]:
        """Names of its figures, "R@k" by ascending k, then "MRR"."""
        return list(self.runs[0].per_query)

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
    count = methods[0].runs[0].queries
    everything = {"": {"all": np.ones(count, np.bool_)}}
    rows = []
    for breakdown, parts in {**everything, **groups}.items():
        for group, mask in parts.items():
            names = list(methods[0].runs[0].per_query)
            values = np.stack([each.per_query(name)[mask] for each in methods for name in names], axis=1)
            low, high = np.quantile(_resampled(values, resamples, seed), [0.025, 0.975], axis=0)
            for column, (method, name) in enumerate((each, name) for each in methods for name in names):
                of_seeds = [float(run.per_query[name][mask].mean()) for run in method.runs]
                rows.append(
                    {
                        **method.row(table),
                        "breakdown": breakdown,
                        "group": group,
                        "figure": name,
                        "mean": float(values[:, column].mean()),
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
    _check_comparable([against, *methods])
    others = [each for each in methods if each != against]
    if not others:
        return []
    names = list(against.runs[0].per_query)
    cells = [(method, name) for method in others for name in names]
    values = np.stack([method.per_query(name) - against.per_query(name) for method, name in cells], axis=1)
    resampled = _resampled(values, resamples, seed)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    p = np.array([bootstrap_p(column) for column in resampled.T])
    adjusted = np.empty(len(p))
    for figure in names:  # a family: all methods by one figure
        family = [column for column, (_, name) in enumerate(cells) if name == figure]
        adjusted[family] = holm(p[family])
    return [
        {
            **method.row(table),
            "against": against.name,
            "figure": name,
            "difference": float(values[:, column].mean()),
            "low": float(low[column]),
            "high": float(high[column]),
            "p": float(p[column]),
            "p_adjusted": float(adjusted[column]),
            "comparisons": len(others),
        }
        for column, (method, name) in enumerate(cells)
    ]


def paired(first: Floats, second: Floats, *, resamples: int, seed: int) -> tuple[Interval, float]:
    """Return the mean of first - second over queries with its interval, and its two-sided p-value.

    Args:
        first: (queries,) values of one method.
        second: (queries,) values of the other.
        resamples: number of bootstrap resamples.
        seed: seed of the draws.
    """
    values = (first - second)[:, None]
    means = _resampled(values, resamples, seed)[:, 0]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high)), bootstrap_p(means)


def _resampled(values: Floats, resamples: int, seed: int) -> Floats:
    """Return the means of resampled rows, (resamples, columns), of values (rows, columns)."""
    count = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    step = max(1, DRAWS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = generator.integers(0, count, (size, count))
        # How often each row is drawn; one matrix product then gives the means of all columns.
        offsets = drawn + count * np.arange(size)[:, None]
        times = np.bincount(offsets.ravel(), minlength=size * count).reshape(size, count)
        means[start : start + size] = times @ values / count
    return means


def _check_comparable(methods: Sequence[Measured]) -> None:
    for method in methods:
        for run in method.runs:
            first = methods[0].runs[0]
            if (run.query_ids, run.pool) != (first.query_ids, first.pool):
                raise DataError(
                    f"{method.name} and {methods[0].name} were measured on different queries or pools; "
                    "measure both on the same ones"
                )
