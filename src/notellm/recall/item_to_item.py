"""The item-to-item table of all notes, resumable; an existing table is brought up to date.

    note_id (string)   related (list of string)   scores (list of float32)   digest (uint64, of the vector)

The search is exact, in shards of ``SHARD`` notes (``recall/shards.py``). Compared with the existing table, a
note is new or changed (its digest differs), removed, or unchanged. An unchanged note is searched again only
if one of its related notes changed or was removed; else new and changed notes are merged into its list. The
result equals a table made from scratch, up to rounding and the choice among equal scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts import check_file_replaceable
from notellm.errors import ConfigError, DataError, NotellmError
from notellm.files import read_parquet, write_parquet_pieces
from notellm.recall.shards import computed, cut, shards
from notellm.record import describe, make_record, read_record
from notellm.vectors import search, vector_table

SHARD = 4_096
_COLUMNS = ["note_id", "related", "scores", "digest"]


@dataclass(frozen=True)
class ItemToItem:
    """What a call of :func:`write_item_to_item` did.

    Attributes:
        notes: number of rows of the table.
        computed: number of rows that were searched; the others were kept, or merged with new notes.
    """

    notes: int
    computed: int


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """Row numbers of related notes, int64 (n, k), -1 for none, and their cosines, float32 (n, k)."""

    rows: np.ndarray
    scores: np.ndarray


def write_item_to_item(
    ids: Sequence[str],
    vectors: np.ndarray,
    path: str | Path,
    *,
    k: int = 10,
    force: bool = False,
    progress: bool = True,
) -> ItemToItem:
    """Write the item-to-item table of all notes as one Parquet file.

    Args:
        ids: note ids, each once.
        vectors: (n, d) float32, unit norm.
        path: the table. An existing one with the same k is brought up to date, any other is replaced.
        k: related notes of each note.
        force: replace a file that is no item-to-item table, too.
        progress: show a progress bar with rate and remaining time.

    Raises:
        ConfigError: if k is not positive.
        DataError: if there are no notes.
        StorageError: if the file cannot be written, or may not be replaced.
    """
    check_file_replaceable(path, "related", force=force)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 related note")
    if not len(ids):
        raise DataError("there are no embedded notes to relate; embed the notes first")
    target = Path(path)
    names = pa.array(ids, pa.string())
    digests = vector_digests(vectors)
    existing = _existing(target, k)
    stale, neighbours = _start(names, digests, vectors, existing, k)

    def related(rows: np.ndarray) -> pa.Table:
        return _shard_table(*search(vectors, vectors[rows], k, exclude=rows))

    data = {"vectors": describe(vector_table(names, vectors))}
    with shards(target, (data, k, stale.tolist())) as folder:
        for rows, table in computed(folder, cut(stale, SHARD), related, name="related", progress=progress):
            neighbours.rows[rows], neighbours.scores[rows] = _read_shard(table, k)
        record = make_record(
            kind="related", config={"k": k}, data=data, metrics={"notes": len(ids), "computed": len(stale)}
        )
        write_parquet_pieces(_pieces(names, digests, neighbours), target, record=record, force=force)
    return ItemToItem(len(ids), len(stale))


def vector_digests(vectors: np.ndarray) -> np.ndarray:
    """Hash the bits of each vector to a number that changes with them, uint64 (n,)."""
    odd = np.random.default_rng(0).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64) * 2 + 1
    bits = np.ascontiguousarray(vectors, dtype=np.float32).view(np.uint32).astype(np.uint64)
    digests: np.ndarray = (bits * odd).sum(axis=1, dtype=np.uint64)
    return digests


def _start(
    names: pa.Array, digests: np.ndarray, vectors: np.ndarray, existing: pa.Table | None, k: int
) -> tuple[np.ndarray, _Neighbours]:
    """Row numbers of the notes that must be searched, and the neighbours of the others."""
    count = len(names)
    neighbours = _Neighbours(
        np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf, dtype=np.float32)
    )
    if existing is None:
        return np.arange(count), neighbours
    place = pc.index_in(names, value_set=existing.column("note_id").combine_chunks())
    existing_row = place.fill_null(-1).to_numpy()
    present = np.flatnonzero(existing_row >= 0)
    same = existing.column("digest").to_numpy()[existing_row[present]] == digests[present]
    unchanged = present[same]
    fresh = np.setdiff1d(np.arange(count), unchanged)
    if len(fresh) > count // 4:  # merging would cost about as much as searching
        return np.arange(count), neighbours
    # Only unchanged notes can stay in a list.
    lists = existing.take(pa.array(existing_row[unchanged]))
    lengths = pc.list_value_length(lists.column("related")).to_numpy()
    related = pc.list_flatten(lists.column("related")).combine_chunks()
    stays = pc.index_in(related, value_set=names.take(pa.array(unchanged))).fill_null(-1).to_numpy()
    owner = np.repeat(np.arange(len(unchanged)), lengths)
    broken = np.zeros(len(unchanged), dtype=bool)
    broken[owner[stays < 0]] = True
    column = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    whole = ~broken[owner]
    rows = unchanged[owner[whole]]
    neighbours.rows[rows, column[whole]] = unchanged[stays[whole]]
    neighbours.scores[rows, column[whole]] = pc.list_flatten(lists.column("scores")).to_numpy()[whole]
    merged = unchanged[~broken]
    if len(fresh) and len(merged):
        _merge(neighbours, vectors, merged, fresh, k)
    return np.union1d(fresh, unchanged[broken]), neighbours


def _merge(neighbours: _Neighbours, vectors: np.ndarray, rows: np.ndarray, fresh: np.ndarray, k: int) -> None:
    """Put fresh notes into the lists of notes to which they are nearer than the last note of the list."""
    for piece in cut(rows, SHARD):
        fresh_rows, scores = search(vectors[fresh], vectors[piece], min(k, len(fresh)))
        fresh_rows = np.where(fresh_rows >= 0, fresh[fresh_rows], -1)
        all_rows = np.concatenate([neighbours.rows[piece], fresh_rows], axis=1)
        all_scores = np.concatenate([neighbours.scores[piece], scores], axis=1)
        order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
        neighbours.rows[piece] = np.take_along_axis(all_rows, order, axis=1)
        neighbours.scores[piece] = np.take_along_axis(all_scores, order, axis=1)


def _existing(path: Path, k: int) -> pa.Table | None:
    """The existing table, if it can be brought up to date."""
    try:
        if read_record(path)["config"].get("k") != k:
            return None
        return read_parquet(path, _COLUMNS)
    except (NotellmError, KeyError):
        return None  # there is no table, or one without digests


def _shard_table(rows: np.ndarray, cosines: np.ndarray) -> pa.Table:
    width = rows.shape[1]
    return pa.table(
        {
            "rows": pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(cosines.ravel()), width),
        }
    )


def _read_shard(table: pa.Table, k: int) -> tuple[np.ndarray, np.ndarray]:
    whole = table.combine_chunks()
    rows, scores = (whole.column(name).chunk(0).flatten().to_numpy() for name in ("rows", "scores"))
    return rows.reshape(-1, k), scores.reshape(-1, k)


def _pieces(names: pa.Array, digests: np.ndarray, neighbours: _Neighbours) -> Iterator[pa.Table]:
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
