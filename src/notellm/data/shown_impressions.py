"""Make impressions, the rows that rank learns from, from lists that were shown and the clicks that name them.

Shown and not clicked is a negative only if the user has looked: by "skip above" (Joachims et al. 2005) at all
notes down to the last one that the user reacted to (clicked, liked or disliked), and at notes viewed. A user
and a note make one row. It is of the list of their first reaction, and none if that named no list; its label
is false if the last like or dislike is a dislike. A note that the user never reacted to, in no list and
outside of them, is a negative of the first list where it was looked at. The time of a row is that of its
list, and its history holds what the user had clicked or liked before that (``data/impressions.py``).
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from notellm.data.impressions import LikedLog
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, TIME
from notellm.errors import DataError

_SHOWN = ("request_id", "user_id", "timestamp", "note_ids")
_CLICKS = ("user_id", "note_id", "timestamp", "event", "request_id")
_PAIR = ["user_id", "note_id"]
_REACTIONS, _LIKED, _OPINIONS = ("click", "like", "dislike"), ("click", "like"), ("like", "dislike")


def impressions_from_shown(
    shown: pa.Table, clicks: pa.Table, *, max_history: int = 50
) -> tuple[pa.Table, Report]:
    """Return labelled impressions of shown lists, by the rules at the top of this module.

    A click that names a list counts as made after it, whatever the clock of a client said. A list without a
    user is that of everybody whose clicks name it. A click that does not fit the list it names counts as one
    that names none: it can only say that the user knows the note, and be part of later histories.

    Args:
        shown: table with the columns ``request_id``, ``user_id`` ("" for none), ``timestamp`` and
            ``note_ids``, the best note first, such as ``store.shown.SHOWN_LOG``; of rows with one id the
            first counts.
        clicks: table with the columns of CLICKS, of which ``event`` may be "like" or "dislike", too, and
            ``request_id`` ("" for none), such as ``store.clicks.CLICK_LOG``; rows in any order.
        max_history: largest number of ids in a history.

    Returns:
        Table with the schema IMPRESSIONS, ascending by time, rows of one list by position; and a report of
        clicks that do not fit a list and of lists that give no rows.

    Raises:
        ConfigError: if ``max_history`` is below 1.
        DataError: if a column is missing, or the labels would all be alike.
    """
    report = Report()
    lists = _frame(shown, _SHOWN, "shown").unique("request_id", keep="first", maintain_order=True)
    events = _placed(_frame(clicks, _CLICKS, "clicks"), lists, report)
    reactions = events.filter(pl.col("event").is_in(_REACTIONS))
    rows = pl.concat([_reacted(reactions), _passed_over(events, reactions, lists)])
    used = rows["request_id"].n_unique()
    unused = lists.join(rows, on="request_id", how="anti")
    if unused.height:
        example = unused["request_id"][0]
        action = "no rows: nobody is known to have looked at it, or its notes have rows of other lists"
        report.add("list without rows", "shown: request_id", unused.height, example, action, informs=True)
    liked = rows["label"].sum()
    if liked in (0, rows.height):
        raise DataError(
            f"{used:,} of {lists.height:,} lists give {rows.height:,} rows, of which {liked:,} are liked, so "
            "there is nothing to tell apart; send clicks and views with the request_id of the list"
            + (f"\n{report}" if len(report) else "")
        )
    rows = rows.sort("timestamp", "request_id", "position", "user_id")
    history = events.filter(pl.col("event").is_in(_LIKED)).sort("timestamp", *_PAIR)
    log = LikedLog(_as_clicks([(history, "click"), (rows, "view")]), max_history)
    views = log.rows.filter(~pl.col("click"))
    place = views["row"].to_numpy() - history.height
    label = rows["label"].to_numpy()[place]
    return log.table(views, np.asarray(label, np.bool_)), report


def _placed(events: pl.DataFrame, lists: pl.DataFrame, report: Report) -> pl.DataFrame:
    """Add the time of the list that an event names, and the position of its note in it, from 1.

    Both, and ``request_id``, are null where the event names no list, or one that it does not fit.
    """
    owners = lists.select("request_id", shown_at="timestamp", owner="user_id")
    found = events.join(owners, on="request_id", how="left")
    found = found.join(_positions(lists), on=["request_id", "note_id"], how="left")
    is_named = pl.col("request_id") != ""
    is_known = pl.col("shown_at").is_not_null()
    is_own = (pl.col("owner") == "") | (pl.col("owner") == pl.col("user_id"))
    for problem, is_wrong in (
        ("click that names an unknown list", is_named & ~is_known),
        ("click that names a list of another user", is_known & ~is_own),
        ("click that names a list without its note", is_known & is_own & pl.col("position").is_null()),
    ):
        wrong = found.filter(is_wrong)
        example = ", ".join(f"{name} {wrong[name][0]}" for name in _CLICKS[:2]) if wrong.height else ""
        report.add(problem, "clicks: request_id", wrong.height, example, "counted as naming none")
    fits = is_named & is_known & is_own & pl.col("position").is_not_null()
    found = found.with_columns(
        pl.when(fits).then(pl.col(name)).alias(name) for name in ("request_id", "shown_at", "position")
    )
    return found.with_columns(timestamp=pl.max_horizontal("timestamp", "shown_at")).drop("owner")


def _positions(lists: pl.DataFrame) -> pl.DataFrame:
    """Return request_id, note_id and position, from 1, of each note of each list, each once."""
    length = pl.col("note_ids").list.len()
    rows = lists.filter(length > 0).select(
        "request_id", note_id="note_ids", position=pl.int_ranges(1, length + 1, dtype=pl.Int64)
    )
    rows = rows.explode("note_id", "position")
    return rows.unique(["request_id", "note_id"], keep="first", maintain_order=True)


def _reacted(reactions: pl.DataFrame) -> pl.DataFrame:
    """Return a row for each user and note whose first reaction names a list."""
    order = ("timestamp", "shown_at", "request_id")
    first = reactions.sort(order, nulls_last=True).unique(_PAIR, keep="first", maintain_order=True)
    opinions = reactions.filter(pl.col("event").is_in(_OPINIONS))
    # Of a like and a dislike at one time the dislike counts: it is the first in the order of words.
    last = opinions.sort("timestamp", "event", descending=[True, False]).unique(
        _PAIR, keep="first", maintain_order=True
    )
    rows = first.join(last.select(*_PAIR, said="event"), on=_PAIR, how="left")
    rows = rows.filter(pl.col("request_id").is_not_null())
    return rows.select(
        *_PAIR,
        "request_id",
        "position",
        timestamp="shown_at",
        label=pl.col("said").ne_missing(pl.lit("dislike")),
    )


def _passed_over(events: pl.DataFrame, reactions: pl.DataFrame, lists: pl.DataFrame) -> pl.DataFrame:
    """Return a negative row for each user and note that was looked at and never reacted to."""
    placed = pl.col("request_id").is_not_null()
    viewing = ["request_id", "user_id"]
    last = reactions.filter(placed).group_by(viewing).agg(last=pl.col("position").max())
    above = last.join(_positions(lists), on="request_id").filter(pl.col("position") <= pl.col("last"))
    viewed = events.filter(placed, pl.col("event") == "view")
    columns = [*viewing, "note_id", "position"]
    looked_at = pl.concat([above.select(columns), viewed.select(columns)]).unique()
    looked_at = looked_at.join(reactions, on=_PAIR, how="anti")
    looked_at = looked_at.join(lists.select("request_id", "timestamp"), on="request_id")
    rows = looked_at.sort("timestamp", "request_id").unique(_PAIR, keep="first", maintain_order=True)
    return rows.select(*_PAIR, "request_id", "position", "timestamp", label=pl.lit(False))


def _frame(table: pa.Table, names: Sequence[str], what: str) -> pl.DataFrame:
    """Return columns of a table, times as microseconds since 1970."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(
            f"{what} has no column {missing[0]!r}; its columns are {', '.join(table.column_names)}: "
            f"give {', '.join(names)}"
        )
    return pl.DataFrame(table.select(list(names))).with_columns(pl.col("timestamp").dt.epoch("us"))


def _as_clicks(parts: Sequence[tuple[pl.DataFrame, str]]) -> pa.Table:
    """Return frames one after the other, with the schema CLICKS and one event each."""
    tables = [
        pa.table(
            {
                **{name: frame[name].to_arrow().cast(pa.string()) for name in _PAIR},
                "timestamp": frame["timestamp"].to_arrow().cast(TIME),
                "event": pa.array([event] * frame.height, pa.string()),
            },
            schema=CLICKS,
        )
        for frame, event in parts
    ]
    return pa.concat_tables(tables)
