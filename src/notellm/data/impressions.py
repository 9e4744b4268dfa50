"""Make impressions, the rows that rank learns from, from a click log.

A user and a note that they clicked make one positive row, at the first click. Negative rows are notes that
the user viewed and never clicked, at the first view; or, if the log has no views, notes drawn for every
positive, at its time, among those that the user never clicks, in proportion to the number of users who had
clicked them before that time. A uniform draw would make popularity the label, and a draw of notes that nobody
had clicked yet would make "not published yet" the label. The history of a row is the last ``max_history``
notes that the user first clicked strictly before the row's time, oldest first: what shares its time, such as
a basket of one date, is not known to be earlier. Where that is all the log says, ``data.order`` is used.
"""

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.data.ids import codes
from notellm.data.order import with_random_order
from notellm.data.schema import IMPRESSIONS, TIME, check_clicks
from notellm.errors import ConfigError, DataError

Ints = npt.NDArray[np.int64]

#: Number of draws for one negative before it is left out, because the user has clicked nearly all notes.
_TRIES = 64
#: Largest number of ids in the histories of a chunk: Arrow's offsets into their text are 32-bit.
_CHUNK_IDS = 1 << 21
_PAIR = ["user", "note"]


def impressions_from_clicks(
    clicks: pa.Table, *, negatives: int = 1, max_history: int = 50, seed: int = 0
) -> pa.Table:
    """Return the labelled impressions of a click log, by the rules at the top of this module.

    Args:
        clicks: table with the schema CLICKS, rows in any order.
        negatives: number of distinct notes drawn for each positive if the log has no views; fewer if the user
            has clicked nearly all notes. Not used if the log has views.
        max_history: largest number of ids in a history.
        seed: seed of the draw, and of the order of a log without order (``data.order``).

    Returns:
        Table with the schema IMPRESSIONS, ascending by time; rows of the same time in the order of the log,
        and drawn negatives after their positive. The times of a log without order are its random order.

    Raises:
        ConfigError: if ``negatives`` or ``max_history`` is below 1.
        DataError: if the table does not have the schema CLICKS, or all labels would be alike.
    """
    if negatives < 1:
        raise ConfigError(f"negatives is {negatives}: give 1 or more")
    log = LikedLog(_ordered(clicks, seed), max_history)
    liked = log.liked
    viewed = log.rows.filter(~pl.col("click")).unique(_PAIR, keep="first", maintain_order=True)
    if viewed.height:
        negative = viewed.join(liked, on=_PAIR, how="anti", maintain_order="left")
        if negative.is_empty():
            raise DataError(
                "every note viewed was clicked by the same user, so all labels would be positive: "
                "remove the views from the log to have negatives drawn"
            )
    else:
        negative = _draw(liked, negatives, whole=is_order_only(clicks), seed=seed)
        if negative.is_empty():
            raise DataError(
                f"no negative can be drawn for {liked.height} positives, so all labels would be positive: "
                "every user has clicked all notes that others had clicked before; give more clicks"
            )
    rows = pl.concat([liked.drop("click"), negative.select("user", "note", "time", "row")])
    label = np.arange(rows.height) < liked.height
    order = np.lexsort((~label, rows["row"].to_numpy(), rows["time"].to_numpy()))
    return log.table(rows[order], label[order])


def positive_impressions(clicks: pa.Table, *, max_history: int = 50, seed: int = 0) -> pa.Table:
    """Return only the positive rows of :func:`impressions_from_clicks`, for callers with other negatives.

    Args:
        clicks: table with the schema CLICKS, rows in any order; views do not count.
        max_history: largest number of ids in a history.
        seed: seed of the order of a log without order.

    Returns:
        Table with the schema IMPRESSIONS, ascending by time, every label true.

    Raises:
        ConfigError: if ``max_history`` is below 1.
        DataError: if the table does not have the schema CLICKS, or has no click.
    """
    log = LikedLog(_ordered(clicks, seed), max_history)
    return log.table(log.liked, np.ones(log.liked.height, np.bool_))


