"""Leak-safe splits of notes and clicks into train, valid and test.

- `split_by_note`, as in NoteLLM (arXiv 2403.01744): the parts share no note, and a click goes with
  its note. Test notes are cold: nothing of them, text or click, is in train or valid.
- `split_by_time`: the parts share no moment. Every row of train is older than every row of valid,
  and that older than every row of test, so pairs mined from train hold nothing of the future. A
  note is in a part if it was known before the part ended, published or clicked by then; all notes
  are in test. So notes of train are in the pools of valid and test, as they are in life.

Within a part every click is on a note of the part; clicks on unknown notes are in no part.
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
    """Notes (schema NOTES) and the clicks on them (schema CLICKS), in the order they came."""

    notes: pa.Table
    clicks: pa.Table


@dataclass(frozen=True)
class Split:
    """Three parts of one data set; ``valid`` has no rows where none were asked for."""

    train: Part
    valid: Part
    test: Part


def split_by_note(
    notes: pa.Table, clicks: pa.Table, *, test: float = 0.3, valid: float = 0.05, seed: int = 0
) -> Split:
    """Split into parts that share no note.

    The draw depends on the note ids and the seed only, not on the order of rows; and test is drawn
    first, so it is the same whatever ``valid`` is.

    Args:
        notes: table with the schema NOTES.
        clicks: table with the schema CLICKS.
        test: share of all notes in test, above 0.
        valid: share of all notes in valid, taken from those not in test; 0 for none.
        seed: of the draw.

    Raises:
        ConfigError: shares that are not allowed.
        DataError: too few notes for a part that was asked for.
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
    """Split into parts that share no moment.

    The newest ``test`` share of the log is test, the ``valid`` share before it valid. Rows with the
    same time stay together, in the later part.

    Args:
        notes: table with the schema NOTES.
        clicks: table with the schema CLICKS.
        test: share of the rows of the log in test, above 0.
        valid: share of the rows of the log in valid; 0 for none.

    Raises:
        ConfigError: shares that are not allowed.
        DataError: the log keeps only the order of clicks, or has too few different times for a part
            that was asked for.
    """
    _check_shares(test, valid)
    if is_order_only(clicks):
        raise DataError(
            "this log keeps only the order of each user's clicks (every time lies in 1970), so "
            "there is no moment to split at: use split_by_note, or give a log with times"
        )
    ids = notes["note_id"]
    clicks = clicks.filter(pc.is_in(clicks["note_id"], value_set=ids))
    count = clicks.num_rows
    if count == 0:
        raise DataError("the log has no click on a note of the table: nothing to split by time")
    time = clicks["timestamp"].cast(pa.int64()).to_numpy()
    # The newest round(share * count) rows, and the rows that share the oldest of their times.
    after = np.concatenate((np.sort(time), [np.iinfo(np.int64).max]))
    test_start = after[count - round(test * count)]
    valid_start = min(test_start, after[count - round((test + valid) * count)])
    part = (time >= valid_start).astype(np.int8) + (time >= test_start)
    in_train, in_valid, in_test = (int((part == number).sum()) for number in range(3))
    _check_sizes("clicks, at different times,", count, in_train, in_valid, in_test, valid)

    # When each note became known; one without a time of publication or a click only at the end.
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
    """Split into parts that share no moment: train is older than valid, and that than test.

    The newest ``test`` share of the rows is test, the ``valid`` share before it valid. Rows with the
    same time stay together, in the later part. Histories stay as they are: each ends before its row.

    Args:
        impressions: table with the schema IMPRESSIONS, rows in any order.
        valid: share of the rows in valid; 0 for none.
        test: share of the rows in test, above 0.

    Returns:
        Train, valid and test, rows in the order they came.

    Raises:
        ConfigError: shares that are not allowed.
        DataError: the times say only the order of a user's clicks, or there are too few different
            times for a part that was asked for.
    """
    _check_shares(test, valid)
    if is_order_only(impressions):
        raise DataError(
            "these impressions keep only the order of each user's clicks (every time lies in 1970), "
            "so there is no moment to split at: give a log with times"
        )
    time = impressions["timestamp"].cast(pa.int64()).to_numpy()
    count = len(time)
    # The newest round(share * count) rows, and the rows that share the oldest of their times.
    ordered = np.concatenate((np.sort(time), [np.iinfo(np.int64).max]))
    test_start = ordered[count - round(test * count)]
    valid_start = min(test_start, ordered[count - round((test + valid) * count)])
    part = (time >= valid_start).astype(np.int8) + (time >= test_start)
    return _parts(impressions, part, "at different times", valid=valid)


def split_impressions(
    impressions: pa.Table, *, valid: float = 0.1, test: float = 0.1, seed: int = 0
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Train, valid and test: by time; where only the order of clicks is known, by each user's sequence.

    Times in 1970 say nothing across users (``data.schema``). There the last ``test`` share of every
    user's moments is test and the ``valid`` share before it valid, rounded at random, so that users of few
    rows come up as often as others; rows of one user and moment, a click and what stands beside it, stay
    together. No row is before what its user did later, but what other users did later may be in
    train, which a split by time rules out.

    Args:
        impressions: table with the schema IMPRESSIONS.
        valid: share of the rows in valid.
        test: share of the rows in test, above 0.
        seed: of the rounding.

    Raises:
        ConfigError: shares that are not allowed.
        DataError: a part is empty.
    """
    if not is_order_only(impressions):
        return split_impressions_by_time(impressions, valid=valid, test=test)
    _check_shares(test, valid)
    user = pc.index_in(impressions["user_id"], value_set=impressions["user_id"].unique()).to_numpy()
    time = impressions["timestamp"].cast(pa.int64()).to_numpy()
    times, nth = np.unique(time, return_inverse=True)
    moments, moment = np.unique(user.astype(np.int64) * len(times) + nth, return_inverse=True)
    sizes = np.bincount(moments // len(times))
    left = (np.repeat(np.cumsum(sizes), sizes) - np.arange(len(moments)))[moment]  # 1 for a user's last
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
    """Every part that was asked for has something in it."""
    if min(train, test) == 0 or (share > 0 and valid == 0):
        raise DataError(
            f"{count} {what} split into {train} train, {valid} valid and {test} test: "
            "a part is empty; give more data or other shares"
        )


def _parts(
    impressions: pa.Table, part: npt.NDArray[np.int8], what: str, *, valid: float
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Train, valid and test by the number of each row's part, 0 to 2; none is empty but valid at share 0."""
    sizes = np.bincount(part, minlength=3)
    if sizes[0] == 0 or sizes[2] == 0 or (valid > 0 and sizes[1] == 0):
        raise DataError(
            f"{len(part)} impressions, {what}, split into {sizes[0]} train, {sizes[1]} valid and {sizes[2]} "
            "test: a part is empty; give more clicks, or other shares"
        )
    train_part, valid_part, test_part = (impressions.filter(pa.array(part == i)) for i in range(3))
    return train_part, valid_part, test_part
