"""Dataset folders and split folders, by which the stages pass data to each other.

    DATA/   notes.parquet  clicks.parquet  [pairs.parquet]  record.json   problems.parquet
    SPLIT/  train/  valid/  test/  (a dataset folder each)   record.json

``record.json`` says how a dataset or a split was made; ``pairs.parquet``, which is mined later, carries its
record itself.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts.parquet import kind_of_parquet
from notellm.artifacts.write import write_folder
from notellm.data.log import ClickLog
from notellm.data.problems import Report
from notellm.data.schema import CLICKS, NOTES, PAIRS
from notellm.data.split import Part, Split
from notellm.errors import DataError
from notellm.files import read_parquet, write_parquet, write_parquet_pieces
from notellm.pairs.counts import PairCounts, why_none
from notellm.pairs.local import mine_counted_pairs
from notellm.pairs.score import PairOptions
from notellm.record import (
    describe,
    fingerprint,
    fingerprint_of_columns,
    make_record,
    read_record,
    write_record,
)

NOTES_FILE, CLICKS_FILE, PAIRS_FILE = "notes.parquet", "clicks.parquet", "pairs.parquet"
PROBLEMS_FILE = "problems.parquet"
#: What an exported store has besides: its vectors, and its log of clicks as it is.
VECTORS_FILE, EVENTS_FILE = "vectors.parquet", "events.parquet"
#: Columns of the notes of an exported store, beside those of NOTES.
STATES = ("hidden", "expires_at")
PARTS = ("train", "valid", "test")


def save_dataset(
    folder: str | Path,
    notes: pa.Table,
    clicks: pa.Table | ClickLog,
    report: Report,
    *,
    config: Mapping[str, Any],
    seed: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a dataset folder, whole or not at all, and return its record.

    Args:
        folder: folder to write; an earlier dataset is replaced.
        notes: clean notes.
        clicks: clean clicks, as a table or as a log of codes, which is written in pieces.
        report: problems that were found and repaired.
        config: resolved options with which the data were read.
        seed: seed of generated data; None for data that were read.
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: if the folder cannot be written.
    """
    described = (
        {
            "rows": len(clicks),
            "fingerprint": fingerprint_of_columns(clicks.column_pieces, CLICKS, len(clicks)),
        }
        if isinstance(clicks, ClickLog)
        else describe(clicks)
    )
    with write_folder(folder, "dataset", force=force) as aside:
        write_parquet(notes, aside / NOTES_FILE)
        pieces = clicks.pieces() if isinstance(clicks, ClickLog) else [clicks]
        write_parquet_pieces(pieces, aside / CLICKS_FILE)
        data = {"notes": describe(notes), "clicks": described}
        return write_account(aside, report, config=config, data=data, seed=seed)


def write_account(
    folder: Path,
    report: Report,
    *,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    seed: int | None = None,
) -> dict[str, Any]:
    """Write the record and the table of problems of a dataset folder, and return the record.

    Args:
        folder: the folder, within ``artifacts.write_folder``.
        report: problems that were found and repaired.
        config: as for :func:`save_dataset`.
        data: what ``record.describe`` says of the notes and of the clicks.
        seed: as for :func:`save_dataset`.
    """
    counts: Counter[str] = Counter()  # a problem may be of several columns
    for problem in report.problems:
        counts[problem.problem] += problem.count
    record = make_record(kind="dataset", config=config, data=data, seed=seed, metrics=dict(counts))
    write_parquet(report.table(), folder / PROBLEMS_FILE)
    write_record(folder, record)
    return record


def load_dataset(folder: str | Path) -> Part:
    """Read a dataset folder.

    Raises:
        DataError: if the folder is not a dataset folder.
    """
    path = Path(folder)
    notes = read_parquet(_notes_file(folder), NOTES.names)
    clicks = CLICKS.empty_table()
    if (path / CLICKS_FILE).is_file():
        clicks = read_parquet(path / CLICKS_FILE, CLICKS.names)
    return Part(notes, clicks)


def _notes_file(folder: str | Path) -> Path:
    path = Path(folder) / NOTES_FILE
    if not path.is_file():
        raise DataError(
            f"{folder} is not a dataset folder (it has no {NOTES_FILE}); make one with: notellm prepare"
        )
    return path


def load_stored_notes(folder: str | Path) -> pa.Table:
    """Read the notes of a dataset folder, with the columns ``STATES`` if it is an exported store.

    Raises:
        DataError: if the folder is not a dataset folder.
    """
    return read_parquet(_notes_file(folder), NOTES.names, optional=STATES)


