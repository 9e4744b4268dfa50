"""Recall@k and NDCG@k of recommendation lists against the notes that users clicked next.

For a user u with the held-out notes R(u) and the list L(u), best first:

    Recall@k = |first k of L(u) in R(u)| / |R(u)|
    DCG@k    = sum over the places p = 1 ... k whose note is in R(u) of 1 / log2(1 + p)
    NDCG@k   = DCG@k / (DCG@k of a list with min(k, |R(u)|) notes of R(u) on top)

averaged over the users with held-out notes; a user without a list counts 0. Recall is divided by |R(u)|, as
in LightGCN (arXiv 2002.02126), so it cannot reach 1 for a user with more than k held-out notes; NDCG can.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from notellm.errors import ConfigError, DataError
from notellm.evaluate.bootstrap import Interval, intervals
from notellm.evaluate.tables import Table, check_comparable, intervals_json


@dataclass(frozen=True)
class NextClickResult:
    """How many of the next clicks the lists of a method contain.

    Args:
        name: the method.
        users: number of users with held-out notes.
        served: number of those users whose list is not empty.
        figures: "R@k" and "NDCG@k" for every k, as shares (0 to 1), with intervals over users.
        per_user: (users,) values of each figure.
        user_ids: the users, in the order of ``per_user``.
    """

    name: str
    users: int
    served: int
    figures: Mapping[str, Interval]
    per_user: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    user_ids: tuple[str, ...] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return name, number of users, number of users served, and figures."""
        return {
            "name": self.name,
            "users": self.users,
            "served": self.served,
            "figures": intervals_json(self.figures),
        }


def evaluate_recommendations(
    recommended: Mapping[str, Sequence[str]] | Iterable[tuple[str, Sequence[str]]],
    relevant: Mapping[str, Collection[str]],
    *,
    ks: Sequence[int] = (20,),
    name: str = "method",
    resamples: int = 1000,
    seed: int = 0,
) -> NextClickResult:
    """Compute Recall@k and NDCG@k of recommendation lists.

    Args:
        recommended: the notes recommended to each user, best first, as a mapping or as pairs of user and
            notes. Users without held-out notes are ignored.
        relevant: the held-out notes of each user. Users with none are ignored.
        ks: depths k.
        name: the method, for the report.
        resamples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Raises:
        ConfigError: if ``ks`` is empty or has a depth below 1, or ``resamples`` is below 1.
        DataError: if a user has two lists, a list contains a note twice, no user has held-out notes, or no
            user with held-out notes has a list.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give depths of 1 or more, as in (20,)")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    lists = _lists(recommended)
    held_out = {user: set(notes) for user, notes in relevant.items() if notes}
    if not held_out:
        raise DataError(f"none of {len(relevant)} users has held-out notes: give at least one user some")
    served = sum(bool(lists.get(user)) for user in held_out)
    if not served:
        raise DataError(
            f"none of {len(held_out)} users with held-out notes has a list, such as "
            f"{next(iter(held_out))!r}: do both use the same user ids?"
        )

    deepest = max(ks)
    hits = np.zeros((len(held_out), deepest), np.bool_)
    for row, (user, notes) in zip(hits, held_out.items(), strict=True):
        for place, note in enumerate(lists.get(user, ())[:deepest]):
            row[place] = note in notes
    sizes = np.array([len(notes) for notes in held_out.values()])
    gain = 1 / np.log2(2 + np.arange(deepest))
    best = np.cumsum(gain)
    per_user = {f"R@{k}": hits[:, :k].sum(axis=1) / sizes for k in ks}
    per_user |= {f"NDCG@{k}": hits[:, :k] @ gain[:k] / best[np.minimum(k, sizes) - 1] for k in ks}
    return NextClickResult(
        name=name,
        users=len(held_out),
        served=served,
        figures=intervals(per_user, resamples, seed),
        per_user=per_user,
        user_ids=tuple(held_out),
    )


def next_click_table(results: Sequence[NextClickResult]) -> Table:
    """Return a table of results on the same users, one row per method, figures in %.

    Raises:
        DataError: if there is no result, or the results are of different users or figures.
    """
    check_comparable(results, lambda result: (result.user_ids, list(result.figures)), "users and figures")
    first = results[0]
    rows = [
        [result.name, f"{result.served:,}", *(f"{value.percent():.1f}" for value in result.figures.values())]
        for result in results
    ]
    caption = f"{first.users:,} users with held-out clicks; % [95 % bootstrap interval over users]."
    return Table(["method", "users served", *first.figures], rows, caption)


def _lists(
    recommended: Mapping[str, Sequence[str]] | Iterable[tuple[str, Sequence[str]]],
) -> dict[str, Sequence[str]]:
    """Return the list of each user, and check that no user and no note of a list comes twice."""
    lists: dict[str, Sequence[str]] = {}
    for user, notes in recommended.items() if isinstance(recommended, Mapping) else recommended:
        if user in lists:
            raise DataError(f"user {user!r} has two lists: give each user one")
        if len(set(notes)) < len(notes):
            twice = next(note for i, note in enumerate(notes) if note in notes[:i])
            raise DataError(f"the list of user {user!r} contains note {twice!r} twice: give each note once")
        lists[user] = notes
    return lists
