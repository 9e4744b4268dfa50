"""Logs without times: whether the order of a user's rows can be that of their clicks."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from notellm.data.log import Coded

Floats: TypeAlias = npt.NDArray[np.float64]

#: Share of a log's steps that must go one way for the order to be that of the ids, and the fewest steps that
#: show it.
_SHARE = 0.98
_FEWEST = 20


def order_of_ids(users: Coded, notes: Coded, others: Mapping[str, Floats] | None = None) -> str:
    """Return by what the rows of users are sorted that says nothing of time; "" if there is no such order.

    Args:
        users: user of each row.
        notes: note of each row.
        others: further columns of numbers, by name, by which rows may be sorted.
    """
    by_user = np.argsort(users.codes, kind="stable")
    same = np.diff(users.codes[by_user]) == 0
    for name, values in {"note_id": _ranks(notes), **(others or {})}.items():
        steps = np.diff(values[by_user])[same]
        steps = steps[np.isfinite(steps) & (steps != 0)]
        if len(steps) < _FEWEST:
            continue
        rising = float((steps > 0).mean())
        if rising >= _SHARE or rising <= 1 - _SHARE:
            return f"{name}, {'rising' if rising > 0.5 else 'falling'}"
    return ""


def _ranks(notes: Coded) -> Floats:
    """Return numbers in the order of ids: as numbers if all are whole, else as text."""
    ids = pl.Series(notes.values, dtype=pl.String)
    numbers = ids.cast(pl.Int64, strict=False)
    ranked = numbers if numbers.null_count() == ids.null_count() else ids
    ranks = np.append(ranked.rank("dense").cast(pl.Float64).to_numpy(), np.nan)  # for rows without a note
    return ranks[notes.codes]
