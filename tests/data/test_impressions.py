from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data import impressions as module
from notellm.data import validate_impressions as validate_module
from notellm.data.impressions import click_histories, impressions_from_clicks, positive_impressions
from notellm.data.schema import CLICKS, IMPRESSIONS
from notellm.data.split import split_impressions, split_impressions_by_time
from notellm.data.validate_impressions import validate_impressions
from notellm.errors import ConfigError, DataError

T0 = datetime(2024, 1, 1, tzinfo=UTC)


def log_of(rows):
    """A log from (user, note, seconds after T0) or (..., event)."""
    return pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "note_id": note,
                "timestamp": T0 + timedelta(seconds=time),
                "event": event[0] if event else "click",
            }
            for user, note, time, *event in rows
        ],
        schema=CLICKS,
    )


def rows_of(impressions):
    """(user, note, label, seconds after T0, history)."""
    return [
        (row["user_id"], row["note_id"], row["label"], (row["timestamp"] - T0).seconds, row["history"])
        for row in impressions.to_pylist()
    ]


def random_log(seed, users=12, notes=30, rows=300, times=100, views=False):
    """A log with many equal times and repeated clicks, in no order of time."""
    draw = np.random.default_rng(seed)
    popular = draw.zipf(1.5, rows) % notes
    return log_of(
        [
            (f"u{draw.integers(users)}", f"n{note}", int(draw.integers(times)))
            + (("view",) if views and draw.random() < 0.6 else ())
            for note in popular
        ]
    )


def first_clicks(log):
    """Per user: note -> (time, row) of the first click, by brute force."""
    found: dict[str, dict[str, tuple[datetime, int]]] = defaultdict(dict)
    for row, click in enumerate(log.to_pylist()):
        if click["event"] == "click":
            seen = found[click["user_id"]].get(click["note_id"])
            at = (click["timestamp"], row)
            found[click["user_id"]][click["note_id"]] = at if seen is None else min(seen, at)
    return found


def test_views_without_a_click_are_negatives():
    log = log_of(
        [
            ("u", "a", 1, "view"),
            ("u", "a", 2),
            ("u", "b", 3, "view"),
            ("u", "b", 4, "view"),
            ("v", "b", 5),
            ("u", "c", 6),
            ("u", "a", 7),
            ("u", "c", 8, "view"),
            ("u", "d", 9, "view"),
        ]
    )
    assert rows_of(impressions_from_clicks(log)) == [
        ("u", "a", True, 2, []),
        ("u", "b", False, 3, ["a"]),
        ("v", "b", True, 5, []),
        ("u", "c", True, 6, ["a"]),
        ("u", "d", False, 9, ["a", "c"]),
    ]
    assert impressions_from_clicks(log).schema.equals(IMPRESSIONS)


def test_equal_times_are_not_history_and_keep_the_order_of_the_log():
    log = log_of(
        [
            ("u", "late", 9),
            ("u", "b", 1),
            ("u", "a", 1),
            ("u", "c", 1),
            ("u", "x", 1, "view"),
            ("u", "y", 9, "view"),
        ]
    )
    assert rows_of(impressions_from_clicks(log)) == [
        ("u", "b", True, 1, []),
        ("u", "a", True, 1, []),
        ("u", "c", True, 1, []),
        ("u", "x", False, 1, []),
        ("u", "late", True, 9, ["b", "a", "c"]),
        ("u", "y", False, 9, ["b", "a", "c"]),
    ]
    short = impressions_from_clicks(log, max_history=2)
    assert rows_of(short)[-1] == ("u", "y", False, 9, ["a", "c"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 6), st.integers(1, 3))
def test_nothing_leaks(seed, views, max_history, negatives):
    """Every history, by brute force: what the user clicked strictly before, and nothing else."""
    log = random_log(seed, views=views)
    table = impressions_from_clicks(log, negatives=negatives, max_history=max_history, seed=seed)
    clicked = first_clicks(log)
    seen_by_all = defaultdict(list)
    for own in clicked.values():
        for note, (time, _) in own.items():
            seen_by_all[note].append(time)
    filled = 0
    for row in table.to_pylist():
        own = clicked[row["user_id"]]
        before = sorted(
            (at, note) for note, at in own.items() if at[0] < row["timestamp"] and note != row["note_id"]
        )
        assert row["history"] == [note for _, note in before][-max_history:]
        assert row["label"] == (row["note_id"] in own)
        if row["label"]:
            assert own[row["note_id"]][0] == row["timestamp"]
        elif not views:
            assert min(seen_by_all[row["note_id"]]) < row["timestamp"]  # known by then
        filled += len(row["history"]) > 0
    assert filled > 50
    assert sum(table["label"].to_pylist()) == sum(map(len, clicked.values()))
    times = table["timestamp"].to_pylist()
    assert times == sorted(times)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 99))
