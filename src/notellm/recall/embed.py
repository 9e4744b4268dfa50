"""Vectors of a whole notes table, streamed to Parquet; a killed run goes on where it stopped.

Notes are embedded in order of length (little padding) in shards of ``SHARD`` notes. Every finished
shard is a Parquet file of its own (``recall/shards.py``), so a new call skips what is there. At the end the
shards are streamed into one file, in the table's order, ``note_id`` (string) and ``vector`` (fixed-size list
of float32), with its record, and the shards are removed.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from notellm.artifacts.replace import check_file_replaceable
from notellm.data.note import notes_from_table
from notellm.errors import DataError
from notellm.files import write_parquet, write_parquet_pieces
from notellm.recall.model import NoteLLM
from notellm.recall.shards import shards
from notellm.record import describe, fingerprint, make_record
from notellm.vectors import read_vectors, vector_table

SHARD = 4_096
_ROWS = 65_536  # of a row group of the file


def embed_to_parquet(
    model: NoteLLM, notes: pa.Table, path: str | Path, *, force: bool = False, progress: bool = True
) -> pa.Schema:
    """Write the vectors of all notes to a Parquet file; resumable.

    Args:
        model: the model.
        notes: notes table.
        path: the output file; a file of vectors that is there is replaced when the new one is complete.
        force: replace any file that is there.
        progress: show a bar with rate and remaining time.

    Returns:
        The file's schema.

    Raises:
        DataError: the table is empty or has no ids.
        StorageError: the file cannot be written, or one that may not be replaced is there.
    """
    check_file_replaceable(path, "vectors", force=force)
    if notes.num_rows == 0:
        raise DataError("there are no notes to embed: the table is empty")
    if "note_id" not in notes.column_names:
        raise DataError(f"the notes table has no column note_id; found {', '.join(notes.column_names)}")
    target = Path(path)
    data = {"model": {"fingerprint": model.fingerprint()}, "notes": describe(notes)}
    # Length in characters is near enough to length in tokens, and needs no tokenizing of everything.
    lengths = np.array([len(text) for text in _texts(notes)])
    order = np.argsort(lengths, kind="stable")
    pieces = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]
    with shards(target, data) as parts:
        with tqdm(total=len(order), unit="note", desc="embed", disable=not progress) as bar:
            for number, rows in enumerate(pieces):
                shard = parts / f"{number:06d}.parquet"
                if not shard.is_file():
                    vectors = model.encode(notes.take(rows))
                    write_parquet(vector_table(notes.column("note_id").take(rows), vectors), shard)
                bar.update(len(rows))
        table = vector_table(notes.column("note_id"), _merge(parts, pieces, model.settings.dim))
        record = make_record(
            kind="vectors",
            config=_settings(model),
            data=data,
            metrics={"notes": table.num_rows},
            fingerprint=fingerprint(table),
        )
        write_parquet_pieces(_pieces(table), target, record=record, force=force)
    return pq.read_schema(target)


def _texts(notes: pa.Table) -> list[str]:
    return [note.title + note.content for note in notes_from_table(notes)]


def _settings(model: NoteLLM) -> dict[str, Any]:
    """The settings that shape a vector: all but the names that generation is held to."""
    return {name: value for name, value in asdict(model.settings).items() if name != "categories"}


def _merge(parts: Path, pieces: list[np.ndarray], dim: int) -> np.ndarray:
    """The vectors of all shards in the table's order, held once, as float32."""
    vectors = np.empty((sum(map(len, pieces)), dim), dtype=np.float32)
    for number, rows in enumerate(pieces):
        _, vectors[rows] = read_vectors(parts / f"{number:06d}.parquet")
    return vectors


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _ROWS):
        yield table.slice(start, _ROWS)
