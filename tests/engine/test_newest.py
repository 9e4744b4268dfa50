"""Notes by their time of publication stay in order, whatever comes and goes."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from notellm.engine.newest import Newest
from notellm.store.rows import StoredNote

START = datetime(2026, 1, 1, tzinfo=UTC)
#: An id with the hour of its publication, None for a note without one, or "gone" for a note that is removed.
CHANGES = st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 5) | st.just("gone")))


def at(hour):
    return START + timedelta(hours=hour)


def note(note_id, hour):
    return StoredNote(title="t", note_id=note_id, published_at=None if hour is None else at(hour))


@given(CHANGES, st.integers(0, 5), st.integers(0, 5))
def test_the_order_is_that_of_all_notes_sorted(changes, first, last):
    newest = Newest()
    hours: dict[str, Any] = {}
    for note_id, hour in changes:
        if hour == "gone":
            newest.remove([note_id])
            hours.pop(note_id, None)
        else:
            newest.upsert([note(note_id, hour)])
            hours[note_id] = hour
    dated = sorted(((hour, note_id) for note_id, hour in hours.items() if hour is not None), reverse=True)
    wanted = [note_id for hour, note_id in dated if first <= hour <= last]
    assert list(newest.between(at(first), at(last))) == wanted
    again = Newest(note(note_id, hour) for note_id, hour in hours.items())
    assert list(again.between(at(first), at(last))) == wanted
