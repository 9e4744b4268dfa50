"""The impressions on which all rank methods of an experiment are trained and judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.datasets.table import read_impressions_of
from notellm.data.validate_impressions import validate_impressions
from notellm.errors import ConfigError
from notellm.files import read_parquet
from notellm.jobs.folders import NOTES_FILE, PARTS, load_dataset
from notellm.jobs.rank_rows import parts_of_clicks
from notellm.jobs.rank_tuning import auc_error
from notellm.rank.scorer import whole_notes
from notellm.record import describe


@dataclass(frozen=True)
class RankData:
    """Notes, and impressions in three parts; made by ``from_folder``, ``from_dataset`` or ``from_tables``.

    Attributes:
        notes: notes table (schema ``data.schema.NOTES``).
        train: impressions to learn from (schema ``data.schema.IMPRESSIONS``).
        valid: impressions by which everything is chosen.
        test: impressions whose scores are compared; no choice sees them.
    """

    notes: pa.Table
    train: pa.Table
    valid: pa.Table
    test: pa.Table

    @classmethod
    def from_folder(cls, folder: str | Path, *, valid: float = 0.1, test: float = 0.1, seed: int = 0) -> Self:
        """Read a prepared folder.

        If ``train.parquet``, ``valid.parquet`` and ``test.parquet`` lie beside its ``notes.parquet``, they
        are the impressions. Otherwise its clicks are made into impressions, as in ``notellm rank train``.

        Args:
            folder: a folder of notes and impressions, a dataset folder, or a split folder, whose train part
                is used.
            valid: share of the impressions in valid, where they are made of clicks.
            test: share of the impressions in test, where they are made of clicks.
            seed: seed of the negatives that are drawn, and of the order of a log without order.

        Raises:
            ConfigError: if a share is not allowed.
            DataError: as :meth:`from_tables`; or if the folder is none of these, or has no clicks.
        """
        path = Path(folder)
        if has_impressions(path):
            tables = (read_parquet(path / f"{part}.parquet") for part in PARTS)
            return cls.from_tables(load_dataset(path).notes, *tables)
        parts = parts_of_clicks(path, valid=valid, test=test, seed=seed, progress=False)
        return cls.from_tables(parts.notes, parts.train, parts.valid, parts.test)

    @classmethod
    def from_dataset(cls, name: str, source: str | Path) -> Self:
        """Read a public dataset that has impressions, such as "collm".

        Args:
            name: one of ``data.datasets.table.IMPRESSION_NAMES``.
            source: the folder with its files.

        Raises:
            ConfigError: if there is no such dataset.
            StorageError: if there is no such folder, or a file cannot be read.
            DataError: if a file is missing or has another content.
        """
        public = read_impressions_of(name, source)
        return cls.from_tables(public.notes, public.train, public.valid, public.test)

    @classmethod
    def from_tables(cls, notes: pa.Table, train: pa.Table, valid: pa.Table, test: pa.Table) -> Self:
        """Check tables against each other; rows on unknown notes are dropped, as in ``train_rank``.

        Args:
            notes: notes table.
            train: impressions to learn from.
            valid: impressions to choose by.
            test: impressions to judge by.

        Raises:
            DataError: if the tables do not fit together or a part holds one label only, or valid has too few
                rows to choose by (``jobs.rank_tuning.auc_error``).
        """
        notes = whole_notes(notes)
        parts = [validate_impressions(part, notes)[0] for part in (train, valid, test)]
        auc_error(parts[1])
        return cls(notes, *parts)

    def limited(self, most: int, *, seed: int = 0) -> Self:
        """Return the same data with smaller valid and test parts; train is not cut.

        Whole users are drawn, so that AUC per user keeps its meaning, and the shares of warm and cold rows
        stay about as they are.

        Args:
            most: largest number of rows of valid, and of test; a part has more only where the first user
                drawn has.
            seed: seed of the draw.

        Raises:
            ConfigError: if ``most`` is below 1.
            DataError: if the users drawn for a part have one label only, or too few rows to choose by.
        """
        if most < 1:
            raise ConfigError(f"most is {most}; it must be 1 or more")
        valid, test = (_some_users(part, most, seed) for part in (self.valid, self.test))
        return self.from_tables(self.notes, self.train, valid, test)

    @cached_property
    def described(self) -> Mapping[str, Any]:
        """Rows and fingerprint of every table by name, as in a record."""
        tables = {"notes": self.notes, "train": self.train, "valid": self.valid, "test": self.test}
        return {name: describe(table) for name, table in tables.items()}


def has_impressions(folder: str | Path) -> bool:
    """Return whether a folder holds notes and impressions in three parts."""
    names = (NOTES_FILE, *(f"{part}.parquet" for part in PARTS))
    return all((Path(folder) / name).is_file() for name in names)


def _some_users(table: pa.Table, most: int, seed: int) -> pa.Table:
    """Return the rows of users drawn at random, until the next one would bring more than ``most`` rows."""
    if table.num_rows <= most:
        return table
    counts = table.group_by("user_id").aggregate([("user_id", "count")]).sort_by("user_id")
    order = np.random.default_rng(seed).permutation(counts.num_rows)
    rows = np.cumsum(counts["user_id_count"].to_numpy()[order])
    drawn = counts["user_id"].take(order[: max(1, np.searchsorted(rows, most, side="right"))])
    return table.filter(pc.is_in(table["user_id"], value_set=drawn))
