"""Recommendation lists against the clicks that came next: Recall@k and NDCG@k with intervals.

For a user u with the held-out notes R(u) and the list L(u), best first:

    Recall@k = |first k of L(u) in R(u)| / |R(u)|
    DCG@k    = sum over the places p = 1 ... k whose note is in R(u) of 1 / log2(1 + p)
    NDCG@k   = DCG@k / (DCG@k of a list that has min(k, |R(u)|) notes of R(u) on top)

and their means over the users with held-out notes. Recall is divided by all of R(u), as the field
does (LightGCN, arXiv 2002.02126, and those after it), not by min(k, |R(u)|): a user with more than k
held-out notes cannot reach 1, and figures can be set beside published ones. NDCG has no such ceiling.

A user without a list has 0: who gets no recommendation finds nothing. Every figure has a 95 %
bootstrap interval over the users.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from notellm.errors import ConfigError, DataError
from notellm.evaluate.bootstrap import Interval, intervals
from notellm.evaluate.report import aligned_lines, markdown_lines


@dataclass(frozen=True)
class NextClickResult:
    """How many of the next clicks a method's lists hold.

    Args:
        name: of the method.
        users: number of users with held-out notes.
        served: how many of them have a list that is not empty.
        figures: "R@k" and "NDCG@k" for every k, as shares (0 to 1).
        per_user: the same names, one value a user.
        user_ids: the users, in the order of ``per_user``.
    """

    name: str
    users: int
    served: int
    figures: Mapping[str, Interval]
    per_user: Mapping[str, npt.NDArray[np.float64]] = field(repr=False)
    user_ids: tuple[str, ...] = field(repr=False)


def evaluate_recommendations(
    recommended: Mapping[str, Sequence[str]] | Iterable[tuple[str, Sequence[str]]],
    relevant: Mapping[str, Collection[str]],
    *,
    ks: Sequence[int] = (20,),
    name: str = "method",
    resamples: int = 1000,
    seed: int = 0,
) -> NextClickResult:
    """Recall@k and NDCG@k of recommendation lists.

    Args:
        recommended: for each user their notes, best first; a mapping, or pairs of user and notes. Users
            without held-out notes are passed over.
        relevant: for each user the notes held out; users with none are passed over.
        ks: depths.
        name: of the method, for the report.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Raises:
        ConfigError: no k, or one below 1, or less than 1 resample.
        DataError: a user has two lists, a list holds a note twice, no user has held-out notes, or
            none who has gets a list.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks is {tuple(ks)}: give depths of 1 or more, as in (20,)")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}: give 1 or more")
    lists = _lists(recommended)
    wanted = {user: set(notes) for user, notes in relevant.items() if notes}
    if not wanted:
        raise DataError(f"none of {len(relevant)} users has held-out notes: give some to be found")
    served = sum(bool(lists.get(user)) for user in wanted)
    if not served:
        raise DataError(
            f"none of {len(wanted)} users with held-out notes has a list, such as "
            f"{next(iter(wanted))!r}: do both use the same user ids?"
        )

    deepest = max(ks)
    hit = np.zeros((len(wanted), deepest), np.bool_)
    for row, (user, notes) in zip(hit, wanted.items(), strict=True):
        for place, note in enumerate(lists.get(user, ())[:deepest]):
            row[place] = note in notes
    sizes = np.array([len(notes) for notes in wanted.values()])
    worth = 1 / np.log2(2 + np.arange(deepest))
    best = np.cumsum(worth)
    per_user = {f"R@{k}": hit[:, :k].sum(axis=1) / sizes for k in ks}
    per_user |= {f"NDCG@{k}": hit[:, :k] @ worth[:k] / best[np.minimum(k, sizes) - 1] for k in ks}
    return NextClickResult(
        name=name,
        users=len(wanted),
        served=served,
        figures=intervals(per_user, resamples, seed),
        per_user=per_user,
        user_ids=tuple(wanted),
    )


def next_click_markdown(results: Sequence[NextClickResult]) -> str:
    """Results on the same users as a Markdown table with its caption.

    Raises:
        DataError: no result, or results of different users or figures.
    """
    caption, rows = _cells(results)
    return "\n".join([caption, "", *markdown_lines(rows, texts=1)]) + "\n"


def next_click_text(results: Sequence[NextClickResult]) -> str:
    """Results on the same users as aligned plain text with its caption.

    Raises:
        DataError: no result, or results of different users or figures.
    """
    caption, rows = _cells(results)
    return "\n".join([caption, *aligned_lines(rows, texts=1)]) + "\n"


def next_click_json(result: NextClickResult) -> dict[str, Any]:
    """A result as JSON values: name, users, users served, and figures."""
    return {
        "name": result.name,
        "users": result.users,
        "served": result.served,
        "figures": {name: dataclasses.asdict(value) for name, value in result.figures.items()},
    }


def _lists(
    recommended: Mapping[str, Sequence[str]] | Iterable[tuple[str, Sequence[str]]],
) -> dict[str, Sequence[str]]:
    """The list of each user, each note in it once."""
    lists: dict[str, Sequence[str]] = {}
    for user, notes in recommended.items() if isinstance(recommended, Mapping) else recommended:
        if user in lists:
            raise DataError(f"user {user!r} has two lists: give each user one")
        if len(set(notes)) < len(notes):
            twice = next(note for i, note in enumerate(notes) if note in notes[:i])
            raise DataError(f"the list of user {user!r} holds note {twice!r} twice: give each note once")
        lists[user] = notes
    return lists


def _cells(results: Sequence[NextClickResult]) -> tuple[str, list[list[str]]]:
    """Caption and rows, the head first."""
    if not results:
        raise DataError("there is no result to put in a table: give one or more")
    first = results[0]
    for result in results:
        if result.user_ids != first.user_ids or list(result.figures) != list(first.figures):
            raise DataError(
                f"{first.name} and {result.name} are not on the same users and figures: "
                "put them in tables of their own"
            )
    caption = f"{first.users:,} users with held-out clicks; % [95 % bootstrap interval over users]."
    rows = [
        [
            result.name,
            f"{result.served:,}",
            *(f"{100 * v.mean:.1f} [{100 * v.low:.1f}, {100 * v.high:.1f}]" for v in result.figures.values()),
        ]
        for result in results
    ]
    return caption, [["method", "users served", *first.figures], *rows]
