"""Means with bootstrap intervals: how far a figure would move on other queries, users or rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 2**22  # resampled rows held at once


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval: shares (0 to 1), or a difference of such (-1 to 1)."""

    mean: float
    low: float
    high: float


def intervals(values: Mapping[str, npt.NDArray[Any]], resamples: int, seed: int) -> dict[str, Interval]:
    """Mean of each column and the 2.5 % and 97.5 % percentiles of its resampled means.

    Args:
        values: figures by name, each with one value per query, (n,); all are resampled together.
        resamples: bootstrap resamples, 1 or more.
        seed: of the draws.
    """
    columns = np.stack(list(values.values()), axis=1).astype(np.float64)  # queries x metrics
    count = len(columns)
    draw = np.random.default_rng(seed)
    means = np.empty((resamples, columns.shape[1]))
    step = max(1, DRAWS // count)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        rows = draw.integers(0, count, (size, count))
        for metric in range(columns.shape[1]):
            means[start : start + size, metric] = columns[:, metric][rows].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return {
        metric: Interval(float(columns[:, i].mean()), float(low[i]), float(high[i]))
        for i, metric in enumerate(values)
    }
