import math
import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.schema import CLICKS, PAIRS, TIME
from notellm.errors import ConfigError, DataError
from notellm.pairs.local import mine_counted_pairs, mine_pairs
from notellm.pairs.score import PairOptions

ALL = PairOptions(min_users=1, upper=math.inf, lower=0.0, top=1000)


def log(rows, start=datetime(2024, 5, 1, tzinfo=UTC)):
    """Clicks from (user, note, second) or (user, note, second, event)."""
    names = CLICKS.names
    full = [(u, n, start + timedelta(seconds=t), *(event or ["click"])) for u, n, t, *event in rows]
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in full], CLICKS)


def as_tuples(pairs):
    return [(p["source"], p["target"], p["score"], p["users"]) for p in pairs.to_pylist()]


def mine(clicks, options=ALL, threads=1):
    return mine_pairs(clicks, options, threads=threads, progress=False)


def found_pairs(rows, same_time):
    """The definition, read aloud: for each pair the 1 / N_u of its users."""
    first: dict[str, dict[str, int]] = defaultdict(dict)
    last: dict[str, dict[str, int]] = defaultdict(dict)
    for user, note, second, event in rows:
        first[user][note] = min(second, first[user].get(note, second))
        if event == "click":
            last[user][note] = max(second, last[user].get(note, second))
    found = defaultdict(list)
    for user, seen in first.items():
        for a in seen:
            for b in last[user]:
                is_after = seen[a] <= last[user][b] if same_time == "both" else seen[a] < last[user][b]
                if a != b and is_after:
                    found[a, b].append(1 / len(last[user]))
    return found


def brute_force(rows, options):
    """The pairs that are kept of those found."""
    found = found_pairs(rows, options.same_time)
    by_source = defaultdict(list)
    for (a, b), parts in found.items():
        score = round(sum(sorted(parts)), 9)
        if options.lower <= score <= options.upper and len(parts) >= options.min_users:
            by_source[a].append((-score, -len(parts), b))
    return [
        (a, b, -score, -users)
        for a in sorted(by_source)
        for score, users, b in sorted(by_source[a])[: options.top]
    ]


# Few users, notes and seconds: repeats, equal times and ties are the rule. Ids of several lengths
# and scripts: their order is by code point.
rows = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u10", "u2", "u3"]),
        st.sampled_from(["n1", "n10", "n2", "笔记", "é", "Z", "a", ""]),
        st.integers(0, 12),
        st.sampled_from(["click", "click", "view"]),
    ),
    max_size=60,
)
options_ = st.builds(
    PairOptions,
    upper=st.sampled_from([math.inf, 1.0, 0.5]),
    lower=st.sampled_from([0.0, 0.2, 0.25]),
    top=st.integers(1, 5),
    min_users=st.integers(1, 2),
    same_time=st.sampled_from([None, "none", "both"]),  # None is "none", since the times are real
)


@settings(max_examples=150, deadline=None)
@given(rows, options_, st.integers(1, 3), st.randoms(use_true_random=False))
def test_equals_the_definition(events, options, threads, random):
    shuffled = random.sample(events, len(events))
    clicks = log(shuffled)
    pairs, counts = mine_counted_pairs(clicks, options, threads=threads, progress=False)
    assert as_tuples(pairs) == brute_force(events, options)
    assert mine(clicks, options, threads).equals(pairs)
    found = [(round(sum(parts), 9), len(parts)) for parts in found_pairs(events, options.same_time).values()]
    enough = [score for score, users in found if users >= options.min_users]
    assert (counts.found, counts.few_users) == (len(found), len(found) - len(enough))
    assert counts.low == sum(score < options.lower for score in enough)
    assert counts.high == sum(score > options.upper for score in enough)
    assert counts.most_users == max((users for _, users in found), default=0)
    assert counts.kept == len(pairs)


ORDER_START = datetime(1970, 1, 1, tzinfo=UTC)


@settings(max_examples=60, deadline=None)
@given(rows)
def test_a_log_without_order_counts_both_directions(events):
    """All rows of a user at one time of 1970: users share it or not."""
    for moment in ({}, {"u1": 3, "u10": 4}):
        tied = [(user, note, moment.get(user, 0), event) for user, note, _, event in events]
        expected = brute_force(tied, PairOptions(min_users=1, same_time="both"))
        clicks = log(tied, ORDER_START)
        assert as_tuples(mine(clicks, PairOptions(min_users=1))) == expected
        assert mine(clicks, PairOptions(min_users=1, same_time="none")).num_rows == 0


