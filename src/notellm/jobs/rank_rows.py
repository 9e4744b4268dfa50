"""The rows of a ranker's run from a prepared folder: its clicks as impressions, in three parts."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from notellm.data.impressions import click_histories, impressions_from_clicks
from notellm.data.split import split_impressions
from notellm.errors import DataError
from notellm.jobs.folders import is_split, load_dataset
from notellm.recommend.candidates import Vectors, impressions_from_candidates


@dataclass(frozen=True)
class RankParts:
    """Notes, and impressions to train, to choose and to judge a ranker by.

    Attributes:
        notes: notes table.
        train: impressions to learn from (schema ``data.schema.IMPRESSIONS``).
        valid: impressions to choose by.
        test: impressions to judge by.
        histories: all notes that each user clicked, oldest first.
    """

    notes: pa.Table
    train: pa.Table
    valid: pa.Table
    test: pa.Table
    histories: dict[str, list[str]]


def parts_of_clicks(
    folder: str | Path,
    *,
    vectors: Vectors | None = None,
    negatives: int | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> RankParts:
    """Make impressions of the clicks of a folder, and split them as ``data.split.split_impressions`` does.

    Args:
        folder: a dataset folder, or a split folder, whose train part is used.
        vectors: note ids and vectors of recall, among whose candidates the negatives are drawn; None draws
            them from the log.
        negatives: negatives of a click; None for the default of the way in which they are drawn.
        valid: share of the impressions in valid.
        test: share of the impressions in test.
        seed: seed of the draws.
        progress: show a progress bar.

    Raises:
        ConfigError: if a share or ``negatives`` is not allowed.
        DataError: if the folder is neither, has no clicks, or its clicks make no impressions of both labels
            or too few for three parts.
    """
    path = Path(folder)
    part = load_dataset(path / "train" if is_split(path) else path)
    if not part.clicks.num_rows:
        raise DataError(f"{path} has no clicks to learn from; prepare it with --clicks")
    options = {} if negatives is None else {"negatives": negatives}
    if vectors is None:
        rows = impressions_from_clicks(part.clicks, seed=seed, **options)
    else:
        rows = impressions_from_candidates(part.clicks, vectors, seed=seed, progress=progress, **options)
    parts = split_impressions(rows, valid=valid, test=test, seed=seed)
    return RankParts(part.notes, *parts, click_histories(part.clicks, seed=seed))
