"""Ranking of labelled impressions: AUC, UAUC and NDCG@k with intervals, and by group.

For rows with a label (enjoyed or not), a score s and a user, over all rows, or those of a user u:

    AUC    = mean over pairs of an enjoyed row i and one not enjoyed, j, of [s_i > s_j] + 1/2 [s_i = s_j]
    UAUC   = mean of AUC(u) over the users that have rows of both labels, every user counting the same
    DCG@k  = sum over the k rows of u with the highest scores of [enjoyed] / log2(1 + place)
    NDCG@k = mean of DCG@k(u) / (the highest DCG@k that u's labels allow) over users with an enjoyed row

Among equal scores DCG is the expected one when ties are broken at random. So a method that gives all
rows one score has an AUC and UAUC of exactly 1/2, and nothing hangs on the order of the rows. AUC
and UAUC are those of CoLLM (arXiv 2310.19488) and BinLLM (arXiv 2406.03210).

AUC mixes two questions, which users enjoy more and which notes a user enjoys more; UAUC and NDCG ask
the second only, which is the one that a ranked list answers. NDCG has no fixed floor: where users
have few rows any order is good, so read it beside that of a constant score.

Every figure has a 95 % bootstrap interval (percentiles; the same seed resamples the same way). UAUC
and NDCG resample users. AUC resamples rows, the enjoyed and the others apart, so that it is always
defined; it takes rows as independent, so where few users have many rows each it is too narrow. The
difference of two methods, `ranking_difference`, resamples users in both figures, all their rows at once.
Everything is a sort, O(rows log rows), and O(rows) for a resample.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.errors import ConfigError, DataError
from notellm.evaluate.bootstrap import DRAWS, Interval, intervals
from notellm.evaluate.report import aligned_lines, markdown_lines

Mask: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankingResult:
    """How well a method's scores tell what users enjoy.

    Args:
        name: of the method.
        group: "all", or the name of the group that the rows are of.
        rows: number of impressions.
        users: number of users among them.
        figures: "AUC", "UAUC" and "NDCG@k" for every k. One that the rows do not define, as AUC where
            there is one label, is not there.
        counted: for each figure the number of rows (AUC) or users it is over.
        by_group: the groups that have rows.
    """

    name: str
    group: str
    rows: int
    users: int
    figures: Mapping[str, Interval]
    counted: Mapping[str, int]
    by_group: Mapping[str, "RankingResult"] = field(default_factory=dict)


def evaluate_ranking(
    impressions: pa.Table,
    scores: npt.ArrayLike,
    *,
    ks: Sequence[int] = (10,),
    name: str = "method",
    warm: npt.ArrayLike | None = None,
    groups: Mapping[str, npt.ArrayLike] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> RankingResult:
    """AUC, UAUC and NDCG@k of scores, of all rows and of groups of them.

    Args:
        impressions: table with the columns ``user_id`` and ``label`` of IMPRESSIONS.
        scores: (rows,) higher for what the method expects to be enjoyed; any scale.
        ks: depths of NDCG@k.
        name: of the method, for the report.
        warm: bool (rows,): adds the group "warm", and "cold" with the other rows.
        groups: bool (rows,) for each name, as from `cold_groups`; they may overlap. A group's figures
            are of its rows alone, so a user has those of their rows that are in it.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        ConfigError: no k, or one below 1, or less than 1 resample.
        DataError: a column is missing, no rows, labels of one kind only, scores or a group of another
            length, a score that is NaN, a group that is not of bool, or given twice.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give depths of 1 or more, as in (10,)")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    for column in ("user_id", "label"):
        if column not in impressions.column_names:
            raise DataError(
                f"the impressions have no column {column!r}; theirs are "
                f"{', '.join(impressions.column_names)}: give user_id and label"
            )
    label: Mask = impressions["label"].to_numpy().astype(np.bool_)
    score = _checked_scores(scores, len(label), name)
    if label.all() or not label.any():
        given = f"all {len(label)} labels are {bool(label[0])}" if len(label) else "there are no impressions"
        raise DataError(f"{given}: ranking is judged by rows of both labels; give both")
    masks = _checked_groups(warm, groups or {}, len(label))
    user = _codes(impressions["user_id"])

    def result(group: str, chosen: Mask, **parts: Any) -> RankingResult:
        users, own = np.unique(user[chosen], return_inverse=True)
        figures, counted = _figures(own, label[chosen], score[chosen], ks, resamples, seed)
        return RankingResult(name, group, int(chosen.sum()), len(users), figures, counted, **parts)

    by_group = {group: result(group, chosen) for group, chosen in masks.items() if chosen.any()}
    return result("all", np.ones(len(label), np.bool_), by_group=by_group)


