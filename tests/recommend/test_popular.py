"""Which notes are popular, by what the ranker remembers and by what users opened since."""

from notellm.recommend.popular import PopularNotes


def test_notes_are_ordered_by_the_users_of_both_counts():
    opened = {"c": 2, "d": 1, "b": 1}
    notes = PopularNotes([["a", "b"], ["a"], ["b"]], opened)
    assert notes.order() == ["b", "a", "c", "d"]
    assert [notes.count(name) for name in "abcde"] == [2, 3, 2, 1, 0]


def test_without_a_log_the_first_of_equally_popular_ones_comes_first():
    assert PopularNotes([["z", "a"], ["a", "m"]]).order() == ["a", "z", "m"]


def test_the_order_is_a_minute_old_at_most_and_counts_are_those_of_now():
    now, opened = [100.0], {"a": 1}
    notes = PopularNotes([], opened, clock=lambda: now[0])
    assert notes.order() == ["a"]
    opened["b"] = 2
    now[0] += 59
    assert notes.order() == ["a"]
    assert notes.count("b") == 2
    now[0] += 1
    assert notes.order() == ["b", "a"]
