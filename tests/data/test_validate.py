from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.schema import CLICKS, NOTES
from notellm.data.validate import validate
from notellm.errors import ConfigError, DataError

T0 = datetime(2024, 1, 1, tzinfo=UTC)
LATEST = datetime(2025, 1, 1, tzinfo=UTC)


def at(seconds):
    return T0 + timedelta(seconds=seconds)


def notes_table(**columns):
    columns.setdefault("title", ["t"] * len(columns["note_id"]))
    return pa.table(columns)


def clicks_table(rows):
    """Clicks from (user, note, seconds after T0, event) or shorter."""
    full = [(*row, "click")[:4] for row in rows]
    return pa.table(
        {
            "user_id": [row[0] for row in full],
            "note_id": [row[1] for row in full],
            "timestamp": pa.array(
                [None if row[2] is None else at(row[2]) for row in full], pa.timestamp("us", "UTC")
            ),
            "event": [row[3] for row in full],
        }
    )


AB = notes_table(note_id=["a", "b"], content=["", ""])
CLEAN = clicks_table([("u", "a", 0), ("u", "b", 1), ("v", "a", 5, "view")])


def clean_clicks(rows, **options):
    _, clicks, report = validate(AB, clicks_table(rows), latest=LATEST, **options)
    found = [
        (r["user_id"], r["note_id"], (r["timestamp"] - T0).total_seconds(), r["event"])
        for r in clicks.to_pylist()
    ]
    return found, report


def clean_notes(notes, **options):
    found, _, report = validate(notes, CLEAN.slice(0, 0), latest=LATEST, **options)
    return found.to_pylist(), report


def kinds(report):
    return {problem.problem: problem.count for problem in report.problems}


def test_clean_tables_pass_unchanged_and_without_a_word():
    notes, clicks, report = validate(AB, CLEAN, strict=True)
    assert notes.schema.equals(NOTES)
    assert clicks.schema.equals(CLICKS)
    assert len(report) == 0
    assert clicks.to_pylist() == CLEAN.to_pylist()
    again_notes, again_clicks, _ = validate(notes, clicks, strict=True)
    assert again_notes.equals(notes)
    assert again_clicks.equals(clicks)


def test_note_ids():
    notes = notes_table(
        note_id=["a", "a", "b", "b", "b", "", None, "c\0", "d"],
        title=["x", "x", "old", "new", "old", "y", "z", "w", "v"],
    )
    rows, report = clean_notes(notes)
    # Of rows that differ the last stays; "b" came last as "old".
    assert [(r["note_id"], r["title"]) for r in rows] == [
        ("a", "x"), ("b", "old"), ("c", "w"), ("d", "v"),
    ]  # fmt: skip
    assert kinds(report) == {
        "NUL character": 1,
        "empty id": 2,
        "note twice, rows alike": 2,
        "note twice, rows differ": 1,
    }


def test_texts():
    notes = notes_table(
        note_id=["a", "b", "c", "d", "e"],
        title=["x\0y", "\ufffdz\ufffd", "t" * 1001, " s ", None],
        content=[None, "", "", "汉" * 100_001, " \n"],
    )
    rows, report = clean_notes(notes)
    assert [row["title"] for row in rows] == ["xy", "z", "t" * 1000, "s"]
    assert rows[3]["content"] == "汉" * 100_000
    assert kinds(report)["absurd length"] == 1
    assert sum(p.count for p in report.problems if p.problem == "absurd length") == 2
    assert kinds(report)["broken UTF-8 (U+FFFD)"] == 1
    assert kinds(report)["note without any text"] == 1
    rows, _ = clean_notes(notes, max_title=1, max_content=2)
    assert [len(row["title"]) for row in rows] == [1, 1, 1, 1]


def test_topics():
    notes = notes_table(
        note_id=["a", "b", "c", "d"],
        title=["", "t", "t", "t"],
        topics=[["X", " x", "", None, "y\0"], None, ["z" * 101], [str(i) for i in range(60)]],
    )
    rows, report = clean_notes(notes)
    assert [row["topics"] for row in rows] == [["X", "y"], [], [], [str(i) for i in range(50)]]
    assert kinds(report) == {
        "NUL or U+FFFD": 1,
        "empty topic": 1,
        "topic over 100 characters": 1,
        "topic twice": 1,
        "over 50 topics": 1,
    }
    rows, _ = clean_notes(notes, max_topics=1, max_topic=200)
    assert [len(row["topics"]) for row in rows] == [1, 0, 1, 1]


