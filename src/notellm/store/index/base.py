"""The interface of an index: note vectors with what filters ask of them, searched by inner product.

    index.upsert(entries)                       # Arrow table, schema entries_schema(dim)
    ids, scores = index.search(queries, k=10, where=Filter(categories=["Travel"]))
    index.remove(["n7"])

Batch-first: q queries give q lists of ids and q arrays of scores, best first. Vectors have unit norm, so
the score is the cosine. What was upserted is found by the next search, what was removed is not: there is
no rebuild to wait for. Implementations: `local.LocalIndex` (FAISS in process), `milvus.MilvusIndex`.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.schema import TIME
from notellm.errors import ConfigError, DataError
from notellm.store.index.filters import Filter
from notellm.vectors import vector_matrix

#: Ids of each query's results, best first, and their scores, float32.
Found = tuple[list[list[str]], list[np.ndarray]]


def entries_schema(dim: int) -> pa.Schema:
    """What an index holds of a note: ``expires_at`` null never expires, ``hidden`` is out of every search."""
    return pa.schema(
        [
            pa.field("note_id", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
            pa.field("category", pa.string(), nullable=False),
            pa.field("topics", pa.list_(pa.string()), nullable=False),
            pa.field("published_at", TIME),
            pa.field("hidden", pa.bool_(), nullable=False),
            pa.field("expires_at", TIME),
        ]
    )


class Index(ABC):
    """Vectors of one model, searched with filters.

    Args:
        dim: dimensions of the vectors.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ConfigError(f"dim is {dim}; vectors have at least 1 dimension")
        self.dim = dim

    @abstractmethod
    def upsert(self, entries: pa.Table) -> None:
        """Add notes, or replace those that are there.

        Args:
            entries: schema :func:`entries_schema`; each id once.

        Raises:
            DataError: a column is missing, an id stands there twice, or a vector has another dimension
                or is not finite.
        """

    @abstractmethod
    def remove(self, note_ids: Collection[str]) -> None:
        """Take notes out; ids that are not there are passed over."""

    @abstractmethod
    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Found:
        """The k visible notes nearest to each query that pass the filter, fewer where there are fewer.

        Args:
            queries: (q, dim) float32, unit norm.
            k: how many, at least 1.
            where: one filter for all queries.
            exclude: for each query ids that shall not come back (the note itself, what the user has seen).

        Raises:
            ConfigError: k is not positive.
            DataError: the queries have another dimension, or not as many exclusions.
        """

    @abstractmethod
    def vectors(self, note_ids: Sequence[str]) -> np.ndarray:
        """The vectors of notes, (n, dim) float32, hidden and expired ones among them.

        Raises:
            DataError: one is not in the index.
        """

    @abstractmethod
    def contains(self, note_ids: Sequence[str]) -> np.ndarray:
        """Whether each note is in the index, hidden or not, bool (n,)."""

    @abstractmethod
    def __len__(self) -> int:
        """How many notes there are, hidden and expired ones among them."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; it is not used again."""

    # ---------------------------------------------------------------- what every implementation checks

    def _checked_entries(self, entries: pa.Table) -> tuple[list[str], np.ndarray]:
        """Ids and vectors, (n, dim) float32."""
        for field in entries_schema(self.dim):
            if field.name not in entries.column_names:
                raise DataError(
                    f"the entries have no column {field.name!r}; theirs are {', '.join(entries.column_names)}"
                )
            if not field.nullable and entries.column(field.name).null_count:
                raise DataError(
                    f"the column {field.name} of the entries has nulls; give a value for each note"
                )
        ids: list[str] = entries.column("note_id").to_pylist()
        if len(set(ids)) < len(ids):
            twice = next(note_id for i, note_id in enumerate(ids) if note_id in ids[:i])
            raise DataError(f"the note {twice!r} stands there twice; give each note once")
        return ids, vector_matrix(entries.column("vector"), self.dim)

    def _checked_queries(
        self, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None
    ) -> tuple[np.ndarray, Sequence[Collection[str]]]:
        if k < 1:
            raise ConfigError(f"k is {k}; ask for at least 1 note")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DataError(
                f"the queries have the shape {queries.shape}, the index has {self.dim} dimensions; "
                "they must come from the same model"
            )
        if exclude is None:
            return np.ascontiguousarray(queries, np.float32), [()] * len(queries)
        if len(exclude) != len(queries):
            raise DataError(
                f"there are {len(queries)} queries and {len(exclude)} exclusions; give one for each"
            )
        return np.ascontiguousarray(queries, np.float32), exclude


def vectors_there(index: Index, note_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which notes are in an index, bool (n,), and the vectors of those; notes may be removed meanwhile."""
    while True:
        there = index.contains(note_ids)
        try:
            return there, index.vectors([i for i, kept in zip(note_ids, there, strict=True) if kept])
        except DataError:  # one was removed between the two
            continue


def text_tuples(column: pa.ChunkedArray) -> list[tuple[str, ...]]:
    """A column of lists of texts; several times as fast as ``to_pylist``."""
    whole = column.combine_chunks()
    texts = pc.list_flatten(whole).to_pylist()
    ends = np.cumsum(pc.list_value_length(whole).to_numpy(zero_copy_only=False)).tolist()
    return [tuple(texts[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def now() -> int:
    """The time by which notes expire: UTC microseconds since 1970."""
    return time.time_ns() // 1_000
