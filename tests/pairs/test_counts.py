"""Why a log has no related pairs, in figures."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from notellm.data.schema import CLICKS
from notellm.pairs.counts import report_of, why_none
from notellm.pairs.local import mine_counted_pairs
from notellm.pairs.score import PairOptions

DAY = 86_400


def log(rows, start=datetime(2024, 5, 1, tzinfo=UTC)):
    """Clicks from (user, note, second) or (user, note, second, event)."""
    full = [(u, n, start + timedelta(seconds=t), *(event or ["click"])) for u, n, t, *event in rows]
    return pa.Table.from_pylist([dict(zip(CLICKS.names, row, strict=True)) for row in full], CLICKS)


def counted(rows, **options):
    chosen = PairOptions(**options)
    return mine_counted_pairs(log(rows), chosen, progress=False)[1], chosen


def tied(users):
    """Baskets of three notes, each user's at one time."""
    return [(f"t{user}", note, user) for user in range(users) for note in ("a", "b", "c")]


CHAIN = [("u1", "a", 1), ("u1", "b", 2), ("u2", "b", 1), ("u2", "c", 2)]  # a -> b and b -> c, 1 user each

CASES: list[tuple[Any, dict[str, Any], str]] = [
    ([], {}, "the log has no rows"),
    (
        [("u", "a", 1, "view"), ("u", "b", 2, "view")],
        {},
        "none of 2 rows is a click, and only clicks make pairs; give clicks",
    ),
    (
        [("u1", "a", 1), ("u2", "b", 2), ("u3", "a", 3), ("u3", "a", 4)],
        {},
        ("no user has clicks on two different notes (3 users, 4 clicks); give more clicks of each user"),
    ),
    (
        [("u1", "a", 1), ("u2", "a", 2, "view"), ("u2", "b", 3, "view")],
        {},
        (
            "no user has rows on two different notes, one of them clicked (2 users, 3 rows); give more "
            "clicks of each user"
        ),
    ),
    (
        [*tied(4), ("single", "a", 9)],
        {},
        (
            "4 of 4 users with two notes have all rows at one time, so none of their clicks comes after "
            "another; --same-time both counts them in both directions"
        ),
    ),
    (
        [*tied(3), ("late", "a", 1), ("late", "b", 2, "view")],
        {},
        (
            "no user clicked another note after viewing one; 3 of 4 users with two notes have all rows "
            "at one time, so none of their clicks comes after another; --same-time both counts them in "
            "both directions"
        ),
    ),
    (
        [("late", "a", 1), ("late", "b", 2, "view")],
        {},
        "no user clicked another note after viewing one (of 1 users with two notes); give later clicks",
    ),
    (
        CHAIN,
        {},
        (
            "all 2 pairs that users make are dropped: 2 of fewer users than min_users 2 (the most is 1); "
            "change the option or give a longer log"
        ),
    ),
    (
        CHAIN,
        {"min_users": 1, "lower": 0.7},
        (
            "all 2 pairs that users make are dropped: 2 of a score below lower 0.7; change the option or "
            "give a longer log"
        ),
    ),
    (
        [*CHAIN, ("u1", "c", 3), ("u1", "a", 4)],
        {"min_users": 2, "upper": 0.5},
        (
            "all 5 pairs that users make are dropped: 4 of fewer users than min_users 2 (the most is 2), "
            "1 of a score above upper 0.5; change the option or give a longer log"
        ),
    ),
    (
        [*CHAIN, *tied(2)],
        {"min_users": 3},
        (
            "all 2 pairs that users make are dropped: 2 of fewer users than min_users 3 (the most is 1); "
            "change the option or give a longer log; 2 of 4 users with two notes have all rows at one "
            "time, so none of their clicks comes after another; --same-time both counts them in both "
            "directions"
        ),
    ),
    (
        [("u", "a", 0), ("u", "b", DAY), ("u", "c", 9 * DAY)],
        {"window_days": 2},
        (
            "no user has clicks on two different notes (1 users, 1 clicks); give more clicks of each "
            "user; window_days 2 leaves 1 of 3 rows"
        ),
    ),
]


@pytest.mark.parametrize(("rows", "options", "reason"), CASES)
def test_the_cause_is_named_with_its_figures(rows, options, reason):
    counts, chosen = counted(rows, **options)
    assert counts.kept == 0
    assert why_none(counts, chosen) == reason


def test_no_reason_where_there_are_pairs():
    counts, chosen = counted(CHAIN, min_users=1)
    assert (counts.kept, why_none(counts, chosen)) == (2, "")


def rows_of(report):
    return [(p.problem, p.where, p.count, p.example, p.action) for p in report.problems]


@pytest.mark.parametrize(
    ("same_time", "action"),
    [
        (None, "no pairs of theirs; --same-time both counts them in both directions"),
        ("none", "no pairs of theirs; --same-time both counts them in both directions"),
        ("both", "counted in both directions"),
    ],
)
def test_users_at_one_time_are_reported_if_they_are_half(same_time, action):
    single = [("single", "a", 1)]  # has one note, so no time could make a pair
    counts, chosen = counted([*tied(2), *CHAIN, *single], same_time=same_time)
    assert (counts.users, counts.able, counts.at_one_time) == (5, 4, 2)
    assert rows_of(report_of(counts, chosen, "clicks: timestamp")) == [
        (
            "user with all rows at one time",
            "clicks: timestamp",
            2,
            "user_id t0, of 4 users with two notes",
            action,
        )
    ]
    counts, chosen = counted([*tied(1), *CHAIN], same_time=same_time)
    assert rows_of(report_of(counts, chosen, "clicks: timestamp")) == []


def test_both_directions_by_default_are_reported_as_a_guess():
    clicks = log([(user, note, 0) for user, note, _ in tied(2)], datetime(1970, 1, 1, tzinfo=UTC))
    counts = mine_counted_pairs(clicks, progress=False)[1]
    assert (counts.same_time, counts.kept) == ("both", 6)
    (row,) = rows_of(report_of(counts, PairOptions(), "clicks: timestamp"))
    assert row[2:] == (
        2,
        "user_id t0, of 2 users with two notes",
        "the log has no order: counted in both directions; --same-time none leaves them out",
    )


def test_a_log_of_single_notes_reports_nothing():
    counts, chosen = counted([("u1", "a", 1), ("u2", "b", 1)])
    assert rows_of(report_of(counts, chosen, "clicks: timestamp")) == []
