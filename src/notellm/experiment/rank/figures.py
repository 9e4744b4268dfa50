"""AUC, UAUC and NDCG@10 of rank methods over seeds, with intervals, differences and reliability.

Everything resamples users, since the rows of a user are not independent: a resample draws as many users as
there are, and the rows of a user count as often as the user was drawn. All methods and seeds see the same
draws. Of several seeds a resample draws as many with replacement, for each method apart. So an interval says
how a figure would move on other users and with other seeds. The figures are defined in
``evaluate/ranking.py``. Users are taken in the order of their ids, so the order of the rows does not count.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm.data.ids import codes
from notellm.errors import ConfigError, DataError
from notellm.evaluate.ranking import checked_scores, cold_groups
from notellm.evaluate.ranking_figures import auc_by_group, ndcg_by_group, user_weights, weighted_aucs
from notellm.experiment.rank.data import RankData
from notellm.experiment.rank.runs import RankRun
from notellm.experiment.statistics import LEAST, bootstrap_p, holm
from notellm.jobs.evaluate_rank import NAME

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Mask: TypeAlias = npt.NDArray[np.bool_]
Row: TypeAlias = dict[str, Any]
#: The figure of each seed, then that of every resample: (1 + resamples, seeds).
Resampled: TypeAlias = Floats

TABLE = "rank"
_DEPTH = 10
_NDCG = f"NDCG@{_DEPTH}"


def rank_figures(
    data: RankData,
    runs: Mapping[str, Sequence[npt.ArrayLike]],
    *,
    against: str = NAME,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[list[Row], list[Row]]:
    """Compute figures of methods on the test rows, and their differences from a reference.

    The family of Holm's correction holds the comparisons of all methods by one figure. With n resamples no p
    is below 2 / (n + 1), so m methods need n of 40 m or more to be told from the reference at all.

    Args:
        data: the impressions.
        runs: by name of the method the scores (rows,) of the test rows, one array for each seed.
        against: a reference, beside the method of the best AUC; without it in ``runs`` there are no
            differences from it.
        resamples: number of bootstrap resamples.
        seed: seed of the resamples.

    Returns:
        Rows of ``results.FIGURES`` for all test rows and for "warm", "cold user" and "cold item" ones,
        without figures that a group does not define; and rows of ``results.DIFFERENCES`` for all test rows,
        a method less the reference.

    Raises:
        ConfigError: if ``resamples`` is below 1.
        DataError: if a method has no scores, or scores do not fit the test rows.
    """
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    scores = _checked(runs, data.test.num_rows)
    user, label = _users(data.test), data.test["label"].to_numpy().astype(np.bool_)
    masks: dict[tuple[str, str], Mask] = {("", "all"): np.ones(len(label), np.bool_)}
    masks |= {("warm", name): mask for name, mask in cold_groups(data.train, data.test).items()}
    figures: list[Row] = []
    differences: list[Row] = []
    for (breakdown, group), chosen in masks.items():
        if not chosen.any():
            continue
        sample = _Sample(user[chosen], label[chosen], resamples, seed)
        found = {
            name: sample.figures([each[chosen] for each in of_seeds]) for name, of_seeds in scores.items()
        }
        place = {"table": TABLE, "breakdown": breakdown, "group": group}
        for name, by_figure in found.items():
            for figure, values in by_figure.items():
                count = sample.counts[figure]
                figures.append(place | {"method": name, "figure": figure, "count": count} | _mean(values))
        if group == "all":
            defined = [name for name, of_figure in found.items() if "AUC" in of_figure]
            best = sorted(defined, key=lambda name: -float(found[name]["AUC"][0].mean()))[:1]
            for reference in dict.fromkeys((against, *best)):
                if reference in found:
                    differences += _differences(found, reference, len(np.unique(user)))
    return figures, differences


def reliability_rows(
    data: RankData, scores: Sequence[npt.ArrayLike], *, method: str = NAME, bins: int = 10
) -> list[Row]:
    """Return how often test rows with a P(enjoy) were enjoyed, as rows of ``results.RELIABILITY``.

    Args:
        data: the impressions.
        scores: probabilities (rows,) of the test rows, one array for each seed. A row counts once for each.
        method: name of the method.
        bins: number of bins of equal width; one without rows is left out.

    Raises:
        DataError: if scores do not fit the test rows, or are no probabilities.
    """
    (of_seeds,) = _checked({method: scores}, data.test.num_rows).values()
    chance = np.concatenate(of_seeds)
    wrong = chance[(chance < 0) | (chance > 1)]
    if len(wrong):
        raise DataError(f"a score of {method} is {wrong[0]}, which is no probability: give P(enjoy), 0 to 1")
    enjoyed = np.tile(data.test["label"].to_numpy().astype(np.float64), len(of_seeds))
    place = np.minimum((chance * bins).astype(np.int64), bins - 1)
    count, predicted, observed = (
        np.bincount(place, weights, minlength=bins) for weights in (None, chance, enjoyed)
    )
    return [
        {
            "table": TABLE,
            "method": method,
            "predicted": float(predicted[each] / count[each]),
            "observed": float(observed[each] / count[each]),
            "count": int(count[each]),
        }
        for each in np.flatnonzero(count)
    ]


def cost_rows(
    runs: Mapping[str, Sequence[RankRun]], peaks: Mapping[str, Sequence[float | None]]
) -> list[Row]:
    """Return what each run took, as rows of ``results.COSTS``.

    Args:
        runs: by name of the method, the runs of its seeds.
        peaks: the same with the peak memory of each run in MiB, None where it is not known.
    """
    return [
        {"table": TABLE, "method": name, "seed": run.seed, "steps": run.steps, "seconds": run.seconds}
        | {"peak_memory_mib": peak}
        for name, of_seeds in runs.items()
        for run, peak in zip(of_seeds, peaks[name], strict=True)
        if run.seconds is not None or run.steps is not None
    ]


def curve_rows(runs: Mapping[str, Sequence[RankRun]]) -> list[Row]:
    """Return the validation AUC during each tuning, as rows of ``results.CURVES``; runs by name."""
    return [
        {"table": TABLE, "method": name, "seed": run.seed, "step": step, "figure": "AUC", "value": auc}
        for name, of_seeds in runs.items()
        for run in of_seeds
        for step, auc in run.history
    ]


class _Sample:
    """Labelled rows of a group, and the draws of their users.

    Args:
        user: int64 (rows,), a number for the user of each row.
        label: (rows,) labels.
        resamples: number of resamples.
        seed: seed of the draws.

    Attributes:
        counts: the number of rows or users behind each figure that the rows define.
    """

    def __init__(self, user: Ints, label: Mask, resamples: int, seed: int) -> None:
        users, self._user = np.unique(user, return_inverse=True)
        self._label = label
        self._draws = len(users), resamples, seed
        liked = np.bincount(self._user, weights=label)
        rows = np.bincount(self._user)
        self._counted = {"UAUC": (liked > 0) & (liked < rows), _NDCG: liked > 0}
        counts = {"AUC": len(label) if label.any() and not label.all() else 0}
        counts |= {name: int(each.sum()) for name, each in self._counted.items()}
        self.counts = {name: count for name, count in counts.items() if count}

    def figures(self, scores: Sequence[Floats]) -> dict[str, Resampled]:
        """Return every figure that the rows define, of the scores of each seed."""
        found = {}
        if "AUC" in self.counts:
            by_seed = [
                weighted_aucs(self._user, self._label, each, user_weights(*self._draws)) for each in scores
            ]
            found["AUC"] = np.stack(by_seed, axis=1)
        per_user = {
            "UAUC": [auc_by_group(self._user, self._label, each) for each in scores],
            _NDCG: [ndcg_by_group(self._user, self._label, each, _DEPTH) for each in scores],
        }
        for figure, by_seed in per_user.items():
            if figure in self.counts:
                found[figure] = self._means(np.stack(by_seed, axis=1), self._counted[figure])
        return found

    def _means(self, values: Floats, counted: Mask) -> Resampled:
        """Return the means of values (users, seeds) over the users that count, NaN where none was drawn."""
        values, means = values[counted], []
        for weight_of_user in user_weights(*self._draws):
            weight = weight_of_user[counted]
            total = weight.sum()
            means.append(weight @ values / total if total else np.full(values.shape[1], np.nan))
        return np.array(means)


def _mean(values: Resampled) -> Row:
    """Return mean, interval and deviation of a figure."""
    by_seed = values[0]
    mean, low, high = _interval(_over_seeds(values))
    deviation = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return {"mean": mean, "low": low, "high": high, "deviation": deviation, "seeds": len(by_seed)}


def _interval(values: Floats) -> tuple[float, float | None, float | None]:
    """Return the first value, and the 2.5 % and 97.5 % percentiles of the others; None if none is defined."""
    resampled = values[1:][~np.isnan(values[1:])]
    if not len(resampled):
        return float(values[0]), None, None
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def _differences(found: Mapping[str, Mapping[str, Resampled]], against: str, users: int) -> list[Row]:
    """Return the differences of all methods from the reference, the corrected p of each figure together."""
    rows: list[Row] = []
    for figure, reference in found[against].items():
        family: list[Row] = []
        for number, (name, by_figure) in enumerate(found.items(), start=1):
            if name == against or figure not in by_figure:
                continue
            values = _over_seeds(by_figure[figure], number) - _over_seeds(reference)
            difference, low, high = _interval(values)
            row: Row = {"table": TABLE, "method": name, "against": against, "figure": figure}
            p = bootstrap_p(values[1:]) if users >= LEAST else None
            row |= {"difference": difference, "low": low, "high": high, "p": p, "comparisons": len(found) - 1}
            family.append(row)
        adjusted = iter(holm([row["p"] for row in family if row["p"] is not None]).tolist())
        rows += [row | {"p_adjusted": None if row["p"] is None else next(adjusted)} for row in family]
    return rows


def _over_seeds(values: Resampled, number: int = 0) -> Floats:
    """Return the mean over the seeds of the figure and of every resample, (1 + resamples,).

    Args:
        values: the figure of each seed, then that of every resample.
        number: of the method, so that methods draw their seeds independently of each other.
    """
    resamples, seeds = len(values) - 1, values.shape[1]
    draws = np.random.default_rng([seeds, number]).integers(0, seeds, (resamples, seeds))
    resampled = np.take_along_axis(values[1:], draws, axis=1).mean(axis=1)
    return np.concatenate([values[:1].mean(axis=1), resampled])


def _checked(runs: Mapping[str, Sequence[npt.ArrayLike]], rows: int) -> dict[str, list[Floats]]:
    """Return the scores of all seeds as float64 (rows,)."""
    if empty := [name for name, of_seeds in runs.items() if not len(of_seeds)]:
        raise DataError(f"there are no scores of {empty[0]}: give those of one seed or more")
    return {name: [checked_scores(each, rows, name) for each in of_seeds] for name, of_seeds in runs.items()}


def _users(test: pa.Table) -> Ints:
    """Return the place of the user of each row among the users' ids in order, int64 (rows,)."""
    user, ids = codes(test["user_id"])
    order = np.argsort(np.array(ids.to_pylist(), dtype=object))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place[user]
