from datetime import UTC, datetime, timedelta
from itertools import chain, pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.schema import CLICKS, NOTES
from notellm.data.split import split_by_note, split_by_time
from notellm.errors import ConfigError, DataError

START = datetime(2024, 5, 1, tzinfo=UTC)


def note_table(ids, published=None):
    rows = [
        {
            "note_id": i,
            "title": i,
            "content": "",
            "topics": [],
            "category": "",
            "published_at": None,
        }
        for i in ids
    ]
    for row in rows if published is not None else ():
        row["published_at"] = published.get(row["note_id"])
    return pa.Table.from_pylist(rows, NOTES)


def click_table(rows, start=START):
    return pa.Table.from_pylist(
        [
            {
                "user_id": u,
                "note_id": n,
                "timestamp": start + timedelta(seconds=t),
                "event": "click",
            }
            for u, n, t in rows
        ],
        CLICKS,
    )


def ids(part):
    return part.notes["note_id"].to_pylist()


def parts(split):
    return split.train, split.valid, split.test


def sample(seed=0, notes=200, clicks=1_000):
    draw = np.random.default_rng(seed)
    names = [f"n{i}" for i in range(notes)]
    log = [
        (f"u{draw.integers(50)}", names[draw.integers(notes)], int(draw.integers(10**5)))
        for _ in range(clicks)
    ]
    return note_table(names), click_table(log)


def test_by_note_has_no_leak_and_loses_nothing():
    notes, clicks = sample()
    split = split_by_note(notes, clicks)
    assert [part.notes.num_rows for part in parts(split)] == [130, 10, 60]
    assert sorted(i for part in parts(split) for i in ids(part)) == sorted(notes["note_id"].to_pylist())
    for part in parts(split):
        assert part.clicks.num_rows > 0
        assert set(part.clicks["note_id"].to_pylist()) <= set(ids(part))
        assert part.notes.schema.equals(NOTES)
        assert part.clicks.schema.equals(CLICKS)
    assert sum(part.clicks.num_rows for part in parts(split)) == clicks.num_rows


def test_by_note_is_one_draw_per_seed_whatever_the_row_order():
    notes, clicks = sample()
    shuffled = notes.take(np.random.default_rng(3).permutation(notes.num_rows))
    first, second = split_by_note(notes, clicks, seed=5), split_by_note(shuffled, clicks, seed=5)
    assert [set(ids(part)) for part in parts(first)] == [set(ids(part)) for part in parts(second)]
    assert set(ids(split_by_note(notes, clicks, seed=6).test)) != set(ids(first.test))


def test_by_note_keeps_its_test_whatever_valid_is():
    notes, clicks = sample()
    without = split_by_note(notes, clicks, valid=0)
    assert without.valid.notes.num_rows == without.valid.clicks.num_rows == 0
    assert ids(without.test) == ids(split_by_note(notes, clicks, valid=0.3).test)


def test_by_note_drops_clicks_on_unknown_notes_and_takes_an_empty_log():
    notes, _ = sample()
    split = split_by_note(notes, click_table([("u", "n0", 1), ("u", "unknown", 2)]))
    assert sum(part.clicks.num_rows for part in parts(split)) == 1
    empty = split_by_note(notes, CLICKS.empty_table())
    assert [part.clicks.num_rows for part in parts(empty)] == [0, 0, 0]


