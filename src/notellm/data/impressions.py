"""Impressions, the rows that rank learns from: made of a click log, split by time, and checked.

A row of `IMPRESSIONS` is a user before a note. A user and a note they clicked make one positive row,
at the first click. What the user did not enjoy comes from one of two places:

- A log with "view" rows knows it: a note that the user viewed and never clicked is a negative, at
  the first view.
- A log of clicks only does not, so negatives are drawn: for every positive, at its time, notes that
  the user never clicks, **in proportion to popularity** (how many users had clicked the note before
  that time). Clicks fall on popular notes, so a uniform draw would make popularity the label: the
  model that counts clicks would look good, and a trained one would learn to count. And since only
  earlier clicks are drawn, no note is a negative before anyone has clicked it; otherwise "not there
  yet" would be the label. What remains: a note's first clicks are positives only, and a note that
  most users click is seldom free to be drawn.

**The history** of a row: the notes the user first clicked strictly before the row's time, oldest
first, the last ``max_history`` of them. A click at the same time is not history, since a log whose
times are coarse does not say which came first; among earlier clicks with equal times the order is
that of the log. "Strictly before" is also what "afterwards" means for related pairs.

"Never clicked" looks at the whole log. That a row is there at all, as a negative, says that the user
will not click the note later; nothing in its other columns comes from its own time or later.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.data.schema import CLICKS, IMPRESSIONS, TIME
from notellm.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]

#: Draws for one negative before it is given up: the user has clicked nearly all there was.
_TRIES = 64
#: Ids of a chunk's histories, at most: Arrow's offsets into their text are 32-bit.
_CHUNK_IDS = 1 << 21
_PAIR = ["user", "note"]


def impressions_from_clicks(
    clicks: pa.Table, *, negatives: int = 1, max_history: int = 50, seed: int = 0
) -> pa.Table:
    """Labelled impressions of a click log, by the rules above.

    Args:
        clicks: table with the schema CLICKS, rows in any order.
        negatives: notes drawn for each positive where the log has clicks only, distinct for one
            positive; fewer where the user has clicked all that was there. Not used where the log
            has views.
        max_history: ids in a history, at most.
        seed: of the draw.

    Returns:
        Table with the schema IMPRESSIONS, ascending by time; rows of one time in the order of the
        log, and a drawn negative after its positive.

    Raises:
        ConfigError: ``negatives`` or ``max_history`` is below 1.
        DataError: the table has not the schema CLICKS, or its rows give only one label.
    """
    if negatives < 1:
        raise ConfigError(f"negatives is {negatives}: give 1 or more")
    log = _Log(clicks, max_history)
    liked = log.liked
    viewed = log.rows.filter(~pl.col("click")).unique(_PAIR, keep="first", maintain_order=True)
    if viewed.height:
        passed = viewed.join(liked, on=_PAIR, how="anti", maintain_order="left")
        if passed.is_empty():
            raise DataError(
                "every note viewed was clicked by the same user, so all labels would be positive: "
                "take the views out of the log to have negatives drawn"
            )
    else:
        passed = _draw(liked, negatives, whole=is_order_only(clicks), seed=seed)
        if passed.is_empty():
            raise DataError(
                f"no negative can be drawn for {liked.height} positives, so all labels would be "
                "positive: no user has left out a note that others had clicked before; give more clicks"
            )
    rows = pl.concat([liked.drop("click"), passed.select("user", "note", "time", "row")])
    label = np.arange(rows.height) < liked.height
    order = np.lexsort((~label, rows["row"].to_numpy(), rows["time"].to_numpy()))
    return log.table(rows[order], label[order])


def positive_impressions(clicks: pa.Table, *, max_history: int = 50) -> pa.Table:
    """The positives of :func:`impressions_from_clicks` alone: what else was there is up to the caller.

    Args:
        clicks: table with the schema CLICKS, rows in any order; views do not count.
        max_history: ids in a history, at most.

    Returns:
        Table with the schema IMPRESSIONS, ascending by time, every label true.

    Raises:
        ConfigError: ``max_history`` is below 1.
        DataError: the table has not the schema CLICKS, or no click.
    """
    log = _Log(clicks, max_history)
    return log.table(log.liked, np.ones(log.liked.height, np.bool_))


def click_histories(clicks: pa.Table) -> dict[str, list[str]]:
    """What each user clicked, oldest first; a note stands at its first click.

    Args:
        clicks: table with the schema CLICKS, rows in any order; views do not count.
    """
    liked = clicks.filter(pc.equal(clicks["event"], "click"))
    liked = liked.take(pc.sort_indices(liked["timestamp"]))  # stable: of one time in the order of the log
    own: dict[str, dict[str, None]] = {}
    for user_id, note_id in zip(liked["user_id"].to_pylist(), liked["note_id"].to_pylist(), strict=True):
        own.setdefault(user_id, {})[note_id] = None
    return {user_id: list(notes) for user_id, notes in own.items()}


def _draw(liked: pl.DataFrame, negatives: int, *, whole: bool, seed: int) -> pl.DataFrame:
    """Negatives for each positive: a click before its time, drawn evenly, is a note by popularity.

    Args:
        liked: the positives, ascending by time.
        negatives: how many for each.
        whole: draw from the whole log, whose times say nothing across users.
        seed: of the draw.
    """
    user, note, time = (liked[name].to_numpy() for name in ("user", "note", "time"))
    width = int(note.max()) + 1
    clicked = np.sort(user * width + note)
    before = np.full(len(time), len(time)) if whole else np.searchsorted(time, time)  # clicks before each
    draw = np.random.default_rng(seed)
    drawn = np.full((len(time), negatives), -1)
    for place in range(negatives):
        open_rows: Ints = np.flatnonzero(before)
        for _ in range(_TRIES):
            found = note[draw.integers(0, before[open_rows])]
            key = user[open_rows] * width + found
            own = clicked[np.minimum(np.searchsorted(clicked, key), len(clicked) - 1)] == key
            again = (drawn[open_rows, :place] == found[:, None]).any(axis=1)
            good = ~(own | again)
            drawn[open_rows[good], place] = found[good]
            open_rows = open_rows[~good]
            if not len(open_rows):
                break
    positive, column = np.nonzero(drawn >= 0)
    return liked[positive].with_columns(note=drawn[positive, column])


class _Log:
    """A click log in numbers: its rows by time, and the first click of each user and note.

    Args:
        clicks: table with the schema CLICKS.
        max_history: ids in a history, at most.

    Attributes:
        rows: the columns user, note, time, row (in the log) and click.
        liked: the first click of each user and note, ascending by time.
    """

    def __init__(self, clicks: pa.Table, max_history: int) -> None:
        if max_history < 1:
            raise ConfigError(f"max_history is {max_history}: give 1 or more")
        if clicks.schema.names != CLICKS.names or clicks.schema.types != CLICKS.types:
            raise DataError(f"clicks has {_columns(clicks.schema)}; give CLICKS: {_columns(CLICKS)}")
        self.max_history = max_history
        user, self.user_ids = _codes(clicks["user_id"])
        note, self.note_ids = _codes(clicks["note_id"])
        self.rows = pl.DataFrame(
            {
                "user": user,
                "note": note,
                "time": clicks["timestamp"].cast(pa.int64()).to_numpy(),
                "row": np.arange(clicks.num_rows),
                "click": pc.equal(clicks["event"], "click").to_numpy(),
            }
        ).sort("time", "row")
        self.liked = self.rows.filter("click").unique(_PAIR, keep="first", maintain_order=True)
        if self.liked.is_empty():
            raise DataError(
                f"none of {clicks.num_rows} rows of the log is a click: all labels would be negative; "
                "give a log with clicks"
            )

    def table(self, rows: pl.DataFrame, label: npt.NDArray[np.bool_]) -> pa.Table:
        """Rows as impressions, each with its user's notes of ``liked`` before it."""
        user, time = rows["user"].to_numpy(), rows["time"].to_numpy()
        by_user = np.argsort(self.liked["user"].to_numpy(), kind="stable")  # within a user still by time
        liked_user, liked_note, liked_time = (
            self.liked[c].to_numpy()[by_user] for c in ("user", "note", "time")
        )
        times, moment = np.unique(time, return_inverse=True)  # all times of `liked` are among them
        key = liked_user * len(times) + np.searchsorted(times, liked_time)
        end = np.searchsorted(key, user * len(times) + moment)
        start = np.maximum(np.searchsorted(liked_user, user), end - self.max_history)

        tables = []
        step = max(1, _CHUNK_IDS // self.max_history)
        for first in range(0, len(user), step):
            part = slice(first, first + step)
            lengths = end[part] - start[part]
            offsets = np.concatenate(([0], np.cumsum(lengths)))
            flat = np.arange(offsets[-1]) + np.repeat(start[part] - offsets[:-1], lengths)
            history = pa.ListArray.from_arrays(
                pa.array(offsets, pa.int32()), self.note_ids.take(pa.array(liked_note[flat]))
            )
            columns = [
                self.user_ids.take(pa.array(user[part])),
                self.note_ids.take(pa.array(rows["note"].to_numpy()[part])),
                pa.array(label[part]),
                pa.array(time[part]).cast(TIME),
                history,
            ]
            tables.append(pa.table(columns, schema=IMPRESSIONS))
        return pa.concat_tables(tables)


def _codes(column: pa.ChunkedArray) -> tuple[Ints, pa.Array]:
    """A code for each row, and the ids that the codes point at, in order of first appearance."""
    encoded = column.dictionary_encode().unify_dictionaries()
    if encoded.num_chunks == 0:
        return np.empty(0, np.int64), pa.array([], pa.string())
    indices: list[npt.NDArray[Any]] = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    return np.concatenate(indices).astype(np.int64), encoded.chunk(0).dictionary


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
