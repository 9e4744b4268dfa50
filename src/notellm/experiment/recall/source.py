"""The data of the recall table: a split with its related pairs, from a dataset folder or a split folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.split import Part, Split, split_by_note, split_by_time
from notellm.errors import DataError
from notellm.experiment.options import ExperimentOptions
from notellm.jobs.folders import PARTS, is_split, load_dataset, load_split
from notellm.pairs.counts import why_none
from notellm.pairs.local import mine_counted_pairs
from notellm.pairs.score import PairOptions
from notellm.record import fingerprint


@dataclass(frozen=True)
class RecallData:
    """A split and its related pairs.

    Attributes:
        split: train, valid and test.
        pairs: related pairs of each part, by its name.
        by: "note" if no test note is in train, else "time".
        mining: how the training pairs were mined.
        share: share of the training notes from which models learn.
        known: the whole train part, which simple methods and groups of queries know; None for that of the
            split.
    """

    split: Split
    pairs: Mapping[str, pa.Table]
    by: Literal["note", "time"]
    mining: PairOptions
    share: float = 1.0
    known: Part | None = None

    @property
    def known_train(self) -> Part:
        """The whole train part, however small the share from which models learn."""
        return self.known or self.split.train

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprints of all tables, by name."""
        tables = {
            f"{part} {name}": getattr(getattr(self.split, part), name)
            for part in PARTS
            for name in ("notes", "clicks")
        }
        tables |= {f"{part} pairs": self.pairs[part] for part in PARTS}
        return {name: fingerprint(table) for name, table in tables.items()}

    def with_training_share(self, share: float, seed: int) -> "RecallData":
        """Return the same validation and test data with a share of the training notes, drawn by the seed."""
        if share >= 1:
            return self
        notes, clicks = self.split.train.notes, self.split.train.clicks
        count = max(2, round(share * notes.num_rows))
        drawn = np.sort(np.random.default_rng(seed).choice(notes.num_rows, count, replace=False))
        notes = notes.take(drawn)
        kept = pc.is_in(clicks["note_id"], value_set=notes["note_id"].combine_chunks())
        train = Part(notes, clicks.filter(kept))
        split = replace(self.split, train=train)
        smaller = replace(self, split=split, share=share, known=self.known_train)
        return smaller.with_mining(self.mining)

    def with_mining(self, mining: PairOptions) -> "RecallData":
        """Return the same data with training pairs that are mined with other options.

        Raises:
            DataError: if that leaves no training pair.
        """
        found = _mined(self.split.train, mining, "train")
        return replace(self, pairs={**self.pairs, "train": found}, mining=mining)


def load_recall_data(folder: str | Path, options: ExperimentOptions) -> RecallData:
    """Read a dataset folder and split it, or read a split folder, and mine the related pairs of each part.

    Pairs are mined anew, so that all parts have the same options, whatever was mined before.

    Raises:
        DataError: if the folder is neither, has no clicks, cannot be split, or its train or test part has no
            related pairs.
    """
    path = Path(folder)
    if is_split(path):
        split = load_split(path)
    else:
        part = load_dataset(path)
        if not part.clicks.num_rows:
            raise DataError(
                f"{path} has no clicks, so nothing says which notes are related; prepare it with --clicks, "
                "or leave the table of related notes out with --no-recall --no-ablations"
            )
        if options.by == "note":
            split = split_by_note(part.notes, part.clicks, test=0.3, valid=0.05, seed=options.seed)
        else:
            split = split_by_time(part.notes, part.clicks, test=0.2, valid=0.1)
    mining = PairOptions(min_users=options.min_users)
    pairs = {name: _mined(getattr(split, name), mining, name) for name in PARTS}
    known = pc.is_in(split.test.notes["note_id"], value_set=split.train.notes["note_id"].combine_chunks())
    return RecallData(split, pairs, "time" if pc.any(known).as_py() else "note", mining)


def _mined(part: Part, mining: PairOptions, name: str) -> pa.Table:
    """Return the related pairs of a part; only the validation part may have none."""
    pairs, counts = mine_counted_pairs(part.clicks, mining, progress=False)
    if not pairs.num_rows and name != "valid":
        raise DataError(
            f"the {name} part has no related pairs: {why_none(counts, mining)}; give more clicks, or "
            "another --min-users or --by"
        )
    return pairs
