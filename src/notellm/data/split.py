"""Split notes and clicks into train, valid and test without leaks.

- ``split_by_note``, as in NoteLLM (arXiv 2403.01744): the parts share no note and no text, and a click is in
  the part of its note. Nearly equal texts are kept together on demand only.
- ``split_by_time``: every click of train is older than every click of valid, and those are older than test. A
  note is in a part if it was published or clicked before the part ended; all notes are in test.

All clicks of a part are on notes of the part; clicks on unknown notes are in no part.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.data.note import notes_from_table
from notellm.data.problems import Report
from notellm.data.same_text import equal_texts, near_texts
from notellm.errors import ConfigError, DataError


@dataclass(frozen=True)
class Part:
    """Notes (schema NOTES) and the clicks on them (schema CLICKS), in their original order."""

    notes: pa.Table
    clicks: pa.Table


@dataclass(frozen=True)
class Split:
    """The three parts of a dataset; ``valid`` has no rows if its share is 0.

    Attributes:
        train: what a model learns from.
        valid: what chooses among checkpoints.
        test: what a model is measured on.
        report: texts that occur under several ids, and what was done about them; empty for a split that was
            read from disk, whose record has the counts.
    """

    train: Part
    valid: Part
    test: Part
    report: Report = field(default_factory=Report)


def split_by_note(
    notes: pa.Table,
    clicks: pa.Table,
    *,
    test: float = 0.3,
    valid: float = 0.05,
    near_duplicates: float | None = None,
    seed: int = 0,
) -> Split:
    """Split into parts that share no note and no text.

    Notes of equal text (``data.same_text``) go to one part together; the sizes of the parts are as close to
    the shares as that allows. The draw depends on ids, texts and the seed only, not on the order of rows.
    Test is drawn first, so it does not depend on ``valid``.

    Args:
        notes: table with the schema NOTES.
        clicks: table with the schema CLICKS.
        test: share of all notes in test, above 0.
        valid: share of all notes in valid, taken from those not in test; 0 for none.
        near_duplicates: Jaccard index, from 0.5 to 1, from which nearly equal texts are kept together as
            well; None keeps equal ones together only.
        seed: seed of the draw.

    Raises:
        ConfigError: if the shares or the index are not allowed.
        DataError: if there are too few notes, or too few different texts, for a part that was asked for.
    """
    _check_shares(test, valid)
    ids = notes["note_id"]
    count = len(ids)
    equal = equal_texts(notes)
    report = Report()
    _report_groups(report, notes, equal, "same text under several ids")
    groups = equal
    if near_duplicates is not None:
        groups = near_texts(notes, near_duplicates)
        kind = f"nearly the same text (Jaccard index {near_duplicates:g} or more)"
        _report_groups(report, notes, groups, kind, besides=equal)
    drawn = pc.sort_indices(ids).to_numpy()[np.random.default_rng(seed).permutation(count)]
    part = _drawn_parts(groups[drawn], round(test * count), round(valid * count))[np.argsort(drawn)]
    in_train, in_valid, in_test = np.bincount(part, minlength=3).tolist()
    alike = int(np.bincount(groups).max(initial=1))
    _check_sizes("notes", count, in_train, in_valid, in_test, valid, most_alike=alike)
    position = pc.index_in(clicks["note_id"], value_set=ids)
    click_part = pa.array(part).take(position.combine_chunks())
    train_part, valid_part, test_part = (
        Part(notes.filter(pa.array(part == number)), clicks.filter(pc.equal(click_part, number)))
        for number in range(3)
    )
    return Split(train_part, valid_part, test_part, report)


def split_by_time(notes: pa.Table, clicks: pa.Table, *, test: float = 0.2, valid: float = 0.1) -> Split:
    """Split into parts that follow each other in time.

    The newest ``test`` share of the log is test, the ``valid`` share before it is valid. Rows of the same
    time are all in the later part. The report says how many notes that only test has repeat the text of a
    note of train; they stay, since notes are published again in reality, too.

    Args:
        notes: table with the schema NOTES.
        clicks: table with the schema CLICKS.
        test: share of the rows of the log in test, above 0.
        valid: share of the rows of the log in valid; 0 for none.

    Raises:
        ConfigError: if the shares are not allowed.
        DataError: if the log keeps only the order of clicks, or has too few different times for a part that
            was asked for.
    """
    _check_shares(test, valid)
    if is_order_only(clicks):
        raise DataError(
            "this log keeps no times, at most the order of each user's clicks (all times are in 1970), so "
            "there is no moment to split at: use split_by_note, or give a log with times"
        )
    ids = notes["note_id"]
    clicks = clicks.filter(pc.is_in(clicks["note_id"], value_set=ids))
    count = clicks.num_rows
    if count == 0:
        raise DataError("the log has no click on a note of the table: nothing to split by time")
    time = clicks["timestamp"].cast(pa.int64()).to_numpy()
    # A part is the newest round(share * count) rows, and the rows that share the oldest of their times.
    after = np.concatenate((np.sort(time), [np.iinfo(np.int64).max]))
    test_start = after[count - round(test * count)]
    valid_start = min(test_start, after[count - round((test + valid) * count)])
    part = (time >= valid_start).astype(np.int8) + (time >= test_start)
    in_train, in_valid, in_test = (int((part == number).sum()) for number in range(3))
    _check_sizes("clicks, at different times,", count, in_train, in_valid, in_test, valid)

    # The time at which each note became known; the end of time for a note without publication time and
    # clicks.
    published = notes["published_at"].cast(pa.int64()).fill_null(np.iinfo(np.int64).max).to_numpy()
    known = published.copy()
    np.minimum.at(known, pc.index_in(clicks["note_id"], value_set=ids).to_numpy(), time)
    report = Report()
    _report_repeated(report, notes, in_train=known < valid_start, only_test=known >= test_start)
    return Split(
        train=Part(notes.filter(pa.array(known < valid_start)), clicks.filter(pa.array(part == 0))),
        valid=Part(
            notes.filter(pa.array(known < test_start)) if valid else notes.slice(0, 0),
            clicks.filter(pa.array(part == 1)),
        ),
        test=Part(notes, clicks.filter(pa.array(part == 2))),
        report=report,
    )


def split_impressions_by_time(
    impressions: pa.Table, *, valid: float = 0.1, test: float = 0.1
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Split impressions into parts that follow each other in time: train, then valid, then test.

    The newest ``test`` share of the rows is test, the ``valid`` share before it is valid. Rows of the same
    time are all in the later part. Histories are not changed, since each ends before its row.

    Args:
        impressions: table with the schema IMPRESSIONS, rows in any order.
        valid: share of the rows in valid; 0 for none.
        test: share of the rows in test, above 0.

    Returns:
        Train, valid and test, rows in their original order.

    Raises:
        ConfigError: if the shares are not allowed.
        DataError: if the times keep only the order of a user's clicks, or there are too few different times
            for a part that was asked for.
    """
    _check_shares(test, valid)
    if is_order_only(impressions):
        raise DataError(
            "these impressions keep only the order of each user's clicks (all times are in 1970), "
            "so there is no moment to split at: give a log with times"
        )
    time = impressions["timestamp"].cast(pa.int64()).to_numpy()
    count = len(time)
    # A part is the newest round(share * count) rows, and the rows that share the oldest of their times.
    ordered = np.concatenate((np.sort(time), [np.iinfo(np.int64).max]))
    test_start = ordered[count - round(test * count)]
    valid_start = min(test_start, ordered[count - round((test + valid) * count)])
    part = (time >= valid_start).astype(np.int8) + (time >= test_start)
    return _parts(impressions, part, "at different times", valid=valid)


