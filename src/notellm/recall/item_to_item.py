"""The item-to-item table of all notes: resumable, and where it is there only what changed is computed.

    note_id (string)   related (list of string)   scores (list of float32)   digest (uint64, of the vector)

Exact search, a shard of ``SHARD`` notes at a time; finished shards lie in ``.OUTPUT.KEY.parts/`` until the
table is written, so a killed run goes on where it stopped.

Against a former table a note is new or changed (its digest differs), gone, or as it was. The row of a note as
it was is searched anew only if a related note of it changed or is gone; otherwise the new and changed notes
are merged into it by their similarity: the same table as from nothing, up to rounding and the choice among
equal scores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from notellm.artifacts.replace import check_file_replaceable
from notellm.errors import ConfigError, DataError, NotellmError
from notellm.files import read_parquet, write_parquet, write_parquet_pieces
from notellm.recall.shards import shards
from notellm.record import describe, make_record, read_record
from notellm.vectors import search, vector_table

SHARD = 4_096
_COLUMNS = ["note_id", "related", "scores", "digest"]


@dataclass(frozen=True)
class ItemToItem:
    """What was done.

    Attributes:
        notes: rows of the table.
        computed: rows that were searched anew; the others were kept, or merged with what is new.
    """

    notes: int
    computed: int


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """Rows of related notes, int64 (n, k), -1 for none, and cosines, float32 (n, k)."""

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
    """Write the item-to-item table of all notes as Parquet, whole or not at all.

    Args:
        ids: the notes, each once.
        vectors: (n, d) float32, unit norm.
        path: the table. One that is there is brought up to date if it has the same k, else replaced.
        k: related notes of each.
        force: replace a file that is no item-to-item table, too.
        progress: show a bar with rate and remaining time.

    Raises:
        ConfigError: k is not positive.
        DataError: there are no notes.
        StorageError: the file cannot be written, or one that may not be replaced is there.
    """
    check_file_replaceable(path, "related", force=force)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for at least 1 related note")
    if not len(ids):
        raise DataError("there are no embedded notes to relate; embed the notes first")
    target = Path(path)
    names = pa.array(ids, pa.string())
    digests = vector_digests(vectors)
    former = _former(target, k)
    stale, kept = _start(names, digests, vectors, former, k)
    data = {"vectors": describe(vector_table(names, vectors))}
    with shards(target, (data, k, stale.tolist())) as parts:
        with tqdm(total=len(stale), unit="note", desc="related", disable=not progress) as bar:
            for number, start in enumerate(range(0, len(stale), SHARD)):
                rows = stale[start : start + SHARD]
                shard = parts / f"{number:06d}.parquet"
                if not shard.is_file():
                    found, cosines = search(vectors, vectors[rows], k, exclude=rows)
                    write_parquet(_shard_table(found, cosines), shard)
                bar.update(len(rows))
        for number, start in enumerate(range(0, len(stale), SHARD)):
            rows = stale[start : start + SHARD]
            kept.rows[rows], kept.scores[rows] = _read_shard(parts / f"{number:06d}.parquet", k)
        record = make_record(
            kind="related", config={"k": k}, data=data, metrics={"notes": len(ids), "computed": len(stale)}
        )
        write_parquet_pieces(_pieces(names, digests, kept), target, record=record, force=force)
    return ItemToItem(len(ids), len(stale))


def vector_digests(vectors: np.ndarray) -> np.ndarray:
    """A number for each vector by which a changed one is known, uint64 (n,): a hash of its bits."""
    odd = np.random.default_rng(0).integers(1 << 63, size=vectors.shape[1], dtype=np.uint64) * 2 + 1
    bits = np.ascontiguousarray(vectors, dtype=np.float32).view(np.uint32).astype(np.uint64)
    digests: np.ndarray = (bits * odd).sum(axis=1, dtype=np.uint64)
    return digests


def _start(
    names: pa.Array, digests: np.ndarray, vectors: np.ndarray, former: pa.Table | None, k: int
) -> tuple[np.ndarray, _Neighbours]:
    """Which rows must be searched anew, and what is known of the others."""
    count = len(names)
    kept = _Neighbours(
        np.full((count, k), -1, dtype=np.int64), np.full((count, k), -np.inf, dtype=np.float32)
    )
    if former is None:
        return np.arange(count), kept
    place = pc.index_in(names, value_set=former.column("note_id").combine_chunks())
    was = place.fill_null(-1).to_numpy()
    own = np.flatnonzero(was >= 0)
    same = own[former.column("digest").to_numpy()[was[own]] == digests[own]]
    fresh = np.setdiff1d(np.arange(count), same)
    if len(fresh) > count // 4:  # merging would cost about as much as searching
        return np.arange(count), kept
    # Only notes that are as they were can stay in a list.
    steady = names.take(pa.array(same))
    lists = former.take(pa.array(was[same]))
    lengths = pc.list_value_length(lists.column("related")).to_numpy()
    flat = pc.list_flatten(lists.column("related")).combine_chunks()
    stays = pc.index_in(flat, value_set=steady).fill_null(-1).to_numpy()
    owner = np.repeat(np.arange(len(same)), lengths)
    broken = np.zeros(len(same), dtype=bool)
    broken[owner[stays < 0]] = True
    column = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    good = ~broken[owner]
    rows = same[owner[good]]
    kept.rows[rows, column[good]] = same[stays[good]]
    kept.scores[rows, column[good]] = pc.list_flatten(lists.column("scores")).to_numpy()[good]
    merged = same[~broken]
    if len(fresh) and len(merged):
        _merge(kept, vectors, merged, fresh, k)
    return np.union1d(fresh, same[broken]), kept


def _merge(kept: _Neighbours, vectors: np.ndarray, rows: np.ndarray, fresh: np.ndarray, k: int) -> None:
    """Put new notes into the lists of notes to which they are nearer than the last one there."""
    for start in range(0, len(rows), SHARD):
        own = rows[start : start + SHARD]
        found, scores = search(vectors[fresh], vectors[own], min(k, len(fresh)))
        all_rows = np.concatenate([kept.rows[own], np.where(found >= 0, fresh[found], -1)], axis=1)
        all_scores = np.concatenate([kept.scores[own], scores], axis=1)
        order = np.lexsort((all_rows, -all_scores), axis=1)[:, :k]
        kept.rows[own] = np.take_along_axis(all_rows, order, axis=1)
        kept.scores[own] = np.take_along_axis(all_scores, order, axis=1)


def _former(path: Path, k: int) -> pa.Table | None:
    """The table that is there, if it can be brought up to date."""
    try:
        if read_record(path)["config"].get("k") != k:
            return None
        return read_parquet(path, _COLUMNS)
    except (NotellmError, KeyError):
        return None  # none, or one without digests


def _shard_table(found: np.ndarray, cosines: np.ndarray) -> pa.Table:
    width = found.shape[1]
    return pa.table(
        {
            "rows": pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), width),
            "scores": pa.FixedSizeListArray.from_arrays(pa.array(cosines.ravel()), width),
        }
    )


def _read_shard(path: Path, k: int) -> tuple[np.ndarray, np.ndarray]:
    table = read_parquet(path, ["rows", "scores"]).combine_chunks()
    rows, scores = (table.column(name).chunk(0).flatten().to_numpy() for name in ("rows", "scores"))
    return rows.reshape(-1, k), scores.reshape(-1, k)


def _pieces(names: pa.Array, digests: np.ndarray, found: _Neighbours) -> Iterator[pa.Table]:
    for start in range(0, len(names), SHARD):
        rows, scores = found.rows[start : start + SHARD], found.scores[start : start + SHARD]
        there = rows >= 0
        offsets = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        yield pa.table(
            {
                "note_id": names[start : start + SHARD],
                "related": pa.ListArray.from_arrays(offsets, names.take(pa.array(rows[there]))),
                "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[there], pa.float32())),
                "digest": pa.array(digests[start : start + SHARD], pa.uint64()),
            }
        )
