"""What the latest clicks of a user say about history and seen notes, whatever the order they came in."""

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.engine import users
from notellm.engine.users import LiveUsers
from notellm.store.clicks import Click, ClickLog

START = datetime(2026, 1, 1, tzinfo=UTC)


def clicks_of(*said, user="u1"):
    """Clicks a minute apart, each of a note and an event."""
    return [
        Click(user, note_id, event, START + timedelta(minutes=i), f"{user}-{i}")
        for i, (note_id, event) in enumerate(said)
    ]


def known(*said, before=()):
    live = LiveUsers()
    live.add(clicks_of(*said))
    return live.known("u1", before)


def test_clicks_and_likes_follow_what_the_ranker_remembers():
    found = known(("n3", "click"), ("n4", "like"), before=["n1", "n2"])
    assert found.history == ["n1", "n2", "n3", "n4"]
    assert found.seen == {"n1", "n2", "n3", "n4"}


def test_a_note_opened_again_counts_where_it_was_opened_last():
    assert known(("n1", "click"), ("n3", "click"), before=["n1", "n2"]).history == ["n2", "n1", "n3"]
    assert known(("n1", "click"), ("n2", "click"), ("n1", "click")).history == ["n2", "n1"]


def test_what_was_known_at_an_earlier_time_leaves_out_clicks_of_that_time_and_later_ones():
    live = LiveUsers()
    live.add(clicks_of(("n2", "click"), ("n3", "view"), ("n4", "click")))
    assert live.known("u1", ["n1"], until=START + timedelta(minutes=2)).history == ["n1", "n2"]
    assert live.known("u1", ["n1"], until=START + timedelta(minutes=2)).seen == {"n1", "n2", "n3"}
    assert live.known("u1", ["n1"], until=START).history == ["n1"]


def test_the_latest_time_of_each_user_is_told():
    live = LiveUsers()
    live.add(reversed(clicks_of(("n2", "click"), ("n3", "view"))))
    live.add(clicks_of(("n2", "click"), user="u2"))
    assert dict(live.latest()) == {"u1": START + timedelta(minutes=1), "u2": START}


def test_a_view_is_seen_and_no_history():
    found = known(("n1", "view"), ("n2", "click"))
    assert (found.history, found.seen) == (["n2"], {"n1", "n2"})


def test_a_disliked_note_is_no_history_until_it_is_liked_again():
    assert known(("n1", "click"), ("n1", "dislike"), before=["n1", "n2"]).history == ["n2"]
    assert known(("n1", "dislike"), ("n1", "like")).history == ["n1"]
    assert known(("n1", "like"), ("n1", "dislike"), ("n1", "click")).history == []
    assert known(("n1", "dislike")).seen == {"n1"}


def test_of_an_unknown_user_nothing_is_known():
    found = LiveUsers().known("nobody")
    assert (found.history, found.seen) == ([], frozenset())
    assert LiveUsers().known("nobody", ["n1"]).history == ["n1"]


def test_the_order_in_which_clicks_come_does_not_count():
    said = clicks_of(("n1", "click"), ("n2", "dislike"), ("n2", "like"), ("n1", "view"))
    wanted = known(("n1", "click"), ("n2", "dislike"), ("n2", "like"), ("n1", "view"))
    for order in itertools.permutations(said):
        live = LiveUsers()
        for click in order:
            live.add([click])
        assert live.known("u1") == wanted


def test_users_are_apart_and_forgotten_one_by_one():
    live = LiveUsers()
    live.add([*clicks_of(("n1", "click"), user="u1"), *clicks_of(("n2", "click"), user="u2")])
    assert (len(live), list(live), "u1" in live, "u3" in live) == (2, ["u1", "u2"], True, False)
    live.forget("u1")
    live.forget("u3")
    assert list(live) == ["u2"]
    assert live.known("u1").history == []


@pytest.mark.parametrize("most", [3, 200])
def test_read_from_the_log_is_as_if_they_had_come_one_by_one(tmp_path, monkeypatch, most):
    monkeypatch.setattr(users, "MOST", most)
    (tmp_path / "store").mkdir()
    log = ClickLog.open(tmp_path / "store", max_age=None)
    every = [
        *clicks_of(*((f"n{i}", "click") for i in range(7)), user="u1"),
        *clicks_of(("n2", "view"), ("n2", "dislike"), ("n9", "like"), ("n2", "like"), user="u2"),
    ]
    assert len(LiveUsers.from_log(log)) == 0
    log.append(every[::-1])
    read, live = LiveUsers.from_log(log), LiveUsers()
    live.add(every)
    for user in ("u1", "u2"):
        assert read.known(user) == live.known(user)
    assert len(read.known("u1").history) == min(most, 7)
    assert read.known("u1").history[-1] == "n6"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["u1", "u2", "u3"]),
            st.sampled_from(["n1", "n2", "n3"]),
            st.sampled_from(["view", "click", "like", "dislike", "forget"]),
        ),
        max_size=30,
    )
)
def test_a_note_counts_once_for_each_user_in_whose_history_it_is(said):
    live = LiveUsers()
    for place, (user, note_id, event) in enumerate(said):
        if event == "forget":
            live.forget(user)
        else:
            live.add([Click(user, note_id, event, START + timedelta(minutes=place), str(place))])
    wanted = Counter(note_id for user in live for note_id in live.known(user).history)
    assert live.opened == wanted
    assert all(live.opened.values())


def test_clicks_that_are_no_longer_held_do_not_count(monkeypatch):
    monkeypatch.setattr(users, "MOST", 2)
    live = LiveUsers()
    live.add(clicks_of(("n1", "click"), ("n2", "click"), ("n1", "view"), ("n3", "like")))
    assert live.opened == {"n3": 1}