def split_impressions(
    impressions: pa.Table, *, valid: float = 0.1, test: float = 0.1, seed: int = 0
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Split impressions into train, valid and test by time, or by each user's sequence if times are unknown.

    If times keep only the order of clicks (``data.schema``), they cannot be compared across users. Then the
    last ``test`` share of every user's moments is test and the ``valid`` share before it is valid, rounded at
    random so that users with few rows are represented, too. Rows of one user and moment (a click and its
    negatives) stay together. Such a split never puts a user's later rows into an earlier part, but train may
    contain what other users did later, which a split by time excludes.

    Args:
        impressions: table with the schema IMPRESSIONS.
        valid: share of the rows in valid.
        test: share of the rows in test, above 0.
        seed: seed of the rounding.

    Raises:
        ConfigError: if the shares are not allowed.
        DataError: if a part that was asked for is empty.
    """
    if not is_order_only(impressions):
        return split_impressions_by_time(impressions, valid=valid, test=test)
    _check_shares(test, valid)
    user = pc.index_in(impressions["user_id"], value_set=impressions["user_id"].unique()).to_numpy()
    time = impressions["timestamp"].cast(pa.int64()).to_numpy()
    times, nth = np.unique(time, return_inverse=True)
    moments, moment = np.unique(user.astype(np.int64) * len(times) + nth, return_inverse=True)
    sizes = np.bincount(moments // len(times))
    # How many moments of the user are left, including this one: 1 for the last.
    left = (np.repeat(np.cumsum(sizes), sizes) - np.arange(len(moments)))[moment]
    rounding = np.random.default_rng(seed).random(len(sizes))
    part = np.zeros(len(user), np.int8)
    for share in (test + valid, test):
        part += left <= np.floor(share * sizes + rounding)[user]
    return _parts(impressions, part, f"of {len(sizes)} users", valid=valid)


def _check_shares(test: float, valid: float) -> None:
    problems = []
    if not 0 < test < 1:
        problems.append(f"test is {test}: give a share above 0 and below 1")
    if not 0 <= valid < 1:
        problems.append(f"valid is {valid}: give a share from 0 to below 1")
    if not problems and test + valid >= 1:
        problems.append(f"test + valid is {test + valid:g}: leave a share for train, below 1")
    if problems:
        raise ConfigError("; ".join(problems))


def _check_sizes(
    what: str, count: int, train: int, valid: int, test: int, share: float, *, most_alike: int = 1
) -> None:
    """Check that no part that was asked for is empty.

    Args:
        what: what is counted.
        count: number of all.
        train: number in train.
        valid: number in valid.
        test: number in test.
        share: share of valid that was asked for.
        most_alike: size of the largest group that stays together.
    """
    if min(train, test) == 0 or (share > 0 and valid == 0):
        alike = "" if most_alike == 1 else f" ({most_alike} of them have one text and go to one part)"
        raise DataError(
            f"{count} {what}{alike} split into {train} train, {valid} valid and {test} test: "
            "a part is empty; give more data or other shares"
        )


def _drawn_parts(groups: npt.NDArray[np.int64], for_test: int, for_valid: int) -> npt.NDArray[np.int8]:
    """Return the part of each of n notes, int8 (n,): 2 for test, 1 for valid, 0 for train.

    Args:
        groups: group of each note, in the order of the draw.
        for_test: number of notes wanted in test.
        for_valid: number of notes wanted in valid.
    """
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    sizes = np.bincount(group, minlength=len(first)).tolist()
    left = np.argsort(first).tolist()  # groups in the order in which their first notes were drawn
    part_of = np.zeros(len(first), np.int8)
    for number, wanted in ((2, for_test), (1, for_valid)):
        room, later = wanted, []
        for each in left:
            if sizes[each] <= room:
                part_of[each] = number
                room -= sizes[each]
            else:
                later.append(each)
        # What remains to be filled is smaller than any group left; one more is taken if that comes closer.
        if room and len(later) > 1:
            closest = min(later, key=lambda each: sizes[each])
            if sizes[closest] - room < room:
                part_of[closest] = number
                later.remove(closest)
        left = later
    return part_of[group]


def _report_groups(
    report: Report,
    notes: pa.Table,
    groups: npt.NDArray[np.int64],
    problem: str,
    *,
    besides: npt.NDArray[np.int64] | None = None,
) -> None:
    """Add how many notes are in a group with others, and the first such group.

    Args:
        report: the report.
        notes: notes table.
        groups: group of each note.
        problem: what the notes of a group have in common.
        besides: finer groups, reported before; notes whose group is the same in both do not count.
    """
    size = np.bincount(groups)[groups] if len(groups) else groups
    if besides is not None and len(groups):
        size = np.where(size > np.bincount(besides)[besides], size, 1)
    rows = np.flatnonzero(size > 1)
    if len(rows):
        example = _named(notes, np.flatnonzero(groups == groups[rows[0]])[:3])
        report.add(problem, "notes: title, content", len(rows), example, "kept in one part")


def _report_repeated(
    report: Report, notes: pa.Table, *, in_train: npt.NDArray[np.bool_], only_test: npt.NDArray[np.bool_]
) -> None:
    """Add how many notes that only test has repeat the text of a note of train."""
    groups = equal_texts(notes)
    rows = np.flatnonzero(only_test & np.isin(groups, groups[in_train]))
    if len(rows):
        twin = np.flatnonzero(in_train & (groups == groups[rows[0]]))[:1]
        example = _named(notes, np.concatenate((rows[:1], twin)))
        report.add("text of a train note in test", "notes: title, content", len(rows), example, "kept")


def _named(notes: pa.Table, rows: npt.NDArray[np.int64]) -> str:
    """Return the ids of some notes, and the text of the first one."""
    found = notes.take(pa.array(rows))
    (note,) = notes_from_table(found.slice(0, 1))
    return f"{', '.join(found['note_id'].to_pylist())}: {note.display_title or ' '.join(note.topics)}"


def _parts(
    impressions: pa.Table, part: npt.NDArray[np.int8], what: str, *, valid: float
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Return train, valid and test by each row's part (0, 1, 2), and check that no wanted one is empty."""
    sizes = np.bincount(part, minlength=3)
    if sizes[0] == 0 or sizes[2] == 0 or (valid > 0 and sizes[1] == 0):
        raise DataError(
            f"{len(part)} impressions, {what}, split into {sizes[0]} train, {sizes[1]} valid and {sizes[2]} "
            "test: a part is empty; give more clicks, or other shares"
        )
    train_part, valid_part, test_part = (impressions.filter(pa.array(part == i)) for i in range(3))
    return train_part, valid_part, test_part