def has_states(notes: pa.Table) -> bool:
    """Tell whether a notes table says which notes are hidden, and when they expire."""
    return set(STATES) <= set(notes.column_names)


def save_split(
    folder: str | Path,
    split: Split,
    source: Part,
    *,
    config: Mapping[str, Any],
    seed: int | None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a split folder, whole or not at all, and return its record, which has the counts of its report.

    Args:
        folder: folder to write; an earlier split is replaced.
        split: the three parts.
        source: the notes and clicks that were split.
        config: resolved options of the split.
        seed: seed of the draw; None where nothing was drawn.
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: if the folder cannot be written.
    """
    data = {"source": describe_part(source), **describe_split(split)}
    metrics = {problem.problem: problem.count for problem in split.report.problems}
    record = make_record(kind="split", config=config, data=data, seed=seed, metrics=metrics)
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
        DataError: if the folder is not a split folder.
    """
    path = Path(folder)
    if not is_split(path):
        raise DataError(
            f"{path} is not a split folder (it lacks train/, valid/ or test/); make one with: notellm split"
        )
    train, valid, test = (load_dataset(path / name) for name in PARTS)
    return Split(train, valid, test)


def is_split(folder: str | Path) -> bool:
    """Return whether a folder is a split folder."""
    return all((Path(folder) / name / NOTES_FILE).is_file() for name in PARTS)


def mine_folder(
    folder: str | Path, options: PairOptions, *, force: bool = False, progress: bool = True
) -> dict[str, PairCounts]:
    """Mine the related pairs of a dataset folder, or of each part of a split folder, and write them into it.

    Args:
        folder: the dataset or split folder.
        options: how pairs are counted and scored.
        force: replace a ``pairs.parquet`` even if notellm did not write it.
        progress: show a progress bar.

    Returns:
        What became of the rows and pairs of each part ("" for a dataset folder).

    Raises:
        DataError: if the folder is neither, or has no clicks at all.
    """
    path = Path(folder)
    names = PARTS if is_split(path) else ("",)
    parts = {name: load_dataset(path / name) for name in names}
    if not any(part.clicks.num_rows for part in parts.values()):
        raise DataError(f"{path} has no clicks, so there are no related pairs; prepare it with --clicks")
    result = {}
    for name, part in parts.items():
        pairs, counts = mine_counted_pairs(part.clicks, options, progress=progress)
        save_pairs(path / name, pairs, counts, options, log=describe(part.clicks), force=force)
        result[name] = counts
    return result


def save_pairs(
    folder: Path,
    pairs: pa.Table,
    counts: PairCounts,
    options: PairOptions,
    *,
    log: Mapping[str, Any],
    force: bool = False,
) -> None:
    """Write the related pairs of a dataset folder with their record.

    Args:
        folder: the dataset folder.
        pairs: the pairs, schema PAIRS.
        counts: what became of the rows and pairs.
        options: how pairs were counted and scored.
        log: describes the log.
        force: replace a ``pairs.parquet`` even if notellm did not write it.
    """
    record = make_record(
        kind="pairs",
        config=asdict(options),
        data={"clicks": dict(log)},
        metrics={
            "pairs": pairs.num_rows,
            "sources": pc.count_distinct(pairs["source"]).as_py(),
            "same_time": counts.same_time,
        },
        fingerprint=fingerprint(pairs),
    )
    write_parquet(pairs, folder / PAIRS_FILE, record=record, force=force)


def why_no_pairs(folder: str | Path) -> str:
    """Return in words why a dataset folder has no related pairs, as ``pairs.counts.why_none`` does.

    The options are those in the record of its ``pairs.parquet``; the pairs are counted again.
    """
    file = Path(folder) / PAIRS_FILE
    if kind_of_parquet(file) != "pairs":
        return f"{file} holds none, and notellm did not write it"
    options = PairOptions(**read_record(file)["config"])
    _, counts = mine_counted_pairs(load_dataset(folder).clicks, options, progress=False)
    return why_none(counts, options)


def load_pairs(folder: str | Path) -> pa.Table | None:
    """Return the related pairs of a dataset folder; None if none were mined."""
    path = Path(folder) / PAIRS_FILE
    return read_parquet(path, PAIRS.names) if path.is_file() else None


def describe_part(part: Part) -> dict[str, Any]:
    """Return the entry of notes and clicks in a record's data."""
    return {"notes": describe(part.notes), "clicks": describe(part.clicks)}


def describe_split(split: Split) -> dict[str, Any]:
    """Return the entries of the three parts of a split in a record's data."""
    return {name: describe_part(getattr(split, name)) for name in PARTS}
