"""An index in memory whose search reads every allowed vector.

    index = ExactIndex(128)
    index.upsert(entries)

It saves nothing: the vectors of the store are all that it needs.
"""

from typing import Self

import numpy as np
import pyarrow as pa

from notellm.store.index.base import Index, Place
from notellm.store.index.memory import MemoryIndex
from notellm.store.index.rows import Allowed, Column
from notellm.vectors import search

_QUICK = 2_000  # notes that a search reads in less time than it takes to hand it to another thread
#: Dead rows are dropped once they are this share of the rows, and an index has at least so many rows.
_DEAD_SHARE, _MANY = 0.25, 1_000


class ExactIndex(MemoryIndex):
    """An index held in memory that is searched exactly.

    Args:
        dim: number of dimensions of the vectors.
    """

    kind = "exact"
    option = "exact"

    @classmethod
    def build(
        cls,
        rows: pa.Table,
        place: Place,  # noqa: ARG003 - nothing is saved
        *,
        current: Index | None = None,  # noqa: ARG003 - a second index in memory is in nobody's way
        progress: bool = False,  # noqa: ARG003 - it takes no time worth a bar
    ) -> Self:
        """Build an index, see :meth:`Index.build`."""
        index = cls(rows.schema.field("vector").type.list_size)
        index.upsert(rows)
        return index

    @property
    def is_quick(self) -> bool:
        """Whether the index has so few notes that reading them all takes less time than a thread switch."""
        return len(self) <= _QUICK

    def _clear(self) -> None:
        super()._clear()
        self._matrix = Column(np.float32, self.dim)

    def _add_vectors(self, vectors: np.ndarray) -> None:
        first = len(self._matrix.values)
        self._matrix.grow(len(vectors))
        self._matrix.values[first:] = vectors

    def _vectors(self) -> np.ndarray:
        return self._matrix.values

    def _nearest(self, queries: np.ndarray, width: int, allowed: Allowed) -> tuple[np.ndarray, np.ndarray]:
        return nearest_of_all(self._vectors(), queries, width, allowed)

    def _drop_dead_rows(self) -> None:
        if self.dead_share() >= _DEAD_SHARE and len(self._rows) >= _MANY:
            self._matrix.keep(self._rows.compact())


def nearest_of_all(
    vectors: np.ndarray, queries: np.ndarray, width: int, allowed: Allowed
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest allowed rows by reading all of them; see ``MemoryIndex._nearest``."""
    if (
        allowed.count < len(allowed.mask) // 8
    ):  # copying the few allowed rows is cheaper than skipping the rest
        allowed_rows = np.flatnonzero(allowed.mask)
        positions, scores = search(vectors[allowed_rows], queries, width)
        return np.where(positions >= 0, allowed_rows[positions], -1), scores
    return search(vectors, queries, width, allowed=allowed.mask)
