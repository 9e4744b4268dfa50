"""The arithmetic of AUC and NDCG@k on labelled, scored rows, with ties and resamples.

All functions take aligned arrays with one entry per row: ``user`` or ``group`` (int64 codes 0, 1, ..., none
of them without rows), ``label`` (bool, true if the user enjoyed the note) and ``score`` (float64). Each is a
sort, O(rows log rows), and O(rows) per resample. The definitions are in ``notellm.evaluate.ranking``.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from notellm.evaluate.bootstrap import DRAWS, Interval, intervals

Mask: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


def ranking_figures(
    user: Ints, label: Mask, score: Floats, ks: Sequence[int], resamples: int, seed: int
) -> tuple[dict[str, Interval], dict[str, int]]:
    """Return every figure that the rows define, and the number of rows or users behind each."""
    figures, counted = {}, {}
    if label.any() and not label.all():
        figures["AUC"] = auc_interval(label, score, resamples, seed)
        counted["AUC"] = len(label)
    aucs = auc_by_group(user, label, score)
    per_user = {"UAUC": aucs[~np.isnan(aucs)]}
    has_enjoyed = np.bincount(user, weights=label) > 0
    per_user |= {f"NDCG@{k}": ndcg_by_group(user, label, score, k)[has_enjoyed] for k in ks}
    for figure, values in per_user.items():
        if len(values):
            figures |= intervals({figure: values}, resamples, seed)
            counted[figure] = len(values)
    return figures, counted


def auc_by_group(group: Ints, label: Mask, score: Floats) -> Floats:
    """Return the AUC of each group of rows, NaN for a group with one label only."""
    order = np.lexsort((score, group))
    group, label, score = group[order], label[order], score[order]
    first = _tie_starts(group, score)
    enjoyed = np.add.reduceat(label.astype(np.int64), first)  # per tie
    others = np.add.reduceat((~label).astype(np.int64), first)
    group_of_tie = group[first]
    first_tie = np.searchsorted(group_of_tie, np.arange(group_of_tie[-1] + 1))  # of each group
    before = np.cumsum(others) - others
    lower = before - before[first_tie][group_of_tie]  # others of the same group with a lower score
    wins = np.bincount(group_of_tie, weights=enjoyed * (lower + others / 2))
    pairs = np.bincount(group_of_tie, weights=enjoyed) * np.bincount(group_of_tie, weights=others)
    aucs = np.full(len(wins), np.nan)
    np.divide(wins, pairs, out=aucs, where=pairs > 0)
    return aucs


def ndcg_by_group(group: Ints, label: Mask, score: Floats, k: int) -> Floats:
    """Return NDCG@k of each group of rows, 0 for a group without an enjoyed row."""
    order = np.lexsort((-score, group))
    group, label, score = group[order], label[order], score[order]
    sizes = np.bincount(group)
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # 0 is the top
    gain = np.zeros(max(k, int(sizes.max())))
    gain[:k] = 1 / np.log2(2 + np.arange(k))
    first = _tie_starts(group, score)
    tied = np.diff(first, append=len(group))
    enjoyed = np.add.reduceat(label.astype(np.int64), first)
    mean_gain = np.add.reduceat(gain[place], first) / tied
    dcg = np.bincount(group[first], weights=enjoyed * mean_gain)
    best = np.concatenate(([0.0], np.cumsum(gain)))[np.bincount(group, weights=label).astype(np.int64)]
    shares = np.zeros(len(dcg))
    np.divide(dcg, best, out=shares, where=best > 0)
    return shares


def user_weights(users: int, resamples: int, seed: int) -> Iterator[Ints]:
    """Yield how often each user counts: once each, then as often as each resample drew the user."""
    yield np.ones(users, np.int64)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(0, users, users), minlength=users)


def weighted_aucs(user: Ints, label: Mask, score: Floats, weights: Iterable[Ints]) -> Floats:
    """Return the AUC of all rows for each (users,) array of weights, NaN if one label has no weight."""
    order = np.argsort(score, kind="stable")
    user, label, score = user[order], label[order], score[order]
    first = _tie_starts(np.zeros(len(score), np.int64), score)
    aucs = []
    for weight_of_user in weights:
        weight = weight_of_user[user]
        enjoyed = np.add.reduceat(weight * label, first)
        others = np.add.reduceat(weight * ~label, first)
        wins = (enjoyed * (np.cumsum(others) - others / 2)).sum()
        pairs = enjoyed.sum() * others.sum()
        aucs.append(wins / pairs if pairs else np.nan)
    return np.array(aucs)


def auc_interval(label: Mask, score: Floats, resamples: int, seed: int) -> Interval:
    """Return the AUC with its interval; enjoyed and other rows are resampled separately."""
    distinct, place = np.unique(score, return_inverse=True)
    parts = place[label], place[~label]
    generator = np.random.default_rng(seed)
    values = np.empty(resamples)
    step = max(1, DRAWS // len(label))

    def counts(part: Ints, size: int) -> Ints:
        """Return how often each score occurs in ``size`` resamples of a part, (size, scores)."""
        drawn = part[generator.integers(0, len(part), (size, len(part)))]
        drawn += np.arange(size)[:, None] * len(distinct)
        return np.bincount(drawn.ravel(), minlength=size * len(distinct)).reshape(size, -1)

    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        enjoyed, others = (counts(part, size) for part in parts)
        # Twice the number of wins is an integer, so the sum does not depend on the order of the rows.
        wins = (enjoyed * (2 * np.cumsum(others, axis=1) - others)).sum(axis=1)
        values[start : start + size] = wins / (2 * len(parts[0]) * len(parts[1]))
    low, high = np.quantile(values, [0.025, 0.975])
    mean = auc_by_group(np.zeros(len(label), np.int64), label, score)[0]
    return Interval(float(mean), float(low), float(high))


def _tie_starts(group: Ints, score: Floats) -> Ints:
    """Return the rows at which a new group or a new score begins, for sorted rows."""
    new = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    return np.concatenate(([0], np.flatnonzero(new) + 1))
