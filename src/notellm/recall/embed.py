"""Embed a whole notes table into one Parquet file; a killed run continues where it stopped.

Notes are embedded in order of their length, which needs little padding, in shards of ``SHARD`` notes
(``recall/shards.py``). The file has the columns ``note_id`` (string) and ``vector`` (fixed-size list of
float32) in the order of the notes table. All vectors are held in memory once, as float32.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from notellm.artifacts.replace import check_file_replaceable
from notellm.files import write_parquet_pieces
from notellm.recall.model import NoteLLM
from notellm.recall.shards import computed_shards, shortest_first
from notellm.record import describe, fingerprint, make_record
from notellm.vectors import vector_table

SHARD = 4_096
_ROW_GROUP = 65_536


def embed_to_parquet(
    model: NoteLLM, notes: pa.Table, path: str | Path, *, force: bool = False, progress: bool = True
) -> pa.Schema:
    """Write the vectors of all notes to a Parquet file.

    Args:
        model: the model.
        notes: notes table.
        path: the output file; a file of vectors is replaced when the new one is complete.
        force: replace any file.
        progress: show a progress bar with rate and remaining time.

    Returns:
        The schema of the file.

    Raises:
        DataError: if the table is empty or has no ids.
        StorageError: if the file cannot be written, or a file that may not be replaced is in its place.
    """
    check_file_replaceable(path, "vectors", force=force)
    order = shortest_first(notes, "to embed")
    target = Path(path)
    data = {"model": {"fingerprint": model.fingerprint()}, "notes": describe(notes)}

    def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"vector": model.encode(notes.take(rows))}

    with computed_shards(
        target, data, order, compute, size=SHARD, label="embed", progress=progress
    ) as results:
        vectors = np.empty((notes.num_rows, model.settings.dim), dtype=np.float32)
        for rows, result in results:
            vectors[rows] = result["vector"]
        table = vector_table(notes.column("note_id"), vectors)
        record = make_record(
            kind="vectors",
            config=_vector_settings(model),
            data=data,
            metrics={"notes": table.num_rows},
            fingerprint=fingerprint(table),
        )
        write_parquet_pieces(_row_groups(table), target, record=record, force=force)
    return pq.read_schema(target)


def _vector_settings(model: NoteLLM) -> dict[str, Any]:
    """Return the settings without the categories, which have no effect on vectors, and the lexical share."""
    settings = {name: value for name, value in asdict(model.settings).items() if name != "categories"}
    return settings | {"lexical_share": model.lexical_share}


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _ROW_GROUP):
        yield table.slice(start, _ROW_GROUP)
