"""Impressions of shown lists: what was passed over is a negative; a plain program states the rules again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.schema import IMPRESSIONS
from notellm.data.shown_impressions import impressions_from_shown
from notellm.errors import ConfigError, DataError
from notellm.store.clicks import CLICK_LOG
from notellm.store.shown import SHOWN_LOG

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(minutes):
    return T0 + timedelta(minutes=minutes)


def shown_of(*rows):
    """Lists from (request, user, minute, notes)."""
    return pa.Table.from_pylist(
        [
            {
                "request_id": request,
                "user_id": user,
                "timestamp": at(minute),
                "note_ids": list(notes),
                "sources": ["recall"] * len(notes),
                "model": "model",
                "basis": "basis",
            }
            for request, user, minute, notes in rows
        ],
        schema=SHOWN_LOG,
    )


def clicks_of(*rows):
    """Clicks from (user, note, minute, event, request)."""
    return pa.Table.from_pylist(
        [
            {
                "click_id": f"c{i}",
                "user_id": user,
                "note_id": note,
                "timestamp": at(minute),
                "event": event,
                "request_id": request,
            }
            for i, (user, note, minute, event, request) in enumerate(rows)
        ],
        schema=CLICK_LOG,
    )


def made(shown, clicks, **options):
    """Impressions as (user, note, label, minute, history)."""
    table, _ = impressions_from_shown(shown_of(*shown), clicks_of(*clicks), **options)
    assert table.schema.equals(IMPRESSIONS)
    return [
        (row["user_id"], row["note_id"], row["label"], (row["timestamp"] - T0).seconds // 60, row["history"])
        for row in table.to_pylist()
    ]


def test_notes_above_a_clicked_one_and_viewed_ones_are_negatives():
    rows = made(
        [("r1", "u", 1, "abcdef"), ("r2", "u", 5, "gh")],
        [("u", "c", 2, "click", "r1"), ("u", "e", 3, "view", "r1"), ("u", "h", 6, "like", "r2")],
    )
    assert rows == [
        ("u", "a", False, 1, []),
        ("u", "b", False, 1, []),
        ("u", "c", True, 1, []),
        ("u", "e", False, 1, []),
        ("u", "g", False, 5, ["c"]),
        ("u", "h", True, 5, ["c"]),
    ]


def test_a_list_that_nobody_is_known_to_have_looked_at_gives_no_rows_and_is_reported():
    shown = shown_of(("r1", "u", 1, "ab"), ("r2", "u", 2, "cd"), ("r3", "v", 3, ""))
    table, report = impressions_from_shown(shown, clicks_of(("u", "b", 4, "click", "r1")))
    assert table["note_id"].to_pylist() == ["a", "b"]
    (row,) = report.problems
    assert (row.problem, row.count, row.example, row.informs) == ("list without rows", 2, "r2", True)


def test_a_dislike_is_a_negative_and_the_last_opinion_counts():
    assert made(
        [("r1", "u", 1, "abcd")],
        [
            ("u", "a", 2, "dislike", "r1"),
            ("u", "b", 2, "click", "r1"),
            ("u", "b", 3, "dislike", ""),
            ("u", "c", 2, "dislike", "r1"),
            ("u", "c", 3, "like", ""),
        ],
    ) == [("u", "a", False, 1, []), ("u", "b", False, 1, []), ("u", "c", True, 1, [])]


def test_a_note_that_was_opened_in_any_list_or_outside_is_no_negative():
    rows = made(
        [("r1", "u", 1, "ab"), ("r2", "u", 3, "acd"), ("r3", "u", 9, "ef")],
        [
            ("u", "b", 2, "click", "r1"),
            ("u", "a", 4, "click", "r2"),  # it was passed over in r1
            ("u", "d", 4, "click", "r2"),
            ("u", "e", 5, "click", ""),  # opened outside of a list before r3 showed it
            ("u", "e", 10, "click", "r3"),
            ("u", "f", 11, "click", "r3"),
        ],
    )
    assert rows == [
        ("u", "b", True, 1, []),
        ("u", "a", True, 3, ["b"]),
        ("u", "c", False, 3, ["b"]),
        ("u", "d", True, 3, ["b"]),
        ("u", "f", True, 9, ["b", "a", "d", "e"]),
    ]


def test_what_was_passed_over_twice_is_one_negative_of_the_first_time():
    rows = made(
        [("r2", "u", 3, "ac"), ("r1", "u", 1, "ab")],
        [("u", "c", 4, "click", "r2"), ("u", "b", 5, "click", "r1")],
    )
    assert rows == [
        ("u", "a", False, 1, []),
        ("u", "b", True, 1, []),
        ("u", "c", True, 3, []),
    ]


def test_a_client_whose_clock_is_behind_does_not_click_before_it_was_shown():
    rows = made([("r1", "u", 5, "ab")], [("u", "b", 1, "click", "r1"), ("u", "x", 2, "click", "")])
    assert rows == [("u", "a", False, 5, ["x"]), ("u", "b", True, 5, ["x"])]


def test_a_list_of_nobody_is_that_of_everybody_who_names_it():
    rows = made([("r1", "", 1, "abc")], [("u", "b", 2, "click", "r1"), ("v", "a", 2, "view", "r1")])
    assert rows == [("u", "a", False, 1, []), ("v", "a", False, 1, []), ("u", "b", True, 1, [])]


def test_clicks_that_do_not_fit_their_list_are_reported_and_name_none():
    shown = shown_of(("r1", "u", 1, "abc"), ("r2", "u", 8, "de"))
    clicks = clicks_of(
        ("u", "b", 2, "click", "r1"),
        ("v", "c", 2, "click", "r1"),
        ("u", "z", 2, "click", "r1"),
        ("u", "y", 2, "click", "lost"),
        ("u", "y", 3, "view", "lost"),
        ("u", "e", 9, "click", "r2"),
    )
    table, report = impressions_from_shown(shown, clicks)
    assert table.num_rows == 4
    assert table["history"].to_pylist()[-1] == ["b", "y", "z"]
    assert [(row.problem, row.count, row.example) for row in report.problems] == [
        ("click that names an unknown list", 2, "user_id u, note_id y"),
        ("click that names a list of another user", 1, "user_id v, note_id c"),
        ("click that names a list without its note", 1, "user_id u, note_id z"),
    ]


@pytest.mark.parametrize(
    ("clicks", "reason"),
    [
        ([], "0 of 1 lists give 0 rows"),
        ([("u", "a", 2, "click", "r1")], "1 of 1 lists give 1 rows, of which 1 are liked"),
        ([("u", "a", 2, "view", "r1")], "1 of 1 lists give 1 rows, of which 0 are liked"),
    ],
)
def test_labels_that_are_all_alike_are_refused(clicks, reason):
    with pytest.raises(DataError, match=f"{reason}.* send clicks and views with the request_id"):
        made([("r1", "u", 1, "ab")], clicks)


def test_missing_columns_and_a_wrong_length_are_refused():
    shown, clicks = shown_of(("r1", "u", 1, "ab")), clicks_of(("u", "b", 2, "click", "r1"))
    with pytest.raises(DataError, match="shown has no column 'note_ids'"):
        impressions_from_shown(shown.drop_columns(["note_ids"]), clicks)
    with pytest.raises(DataError, match="clicks has no column 'request_id'"):
        impressions_from_shown(shown, clicks.drop_columns(["request_id"]))
    with pytest.raises(ConfigError, match="max_history is 0: give 1 or more"):
        impressions_from_shown(shown, clicks, max_history=0)


def plainly(shown, clicks, max_history):
    """The rules once more, without tables: a set of (user, note, label, minute, history)."""
    lists: dict[Any, Any] = {}
    for request, user, minute, notes in shown:
        lists.setdefault(request, (user, minute, notes))
    events = []  # user, note, minute, event, request or None
    for user, note, minute, event, request in clicks:
        owner, shown_at, notes = lists.get(request, (None, None, ""))
        fits = owner in ("", user) and note in notes
        time = max(minute, shown_at) if fits else minute
        events.append((user, note, time, event, request if fits else None))
    reactions = [each for each in events if each[3] != "view"]
    rows = set()
    for user, note in {each[:2] for each in reactions}:
        own = [each for each in reactions if each[:2] == (user, note)]
        first = min(
            own,
            key=lambda each: (each[2], each[4] is None, lists[each[4]][1] if each[4] else 0, each[4] or ""),
        )
        said = max(
            ((time, event) for _, _, time, event, _ in own if event != "click"),
            key=lambda each: (each[0], each[1] == "dislike"),
            default=(0, ""),
        )
        if first[4] is not None:
            rows.add((user, note, said[1] != "dislike", lists[first[4]][1]))
    looked_at: dict[Any, int] = {}
    for request, (owner, minute, notes) in lists.items():
        for user in {each[0] for each in events if owner in ("", each[0])}:
            own = [each for each in events if each[0] == user and each[4] == request]
            last = max((notes.index(each[1]) for each in own if each[3] != "view"), default=-1)
            for note in {*notes[: last + 1], *(each[1] for each in own if each[3] == "view")}:
                looked_at[user, note] = min(minute, looked_at.get((user, note), minute))
    reacted = {each[:2] for each in reactions}
    rows |= {(*pair, False, minute) for pair, minute in looked_at.items() if pair not in reacted}
    found = []
    for user, note, label, minute in rows:
        opened: dict[str, int] = {}
        for other, liked, time, event, _ in sorted(events, key=lambda each: each[2]):
            if other == user and event in ("click", "like") and time < minute:
                opened.setdefault(liked, time)
        history = sorted(opened, key=lambda each: (opened[each], each))[-max_history:]
        found.append((user, note, label, minute, history))
    return sorted(found)


NOTES = st.sampled_from("abcdefgh")
LISTS = st.lists(
    st.tuples(
        st.sampled_from(["r1", "r2", "r3", "r4"]),
        st.sampled_from(["", "u", "v"]),
        st.integers(0, 9),
        st.lists(NOTES, max_size=6, unique=True).map("".join),
    ),
    max_size=5,
)
CLICKS = st.lists(
    st.tuples(
        st.sampled_from("uv"),
        NOTES,
        st.integers(0, 12),
        st.sampled_from(["view", "click", "like", "dislike"]),
        st.sampled_from(["r1", "r2", "r3", "r4", "r5", ""]),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(LISTS, CLICKS, st.integers(1, 4))
def test_as_the_plain_rules(shown, clicks, max_history):
    wanted = plainly(shown, clicks, max_history)
    try:
        found = made(shown, clicks, max_history=max_history)
    except DataError:
        assert len({row[2] for row in wanted}) < 2
        return
    assert sorted(found) == wanted
    assert [row[3] for row in found] == sorted(row[3] for row in found)
    assert len({row[:2] for row in found}) == len(found)
    assert all(row[1] not in row[4] for row in found)  # what is judged is no part of its own history


@settings(max_examples=40, deadline=None)
@given(LISTS, CLICKS, st.randoms(use_true_random=False))
def test_the_order_of_clicks_does_not_count(shown, clicks, draw):
    other = draw.sample(clicks, len(clicks))
    try:
        found = made(shown, clicks)
    except DataError:
        return
    assert found == made(shown, other)
