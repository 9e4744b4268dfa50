"""Split notes and clicks into train, valid and test without leaks.

- ``split_by_note``, as in NoteLLM (arXiv 2403.01744): the parts share no note, and a click is in the part of
  its note. Nothing of a test note, text or click, is in train or valid.
- ``split_by_time``: every click of train is older than every click of valid, and those are older than test. A
  note is in a part if it was published or clicked before the part ended; all notes are in test.

All clicks of a part are on notes of the part; clicks on unknown notes are in no part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.errors import ConfigError, DataError


@dataclass(frozen=True)
class Part:
    """Notes (schema NOTES) and the clicks on them (schema CLICKS), in their original order."""

    notes: pa.Table
    clicks: pa.Table


@dataclass(frozen=True)
class Split:
    """The three parts of a dataset; ``valid`` has no rows if its share is 0."""

    train: Part
    valid: Part
    test: Part


def split_by_note(
    notes: pa.Table, clicks: pa.Table, *, test: float = 0.3, valid: float = 0.05, seed: int = 0
) -> Split:
    """Split into parts that share no note.

    The draw depends on the note ids and the seed only, not on the order of rows. Test is drawn first, so it
    does not depend on ``valid``.

    Args:
        notes: table with the schema NOTES.
        clicks: table with the schema CLICKS.
        test: share of all notes in test, above 0.
        valid: share of all notes in valid, taken from those not in test; 0 for none.
        seed: seed of the draw.

    Raises:
        ConfigError: if the shares are not allowed.
        DataError: if there are too few notes for a part that was asked for.
    """
    _check_shares(test, valid)
    ids = notes["note_id"]
    count = len(ids)
    drawn = pc.sort_indices(ids).to_numpy()[np.random.default_rng(seed).permutation(count)]
    for_test, for_valid = round(test * count), round(valid * count)
    _check_sizes("notes", count, count - for_test - for_valid, for_valid, for_test, valid)
    part = np.zeros(count, np.int8)  # 0 train, 1 valid, 2 test
    part[drawn[:for_test]] = 2
    part[drawn[for_test : for_test + for_valid]] = 1
    position = pc.index_in(clicks["note_id"], value_set=ids)
    click_part = pa.array(part).take(position.combine_chunks())
    return Split(
        *(
            Part(
                notes=notes.filter(pa.array(part == number)),
                clicks=clicks.filter(pc.equal(click_part, number)),
            )
            for number in range(3)
        )
    )


def split_by_time(notes: pa.Table, clicks: pa.Table, *, test: float = 0.2, valid: float = 0.1) -> Split:
    """Split into parts that follow each other in time.

    The newest ``test`` share of the log is test, the ``valid`` share before it is valid. Rows of the same
    time are all in the later part.

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
            "this log keeps only the order of each user's clicks (all times are in 1970), so "
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
    return Split(
        train=Part(notes.filter(pa.array(known < valid_start)), clicks.filter(pa.array(part == 0))),
        valid=Part(
            notes.filter(pa.array(known < test_start)) if valid else notes.slice(0, 0),
            clicks.filter(pa.array(part == 1)),
        ),
        test=Part(notes, clicks.filter(pa.array(part == 2))),
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


def _check_sizes(what: str, count: int, train: int, valid: int, test: int, share: float) -> None:
    """Check that no part that was asked for is empty."""
    if min(train, test) == 0 or (share > 0 and valid == 0):
        raise DataError(
            f"{count} {what} split into {train} train, {valid} valid and {test} test: "
            "a part is empty; give more data or other shares"
        )


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