def test_by_note_takes_a_log_of_positions():
    notes, _ = sample()
    positions = click_table([("u", "n0", 1), ("u", "n1", 2)], datetime(1970, 1, 1, tzinfo=UTC))
    split = split_by_note(notes, positions)
    assert sum(part.clicks.num_rows for part in parts(split)) == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 30), min_size=5, max_size=40).filter(lambda t: len(set(t)) > 10),
    st.sampled_from([0.1, 0.2, 0.4]),
    st.sampled_from([0.0, 0.1, 0.3]),
)
def test_by_time_shares_no_moment(times, test, valid):
    notes = note_table(["a", "b"])
    clicks = click_table([("u", "ab"[t % 2], t) for t in times])
    try:
        split = split_by_time(notes, clicks, test=test, valid=valid)
    except DataError:  # equal times can leave a part empty, which is said
        return
    stamps = [part.clicks["timestamp"].to_pylist() for part in parts(split)]
    filled = [stamp for stamp in stamps if stamp]
    assert len(filled) == (3 if valid else 2)
    for earlier, later in pairwise(filled):
        assert max(earlier) < min(later)
    assert sorted(chain.from_iterable(stamps)) == sorted(clicks["timestamp"].to_pylist())
    assert len(stamps[2]) >= round(test * len(times))


def test_by_time_cuts_at_the_shares():
    notes, _ = sample()
    split = split_by_time(notes, click_table([("u", "n0", t) for t in range(100)]))
    assert [part.clicks.num_rows for part in parts(split)] == [70, 10, 20]


def test_by_time_knows_a_note_once_published_or_clicked():
    def at(second):
        return START + timedelta(seconds=second)

    published = {"early": at(-5), "valid": at(75), "test": at(85), "liar": at(99)}
    notes = note_table(["early", "valid", "test", "liar", "clicked", "never"], published)
    log = [("u", "early", t) for t in range(100)]
    log[3] = ("u", "liar", 3)  # clicked before its time of publication
    log[75] = ("u", "clicked", 75)
    split = split_by_time(notes, click_table(log))
    assert ids(split.train) == ["early", "liar"]
    assert ids(split.valid) == ["early", "valid", "liar", "clicked"]
    assert ids(split.test) == notes["note_id"].to_pylist()
    for part in parts(split):
        assert set(part.clicks["note_id"].to_pylist()) <= set(ids(part))


def test_by_time_without_valid():
    notes, clicks = sample()
    split = split_by_time(notes, clicks, valid=0)
    assert split.valid.notes.num_rows == split.valid.clicks.num_rows == 0


def test_by_time_refuses_positions():
    positions = click_table([("u", "n0", 1), ("u", "n1", 2)], datetime(1970, 1, 1, tzinfo=UTC))
    with pytest.raises(DataError, match="use split_by_note"):
        split_by_time(sample()[0], positions)


def test_empty_parts_are_refused():
    notes, _ = sample()
    with pytest.raises(DataError, match="a part is empty"):
        split_by_time(notes, click_table([("u", "n0", 7)] * 10))
    with pytest.raises(DataError, match="nothing to split"):
        split_by_time(notes, CLICKS.empty_table())
    with pytest.raises(DataError, match="a part is empty"):
        split_by_note(note_table(["a"]), CLICKS.empty_table())


@pytest.mark.parametrize("split", [split_by_note, split_by_time])
def test_shares_are_checked_together(split):
    notes, clicks = sample(clicks=20)
    with pytest.raises(ConfigError, match=r"test is 0.*valid is 2"):
        split(notes, clicks, test=0, valid=2)
    with pytest.raises(ConfigError, match=r"test \+ valid is 1"):
        split(notes, clicks, test=0.5, valid=0.5)


# -------------------------------------------------------------------- the same text under several ids


def with_titles(titles):
    """A table whose notes n0, n1, ... have these titles."""
    table = note_table([f"n{row}" for row in range(len(titles))])
    return table.set_column(1, "title", pa.array(titles))


def titles(part):
    return set(part.notes["title"].to_pylist())


def test_by_note_without_equal_texts_draws_as_it_always_did():
    notes, clicks = sample()
    drawn = np.sort(notes["note_id"].to_pylist())[np.random.default_rng(4).permutation(200)]
    split = split_by_note(notes, clicks, seed=4)
    assert set(ids(split.test)) == {*drawn[:60]}
    assert set(ids(split.valid)) == {*drawn[60:70]}
    assert not len(split.report)


