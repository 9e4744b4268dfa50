"""Logs without order, and the random order that they get."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from notellm.data.order import is_unordered, with_random_order
from notellm.data.schema import CLICKS
from notellm.data.split import split_by_note

START = datetime(1970, 1, 1, tzinfo=UTC)


def log(rows, start=START):
    """Clicks from (user, note, second) or (user, note, second, event)."""
    full = [(u, n, start + timedelta(seconds=t), *(event or ["click"])) for u, n, t, *event in rows]
    return pa.Table.from_pylist([dict(zip(CLICKS.names, row, strict=True)) for row in full], CLICKS)


def unordered(users=40, notes=12, views=False):
    """Every user with the same notes, by ascending id, at one moment."""
    return log(
        [
            (f"u{user:02}", f"n{note:02}", 0, "view" if views and note % 3 == 0 else "click")
            for user in range(users)
            for note in range(notes)
        ]
    )


def positions(clicks):
    """(user, note) -> second."""
    return {
        (row["user_id"], row["note_id"]): int(row["timestamp"].timestamp())
        for row in with_random_order(clicks, seed=3).to_pylist()
    }


@pytest.mark.parametrize(
    ("rows", "start", "expected"),
    [
        ([("u", "a", 0), ("u", "b", 0), ("v", "a", 0)], START, True),
        ([("u", "a", 1), ("u", "b", 1), ("v", "a", 2)], START, True),  # each user has one time
        ([("u", "a", 1), ("u", "b", 2), ("v", "a", 1)], START, False),
        ([("u", "a", 0), ("u", "b", 0)], datetime(2020, 9, 22, tzinfo=UTC), False),  # a date is a time
        ([], START, False),
    ],
)
def test_what_is_a_log_without_order(rows, start, expected):
    clicks = log(rows, start)
    assert is_unordered(clicks) == expected
    assert expected or with_random_order(clicks) is clicks


def test_every_user_has_an_order_of_their_own():
    clicks = unordered()
    found = positions(clicks)
    by_user = {f"u{u:02}": tuple(found[f"u{u:02}", f"n{n:02}"] for n in range(12)) for u in range(40)}
    assert all(sorted(order) == list(range(1, 13)) for order in by_user.values())
    assert len(set(by_user.values())) == 40
    # A small id is not an early one, nor is a user's or a note's place fixed: 40 users, mean 6.5 +- 0.55.
    means = np.array(list(by_user.values())).mean(axis=0)
    assert (abs(means - 6.5) < 2.2).all()
    assert len({order[0] for order in by_user.values()}) > 8


def test_the_order_depends_on_ids_and_seed_alone():
    clicks = unordered(views=True)
    whole = with_random_order(clicks, seed=3)
    shuffled = clicks.take(np.random.default_rng(0).permutation(len(clicks)))
    assert with_random_order(shuffled, seed=3).equals(whole)
    assert not with_random_order(clicks, seed=4).equals(whole)
    assert whole.schema == CLICKS
    key = [(name, "ascending") for name in ("user_id", "note_id")]
    columns = ["user_id", "note_id", "event"]
    assert whole.sort_by(key).select(columns).equals(clicks.sort_by(key).select(columns))


def test_a_part_of_the_log_has_the_same_order():
    clicks = unordered()
    ids = [f"n{i:02}" for i in range(12)]
    notes = pa.table({"note_id": ids, "title": ids})
    part = split_by_note(notes, clicks, test=0.5, valid=0).train.clicks
    whole, piece = positions(clicks), positions(part)
    for user in ("u00", "u17"):
        kept = [note for u, note in piece if u == user]
        assert len(kept) == 6
        assert sorted(kept, key=lambda n: piece[user, n]) == sorted(kept, key=lambda n: whole[user, n])


def test_rows_of_one_note_share_their_place():
    clicks = log([("u", "a", 0, "view"), ("u", "b", 0), ("u", "a", 0), ("u", "a", 0), ("v", "a", 0)])
    rows = with_random_order(clicks, seed=1).to_pylist()
    seconds: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        seconds.setdefault((row["user_id"], row["note_id"]), set()).add(int(row["timestamp"].timestamp()))
    assert sorted(map(sorted, (seconds["u", "a"], seconds["u", "b"]))) == [[1], [2]]
    assert seconds["v", "a"] == {1}