def test_a_row_is_the_same_whatever_comes_later(seed, moment):
    """Positives and their histories before a moment are those of the log cut at it."""
    log = random_log(seed)
    cut = log.filter(
        pa.array([time < T0 + timedelta(seconds=moment) for time in log["timestamp"].to_pylist()])
    )
    whole = [row for row in rows_of(impressions_from_clicks(log)) if row[2] and row[3] < moment]
    try:
        part = [row for row in rows_of(impressions_from_clicks(cut)) if row[2]]
    except DataError:  # too early for a negative
        assert moment < 20
        return
    assert part == whole


def test_drawn_negatives_follow_their_positive_and_are_distinct():
    log = random_log(3)
    rows = rows_of(impressions_from_clicks(log, negatives=3))
    clicked = first_clicks(log)
    groups = []
    for row in rows:
        if row[2]:
            groups.append([row])
        else:
            groups[-1].append(row)
    for positive, *drawn in groups:
        notes = [row[1] for row in drawn]
        assert len(set(notes)) == len(notes) <= 3
        assert not set(notes) & set(clicked[positive[0]])
        assert all((row[0], row[3], row[4]) == (positive[0], positive[3], positive[4]) for row in drawn)
    assert Counter(len(group) for group in groups)[4] > len(groups) / 2


def test_draw_is_in_proportion_to_popularity():
    """Notes clicked by 60, 30 and 10 users; then 2,000 users click something else."""
    rows = [
        (f"{note}{i}", note, 0) for note, count in (("a", 60), ("b", 30), ("c", 10)) for i in range(count)
    ]
    rows += [(f"new{i}", "own", 1) for i in range(2000)]
    table = impressions_from_clicks(log_of(rows))
    drawn = Counter(row[1] for row in rows_of(table) if not row[2])
    assert sum(drawn.values()) == 2000
    for note, share in (("a", 0.6), ("b", 0.3), ("c", 0.1)):
        assert drawn[note] / 2000 == pytest.approx(share, abs=0.04)


def test_popularity_is_not_the_label():
    """In a log of popularity alone, the clicks of a note, 40 to 1 over the notes, do not tell its label."""
    draw = np.random.default_rng(0)
    weight = 1 / (10 + np.arange(400))
    popular = draw.choice(400, 6000, p=weight / weight.sum())
    log = log_of([(f"u{draw.integers(2000)}", f"n{note}", second) for second, note in enumerate(popular)])
    table = impressions_from_clicks(log).slice(4000)
    counts = Counter(log["note_id"].to_pylist())
    labels = np.array(table["label"].to_pylist())
    score = np.array([counts[note] for note in table["note_id"].to_pylist()])
    higher = (score[labels][:, None] > score[~labels]).mean()
    tied = (score[labels][:, None] == score[~labels]).mean()
    assert higher + tied / 2 == pytest.approx(0.5, abs=0.05)


def test_a_log_of_order_draws_from_the_whole():
    """Times of 1970 say nothing across users: the user with the shortest log has negatives too."""
    order = pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "note_id": f"{user}{n}",
                "timestamp": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=n),
                "event": "click",
            }
            for user in "uv"
            for n in range(1, 4)
        ],
        schema=CLICKS,
    )
    table = impressions_from_clicks(order)
    assert Counter(table["label"].to_pylist()) == {True: 6, False: 6}
    with pytest.raises(DataError, match="keep only the order"):
        split_impressions_by_time(table)


def unordered_log(seed=0, users=30, notes=40, views=False):
    """Every user's rows by ascending note id, all at 1970-01-01; popular notes have small ids."""
    draw = np.random.default_rng(seed)
    weight = 1 / (5 + np.arange(notes))
    rows = []
    for user in range(users):
        chosen = np.sort(draw.choice(notes, 12, replace=False, p=weight / weight.sum()))
        for note in chosen:
            event = "view" if views and draw.random() < 0.4 else "click"
            rows.append({"user_id": f"u{user}", "note_id": f"n{note:02}", "event": event})
    moment = datetime(1970, 1, 1, tzinfo=UTC)
    return pa.Table.from_pylist([{**row, "timestamp": moment} for row in rows], schema=CLICKS)