def test_none_counts_both_directions_only_if_no_order_is_known():
    tied = [(user, note, 5) for user in "uv" for note in "abc"]
    both = {(a, b) for a in "abc" for b in "abc" if a != b}
    assert {pair[:2] for pair in as_tuples(mine(log(tied, ORDER_START)))} == both
    assert mine(log(tied)).num_rows == 0  # a date of 2024 is known, and so are other dates
    assert {pair[:2] for pair in as_tuples(mine(log(tied), PairOptions(same_time="both")))} == both
    ordered = [*tied, ("w", "a", 1), ("w", "b", 2)]  # one user's order is enough to know that there is one
    assert as_tuples(mine(log(ordered, ORDER_START))) == [("a", "b", 0.5, 1)]


def test_same_time_in_both_directions_by_hand():
    """a and b at 5, b again at 7; c is seen at 7 and never clicked."""
    events = [("u", "a", 5), ("u", "b", 5), ("u", "b", 7), ("u", "c", 7, "view")]
    both = as_tuples(mine(log(events), PairOptions(min_users=1, same_time="both")))
    assert both == [("a", "b", 0.5, 1), ("b", "a", 0.5, 1), ("c", "b", 0.5, 1)]
    assert as_tuples(mine(log(events))) == [("a", "b", 0.5, 1)]


def large_rows(seed=0, rows=9_000, users=300, notes=1_500):
    """Enough notes for several blocks a thread."""
    draw = np.random.default_rng(seed)
    return [
        (f"u{u}", f"n{n}", int(t), "view" if v < 0.2 else "click")
        for u, n, t, v in zip(
            draw.zipf(1.5, rows) % users,
            draw.integers(0, notes, rows),
            draw.integers(0, 10**6, rows),
            draw.random(rows),
            strict=True,
        )
    ]


@pytest.mark.slow
def test_large_log_is_the_same_for_any_threads_order_and_chunks():
    events = large_rows()
    clicks = log(events)
    pairs = mine(clicks, PairOptions(min_users=1))
    assert pairs.num_rows > 4_000
    shuffle = np.random.default_rng(1).permutation(clicks.num_rows)
    assert mine(clicks.take(shuffle), PairOptions(min_users=1)).equals(pairs)
    assert mine(clicks, PairOptions(min_users=1), threads=4).equals(pairs)
    chunked = pa.concat_tables([clicks.slice(0, 7), clicks.slice(7, 5_000), clicks.slice(5_007)])
    assert chunked["user_id"].num_chunks == 3
    assert mine(chunked, PairOptions(min_users=1)).equals(pairs)
    assert as_tuples(pairs) == brute_force(events, PairOptions(min_users=1))


def test_result_does_not_depend_on_how_users_are_named():
    events = large_rows(rows=3_000)
    renamed = [(u[::-1] + "!", *rest) for u, *rest in events]
    assert mine(log(renamed), PairOptions(min_users=1)).equals(mine(log(events), PairOptions(min_users=1)))


def test_checkerboard_in_closed_form():
    """Users of a colour click all k notes of it in order: s(i -> j) = users / k for i < j only."""
    k, users = 6, 3
    events = [
        (f"{colour}{user}", f"{colour}{note}", note)
        for colour in ("black", "white")
        for user in range(users)
        for note in range(k)
    ]
    pairs = as_tuples(mine(log(events)))
    assert len(pairs) == 2 * k * (k - 1) // 2
    for source, target, score, count in pairs:
        assert source[:5] == target[:5]
        assert source < target
        assert score == pytest.approx(users / k)
        assert count == users


def test_a_view_is_a_source_but_never_a_target():
    assert as_tuples(mine(log([("u", "seen", 1, "view"), ("u", "opened", 2)]))) == [
        ("seen", "opened", 1.0, 1)
    ]
    assert mine(log([("u", "opened", 1), ("u", "seen", 2, "view")])).num_rows == 0


def test_first_view_and_last_click_count():
    """a at 1 and 3, b at 2: a -> b by the first a, b -> a by the last a."""
    pairs = as_tuples(mine(log([("u", "a", 1), ("u", "b", 2), ("u", "a", 3)])))
    assert pairs == [("a", "b", 0.5, 1), ("b", "a", 0.5, 1)]


def test_equal_times_make_no_pair_by_default():
    assert mine(log([("u", "a", 5), ("u", "b", 5)])).num_rows == 0


def test_users_who_click_much_count_less():
    """The light user clicks 2 notes, the heavy one 10 (views are not counted in N)."""
    events: list[tuple[object, ...]] = [("light", "seen", 0, "view")]
    events += [("light", "a", 0), ("light", "b", 1)]
    events += [("heavy", "a", 0), ("heavy", "c", 1)]
    events += [("heavy", f"other{i}", 2 + i) for i in range(8)]
    scores = {(a, b): score for a, b, score, _ in as_tuples(mine(log(events)))}
    assert scores["a", "b"] == 1 / 2
    assert scores["a", "c"] == 1 / 10


