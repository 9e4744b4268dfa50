"""AUC, UAUC and NDCG@k of scores for labelled impressions, with intervals, for all rows and for groups.

    AUC    = mean over pairs of an enjoyed row i and another row j of [s_i > s_j] + 1/2 [s_i = s_j]
    UAUC   = mean over the users with rows of both labels of the AUC of their rows
    NDCG@k = mean over the users with an enjoyed row of DCG@k / (highest DCG@k that their labels allow)
    DCG@k  = sum over the k rows of a user with the highest scores of [enjoyed] / log2(1 + place)

DCG is its expectation when ties are broken at random. AUC and UAUC are those of CoLLM (arXiv 2310.19488) and
BinLLM (arXiv 2406.03210). Intervals: UAUC and NDCG resample users; AUC resamples rows, which is too narrow if
few users have many rows each; ``ranking_difference`` resamples users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.ids import codes
from notellm.errors import ConfigError, DataError
from notellm.evaluate.bootstrap import Interval, intervals
from notellm.evaluate.ranking_figures import (
    Floats,
    Ints,
    Mask,
    auc_by_group,
    ranking_figures,
    user_weights,
    weighted_aucs,
)
from notellm.evaluate.tables import Table, check_comparable, intervals_json


@dataclass(frozen=True)
class RankingResult:
    """How well the scores of a method tell what users enjoy.

    Args:
        name: the method.
        group: "all", or the name of the group of rows.
        rows: number of impressions.
        users: number of their users.
        figures: "AUC", "UAUC" and "NDCG@k" for every k. A figure that the rows do not define, such as AUC
            where all labels are alike, is absent.
        counted: for each figure, the number of rows (AUC) or users behind it.
        by_group: results of the groups that have rows.
    """

    name: str
    group: str
    rows: int
    users: int
    figures: Mapping[str, Interval]
    counted: Mapping[str, int]
    by_group: Mapping[str, "RankingResult"] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return name, group, rows, users, figures, what they are counted over, and the groups."""
        values: dict[str, Any] = {
            "name": self.name,
            "group": self.group,
            "rows": self.rows,
            "users": self.users,
            "figures": intervals_json(self.figures),
            "counted": dict(self.counted),
        }
        if self.by_group:
            values["by_group"] = {group: part.to_json() for group, part in self.by_group.items()}
        return values


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
    """Compute AUC, UAUC and NDCG@k of scores, for all rows and for groups of rows.

    Args:
        impressions: table with the columns ``user_id`` and ``label`` of IMPRESSIONS.
        scores: (rows,) scores, higher for notes that the method expects to be enjoyed; any scale.
        ks: depths of NDCG@k.
        name: the method, for the report.
        warm: (rows,) bool; adds the group "warm", and the group "cold" with the other rows.
        groups: (rows,) bool for each group name, as from ``cold_groups``; groups may overlap. The figures
            of a group use its rows only, so a user counts with those of their rows that are in the group.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ConfigError: if ``ks`` is empty or has a depth below 1, or ``resamples`` is below 1.
        DataError: if a column is missing, there are no rows, all labels are alike, the scores or a group
            have another length, a score is NaN, or a group is not bool or is given twice.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give depths of 1 or more, as in (10,)")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    for column in ("user_id", "label"):
        if column not in impressions.column_names:
            raise DataError(
                f"the impressions have no column {column!r}; their columns are "
                f"{', '.join(impressions.column_names)}: give user_id and label"
            )
    label: Mask = impressions["label"].to_numpy().astype(np.bool_)
    score = checked_scores(scores, len(label), name)
    if label.all() or not label.any():
        problem = (
            f"all {len(label)} labels are {bool(label[0])}" if len(label) else "there are no impressions"
        )
        raise DataError(f"{problem}: a ranking can be judged only on rows of both labels; give both")
    masks = _checked_groups(warm, groups or {}, len(label))
    user = _user_codes(impressions)

    def result(group: str, chosen: Mask, **parts: Any) -> RankingResult:
        users, user_in_group = np.unique(user[chosen], return_inverse=True)
        figures, counted = ranking_figures(user_in_group, label[chosen], score[chosen], ks, resamples, seed)
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
    """Return AUC and UAUC of the first scores minus those of the second, on the same resampled users.

    What is hard for both methods cancels out, so this detects smaller differences than two intervals do.

    Args:
        impressions: table with the columns ``user_id`` and ``label`` of IMPRESSIONS, n rows.
        first: (n,) scores.
        second: (n,) scores.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        "AUC" and, if some user has rows of both labels, "UAUC"; the means are the differences of the figures.

    Raises:
        DataError: if the scores do not fit the rows, or all labels are alike.
    """
    label: Mask = impressions["label"].to_numpy().astype(np.bool_)
    user = _user_codes(impressions)
    both = [
        checked_scores(scores, len(label), name) for name, scores in (("first", first), ("second", second))
    ]
    if label.all() or not label.any():
        raise DataError(
            "all labels are alike: a ranking can be judged only on rows of both labels; give both"
        )
    users = int(user.max()) + 1
    better, worse = (
        weighted_aucs(user, label, scores, user_weights(users, resamples, seed)) for scores in both
    )
    difference, *resampled = better - worse
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    differences = {"AUC": Interval(float(difference), float(low), float(high))}
    per_user = auc_by_group(user, label, both[0]) - auc_by_group(user, label, both[1])
    defined = ~np.isnan(per_user)
    if defined.any():
        differences |= intervals({"UAUC": per_user[defined]}, resamples, seed)
    return differences


def cold_groups(train: pa.Table, impressions: pa.Table) -> dict[str, Mask]:
    """Group rows by whether training has seen their user and note; for ``evaluate_ranking``.

    Args:
        train: the training impressions; only ``user_id`` and ``note_id`` are read.
        impressions: the rows to group.

    Returns:
        (rows,) bool each: "warm" if user and note are both in train; "cold user" if the user is not;
        "cold item" if the note is not. A row with neither is in both of the latter.
    """
    known_user, known_note = (
        np.asarray(pc.is_in(impressions[name], value_set=pc.unique(train[name])), np.bool_)
        for name in ("user_id", "note_id")
    )
    return {"warm": known_user & known_note, "cold user": ~known_user, "cold item": ~known_note}


def ranking_table(results: Sequence[RankingResult]) -> Table:
    """Return a table of results on the same rows, group by group; "-" for a figure that is not defined.

    Raises:
        DataError: if there is no result, or the results are of different rows, groups or figures.
    """
    check_comparable(results, _basis, "rows, groups and figures")
    first = results[0]
    rows = [
        [
            part.name,
            part.group,
            *(f"{count:,}" for count in (part.rows, part.users, part.counted.get("UAUC", 0))),
            *(f"{part.figures[name]:.4f}" if name in part.figures else "-" for name in first.figures),
        ]
        for group in ("all", *first.by_group)
        for result in results
        for part in [result if group == "all" else result.by_group[group]]
    ]
    caption = (
        f"{first.rows:,} impressions of {first.users:,} users; UAUC over the users with both labels, "
        "NDCG over those with an enjoyed note; [95 % bootstrap interval, of AUC over rows]."
    )
    head = ["method", "group", "rows", "users", "with both labels", *first.figures]
    return Table(head, rows, caption, text_columns=2)


def _basis(result: RankingResult) -> tuple[Any, ...]:
    """Return what two results must share to stand in one table."""
    parts = tuple((group, _basis(part)) for group, part in result.by_group.items())
    return result.rows, result.users, tuple(result.counted.items()), parts


def _user_codes(impressions: pa.Table) -> Ints:
    return codes(impressions["user_id"])[0].astype(np.int64)


def checked_scores(scores: npt.ArrayLike, rows: int, name: str) -> Floats:
    """Return scores as float64 (rows,).

    Args:
        scores: the scores.
        rows: number of impressions.
        name: the method, for error messages.

    Raises:
        DataError: if there is not one score for each impression, or one is NaN.
    """
    score = np.asarray(scores, np.float64)
    if score.shape != (rows,):
        raise DataError(f"the scores of {name} have shape {score.shape}: give one per impression, ({rows},)")
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
    for group, values in [*([] if warm is None else [("warm", warm)]), *groups.items()]:
        mask = np.asarray(values)
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
