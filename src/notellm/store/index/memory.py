"""What the two indexes that live in this process share: rows, filters, and the order of reads and writes.

A subclass holds the vectors, one for each row, and finds the nearest among the rows that may be returned.
"""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from threading import RLock

import numpy as np
import pyarrow as pa

from notellm.errors import DataError
from notellm.store.index.base import Found, Index, Place
from notellm.store.index.filters import Filter
from notellm.store.index.rows import Allowed, Attributes, Rows


class MemoryIndex(Index):
    """An index held in memory. Threads may share it: they search and write one after the other.

    Args:
        dim: number of dimensions of the vectors.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self._lock = RLock()
        self._write_lock = RLock()  # saving holds this one alone, so it stops writers but not readers
        self._clear()

    # ---------------------------------------------------------------- what a subclass does

    def _clear(self) -> None:
        """Start with no rows; a subclass starts with no vectors, too."""
        self._rows = Rows()

    @abstractmethod
    def _add_vectors(self, vectors: np.ndarray) -> None:
        """Add the vectors of new rows, (n, dim) float32."""

    @abstractmethod
    def _vectors(self) -> np.ndarray:
        """Return the vectors of all rows, dead ones included, (n, dim) float32, as a view."""

    @abstractmethod
    def _nearest(self, queries: np.ndarray, width: int, allowed: Allowed) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest allowed rows.

        Args:
            queries: (q, dim) float32.
            width: number of results, at most the number of allowed rows.
            allowed: rows that may be returned.

        Returns:
            Rows (q, width) int64, -1 where there is none, and scores (q, width) float32, best first.
        """

    def _drop_dead_rows(self) -> None:
        """Drop dead rows if that is possible and worth it."""

    # ---------------------------------------------------------------- writing

    def upsert(self, entries: pa.Table) -> None:
        """Add or replace notes, see :meth:`Index.upsert`."""
        ids, vectors = self._checked_entries(entries)
        attributes = Attributes(entries)
        with self._write_lock, self._lock:
            rows = self._reusable_rows(ids, vectors, attributes)
            kept = np.flatnonzero(rows >= 0)
            self._rows.write(rows[kept], attributes, kept)
            fresh = np.flatnonzero(rows < 0)
            if len(fresh):
                self._add_vectors(vectors[fresh])
                self._rows.append([ids[i] for i in fresh], attributes, fresh)
            self._drop_dead_rows()

    def remove(self, note_ids: Collection[str]) -> None:
        """Remove notes, see :meth:`Index.remove`."""
        with self._write_lock, self._lock:
            self._rows.remove(note_ids)
            self._drop_dead_rows()

    def _reusable_rows(self, ids: Sequence[str], vectors: np.ndarray, attributes: Attributes) -> np.ndarray:
        """Return for each note its present row if vector and topics have not changed, else -1; int64 (n,)."""
        rows = np.array([self._rows.row_of.get(note_id, -1) for note_id in ids], dtype=np.int64)
        known = np.flatnonzero(rows >= 0)
        if len(known):
            changed = (self._vectors()[rows[known]] != vectors[known]).any(axis=1)
            changed |= [self._rows.topics(int(rows[i])) != attributes.topics[i] for i in known.tolist()]
            rows[known[changed]] = -1
        return rows

    # ---------------------------------------------------------------- reading

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Found:
        """Return the nearest notes, see :meth:`Index.search`."""
        queries, excluded = self._checked_queries(queries, k, exclude)
        with self._lock:
            allowed = self._rows.allowed(where)
            # Excluded notes may come first, so as many more are asked for.
            width = min(allowed.count, k + max(map(len, excluded), default=0))
            if not width or not len(queries):
                return [[] for _ in queries], [np.empty(0, np.float32) for _ in queries]
            rows, scores = self._nearest(queries, width, allowed)
            return self._results(rows, scores, k, excluded)

    def _results(
        self, rows: np.ndarray, scores: np.ndarray, k: int, excluded: Sequence[Collection[str]]
    ) -> Found:
        """Return ids and scores of rows, without excluded notes."""
        ids, kept_scores = [], []
        for rows_of_query, scores_of_query, barred in zip(rows, scores, excluded, strict=True):
            names = [self._rows.ids[row] for row in rows_of_query.tolist() if row >= 0]
            kept = [i for i, name in enumerate(names) if name not in barred][:k]
            ids.append([names[i] for i in kept])
            kept_scores.append(scores_of_query[kept])
        return ids, kept_scores

    def vectors(self, note_ids: Sequence[str]) -> np.ndarray:
        """Return vectors by id, see :meth:`Index.vectors`."""
        with self._lock:
            rows = []
            for note_id in note_ids:
                row = self._rows.row_of.get(note_id)
                if row is None:
                    raise DataError(f"the index has no note {note_id!r} among its {len(self):,} notes")
                rows.append(row)
            return np.array(self._vectors()[rows], dtype=np.float32).reshape(len(rows), self.dim)

    def contains(self, note_ids: Sequence[str]) -> np.ndarray:
        """Return which notes the index has, see :meth:`Index.contains`."""
        return np.array([note_id in self._rows.row_of for note_id in note_ids], dtype=bool)

    def __len__(self) -> int:
        return len(self._rows.row_of)

    def dead_share(self) -> float:
        """Return the share of rows that belong to replaced or removed notes, 0 to 1."""
        return self._rows.dead_share()

    # ---------------------------------------------------------------- between two runs

    def close(self, place: Place | None = None) -> None:
        """Save the index if there is a place for it, then release its memory."""
        try:
            if place is not None:
                self.save(place)
        finally:
            self._clear()