def ranking_difference(
    impressions: pa.Table,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """By how much the first scores have more AUC and UAUC than the second, on the same resampled users.

    What both methods find hard cancels out, so this tells smaller differences than two intervals do.

    Args:
        impressions: table with the columns ``user_id`` and ``label`` of IMPRESSIONS, n rows.
        first: scores (n,).
        second: scores (n,).
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Returns:
        "AUC" and, where a user has both labels, "UAUC"; means are the differences of the figures themselves.

    Raises:
        DataError: scores do not fit the rows, or labels are of one kind only.
    """
    label: Mask = impressions["label"].to_numpy().astype(np.bool_)
    user = _codes(impressions["user_id"])
    both = [
        _checked_scores(scores, len(label), name) for name, scores in (("first", first), ("second", second))
    ]
    if label.all() or not label.any():
        raise DataError("the labels are of one kind only: ranking is judged by rows of both; give both")
    users = int(user.max()) + 1
    better, worse = (_weighted_aucs(user, label, scores, _drawn(users, resamples, seed)) for scores in both)
    first_of_all, *found = better - worse
    low, high = np.nanquantile(found, [0.025, 0.975])
    differences = {"AUC": Interval(float(first_of_all), float(low), float(high))}
    own = _auc_by(user, label, both[0]) - _auc_by(user, label, both[1])
    defined = ~np.isnan(own)
    if defined.any():
        differences |= intervals({"UAUC": own[defined]}, resamples, seed)
    return differences


def cold_groups(train: pa.Table, impressions: pa.Table) -> dict[str, Mask]:
    """What training has seen of each row: groups for `evaluate_ranking`.

    Args:
        train: the impressions a model was trained on; ``user_id`` and ``note_id`` count.
        impressions: the rows to group.

    Returns:
        bool (rows,) each: "warm", user and note are both in train; "cold user", the user is not;
        "cold item", the note is not. A row with neither is in both of the latter.
    """
    known_user, known_note = (
        np.asarray(pc.is_in(impressions[name], value_set=pc.unique(train[name])), np.bool_)
        for name in ("user_id", "note_id")
    )
    return {"warm": known_user & known_note, "cold user": ~known_user, "cold item": ~known_note}


def ranking_markdown(results: Sequence[RankingResult]) -> str:
    """Results on the same rows as a Markdown table with its caption; "-" where a figure is not defined.

    Raises:
        DataError: no result, or results of different rows, groups or figures.
    """
    caption, rows = _cells(results)
    return "\n".join([caption, "", *markdown_lines(rows, texts=2)]) + "\n"


def ranking_text(results: Sequence[RankingResult]) -> str:
    """Results on the same rows as aligned plain text with its caption; "-" where a figure is not defined.

    Raises:
        DataError: no result, or results of different rows, groups or figures.
    """
    caption, rows = _cells(results)
    return "\n".join([caption, *aligned_lines(rows, texts=2)]) + "\n"


def ranking_json(result: RankingResult) -> dict[str, Any]:
    """A result as JSON values: name, group, rows, users, figures, what they are over, and the groups."""
    values: dict[str, Any] = {
        "name": result.name,
        "group": result.group,
        "rows": result.rows,
        "users": result.users,
        "figures": {name: dataclasses.asdict(value) for name, value in result.figures.items()},
        "counted": dict(result.counted),
    }
    if result.by_group:
        values["by_group"] = {name: ranking_json(part) for name, part in result.by_group.items()}
    return values


def _figures(
    user: Ints, label: Mask, score: Floats, ks: Sequence[int], resamples: int, seed: int
) -> tuple[dict[str, Interval], dict[str, int]]:
    """Every figure that the rows define, and how many rows or users it is over; users are 0, 1, ..."""
    figures, counted = {}, {}
    if label.any() and not label.all():
        figures["AUC"] = _auc_interval(label, score, resamples, seed)
        counted["AUC"] = len(label)
    aucs = _auc_by(user, label, score)
    per_user = {"UAUC": aucs[~np.isnan(aucs)]}
    enjoyed = np.bincount(user, weights=label) > 0
    per_user |= {f"NDCG@{k}": _ndcg_by(user, label, score, k)[enjoyed] for k in ks}
    for figure, values in per_user.items():
        if len(values):
            figures |= intervals({figure: values}, resamples, seed)
            counted[figure] = len(values)
    return figures, counted


def _auc_by(group: Ints, label: Mask, score: Floats) -> Floats:
    """AUC of each group of rows, NaN where it has one label; groups are 0, 1, ..., none empty."""
    order = np.lexsort((score, group))
    group, label, score = group[order], label[order], score[order]
    first = _tie_starts(group, score)
    enjoyed = np.add.reduceat(label.astype(np.int64), first)  # ties
    others = np.add.reduceat((~label).astype(np.int64), first)
    owner = group[first]
    own_start = np.searchsorted(owner, np.arange(owner[-1] + 1))  # each group's first tie
    before = np.cumsum(others) - others
    lower = before - before[own_start][owner]  # others of the group with a lower score
    wins = np.bincount(owner, weights=enjoyed * (lower + others / 2))
    pairs = np.bincount(owner, weights=enjoyed) * np.bincount(owner, weights=others)
    aucs = np.full(len(wins), np.nan)
    np.divide(wins, pairs, out=aucs, where=pairs > 0)
    return aucs


def _drawn(users: int, resamples: int, seed: int) -> Iterator[Ints]:
    """How often each user is there: once, and then in each of some resamples."""
    yield np.ones(users, np.int64)
    draw = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(draw.integers(0, users, users), minlength=users)


def _weighted_aucs(user: Ints, label: Mask, score: Floats, weights: Iterable[Ints]) -> Floats:
    """AUC of all rows under each of some weights of the users; NaN where one label has no weight."""
    order = np.argsort(score, kind="stable")
    user, label, score = user[order], label[order], score[order]
    first = _tie_starts(np.zeros(len(score), np.int64), score)
    aucs = []
    for of_user in weights:
        weight = of_user[user]
        enjoyed = np.add.reduceat(weight * label, first)
        others = np.add.reduceat(weight * ~label, first)
        wins = (enjoyed * (np.cumsum(others) - others / 2)).sum()
        pairs = enjoyed.sum() * others.sum()
        aucs.append(wins / pairs if pairs else np.nan)
    return np.array(aucs)


def _ndcg_by(group: Ints, label: Mask, score: Floats, k: int) -> Floats:
    """NDCG@k of each group of rows, 0 where none is enjoyed; groups are 0, 1, ..., none empty."""
    order = np.lexsort((-score, group))
    group, label, score = group[order], label[order], score[order]
    sizes = np.bincount(group)
    place = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # 0 is the top
    worth = np.zeros(max(k, int(sizes.max())))
    worth[:k] = 1 / np.log2(2 + np.arange(k))
    first = _tie_starts(group, score)
    tied = np.diff(first, append=len(group))
    enjoyed = np.add.reduceat(label.astype(np.int64), first)
    mean_worth = np.add.reduceat(worth[place], first) / tied
    found = np.bincount(group[first], weights=enjoyed * mean_worth)
    best = np.concatenate(([0.0], np.cumsum(worth)))[np.bincount(group, weights=label).astype(np.int64)]
    shares = np.zeros(len(found))
    np.divide(found, best, out=shares, where=best > 0)
    return shares


def _tie_starts(group: Ints, score: Floats) -> Ints:
    """Where a new group or a new score begins in sorted rows."""
    new = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    return np.concatenate(([0], np.flatnonzero(new) + 1))


def _auc_interval(label: Mask, score: Floats, resamples: int, seed: int) -> Interval:
    """AUC with its interval: enjoyed rows and the others are resampled apart, as counts by score."""
    distinct, place = np.unique(score, return_inverse=True)
    parts = place[label], place[~label]
    draw = np.random.default_rng(seed)
    values = np.empty(resamples)
    step = max(1, DRAWS // len(label))

    def counts(part: Ints, size: int) -> Ints:
        """How often each score is in ``size`` resamples of a part, (size, scores)."""
        drawn = part[draw.integers(0, len(part), (size, len(part)))]
        drawn += np.arange(size)[:, None] * len(distinct)
        return np.bincount(drawn.ravel(), minlength=size * len(distinct)).reshape(size, -1)

    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        enjoyed, others = (counts(part, size) for part in parts)
        # Twice the wins, in integers: exact, whatever the rows' order.
        wins = (enjoyed * (2 * np.cumsum(others, axis=1) - others)).sum(axis=1)
        values[start : start + size] = wins / (2 * len(parts[0]) * len(parts[1]))
    low, high = np.quantile(values, [0.025, 0.975])
    mean = _auc_by(np.zeros(len(label), np.int64), label, score)[0]
    return Interval(float(mean), float(low), float(high))


def _checked_scores(scores: npt.ArrayLike, rows: int, name: str) -> Floats:
    score = np.asarray(scores, np.float64)
    if score.shape != (rows,):
        raise DataError(f"the scores of {name} have shape {score.shape}: give one an impression, ({rows},)")
    missing = np.flatnonzero(np.isnan(score))
    if len(missing):
        raise DataError(
            f"{len(missing)} of {rows} scores of {name} are NaN, the first in row {missing[0]}: "
            "give a number for every impression"
        )
    return score


def _checked_groups(
    warm: npt.ArrayLike | None, groups: Mapping[str, npt.ArrayLike], rows: int
) -> dict[str, Mask]:
    masks = {}
    for group, given in [*([] if warm is None else [("warm", warm)]), *groups.items()]:
        mask = np.asarray(given)
        if mask.shape != (rows,) or mask.dtype != np.bool_:
            raise DataError(
                f"group {group!r} is {mask.dtype} of shape {mask.shape}: "
                f"give a bool for every impression, ({rows},)"
            )
        if group in masks:
            raise DataError(f"group {group!r} is given twice, by warm and in groups: give one of them")
        masks[group] = mask
        if group == "warm" and warm is not None:
            masks["cold"] = ~mask
    return masks


def _codes(column: pa.ChunkedArray) -> Ints:
    """A code for each id of a column."""
    encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
    return np.asarray(encoded.indices.to_numpy(), np.int64)


def _cells(results: Sequence[RankingResult]) -> tuple[str, list[list[str]]]:
    """Caption and rows, the head first: the groups of all methods one after the other."""
    if not results:
        raise DataError("there is no result to put in a table: give one or more")
    first = results[0]
    for result in results:
        if _extent(result) != _extent(first):
            raise DataError(
                f"{first.name} and {result.name} are not on the same rows, groups and figures: "
                "put them in tables of their own"
            )
    caption = (
        f"{first.rows:,} impressions of {first.users:,} users; UAUC over the users with both labels, "
        "NDCG over those with an enjoyed note; [95 % bootstrap interval, of AUC over rows]."
    )
    head = ["method", "group", "rows", "users", "with both labels", *first.figures]
    rows = [
        [
            part.name,
            part.group,
            *(f"{count:,}" for count in (part.rows, part.users, part.counted.get("UAUC", 0))),
            *(_share(part.figures.get(figure)) for figure in first.figures),
        ]
        for group in ("all", *first.by_group)
        for result in results
        for part in [result if group == "all" else result.by_group[group]]
    ]
    return caption, [head, *rows]


def _extent(result: RankingResult) -> tuple[Any, ...]:
    """What two results must share to stand in one table."""
    parts = tuple((name, _extent(part)) for name, part in result.by_group.items())
    return result.rows, result.users, tuple(result.counted.items()), parts


def _share(value: Interval | None) -> str:
    """As the papers print it: four decimals."""
    return "-" if value is None else f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]"
