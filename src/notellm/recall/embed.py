"""Vectors of a whole notes table, streamed to Parquet; a killed run goes on where it stopped.

Notes are embedded in order of length (little padding) in shards of ``SHARD`` notes. Every finished
shard is a Parquet file of its own in ``OUTPUT.parts/``, named by the fingerprint of model and notes, so a
new call skips what is there. At the end the shards are streamed into one file, in the table's order,
``note_id`` (string) and ``vector`` (fixed-size list of float32), and the shards are removed.
"""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from notellm.errors import DataError
from notellm.files import read_parquet, write_aside, write_parquet
from notellm.recall.model import NoteLLM
from notellm.recall.prompt import notes_from_table
from notellm.record import fingerprint

SHARD = 4_096


def embed_to_parquet(
    model: NoteLLM, notes: pa.Table, path: str | Path, *, progress: bool = True
) -> pa.Schema:
    """Write the vectors of all notes to a Parquet file; resumable.

    Args:
        model: the model.
        notes: notes table.
        path: the output file; replaced when complete.
        progress: show a bar with rate and remaining time.

    Returns:
        The file's schema.

    Raises:
        DataError: the table is empty or has no ids.
        StorageError: the file cannot be written.
    """
    if notes.num_rows == 0:
        raise DataError("there are no notes to embed: the table is empty")
    if "note_id" not in notes.column_names:
        raise DataError(f"the notes table has no column note_id; found {', '.join(notes.column_names)}")
    target = Path(path)
    key = hashlib.sha256(f"{weights_fingerprint(model)} {fingerprint(notes)}".encode()).hexdigest()[:16]
    parts = target.parent / f".{target.name}.{key}.parts"
    parts.mkdir(parents=True, exist_ok=True)
    # Length in characters is near enough to length in tokens, and needs no tokenizing of everything.
    lengths = np.array([len(text) for text in _texts(notes)])
    order = np.argsort(lengths, kind="stable")
    shards = [order[start : start + SHARD] for start in range(0, len(order), SHARD)]
    with tqdm(total=len(order), unit="note", desc="embed", disable=not progress) as bar:
        for number, rows in enumerate(shards):
            shard = parts / f"{number:06d}.parquet"
            if not shard.is_file():
                vectors = model.encode(notes.take(rows))
                write_parquet(vector_table(notes.column("note_id").take(rows), vectors), shard)
            bar.update(len(rows))
    _merge(parts, target, notes, shards)
    shutil.rmtree(parts)
    return pq.read_schema(target)


def _texts(notes: pa.Table) -> list[str]:
    return [note.title + note.content for note in notes_from_table(notes)]


def _merge(parts: Path, target: Path, notes: pa.Table, shards: list[np.ndarray]) -> None:
    """Put the shards into the table's order; all vectors are held once, as float32."""
    vectors: np.ndarray | None = None
    for number, rows in enumerate(shards):
        _, piece = read_vectors(parts / f"{number:06d}.parquet")
        if vectors is None:
            vectors = np.empty((notes.num_rows, piece.shape[1]), dtype=np.float32)
        vectors[rows] = piece
    if vectors is None:
        raise DataError("there are no vectors to merge")
    with write_aside(target) as aside:
        ids = notes.column("note_id")
        writer = None
        for start in range(0, notes.num_rows, 65_536):
            stop = start + 65_536
            table = vector_table(ids.slice(start, 65_536), vectors[start:stop])
            writer = writer or pq.ParquetWriter(aside, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def vector_table(ids: pa.Array | pa.ChunkedArray, vectors: np.ndarray) -> pa.Table:
    """Ids and vectors, (n, d) float32, as an Arrow table."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    return pa.table(
        {
            "note_id": ids,
            "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
        }
    )


def read_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Ids and vectors, (n, d) float32, of a file that :func:`embed_to_parquet` wrote.

    Raises:
        StorageError: there is no such file.
        DataError: it holds no vectors.
    """
    table = read_parquet(path, ["note_id", "vector"])
    kind = table.schema.field("vector").type
    if not pa.types.is_fixed_size_list(kind):
        raise DataError(f"{path}: the column vector is {kind}; expected a fixed-size list of float32")
    flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    ids: list[str] = table.column("note_id").to_pylist()
    return ids, flat.astype(np.float32, copy=False).reshape(-1, kind.list_size)


def weights_fingerprint(model: NoteLLM) -> str:
    """SHA-256 of a model's weights and prompt, 16 hexadecimal digits: which vectors are whose."""
    digest = hashlib.sha256(repr((model.settings, model.prompt.template)).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