@pytest.mark.parametrize("views", [False, True])
def test_a_log_without_order_has_histories_in_a_random_order(views):
    log = unordered_log(views=views)
    table = impressions_from_clicks(log, seed=5)
    clicked = {user: list(notes) for user, notes in click_histories(log, seed=5).items()}
    lengths: Counter[int] = Counter()
    for row in table.to_pylist():
        own, history = clicked[row["user_id"]], row["history"]
        assert row["note_id"] not in history
        assert history == own[: len(history)]  # the beginning of the user's one order
        assert row["label"] == (row["note_id"] in own)
        if row["label"]:
            assert own[len(history)] == row["note_id"]  # and nothing of the row itself or after it
            lengths[len(history)] += 1
    assert len(lengths) > 5
    assert all(own == sorted(own) for own in clicked.values()) is False
    positives = positive_impressions(log, seed=5).to_pylist()
    assert sorted(map(str, positives)) == sorted(str(row) for row in table.to_pylist() if row["label"])


def test_the_order_of_a_log_without_order_is_that_of_its_seed():
    log = unordered_log()
    table = impressions_from_clicks(log, seed=1)
    shuffled = log.take(np.random.default_rng(0).permutation(len(log)))
    assert impressions_from_clicks(shuffled, seed=1).equals(table)
    assert click_histories(shuffled, seed=1) == click_histories(log, seed=1)
    assert click_histories(log, seed=1) != click_histories(log, seed=2)
    histories = impressions_from_clicks(log, seed=2).sort_by("user_id")["history"]
    assert histories != table.sort_by("user_id")["history"]


def test_the_id_of_a_note_does_not_tell_its_place():
    """Notes of small ids are as often late as early, unlike in the log."""
    table = positive_impressions(unordered_log(users=200), seed=0)
    place = np.array([len(history) for history in table["history"].to_pylist()])
    number = np.array([int(note[1:]) for note in table["note_id"].to_pylist()])
    assert abs(np.corrcoef(place, number)[0, 1]) < 0.06  # 2,400 rows: three standard errors


def test_a_log_without_order_is_split_by_each_users_random_order():
    table = impressions_from_clicks(unordered_log(), seed=0)
    train, valid, test = split_impressions(table, valid=0.1, test=0.2)
    users = set(table["user_id"].to_pylist())
    assert set(train["user_id"].to_pylist()) == set(test["user_id"].to_pylist()) == users
    held_out = {(row["user_id"], row["note_id"]) for row in test.to_pylist() if row["label"]}
    for row in pa.concat_tables([train, valid]).to_pylist():
        assert not {(row["user_id"], note) for note in row["history"]} & held_out


def test_dates_are_known_times_and_rows_of_one_date_are_no_history():
    """A log of dates keeps the strict rule, whatever the seed: a basket does not predict itself."""
    day = 3_600
    log = log_of([("u", note, when * day) for when, basket in enumerate(["ba", "dc"]) for note in basket])
    assert rows_of(positive_impressions(log, seed=3)) == [
        ("u", "b", True, 0, []),
        ("u", "a", True, 0, []),
        ("u", "d", True, day, ["b", "a"]),
        ("u", "c", True, day, ["b", "a"]),
    ]
    assert click_histories(log, seed=3) == click_histories(log) == {"u": ["b", "a", "d", "c"]}


def test_seed_decides():
    log = random_log(1)
    one = impressions_from_clicks(log, seed=1)
    assert one.equals(impressions_from_clicks(log, seed=1))
    assert not one.equals(impressions_from_clicks(log, seed=2))


def test_chunks_do_not_change_the_result(monkeypatch):
    log = random_log(2)
    whole = impressions_from_clicks(log)
    known = pa.table({"note_id": [f"n{i}" for i in range(20)]})
    checked, report = validate_impressions(whole, known)
    monkeypatch.setattr(module, "_CHUNK_IDS", 50 * 7)
    monkeypatch.setattr(validate_module, "_CHUNK_ROWS", 5)
    parts = impressions_from_clicks(log)
    assert parts["history"].num_chunks > 10
    assert parts.equals(whole)
    again, same = validate_impressions(parts, known)
    assert again.equals(checked)
    assert same.problems == report.problems


def test_bad_logs():
    log = random_log(0)
    with pytest.raises(ConfigError, match="negatives is 0"):
        impressions_from_clicks(log, negatives=0)
    with pytest.raises(ConfigError, match="max_history is -1"):
        impressions_from_clicks(log, max_history=-1)
    with pytest.raises(DataError, match="give CLICKS"):
        impressions_from_clicks(log.drop(["event"]))
    with pytest.raises(DataError, match="none of 0 rows"):
        impressions_from_clicks(CLICKS.empty_table())
    with pytest.raises(DataError, match="none of 1 rows of the log is a click"):
        impressions_from_clicks(log_of([("u", "a", 0, "view")]))
    with pytest.raises(DataError, match="every note viewed was clicked"):
        impressions_from_clicks(log_of([("u", "a", 0, "view"), ("u", "a", 1)]))
    with pytest.raises(DataError, match="no negative can be drawn for 2 positives"):
        impressions_from_clicks(log_of([("u", "a", 0), ("u", "b", 1)]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 0.1, 0.3]), st.sampled_from([0.1, 0.4]))
