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
from dataclasses import dataclass
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from notellm.data.convert import is_order_only
from notellm.data.ids import codes
from notellm.data.schema import PAIRS, check_clicks
from notellm.errors import ConfigError, DataError
from notellm.pairs.score import PairOptions

Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

#: Number of sources that a thread takes at once: large enough for little overhead, small enough to balance
#: load.
_BLOCK = 256
#: Last click time of a (user, note) that was never clicked; earlier than every time.
_NEVER = np.iinfo(np.int64).min


def mine_pairs(
    clicks: pa.Table,
    options: PairOptions | None = None,
    *,
    threads: int | None = None,
    progress: bool = True,
) -> pa.Table:
    """Return the related pairs of a click log, as defined in ``notellm.pairs.score``.

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
    options = options or PairOptions()
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give 1 or more, or None for all cores")
    clicks = _in_window(clicks, options)
    if clicks.num_rows == 0:
        return PAIRS.empty_table()
    log = _encode(clicks)
    sources = len(log.note_ids)

    workers = threads or numba.get_num_threads()
    free: SimpleQueue[tuple[Floats, Codes, Codes]] = SimpleQueue()
    for _ in range(workers):
        scratch = np.zeros(sources), np.zeros(sources, np.int32), np.empty(sources, np.int32)
        free.put(scratch)

    def mine_block(first: int) -> tuple[Ints, Codes, Floats, Codes]:
        last = min(first + _BLOCK, sources)
        shape = (last - first, min(options.top, sources))
        target, score = np.empty(shape, np.int32), np.empty(shape)
        users, kept = np.empty(shape, np.int32), np.empty(last - first, np.int64)
        scratch = free.get()
        _mine(
            first,
            log.source_start,
            log.viewer,
            log.viewed_at,
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
        )
        free.put(scratch)
        filled = np.arange(shape[1]) < kept[:, None]  # sources of the block x top
        return kept, target[filled], score[filled], users[filled]

    blocks = []
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=sources, desc="pairs", unit="note", disable=not progress) as bar,
    ):
        for block in pool.map(mine_block, range(0, sources, _BLOCK)):
            blocks.append(block)
            bar.update(len(block[0]))

    kept, target, score, users = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    source = np.repeat(np.arange(sources), kept)
    return pa.table([log.note_ids.take(source), log.note_ids.take(target), score, users], schema=PAIRS)


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
    check_clicks(clicks)
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


def _encode(clicks: pa.Table) -> _Log:
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
    user, note = user[starts], note[starts]

    click_rows = np.flatnonzero(last > _NEVER)
    distinct = np.bincount(user[click_rows], minlength=len(user_ids))  # N_u
    by_clicks = np.argsort(-distinct, kind="stable")
    user_rank = np.empty(len(user_ids), np.int32)
    user_rank[by_clicks] = np.arange(len(user_ids), dtype=np.int32)
    user = user_rank[user]

    views = _order(note, user, len(user_ids))
    click_rows = click_rows[np.argsort(last[click_rows])[::-1]]  # newest first
    newest_first = np.arange(len(click_rows))
    click_rows = click_rows[_order(user[click_rows], newest_first, len(click_rows))]
    return _Log(
        note_ids=ids.take(by_id),
        source_start=_starts(note, len(ids)),
        viewer=user[views],
        viewed_at=first[views],
        click_start=_starts(user[click_rows], len(user_ids)),
        clicked=note[click_rows],
        clicked_at=last[click_rows],
        weight=1.0 / np.maximum(distinct[by_clicks], 1),
    )


def _order(major: Codes, minor: npt.NDArray[np.integer[Any]], minors: int) -> Ints:
    """Return the row order by ``major``, then ``minor`` (below ``minors``); one integer key sorts fastest."""
    return np.argsort(major.astype(np.int64) * minors + minor)


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
) -> None:
    """Fill in the best targets of the sources from ``first`` on, one row of the outputs per source.

    ``sums``, ``counts`` (zero on entry and on return) and ``touched`` are scratch arrays over the notes.
    """
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
            total, count = sums[note], counts[note]
            sums[note], counts[note] = 0.0, 0
            if note == source or total > upper or total < lower or count < min_users:
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