def test_published_at():
    times = ["1970-01-01", "2024-06-01", "2026-01-01", None]
    rows, report = clean_notes(notes_table(note_id=["a", "b", "c", "d"], published_at=times))
    assert [row["published_at"] is None for row in rows] == [True, False, True, True]
    assert sum(kinds(report).values()) == 2


def test_rows_of_clicks_that_are_dropped():
    found, report = clean_clicks(
        [
            ("u", "a", 1),
            ("", "a", 1),
            (None, "a", 1),
            ("u", "", 1),
            ("u", "zzz", 1),
            ("u", "b", None),
            ("u", "a", 1, "buy"),
            ("u", "a", 1, None),
            ("u", "a", -(10**10)),
            ("u", "a", 10**9),
            ("u", "a", 1),
            ("u", "a", 1, "View"),
            ("u", "a", 2),
        ]
    )
    assert found == [("u", "a", 1, "click"), ("u", "a", 1, "view"), ("u", "a", 2, "click")]
    assert kinds(report) == {
        "empty id": 1,
        "click on an unknown note": 1,
        "missing time": 1,
        "missing event": 1,
        "unknown event": 1,
        "before 1990-01-01": 1,
        "after 2025-01-01": 1,
        "click twice": 1,
    }
    assert [p.count for p in report.problems if p.problem == "empty id"] == [2, 1]


def test_clicks_are_grouped_by_user_and_sorted_by_time():
    rows = [("v", "a", 9), ("u", "a", 3), ("v", "b", 2), ("u", "b", 3), ("v", "b", 9), ("u", "a", 1)]
    found, report = clean_clicks(rows)
    assert [row[:3] for row in found] == [
        ("v", "b", 2), ("v", "a", 9), ("v", "b", 9), ("u", "a", 1), ("u", "a", 3), ("u", "b", 3),
    ]  # fmt: skip
    assert kinds(report) == {"time before the user's previous row": 2}


def test_bots_are_dropped_and_views_do_not_make_one():
    bot = [("bot", "a", i) for i in range(11)]
    reader = [("reader", "a", i, "view") for i in range(20)] + [("reader", "b", 30)] * 12
    found, report = clean_clicks(bot + reader + [("u", "a", 0)], max_user_clicks=10)
    assert {row[0] for row in found} == {"reader", "u"}
    assert kinds(report) == {"click twice": 11, "user with over 10 clicks": 11}
    assert not any(row[0] == "bot" for row in found)
    assert len(clean_clicks(bot, max_user_clicks=11)[0]) == 11


def test_a_log_of_order_only_keeps_its_times_of_1970():
    order = pa.table({"user_id": ["u", "u"], "note_id": ["b", "a"]})
    _, clicks, report = validate(AB, order)
    assert clicks.column("note_id").to_pylist() == ["b", "a"]
    assert kinds(report) == {"no column 'timestamp'": 2}
    mixed = pa.table({"user_id": ["u"] * 2, "note_id": ["b", "a"], "timestamp": [0, 1_700_000_000]})
    assert kinds(validate(AB, mixed)[2]) == {"before 1990-01-01": 1}


def test_ids_with_nul_and_numbers_meet():
    notes = pa.table({"note_id": [1, 2], "title": ["x", "y"]})
    clicks = pa.table({"user_id": ["u", "u\0"], "note_id": ["1", "2\0"], "timestamp": [1_700_000_000] * 2})
    _, found, report = validate(notes, clicks)
    assert found.column("user_id").to_pylist() == ["u", "u"]
    assert found.column("note_id").to_pylist() == ["1", "2"]
    assert [p.count for p in report.problems] == [1, 1]


def test_strict_raises_with_the_whole_report():
    with pytest.raises(DataError, match=r"(?s)strict validation found 1 kinds.*unknown note.*zzz"):
        validate(AB, clicks_table([("u", "a", 0), ("u", "zzz", 1)]), strict=True)


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"(?s)no click is left of 1: .*unknown note"):
        validate(AB, clicks_table([("u", "zzz", 0)]))
    with pytest.raises(DataError, match=r"(?s)no note is left of 1; .*without any text"):
        validate(notes_table(note_id=["a"], title=[""]), CLEAN)
    with pytest.raises(DataError, match="no note is left of 0"):
        validate(notes_table(note_id=pa.array([], pa.string()), title=pa.array([], pa.string())), CLEAN)


