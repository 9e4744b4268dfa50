"""Write the item-to-item table of all notes, or bring an existing one up to date.

    note_id (string)   related (list of string)   scores (list of float32)   digest (uint64)

A killed run continues where it stopped (``recall/shards.py``). If the table exists, notes are compared with
it by the digests of their vectors and texts. A row is searched again if its note is new or changed, or one of
its related notes changed or was removed; new and changed notes are merged into all other rows. The result is
that of a complete search, up to rounding and equal scores. With words every row is searched if any note
changed, since that changes how rare words are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts.replace import check_file_replaceable
from notellm.errors import ConfigError, DataError, NotellmError
from notellm.files import read_parquet, write_parquet_pieces
from notellm.recall.related import Words, best_rows
from notellm.recall.shards import computed_shards
from notellm.record import describe, fingerprint, make_record, read_record
from notellm.vectors import search, vector_table

SHARD = 4_096
_COLUMNS = ["note_id", "related", "scores", "digest"]


@dataclass(frozen=True)
class ItemToItem:
    """How much was computed for a table.

    Attributes:
        notes: rows of the table.
        computed: rows that were searched; the others were kept, with new and changed notes merged into them.
    """

    notes: int
    computed: int


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """The related notes of each note.

    Attributes:
        rows: (n, k) int64, rows of the related notes, -1 where there are fewer than k.
        scores: (n, k) float32, their cosines.
    """

    rows: np.ndarray
    scores: np.ndarray


def write_item_to_item(
    ids: Sequence[str],
    vectors: np.ndarray,
    path: str | Path,
    *,
    k: int = 10,
    words: Words | None = None,
    force: bool = False,
    progress: bool = True,
) -> ItemToItem:
    """Write the item-to-item table of all notes as one Parquet file, completely or not at all.

    Args:
        ids: the note ids, each once.
        vectors: (n, d) float32 array of unit norm.
        path: the table. An existing table with the same k is brought up to date, another one is replaced.
        k: number of related notes of each note.
        words: the words of all notes; None compares vectors only.
        force: replace any file.
        progress: show a progress bar with rate and remaining time.

    Raises:
        ConfigError: if k is not positive.
        DataError: if there are no notes.
        StorageError: if the file cannot be written, or a file that may not be replaced is in its place.
    """
    check_file_replaceable(path, "related", force=force)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 related note")
    if not len(ids):
        raise DataError("there are no embedded notes to relate; embed the notes first")
    target = Path(path)
    names = pa.array(ids, pa.string())
    digests = vector_digests(vectors)
    config: dict[str, Any] = {"k": k}
    data = {"vectors": describe(vector_table(names, vectors))}
    if words is not None:
        digests ^= np.array([_digest(text) for text in words.texts], dtype=np.uint64)
        config |= {"lexical_share": words.share}
        data |= {"texts": {"fingerprint": fingerprint(pa.table({"text": pa.array(words.texts)}))}}
    existing = _existing_table(target, config)
    stale, neighbours = _start(names, digests, vectors, existing, k)
    if words is not None and (len(stale) or existing is None or existing.num_rows != len(ids)):
        stale = np.arange(len(ids))

    def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
        texts = () if words is None else [words.texts[row] for row in rows]
        related, scores = best_rows(ids, vectors, vectors[rows], k, words=words, texts=texts, exclude=rows)
        return {"rows": related, "scores": scores}

    inputs = (data, config, stale.tolist())
    with computed_shards(
        target, inputs, stale, compute, size=SHARD, label="related", progress=progress
    ) as results:
        for rows, result in results:
            neighbours.rows[rows], neighbours.scores[rows] = result["rows"], result["scores"]
        record = make_record(
            kind="related", config=config, data=data, metrics={"notes": len(ids), "computed": len(stale)}
        )
        write_parquet_pieces(_row_groups(names, digests, neighbours), target, record=record, force=force)
    return ItemToItem(len(ids), len(stale))


def vector_digests(vectors: np.ndarray) -> np.ndarray:
    """Return a hash of the bits of each vector, (n,) uint64, by which a changed vector is recognised."""
    odd = np.random.default_rng(0).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64) * 2 + 1
    bits = np.ascontiguousarray(vectors, dtype=np.float32).view(np.uint32).astype(np.uint64)
    digests: np.ndarray = (bits * odd).sum(axis=1, dtype=np.uint64)
    return digests


def _start(
    names: pa.Array, digests: np.ndarray, vectors: np.ndarray, existing: pa.Table | None, k: int
) -> tuple[np.ndarray, _Neighbours]:
    """Return the rows that must be searched, and the related notes of all others.

    Args:
        names: the note ids.
        digests: (n,) uint64, digests of the vectors.
        vectors: (n, d) float32.
        existing: the table to bring up to date; None to search all rows.
        k: number of related notes of each note.
    """
    count = len(names)
    neighbours = _Neighbours(
        np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf, dtype=np.float32)
    )
    if existing is None:
        return np.arange(count), neighbours
    position = pc.index_in(names, value_set=existing.column("note_id").combine_chunks())
    old_row = position.fill_null(-1).to_numpy()
    listed = np.flatnonzero(old_row >= 0)
    unchanged = listed[existing.column("digest").to_numpy()[old_row[listed]] == digests[listed]]
    changed = np.setdiff1d(np.arange(count), unchanged)
    if len(changed) > count // 4:  # merging would cost about as much as searching
        return np.arange(count), neighbours
    lists = existing.take(pa.array(old_row[unchanged]))
    lengths = pc.list_value_length(lists.column("related")).to_numpy()
    related = pc.list_flatten(lists.column("related")).combine_chunks()
    # Only an unchanged note can keep its place in a list: for every entry its index in `unchanged`, or -1.
    kept = pc.index_in(related, value_set=names.take(pa.array(unchanged))).fill_null(-1).to_numpy()
    owner = np.repeat(np.arange(len(unchanged)), lengths)  # for every entry, the list that holds it
    broken = np.zeros(len(unchanged), dtype=bool)
    broken[owner[kept < 0]] = True
    column = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    intact = ~broken[owner]
    rows = unchanged[owner[intact]]
    neighbours.rows[rows, column[intact]] = unchanged[kept[intact]]
    neighbours.scores[rows, column[intact]] = pc.list_flatten(lists.column("scores")).to_numpy()[intact]
    merged = unchanged[~broken]
    if len(changed) and len(merged):
        _merge(neighbours, vectors, merged, changed, k)
    return np.union1d(changed, unchanged[broken]), neighbours


def _merge(
    neighbours: _Neighbours, vectors: np.ndarray, rows: np.ndarray, changed: np.ndarray, k: int
) -> None:
    """Add changed notes to the lists in which they are nearer than the last entry.

    Args:
        neighbours: the lists, changed in place.
        vectors: (n, d) float32.
        rows: rows whose lists are merged.
        changed: rows of the changed notes.
        k: number of related notes of each note.
    """
    for start in range(0, len(rows), SHARD):
        part = rows[start : start + SHARD]
        nearest, scores = search(vectors[changed], vectors[part], min(k, len(changed)))
        nearest_rows = np.where(nearest >= 0, changed[nearest], -1)
        all_rows = np.concatenate([neighbours.rows[part], nearest_rows], axis=1)
        all_scores = np.concatenate([neighbours.scores[part], scores], axis=1)
        order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
        neighbours.rows[part] = np.take_along_axis(all_rows, order, axis=1)
        neighbours.scores[part] = np.take_along_axis(all_scores, order, axis=1)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _existing_table(path: Path, config: dict[str, Any]) -> pa.Table | None:
    """Return the existing table if it was made with these options and has digests, else None."""
    try:
        if read_record(path)["config"] != config:
            return None
        return read_parquet(path, _COLUMNS)
    except (NotellmError, KeyError):
        return None


def _row_groups(names: pa.Array, digests: np.ndarray, neighbours: _Neighbours) -> Iterator[pa.Table]:
    for start in range(0, len(names), SHARD):
        rows, scores = neighbours.rows[start : start + SHARD], neighbours.scores[start : start + SHARD]
        present = rows >= 0
        offsets = np.concatenate([[0], np.cumsum(present.sum(axis=1))]).astype(np.int32)
        yield pa.table(
            {
                "note_id": names[start : start + SHARD],
                "related": pa.ListArray.from_arrays(offsets, names.take(pa.array(rows[present]))),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[present], pa.float32())),
                "digest": pa.array(digests[start : start + SHARD], pa.uint64()),
            }
        )