def test_ties_go_to_more_users_then_to_the_smaller_id():
    events: list[tuple[object, ...]] = [("solo", "a", 0), ("solo", "one", 1)]  # 1 user x 1/2
    for user in ("p", "q"):  # 2 users x 1/4
        events += [(user, "a", 0), (user, "two", 1), (user, "also", 1), (user, "far", 0, "view")]
        events += [(user, f"pad-{user}", 0)]
    pairs = [p for p in as_tuples(mine(log(events))) if p[0] == "a"]
    assert pairs == [
        ("a", "also", 0.5, 2),
        ("a", "two", 0.5, 2),
        ("a", "one", 0.5, 1),
    ]
    top = as_tuples(mine(log(events), PairOptions(min_users=1, top=1)))
    assert [p for p in top if p[0] == "a"] == pairs[:1]


def test_thresholds_keep_their_own_value():
    """a -> b has the score 1 (2 users x 1/2), c -> d 1/2."""
    events = [(u, n, t) for u in ("u1", "u2") for t, n in enumerate("ab")]
    events += [("u3", "c", 0), ("u3", "d", 1)]

    def kept(**options):
        return [p[:2] for p in as_tuples(mine(log(events), PairOptions(**{"min_users": 1} | options)))]

    assert kept() == [("a", "b"), ("c", "d")]
    assert kept(upper=1.0) == [("a", "b"), ("c", "d")]
    assert kept(upper=0.99) == [("c", "d")]
    assert kept(lower=0.5) == [("a", "b"), ("c", "d")]
    assert kept(lower=0.51) == [("a", "b")]
    assert kept(min_users=2) == [("a", "b")]


@pytest.mark.parametrize("same_time", ["none", "both"])
def test_times_may_lie_as_far_apart_as_they_can(same_time):
    """More than 2**63 microseconds: differences of times would overflow."""
    micro = [-(2**63) + 2, 0, 2**63 - 1]
    far = pa.table(
        [
            ["u"] * 3,
            ["late", "early", "middle"],
            pa.array([micro[2], micro[0], micro[1]]).cast(TIME),
            ["click"] * 3,
        ],
        schema=CLICKS,
    )
    near = log([("u", "late", 2), ("u", "early", 0), ("u", "middle", 1)])
    options = replace(ALL, same_time=same_time)
    assert as_tuples(mine(far, options)) == as_tuples(mine(near, options))
    assert len(mine(near, options)) == 3


def test_window_is_the_end_of_the_log_and_counts_n_in_it():
    day = 86_400
    events = [("u", "old", 0), ("u", "edge", 3 * day), ("u", "a", 9 * day), ("u", "b", 10 * day)]
    seven = as_tuples(mine(log(events), PairOptions(min_users=1, window_days=7)))
    assert seven == [("a", "b", 0.5, 1)]  # "edge" is exactly seven days old: out
    assert len(as_tuples(mine(log(events), PairOptions(min_users=1, window_days=7.01)))) == 3
    assert len(as_tuples(mine(log(events)))) == 6


def test_window_on_positions_is_refused():
    positions = log([("u", "a", 1), ("u", "b", 2)], start=datetime(1970, 1, 1, tzinfo=UTC))
    assert mine(positions).num_rows == 1
    with pytest.raises(DataError, match="only the order of clicks"):
        mine(positions, PairOptions(min_users=1, window_days=7))


@pytest.mark.parametrize(
    "events",
    [[], [("u", "a", 1)], [("u", "a", 1), ("u", "a", 2)], [("u", "a", 1), ("v", "b", 2)]],
)
def test_nothing_to_pair(events):
    assert mine(log(events)).equals(PAIRS.empty_table())


def test_result_has_the_schema():
    assert mine(log([("u", "a", 1), ("u", "b", 2)])).schema.equals(PAIRS)


@pytest.mark.slow
def test_mining_leaves_the_threads_of_torch_alone():
    code = (
        "import pyarrow as pa, torch\n"
        "from notellm.data.sample_world import sample_world\n"
        "from notellm.pairs.local import mine_pairs\n"
        "mine_pairs(sample_world(notes=50, users=20, clicks=200).clicks, progress=False)\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


def test_bad_input_is_named():
    with pytest.raises(DataError, match="timestamp int64"):
        mine(CLICKS.empty_table().set_column(2, "timestamp", pa.array([], pa.int64())))
    with pytest.raises(ConfigError, match="threads is 0"):
        mine(CLICKS.empty_table(), threads=0)