def test_notes_without_a_log():
    notes, clicks, _ = validate(AB, CLICKS.empty_table(), strict=True)
    assert notes.num_rows == 2
    assert clicks.equals(CLICKS.empty_table())


@pytest.mark.parametrize(
    "options",
    [{"max_title": 0}, {"max_user_clicks": -1}, {"earliest": LATEST, "latest": T0}],
)
def test_impossible_limits(options):
    with pytest.raises(ConfigError, match=r"must be (at least 1|before latest)"):
        validate(AB, CLEAN, **options)


def test_earliest_without_a_zone_is_utc():
    _, report = clean_clicks([("u", "a", 0), ("u", "a", -1)], earliest=T0.replace(tzinfo=None))
    assert kinds(report) == {"before 2024-01-01": 1}


ids = st.sampled_from(["", "a", "b", "c", "a\0", None, "zzz"])
words = st.text(alphabet="xX \0\ufffd汉", max_size=4)
some_notes = st.lists(st.tuples(ids, words, st.lists(st.none() | words, max_size=4)), max_size=8)
some_clicks = st.lists(
    st.tuples(
        ids,
        ids,
        st.none() | st.integers(-5, 5).map(lambda x: x * 10**8),
        st.sampled_from(["click", "view", "VIEW ", "", None]),
    ),
    max_size=20,
)


@settings(max_examples=80, deadline=None)
@given(some_notes, some_clicks)
def test_whatever_comes_in_what_comes_out_is_clean(note_rows, click_rows):
    # One good note and click, so that something is always left.
    note_rows = [("good", "title", []), *note_rows]
    click_rows = [("u", "good", 0, "click"), *click_rows]
    notes = pa.table(
        {
            "note_id": pa.array([row[0] for row in note_rows], pa.string()),
            "title": pa.array([row[1] for row in note_rows], pa.string()),
            "topics": pa.array([row[2] for row in note_rows], pa.list_(pa.string())),
        }
    )
    clicks = clicks_table(click_rows)
    good_notes, good_clicks, report = validate(notes, clicks, latest=LATEST)
    assert good_notes.schema.equals(NOTES)
    assert good_clicks.schema.equals(CLICKS)
    rows = good_notes.to_pylist()
    known = [row["note_id"] for row in rows]
    assert len(set(known)) == len(known)
    assert all(row["title"] or row["topics"] for row in rows)
    for row in rows:
        assert len({topic.lower() for topic in row["topics"]}) == len(row["topics"])
        assert all(topic.strip() == topic != "" for topic in row["topics"])
        assert not set("".join([row["note_id"], row["title"], *row["topics"]])) & {"\0"}
    seen: dict[str, datetime] = {}
    for row in good_clicks.to_pylist():
        assert row["user_id"]
        assert row["note_id"] in known
        assert row["event"] in ("view", "click")
        assert seen.get(row["user_id"], row["timestamp"]) <= row["timestamp"]
        seen[row["user_id"]] = row["timestamp"]
    # Cleaning what is clean changes nothing and finds nothing.
    again = validate(good_notes, good_clicks, latest=LATEST, strict=True)
    assert again[0].equals(good_notes)
    assert again[1].equals(good_clicks)
    dropped = len(click_rows) - good_clicks.num_rows
    assert (dropped == 0) or len(report)


@pytest.mark.parametrize("bad", ["n" * 513, "a\x07b", "a\tb", "a\x7fb"])
def test_ids_that_the_service_cannot_name_are_no_notes(bad):
    notes = pa.table({"note_id": ["1", bad, "n" * 512], "title": ["a", "b", "c"]})
    clicks = pa.table(
        {"user_id": ["u", "u"], "note_id": ["1", bad], "timestamp": [1_700_000_000, 1_700_000_001]}
    )
    good_notes, good_clicks, report = validate(notes, clicks)
    assert good_notes["note_id"].to_pylist() == ["1", "n" * 512]
    assert good_clicks["note_id"].to_pylist() == ["1"]
    problems = {each.problem: each for each in report.problems}
    assert problems["id that the service cannot name"].count == 1
    assert "512" in problems["id that the service cannot name"].action
    assert problems["click on an unknown note"].count == 1
