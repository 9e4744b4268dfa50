"""The users on whom models are compared."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from notellm.data.schema import CLICKS, NOTES
from notellm.data.split import Part, Split
from notellm.renew.comparison import queries_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def clicks(*note_ids: str, user: str = "u") -> pa.Table:
    """Clicks of one user, one a minute."""
    rows = [
        {"user_id": user, "note_id": note_id, "timestamp": START + timedelta(minutes=i), "event": "click"}
        for i, note_id in enumerate(note_ids)
    ]
    return pa.Table.from_pylist(rows, schema=CLICKS)


def test_what_was_opened_long_ago_is_not_opened_for_the_first_time():
    many = [f"n{i}" for i in range(300)]
    pool = pa.Table.from_pylist(
        [{name: each if name == "note_id" else None for name in NOTES.names} for each in [*many, "new"]],
        schema=pa.schema([field.with_nullable(True) for field in NOTES]),
    )
    nothing = Part(NOTES.empty_table(), CLICKS.empty_table())
    split = Split(Part(pool, clicks(*many)), nothing, Part(pool, clicks("n0", "n299", "new", "n1")))
    queries = queries_of(split, set(), users=10, least=1, seed=0)
    assert queries.relevant == {"u": ["new"]}
    assert queries.histories == {"u": many[-200:]}
    assert queries.found == 1


def test_clicks_in_lists_count_only_if_too_few_users_opened_something_elsewhere():
    pool = pa.Table.from_pylist(
        [{name: each if name == "note_id" else None for name in NOTES.names} for each in "abcd"],
        schema=pa.schema([field.with_nullable(True) for field in NOTES]),
    )
    nothing = Part(NOTES.empty_table(), CLICKS.empty_table())
    users = ("u", "v", "w")
    train = pa.concat_tables([clicks("a", user=user) for user in users])
    test = pa.concat_tables([clicks("b", "c", user=user) for user in users])
    split = Split(Part(pool, train), nothing, Part(pool, test))
    in_lists = {("u", "b"), ("u", "c"), ("v", "b"), ("w", "a")}
    queries = queries_of(split, in_lists, users=10, least=2, seed=0)
    assert (queries.relevant, queries.from_lists) == ({"v": ["c"], "w": ["b", "c"]}, False)
    everything = queries_of(split, in_lists, users=10, least=3, seed=0)
    assert everything.from_lists
    assert everything.relevant == {user: ["b", "c"] for user in users}