def test_split_shares_no_moment(seed, valid, test):
    table = impressions_from_clicks(random_log(seed))
    parts = split_impressions_by_time(table, valid=valid, test=test)
    assert sum(part.num_rows for part in parts) == table.num_rows
    assert pa.concat_tables(parts).equals(table)  # the table is in time order
    train, middle, newest = (part["timestamp"].to_pylist() for part in parts)
    assert max(train) < min(middle or newest)
    assert max(middle or train) < min(newest)
    assert len(newest) >= round(test * table.num_rows)
    assert bool(middle) == (valid > 0)


def test_bad_splits():
    table = impressions_from_clicks(random_log(0))
    for shares in ({"test": 0}, {"valid": 0.5, "test": 0.5}, {"valid": -0.1}):
        with pytest.raises(ConfigError, match=r"give a share|leave a share"):
            split_impressions_by_time(table, **shares)
    with pytest.raises(DataError, match="a part is empty"):
        split_impressions_by_time(table.slice(0, 1))


GOOD = [
    {"user_id": "u", "note_id": "a", "label": True, "timestamp": T0, "history": []},
    {"user_id": "u", "note_id": "b", "label": False, "timestamp": T0, "history": ["a", "gone", "b"]},
    {"user_id": "v", "note_id": "gone", "label": False, "timestamp": T0, "history": ["a"]},
    {"user_id": "v", "note_id": "b", "label": True, "timestamp": T0, "history": ["gone", "lost"]},
]
NOTES_AB = pa.table({"note_id": ["a", "b"]})


def test_unknown_notes_are_dropped_and_told():
    table, report = validate_impressions(pa.Table.from_pylist(GOOD, schema=IMPRESSIONS), NOTES_AB)
    assert table.schema.equals(IMPRESSIONS)
    assert [(row["note_id"], row["history"]) for row in table.to_pylist()] == [
        ("a", []),
        ("b", ["a", "b"]),
        ("b", []),
    ]
    assert [(p.problem, p.count, p.example) for p in report.problems] == [
        ("impression of an unknown note", 1, "user_id v, note_id gone"),
        ("unknown note in a history", 2, "gone"),
    ]


def test_a_clean_table_stays():
    table = impressions_from_clicks(random_log(0))
    checked, report = validate_impressions(
        table, pa.table({"note_id": pa.array(set(table["note_id"].to_pylist()))})
    )
    assert checked.equals(table)
    assert len(report) == 0
    part, _ = validate_impressions(table.slice(17, 90), table.select(["note_id"]))  # chunks with offsets
    assert part.equals(table.slice(17, 90))


def test_types_that_hold_the_same():
    loose = pa.table(
        {
            "extra": [1, 2],
            "history": pa.array([["a"], []], pa.large_list(pa.large_string())),
            "user_id": pa.array(["u", "v"]).dictionary_encode(),
            "note_id": pa.array(["a", "b"], pa.large_string()),
            "label": pa.array([1, 0], pa.int8()),
            "timestamp": pa.array([T0.replace(tzinfo=None)] * 2, pa.timestamp("ns")),
        }
    )
    table, _ = validate_impressions(loose, NOTES_AB)
    assert table.schema.equals(IMPRESSIONS)
    assert table.to_pylist() == [
        {"user_id": "u", "note_id": "a", "label": True, "timestamp": T0, "history": ["a"]},
        {"user_id": "v", "note_id": "b", "label": False, "timestamp": T0, "history": []},
    ]


def test_impressions_that_cannot_be_used():
    table = pa.Table.from_pylist(GOOD, schema=IMPRESSIONS)

    def replaced(name, values):
        return table.set_column(IMPRESSIONS.get_field_index(name), name, values)

    for bad, message in (
        (table.drop(["history"]), "no column 'history'"),
        (replaced("label", pa.array([True, None, True, False])), "label is null in 1 of 4 rows"),
        (replaced("label", pa.array([5, 4, 1, 0])), "a label is 5"),
        (replaced("label", pa.array([1.0, 0.0, 1.0, 0.0])), "label is double: give bool"),
        (replaced("timestamp", pa.array([1, 2, 3, 4])), "timestamp is int64"),
        (replaced("history", pa.array(["a"] * 4)), "history is string"),
        (table.filter(pa.array([False, False, True, False])), "no impression is left of 1"),
        (table.filter(pa.array([True, False, True, True])), "the label of all 2 impressions is True"),
        (table.filter(pa.array([False, True, True, False])), "the label of all 1 impressions is False"),
        (IMPRESSIONS.empty_table(), "no impression is left of 0"),
    ):
        with pytest.raises(DataError, match=message):
            validate_impressions(bad, NOTES_AB)
