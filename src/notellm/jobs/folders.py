"""What the stages leave on disk for each other: dataset folders and split folders.

    DATA/   notes.parquet  clicks.parquet  [pairs.parquet]  record.json   problems.parquet
    SPLIT/  train/  valid/  test/  (dataset folders each)   record.json

``record.json`` tells how a dataset or a split was made; ``pairs.parquet``, which is mined later, carries a
record of its own. A stage reads only what the stage before it wrote.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts.write import write_folder
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES, PAIRS
from notellm.data.split import Part, Split
from notellm.errors import DataError
from notellm.files import read_parquet, write_parquet
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.record import describe, fingerprint, make_record, write_record

NOTES_FILE, CLICKS_FILE, PAIRS_FILE = "notes.parquet", "clicks.parquet", "pairs.parquet"
PARTS = ("train", "valid", "test")


def save_dataset(
    folder: str | Path,
    notes: pa.Table,
    clicks: pa.Table,
    report: Report,
    *,
    config: Mapping[str, Any],
    seed: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a dataset folder, whole or not at all; returns its record.

    Args:
        folder: where; a dataset that is there is replaced.
        notes: clean notes.
        clicks: clean clicks.
        report: what was wrong with them.
        config: the resolved options by which they were read.
        seed: of generated data, None for what was read.
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: it cannot be written.
    """
    record = make_record(
        kind="dataset",
        config=config,
        data=describe_part(Part(notes, clicks)),
        seed=seed,
        metrics={problem.problem: problem.count for problem in report.problems},
    )
    with write_folder(folder, "dataset", force=force) as aside:
        write_parquet(notes, aside / NOTES_FILE)
        write_parquet(clicks, aside / CLICKS_FILE)
        write_parquet(report.table(), aside / "problems.parquet")
        write_record(aside, record)
    return record


def load_dataset(folder: str | Path) -> Part:
    """Read a dataset folder.

    Raises:
        DataError: it is none.
    """
    path = Path(folder)
    if not (path / NOTES_FILE).is_file():
        raise DataError(
            f"{path} is not a dataset folder (it has no {NOTES_FILE}); make one with: notellm prepare"
        )
    notes = read_parquet(path / NOTES_FILE, NOTES.names)
    clicks = CLICKS.empty_table()
    if (path / CLICKS_FILE).is_file():
        clicks = read_parquet(path / CLICKS_FILE, CLICKS.names)
    return Part(notes, clicks)


def save_split(
    folder: str | Path,
    split: Split,
    source: Part,
    *,
    config: Mapping[str, Any],
    seed: int | None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a split folder, whole or not at all; returns its record.

    Args:
        folder: where; a split that is there is replaced.
        split: the three parts.
        source: the notes and clicks that were split.
        config: the resolved options of the split.
        seed: of the draw, None where nothing was drawn.
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: it cannot be written.
    """
    data = {"source": describe_part(source), **describe_split(split)}
    record = make_record(kind="split", config=config, data=data, seed=seed)
    with write_folder(folder, "split", force=force) as aside:
        for name in PARTS:
            part = getattr(split, name)
            (aside / name).mkdir()
            write_parquet(part.notes, aside / name / NOTES_FILE)
            write_parquet(part.clicks, aside / name / CLICKS_FILE)
        write_record(aside, record)
    return record


def load_split(folder: str | Path) -> Split:
    """Read a split folder.

    Raises:
        DataError: it is none.
    """
    path = Path(folder)
    if not is_split(path):
        raise DataError(
            f"{path} is not a split folder (it lacks train/, valid/ or test/); make one with: notellm split"
        )
    return Split(*(load_dataset(path / name) for name in PARTS))


def is_split(folder: str | Path) -> bool:
    """Whether a folder is a split folder."""
    return all((Path(folder) / name / NOTES_FILE).is_file() for name in PARTS)


def mine_folder(
    folder: str | Path, options: PairOptions, *, force: bool = False, progress: bool = True
) -> dict[str, int]:
    """Mine the related pairs of a dataset folder, or of each part of a split folder, into it.

    Args:
        folder: the dataset or split folder.
        options: how pairs are counted and scored.
        force: replace a ``pairs.parquet`` that notellm did not write, too.
        progress: show a progress bar.

    Returns:
        The number of pairs by part ("" for a dataset folder).

    Raises:
        DataError: it is neither, or there are no clicks at all.
    """
    path = Path(folder)
    names = PARTS if is_split(path) else ("",)
    parts = {name: load_dataset(path / name) for name in names}
    if not any(part.clicks.num_rows for part in parts.values()):
        raise DataError(f"{path} has no clicks, so there are no related pairs; prepare it with --clicks")
    found = {}
    for name, part in parts.items():
        empty = not part.clicks.num_rows
        pairs = PAIRS.empty_table() if empty else mine_pairs(part.clicks, options, progress=progress)
        record = make_record(
            kind="pairs",
            config=asdict(options),
            data={"clicks": describe(part.clicks)},
            metrics={"pairs": pairs.num_rows, "sources": pc.count_distinct(pairs["source"]).as_py()},
            fingerprint=fingerprint(pairs),
        )
        write_parquet(pairs, path / name / PAIRS_FILE, record=record, force=force)
        found[name] = pairs.num_rows
    return found


def load_pairs(folder: str | Path) -> pa.Table | None:
    """The related pairs of a dataset folder; None where none were mined."""
    path = Path(folder) / PAIRS_FILE
    return read_parquet(path, PAIRS.names) if path.is_file() else None


def describe_part(part: Part) -> dict[str, Any]:
    """How a record names notes and clicks among its data."""
    return {"notes": describe(part.notes), "clicks": describe(part.clicks)}


def describe_split(split: Split) -> dict[str, Any]:
    """How a record names the three parts of a split among its data."""
    return {name: describe_part(getattr(split, name)) for name in PARTS}
