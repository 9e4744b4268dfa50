"""What became of the rows and pairs of a log in mining, and in words why there are no pairs, or few."""

from dataclasses import dataclass
from typing import Literal

from notellm.data.problems import Report
from notellm.pairs.score import PairOptions


@dataclass(frozen=True)
class PairCounts:
    """The counts of one mining; ``pairs.score`` defines a pair.

    Attributes:
        same_time: the rule that was used for two notes at one time.
        rows: rows of the log.
        in_window: rows in the window; the counts below are of these.
        clicks: rows that are clicks.
        users: users.
        able: users with rows on two different notes, at least one of them clicked; others make no pair.
        at_one_time: of those, the users all of whose rows have one time.
        example: the first of these by id; "" if there is none.
        found: directed pairs of at least one user.
        few_users: of these, pairs of fewer than ``min_users`` users, which are dropped.
        low: of the others, pairs with a score below ``lower``, which are dropped.
        high: of the others, pairs with a score above ``upper``, which are dropped.
        most_users: largest number of users of a pair.
        kept: pairs that are left, at most ``top`` of a source.
    """

    same_time: Literal["both", "none"] = "none"
    rows: int = 0
    in_window: int = 0
    clicks: int = 0
    users: int = 0
    able: int = 0
    at_one_time: int = 0
    example: str = ""
    found: int = 0
    few_users: int = 0
    low: int = 0
    high: int = 0
    most_users: int = 0
    kept: int = 0


def why_none(counts: PairCounts, options: PairOptions) -> str:
    """Return in words, with figures and a remedy, why a log has no related pairs; "" if it has some.

    Args:
        counts: the counts of the log.
        options: the options with which they were made.
    """
    if counts.kept:
        return ""
    if not counts.rows:
        return "the log has no rows"
    if counts.found:
        reason = _dropped(counts, options)
    elif not counts.clicks:
        reason = f"none of {counts.in_window:,} rows is a click, and only clicks make pairs; give clicks"
    elif not counts.able:
        rows, kind = (
            ("clicks", "") if counts.clicks == counts.in_window else ("rows", ", one of them clicked")
        )
        reason = (
            f"no user has {rows} on two different notes{kind} ({counts.users:,} users, {counts.in_window:,} "
            f"{rows}); give more clicks of each user"
        )
    elif counts.at_one_time == counts.able:
        reason = _at_one_time(counts)
    else:
        reason = "no user clicked another note after viewing one"
        if counts.at_one_time:
            reason += f"; {_at_one_time(counts)}"
        else:
            reason += f" (of {counts.able:,} users with two notes); give later clicks"
    if counts.in_window < counts.rows:
        reason += f"; window_days {options.window_days} leaves {counts.in_window:,} of {counts.rows:,} rows"
    return reason


def report_of(counts: PairCounts, options: PairOptions, where: str) -> Report:
    """Return as a report what a log's equal times do to its pairs, if they concern half of its users.

    Args:
        counts: the counts of the log.
        options: the options with which they were made.
        where: name of the column of times in the report.
    """
    report = Report()
    if 2 * counts.at_one_time < counts.able:
        return report
    if counts.same_time == "none":
        action = "no pairs of theirs; --same-time both counts them in both directions"
    elif options.same_time is None:
        action = "the log has no order: counted in both directions; --same-time none leaves them out"
    else:
        action = "counted in both directions"
    example = f"user_id {counts.example}, of {counts.able:,} users with two notes"
    report.add("user with all rows at one time", where, counts.at_one_time, example, action)
    return report


def _at_one_time(counts: PairCounts) -> str:
    """Return how many users have no order, and what to do about it."""
    return (
        f"{counts.at_one_time:,} of {counts.able:,} users with two notes have all rows at one time, so none "
        "of their clicks comes after another; --same-time both counts them in both directions"
    )


def _dropped(counts: PairCounts, options: PairOptions) -> str:
    """Return which thresholds drop the pairs that were found."""
    parts = []
    if counts.few_users:
        least = f"min_users {options.min_users} (the most is {counts.most_users:,})"
        parts.append(f"{counts.few_users:,} of fewer users than {least}")
    if counts.low:
        parts.append(f"{counts.low:,} of a score below lower {options.lower:g}")
    if counts.high:
        parts.append(f"{counts.high:,} of a score above upper {options.upper:g}")
    reason = (
        f"all {counts.found:,} pairs that users make are dropped: {', '.join(parts)}; change the option or "
        "give a longer log"
    )
    if counts.same_time == "none" and counts.at_one_time:
        reason += f"; {_at_one_time(counts)}"
    return reason
