"""Logs without times: whether the order of a user's rows can be that of their clicks."""

import numpy as np
import polars as pl

#: Share of a log's steps that must go one way for the order to be that of the ids, and the fewest steps that
#: show it.
_SHARE = 0.98
_FEWEST = 20


def order_of_ids(users: pl.Series, notes: pl.Series, others: dict[str, pl.Series] | None = None) -> str:
    """Return by what the rows of users are sorted that says nothing of time; "" if there is no such order.

    Args:
        users: user of each row.
        notes: note of each row.
        others: further columns of numbers, by name, by which rows may be sorted.
    """
    names = {"note_id": _ranks(notes), **{name: _numbers(column) for name, column in (others or {}).items()}}
    user = users.rank("dense").fill_null(0).to_numpy()
    by_user = np.argsort(user, kind="stable")
    same = np.diff(user[by_user]) == 0
    for name, values in names.items():
        ordered = values.to_numpy()[by_user]
        steps = np.diff(ordered)[same]
        steps = steps[np.isfinite(steps) & (steps != 0)]
        if len(steps) < _FEWEST:
            continue
        rising = float((steps > 0).mean())
        if rising >= _SHARE or rising <= 1 - _SHARE:
            return f"{name}, {'rising' if rising > 0.5 else 'falling'}"
    return ""


def _ranks(notes: pl.Series) -> pl.Series:
    """Return numbers in the order of ids: as numbers if all are whole, else as text."""
    numbers = notes.cast(pl.Int64, strict=False)
    ranked = numbers if numbers.null_count() == notes.null_count() else notes
    return ranked.rank("dense").cast(pl.Float64).fill_null(float("nan"))


def _numbers(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64, strict=False).fill_null(float("nan"))