def test_by_note_keeps_equal_texts_in_one_part_and_reports_them():
    texts = [f"Lamp {row // 2}" for row in range(200)]
    texts[1] = "LAMP\u00a00"
    notes = with_titles(texts)
    split = split_by_note(notes, CLICKS.empty_table(), seed=1)
    assert [part.notes.num_rows for part in parts(split)] == [130, 10, 60]
    folded = [{title.replace("\u00a0", " ").casefold() for title in titles(part)} for part in parts(split)]
    assert sum(map(len, folded)) == len(set().union(*folded)) == 100
    (row,) = split.report.problems
    assert (row.problem, row.count, row.action) == ("same text under several ids", 200, "kept in one part")
    assert row.example == "n0, n1: Lamp 0"
    shuffled = notes.take(np.random.default_rng(2).permutation(200))
    again = split_by_note(shuffled, CLICKS.empty_table(), seed=1)
    assert [set(ids(part)) for part in parts(again)] == [set(ids(part)) for part in parts(split)]
    assert set(ids(split_by_note(notes, CLICKS.empty_table(), seed=2).test)) != set(ids(split.test))


@given(st.lists(st.integers(0, 12), min_size=30, max_size=80), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_by_note_comes_as_close_to_the_shares_as_the_groups_allow(kinds, seed):
    notes = with_titles([f"text {kind}" for kind in kinds])
    sizes = np.bincount(kinds)
    wanted = round(0.3 * len(kinds))
    try:
        split = split_by_note(notes, CLICKS.empty_table(), test=0.3, valid=0, seed=seed)
    except DataError:
        return  # one text makes up nearly everything
    assert not titles(split.train) & titles(split.test)
    taken = {int(title.split()[1]) for title in titles(split.test)}
    left = [size for kind, size in enumerate(sizes) if size and kind not in taken]
    missing = wanted - split.test.notes.num_rows
    assert len(left) == 1 or all(size > missing and abs(size - missing) >= missing for size in left)


def test_by_note_says_when_one_text_leaves_a_part_empty():
    notes = with_titles(["the same"] * 19 + ["another"])
    with pytest.raises(DataError, match=r"20 notes \(19 of them have one text and go to one part\)"):
        split_by_note(notes, CLICKS.empty_table(), test=0.3, valid=0.1)


def test_by_note_keeps_near_duplicates_together_on_demand():
    base = [" ".join(f"w{word}" for word in range(row * 100, row * 100 + 40)) for row in range(50)]
    notes = with_titles([text for title in base for text in (title, f"{title} again")] + [base[0]])
    plain = split_by_note(notes, CLICKS.empty_table(), seed=3)
    assert {title.removesuffix(" again") for title in titles(plain.train)} & titles(plain.test)
    assert [row.count for row in plain.report.problems] == [2]
    near = split_by_note(notes, CLICKS.empty_table(), seed=3, near_duplicates=0.9)
    stems = [{title.removesuffix(" again") for title in titles(part)} for part in parts(near)]
    assert sum(map(len, stems)) == len(set().union(*stems)) == 50
    assert [row.count for row in near.report.problems] == [2, 101]
    assert near.report.problems[1].problem == "nearly the same text (Jaccard index 0.9 or more)"


def test_by_time_counts_test_notes_that_repeat_a_text_of_train():
    published = {"n0": START, "n1": START, "n2": START + timedelta(seconds=99), "n3": START}
    notes = note_table(["n0", "n1", "n2", "n3"], published)
    notes = notes.set_column(1, "title", pa.array(["tea", "cup", "Tea ", "tea"]))
    split = split_by_time(notes, click_table([("u", "n0", t) for t in range(100)]))
    (row,) = split.report.problems
    assert (row.problem, row.count, row.example) == ("text of a train note in test", 1, "n2, n0: Tea ")
    assert not len(
        split_by_time(note_table(["n0", "n1"]), click_table([("u", "n0", t) for t in range(9)])).report
    )