def click_histories(clicks: pa.Table, *, seed: int = 0) -> dict[str, list[str]]:
    """Return the notes that each user clicked, oldest first by their first click.

    Notes of the same time are in the order of the log; whatever they are used for comes after all of them.

    Args:
        clicks: table with the schema CLICKS, rows in any order; views do not count.
        seed: seed of the order of a log without order (``data.order``), the same as for its impressions.
    """
    clicks = with_random_order(clicks, seed=seed)
    liked = clicks.filter(pc.equal(clicks["event"], "click"))
    liked = liked.take(pc.sort_indices(liked["timestamp"]))  # stable: equal times keep the order of the log
    histories: dict[str, dict[str, None]] = {}
    for user_id, note_id in zip(liked["user_id"].to_pylist(), liked["note_id"].to_pylist(), strict=True):
        histories.setdefault(user_id, {})[note_id] = None
    return {user_id: list(notes) for user_id, notes in histories.items()}


def _draw(liked: pl.DataFrame, negatives: int, *, whole: bool, seed: int) -> pl.DataFrame:
    """Draw negatives for each positive: the note of a click before its time, which is a draw by popularity.

    Args:
        liked: the positives, ascending by time.
        negatives: number of negatives for each.
        whole: draw from the whole log, because its times cannot be compared across users.
        seed: seed of the draw.
    """
    user, note, time = (liked[name].to_numpy() for name in ("user", "note", "time"))
    width = int(note.max()) + 1
    clicked = np.sort(user * width + note)
    before = np.full(len(time), len(time)) if whole else np.searchsorted(time, time)  # clicks before each
    generator = np.random.default_rng(seed)
    drawn = np.full((len(time), negatives), -1)
    for place in range(negatives):
        open_rows: Ints = np.flatnonzero(before)
        for _ in range(_TRIES):
            candidate = note[generator.integers(0, before[open_rows])]
            key = user[open_rows] * width + candidate
            is_clicked = clicked[np.minimum(np.searchsorted(clicked, key), len(clicked) - 1)] == key
            is_repeated = (drawn[open_rows, :place] == candidate[:, None]).any(axis=1)
            good = ~(is_clicked | is_repeated)
            drawn[open_rows[good], place] = candidate[good]
            open_rows = open_rows[~good]
            if not len(open_rows):
                break
    positive, column = np.nonzero(drawn >= 0)
    return liked[positive].with_columns(note=drawn[positive, column])


def _ordered(clicks: pa.Table, seed: int) -> pa.Table:
    """Return a log, in a random order of each user's notes if it has none."""
    check_clicks(clicks)
    return with_random_order(clicks, seed=seed)


class LikedLog:
    """A click log as integer codes: its rows by time, and the first click of each user and note.

    Args:
        clicks: table with the schema CLICKS.
        max_history: largest number of ids in a history.

    Attributes:
        rows: frame with the columns user, note, time, row (in the log) and click.
        liked: the first click of each user and note, ascending by time.
    """

    def __init__(self, clicks: pa.Table, max_history: int) -> None:
        if max_history < 1:
            raise ConfigError(f"max_history is {max_history}: give 1 or more")
        self.max_history = max_history
        user, self.user_ids = codes(clicks["user_id"])
        note, self.note_ids = codes(clicks["note_id"])
        self.rows = pl.DataFrame(
            {
                "user": user.astype(np.int64),
                "note": note.astype(np.int64),
                "time": clicks["timestamp"].cast(pa.int64()).to_numpy(),
                "row": np.arange(clicks.num_rows),
                "click": pc.equal(clicks["event"], "click").to_numpy(),
            }
        ).sort("time", "row")
        self.liked = self.rows.filter("click").unique(_PAIR, keep="first", maintain_order=True)
        if self.liked.is_empty():
            raise DataError(
                f"none of {clicks.num_rows} rows of the log is a click, so all labels would be negative; "
                "give a log with clicks"
            )

    def table(self, rows: pl.DataFrame, label: npt.NDArray[np.bool_]) -> pa.Table:
        """Return rows of the log as impressions, each with the notes that its user had liked before."""
        user, time = rows["user"].to_numpy(), rows["time"].to_numpy()
        by_user = np.argsort(self.liked["user"].to_numpy(), kind="stable")  # stable: by time within a user
        liked_user, liked_note, liked_time = (
            self.liked[c].to_numpy()[by_user] for c in ("user", "note", "time")
        )
        times = np.union1d(time, liked_time)
        moment = np.searchsorted(times, time)
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
