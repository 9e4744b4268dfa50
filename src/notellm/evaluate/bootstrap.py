"""Means with bootstrap intervals, which say how far a figure would move on other queries, users or rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2**22  # largest number of resampled rows held in memory at once


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval: a share (0 to 1), or a difference of shares (-1 to 1).

    ``f"{interval:.4f}"`` formats all three numbers: "0.7312 [0.7201, 0.7420]".
    """

    mean: float
    low: float
    high: float

    def __format__(self, number_format: str) -> str:
        mean, low, high = (format(value, number_format) for value in (self.mean, self.low, self.high))
        return f"{mean} [{low}, {high}]"

    def percent(self) -> "Interval":
        """Return the interval in percent, or in points if it is a difference."""
        return Interval(100 * self.mean, 100 * self.low, 100 * self.high)


def intervals(values: Mapping[str, npt.NDArray[Any]], resamples: int, seed: int) -> dict[str, Interval]:
    """Return the mean of each figure and the 2.5 % and 97.5 % percentiles of its resampled means.

    Args:
        values: (n,) array of each figure by name, one value per query; all figures are resampled together.
        resamples: number of bootstrap resamples, at least 1.
        seed: seed of the draws.
    """
    columns = np.stack(list(values.values()), axis=1).astype(np.float64)  # queries x figures
    count = len(columns)
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    step = max(1, DRAWS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        rows = generator.integers(0, count, (size, count))
        for figure in range(columns.shape[1]):
            means[start : start + size, figure] = columns[:, figure][rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return {
        name: Interval(float(columns[:, i].mean()), float(low[i]), float(high[i]))
        for i, name in enumerate(values)
    }
