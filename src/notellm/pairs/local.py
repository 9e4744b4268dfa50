"""Mine related pairs on one machine, with a compiled sparse kernel for one source note at a time.

    for each source A
        for each user u who viewed A                     (users ascending by 1 / N_u)
            for each note B that u clicked after A:      (clicks by time, newest first: stop early)
                score[B] += 1 / N_u; users[B] += 1
        keep the best t of the B that were touched; set what was touched back to 0

Memory is O(distinct (user, note) + threads * notes + pairs kept), work the number of ordered co-clicks. Sums
do not depend on the number of threads, the order of the rows or the names of the users.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from queue import SimpleQueue

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.data.ids import codes
from notellm.data.order import is_unordered
from notellm.data.schema import PAIRS, check_clicks
from notellm.errors import ConfigError, DataError
from notellm.pairs.counts import PairCounts
from notellm.pairs.key_order import Ints, stable_order
from notellm.pairs.score import DECIMALS, PairOptions
from notellm.progress import progress_bar

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

#: Number of sources that a thread takes at once: large enough for little overhead, small enough to balance
#: load.
_BLOCK = 256
#: Last click time of a (user, note) that was never clicked; earlier than every time.
_NEVER = np.iinfo(np.int64).min
_SCALE = 10.0**DECIMALS


def mine_pairs(
    clicks: pa.Table,
    options: PairOptions | None = None,
    *,
    threads: int | None = None,
    progress: bool = True,
) -> pa.Table:
    """Return the related pairs of a click log, as defined in ``notellm.pairs.score``.

    If there are none, ``notellm.pairs.counts.why_none`` tells why, from the counts of ``mine_counted_pairs``.

    Args:
        clicks: table with the schema CLICKS, rows in any order.
        options: thresholds and window; None for the defaults of ``PairOptions``.
        threads: number of worker threads; None for as many as numba may use (``NUMBA_NUM_THREADS``, else
            the number of cores). The result is the same for any number.
        progress: show a progress bar over sources.

    Returns:
        Table with the schema PAIRS, ascending by source id, best target first.

    Raises:
        DataError: if the table does not have the schema CLICKS, or there is a window and the log keeps only
            the order of clicks.
        ConfigError: if ``threads`` is below 1.
    """
    pairs, _ = mine_counted_pairs(clicks, options, threads=threads, progress=progress)
    return pairs


def mine_counted_pairs(
    clicks: pa.Table,
    options: PairOptions | None = None,
    *,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[pa.Table, PairCounts]:
    """Return what :func:`mine_pairs` returns, and what became of the rows and pairs of the log."""
    options = options or PairOptions()
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more, or None for all cores")
    check_clicks(clicks)
    same_time = options.same_time or ("both" if is_unordered(clicks) else "none")
    rows = clicks.num_rows
    clicks = _in_window(clicks, options)
    if clicks.num_rows == 0:
        return PAIRS.empty_table(), PairCounts(same_time=same_time)
    log, counts = _encode(clicks)
    sources = len(log.note_ids)
    viewed_at = log.viewed_at - 1 if same_time == "both" else log.viewed_at  # microseconds are whole

    # Not get_num_threads(): it starts numba's own threads, which changes how many torch uses afterwards.
    workers = threads or numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    free: SimpleQueue[tuple[Floats, Codes, Codes]] = SimpleQueue()
    for _ in range(workers):
        scratch = np.zeros(sources), np.zeros(sources, np.int32), np.empty(sources, np.int32)
        free.put(scratch)

    def mine_block(first: int) -> tuple[Ints, Codes, Floats, Codes, Ints]:
        last = min(first + _BLOCK, sources)
        shape = (last - first, min(options.top, sources))
        target, score = np.empty(shape, np.int32), np.empty(shape)
        users, kept = np.empty(shape, np.int32), np.empty(last - first, np.int64)
        fates = np.zeros(5, np.int64)
        scratch = free.get()
        _mine(
            first,
            log.source_start,
            log.viewer,
            viewed_at,
            log.click_start,
            log.clicked,
            log.clicked_at,
            log.weight,
            *scratch,
            options.upper,
            options.lower,
            options.min_users,
            target,
            score,
            users,
            kept,
            fates,
        )
        free.put(scratch)
        filled = np.arange(shape[1]) < kept[:, None]  # sources of the block x top
        return kept, target[filled], score[filled], users[filled], fates[None]

    blocks = []
    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar(total=sources, desc="pairs", unit="note", disable=not progress) as bar,
    ):
        for block in pool.map(mine_block, range(0, sources, _BLOCK)):
            blocks.append(block)
            bar.update(len(block[0]))

    kept, target, score, users, fates = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    source = np.repeat(np.arange(sources), kept)
    pairs = pa.table([log.note_ids.take(source), log.note_ids.take(target), score, users], schema=PAIRS)
    found, few, low, high = fates[:, :4].sum(axis=0).tolist()
    return pairs, replace(
        counts,
        rows=rows,
        same_time=same_time,
        found=found,
        few_users=few,
        low=low,
        high=high,
        most_users=int(fates[:, 4].max()),
        kept=len(pairs),
    )


@dataclass(frozen=True)
class _Log:
    """A log as integer codes: note codes ascend with the ids, user codes with 1 / N_u.

    It holds two compressed sparse lists. The users who viewed note a are
    ``source_start[a]:source_start[a + 1]`` of ``viewer`` (ascending) and ``viewed_at``. The notes that user u
    clicked are ``click_start[u]:click_start[u + 1]`` of ``clicked`` and ``clicked_at`` (descending).
    """

    note_ids: pa.Array  # notes
    source_start: Ints  # notes + 1
    viewer: Codes  # distinct (user, note)
    viewed_at: Ints  # distinct (user, note), microseconds
    click_start: Ints  # users + 1
    clicked: Codes  # distinct (user, clicked note)
    clicked_at: Ints  # distinct (user, clicked note), microseconds
    weight: Floats  # users, 1 / N_u


def _in_window(clicks: pa.Table, options: PairOptions) -> pa.Table:
    """Return the rows of the last ``window_days`` days, without those that are exactly that old."""
    if options.window_days is None or clicks.num_rows == 0:
        return clicks
    if is_order_only(clicks):
        raise DataError(
            f"window_days is {options.window_days}, but the log keeps only the order of clicks "
            "(all times are in 1970): use the whole log, window_days=None"
        )
    newest = pc.max(clicks["timestamp"])
    start = pc.subtract(newest, pa.scalar(timedelta(days=options.window_days)))
    return clicks.filter(pc.greater(clicks["timestamp"], start))


def _encode(clicks: pa.Table) -> tuple[_Log, PairCounts]:
    """Reduce a log that has rows to distinct (user, note) with first time and last click, as codes."""
    user, user_ids = codes(clicks["user_id"])
    note, ids = codes(clicks["note_id"])
    by_id = pc.sort_indices(ids).to_numpy()
    note_rank = np.empty(len(ids), np.int32)
    note_rank[by_id] = np.arange(len(ids), dtype=np.int32)
    time = clicks["timestamp"].cast(pa.int64()).to_numpy()
    clicked_time = np.where(pc.equal(clicks["event"], "click").to_numpy(), time, _NEVER)

    rows = _order(user, note_rank[note], len(ids))
    user, note = user[rows], note_rank[note[rows]]
    starts = np.flatnonzero(
        (np.diff(user, prepend=np.int32(-1)) != 0) | (np.diff(note, prepend=np.int32(-1)) != 0)
    )
    first = np.minimum.reduceat(time[rows], starts)
    last = np.maximum.reduceat(clicked_time[rows], starts)
    newest = np.maximum.reduceat(time[rows], starts)
    user, note = user[starts], note[starts]

    click_rows = np.flatnonzero(last > _NEVER)
    distinct = np.bincount(user[click_rows], minlength=len(user_ids))  # N_u
    counts = _user_counts(user, user_ids, distinct, first, newest, clicks)
    by_clicks = np.argsort(-distinct, kind="stable")
    user_rank = np.empty(len(user_ids), np.int32)
    user_rank[by_clicks] = np.arange(len(user_ids), dtype=np.int32)
    user = user_rank[user]

    views = _order(note, user, len(user_ids))
    clicked_at = last[click_rows]
    age = (clicked_at.max(initial=_NEVER) - clicked_at).view(np.uint64)  # right for any two times of 64 bits
    click_rows = click_rows[stable_order(age)]  # newest first
    click_rows = click_rows[stable_order(user[click_rows].astype(np.uint64))]
    log = _Log(
        note_ids=ids.take(by_id),
        source_start=_starts(note, len(ids)),
        viewer=user[views],
        viewed_at=first[views],
        click_start=_starts(user[click_rows], len(user_ids)),
        clicked=note[click_rows],
        clicked_at=last[click_rows],
        weight=1.0 / np.maximum(distinct[by_clicks], 1),
    )
    return log, counts


def _user_counts(
    user: Codes, user_ids: pa.Array, clicked: Ints, first: Ints, newest: Ints, clicks: pa.Table
) -> PairCounts:
    """Return the counts of rows and users; all arrays are over the distinct (user, note), by user.

    Args:
        user: code of the user.
        user_ids: ids of the users.
        clicked: number of distinct notes that each user clicked: (users,).
        first: time of the first row.
        newest: time of the last row.
        clicks: the rows.
    """
    starts = _starts(user, len(user_ids))
    able = (np.diff(starts) >= 2) & (clicked >= 1)
    oldest, newest = np.minimum.reduceat(first, starts[:-1]), np.maximum.reduceat(newest, starts[:-1])
    at_one_time = np.flatnonzero(able & (oldest == newest))
    return PairCounts(
        in_window=clicks.num_rows,
        clicks=pc.sum(pc.equal(clicks["event"], "click")).as_py(),
        users=len(user_ids),
        able=int(able.sum()),
        at_one_time=len(at_one_time),
        example=min(user_ids.take(at_one_time).to_pylist(), default=""),
    )


def _order(major: Codes, minor: Codes, minors: int) -> Ints:
    """Return the row order by ``major``, then ``minor`` (below ``minors``)."""
    return stable_order((major.astype(np.int64) * minors + minor).view(np.uint64))


def _starts(sorted_codes: Codes, count: int) -> Ints:
    """Return where the rows of each code start when rows are sorted by code, and the end: (count + 1,)."""
    return np.concatenate(([0], np.cumsum(np.bincount(sorted_codes, minlength=count))))


@numba.njit(nogil=True)  # compiles quickly, so no cache is written
def _mine(  # pragma: no cover - compiled
    first: int,
    source_start: Ints,
    viewer: Codes,
    viewed_at: Ints,
    click_start: Ints,
    clicked: Codes,
    clicked_at: Ints,
    weight: Floats,
    sums: Floats,
    counts: Codes,
    touched: Codes,
    upper: float,
    lower: float,
    min_users: int,
    target: Codes,
    score: Floats,
    users: Codes,
    kept: Ints,
    fates: Ints,
) -> None:
    """Fill in the best targets of the sources from ``first`` on, one row of the outputs per source.

    ``fates`` is filled with the numbers of pairs found, of too few users, of too low and of too high a score,
    and with the largest number of users of a pair.

    ``sums``, ``counts`` (zero on entry and on return) and ``touched`` are scratch arrays over the notes.
    """
    found, few, low, high, most = 0, 0, 0, 0, 0
    for row in range(target.shape[0]):
        source = first + row
        reached = 0
        for view in range(source_start[source], source_start[source + 1]):
            user = viewer[view]
            for click in range(click_start[user], click_start[user + 1]):
                if clicked_at[click] <= viewed_at[view]:
                    break
                note = clicked[click]
                if counts[note] == 0:
                    touched[reached] = note
                    reached += 1
                counts[note] += 1
                sums[note] += weight[user]
        best = 0
        for i in range(reached):
            note = touched[i]
            total, count = np.rint(sums[note] * _SCALE) / _SCALE, counts[note]
            sums[note], counts[note] = 0.0, 0
            if note == source:
                continue
            found += 1
            most = max(most, count)
            if count < min_users:
                few += 1
                continue
            if total < lower:
                low += 1
                continue
            if total > upper:
                high += 1
                continue
            # Insert the note into the sorted best targets so far, at `place`.
            place = best
            while place > 0 and (
                total > score[row, place - 1]
                or (
                    total == score[row, place - 1]
                    and (
                        count > users[row, place - 1]
                        or (count == users[row, place - 1] and note < target[row, place - 1])
                    )
                )
            ):
                place -= 1
            if place == target.shape[1]:
                continue
            best = min(best + 1, target.shape[1])
            for j in range(best - 1, place, -1):
                target[row, j] = target[row, j - 1]
                score[row, j] = score[row, j - 1]
                users[row, j] = users[row, j - 1]
            target[row, place], score[row, place], users[row, place] = note, total, count
        kept[row] = best
    fates[0], fates[1], fates[2], fates[3], fates[4] = found, few, low, high, most
