"""The vectors of all notes of a table, written to one Parquet file; a killed run continues where it stopped.

Notes are embedded in the order of their length, which keeps padding short, in shards of ``SHARD`` notes
(``recall/shards.py``). The finished shards are joined in the order of the table into a file with the columns
``note_id`` (string) and ``vector`` (fixed-size list of float32) and the record of how it was made.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from notellm.artifacts import check_file_replaceable
from notellm.data.note import notes_from_table
from notellm.errors import DataError
from notellm.files import write_parquet_pieces
from notellm.recall.model import NoteLLM
from notellm.recall.shards import computed, cut, shards
from notellm.record import describe, fingerprint, make_record
from notellm.vectors import vector_matrix, vector_table

SHARD = 4_096
_ROW_GROUP = 65_536  # rows


def embed_to_parquet(
    model: NoteLLM, notes: pa.Table, path: str | Path, *, force: bool = False, progress: bool = True
) -> pa.Schema:
    """Write the vectors of all notes to a Parquet file; a killed call continues where it stopped.

    Args:
        model: the model.
        notes: notes table.
        path: the output file; an earlier file of vectors is replaced when the new one is complete.
        force: replace a file of any kind.
        progress: show a progress bar with rate and remaining time.

    Returns:
        The schema of the file.

    Raises:
        DataError: if the table is empty or has no ids.
        StorageError: if the file cannot be written, or may not be replaced.
    """
    check_file_replaceable(path, "vectors", force=force)
    if notes.num_rows == 0:
        raise DataError("there are no notes to embed: the table is empty")
    if "note_id" not in notes.column_names:
        columns = ", ".join(notes.column_names)
        raise DataError(f"the notes table has no column note_id; its columns are {columns}")
    target = Path(path)
    data = {"model": {"fingerprint": model.fingerprint()}, "notes": describe(notes)}
    # The length in characters is close enough to the length in tokens and is known without tokenizing.
    lengths = np.array([len(note.title) + len(note.content) for note in notes_from_table(notes)])
    pieces = cut(np.argsort(lengths, kind="stable"), SHARD)
    ids, dim = notes.column("note_id"), model.settings.dim

    def embed(rows: np.ndarray) -> pa.Table:
        return vector_table(ids.take(rows), model.encode(notes.take(rows)))

    with shards(target, data) as folder:
        vectors = np.empty((notes.num_rows, dim), dtype=np.float32)
        for rows, table in computed(folder, pieces, embed, name="embed", progress=progress):
            vectors[rows] = vector_matrix(table.column("vector"), dim)
        whole = vector_table(ids, vectors)
        record = make_record(
            kind="vectors",
            config=_settings(model),
            data=data,
            metrics={"notes": whole.num_rows},
            fingerprint=fingerprint(whole),
        )
        write_parquet_pieces(_row_groups(whole), target, record=record, force=force)
    return pq.read_schema(target)


def _settings(model: NoteLLM) -> dict[str, Any]:
    """The settings that shape a vector: all except the names to which generation is restricted."""
    return {name: value for name, value in asdict(model.settings).items() if name != "categories"}


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, _ROW_GROUP):
        yield table.slice(start, _ROW_GROUP)
