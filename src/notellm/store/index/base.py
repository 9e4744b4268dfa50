"""The interface of an index: note vectors with the attributes that filters need, searched by inner product.

    index.upsert(entries)                       # Arrow table with the schema entries_schema(dim)
    ids, scores = index.search(queries, k=10, where=Filter(categories=["Travel"]))
    index.remove(["n7"])

A search takes q queries and returns q lists of ids and q arrays of scores, best first. Vectors have unit
norm, so the score is the cosine. A search sees every earlier upsert and removal. The implementations are
listed in `kinds.py`; `home.py` opens, builds and closes the index of a store.
"""

import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.schema import TIME
from notellm.errors import ConfigError, DataError
from notellm.store.index.filters import Filter
from notellm.vectors import vector_matrix

#: For each query the ids of its results, best first, and their scores (float32).
Found = tuple[list[list[str]], list[np.ndarray]]


def entries_schema(dim: int) -> pa.Schema:
    """Return the columns that an index needs of a note.

    A null in ``expires_at`` means that the note never expires. A note with ``hidden`` is in no search result.
    """
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


@dataclass(frozen=True)
class Place:
    """Where the index of one store and one model lives between two runs.

    Attributes:
        store: URI of the store. Only a store in a local directory keeps files of its index.
        fingerprint: fingerprint of the model.
        server: address of the server, for an index that runs on one.
        token: access token of that server.
    """

    store: str
    fingerprint: str
    server: str = ""
    token: str = ""

    @property
    def folder(self) -> Path | None:
        """The directory of the store; None in object storage."""
        return None if "://" in self.store else Path(self.store)


class Index(ABC):
    """Vectors of one model that can be searched with filters.

    Args:
        dim: number of dimensions of the vectors.

    Attributes:
        kind: name of this kind of index.
        option: how a user asks for this kind of index, for error messages.
        most_results: largest k that a search accepts; None if there is no limit.
        files: pattern of the paths, within the folder of a store, that this kind of index writes.
        recall: measured share of the true neighbours that a search finds, as ``k`` (neighbours), ``queries``
            (notes drawn) and ``recall`` (0 to 1); None if every search is exact or nothing was measured.
    """

    kind: ClassVar[str]
    option: ClassVar[str]
    most_results: ClassVar[int | None] = None
    files: ClassVar[re.Pattern[str] | None] = None

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ConfigError(f"dim is {dim}; vectors need at least 1 dimension")
        self.dim = dim
        self.recall: dict[str, float] | None = None

    # ---------------------------------------------------------------- writing

    @abstractmethod
    def upsert(self, entries: pa.Table) -> None:
        """Add notes, or replace those that the index already has.

        Args:
            entries: table with the schema :func:`entries_schema`; each id once.

        Raises:
            DataError: if a column is missing, an id occurs twice, or a vector has another dimension or a
                number that is not finite.
        """

    @abstractmethod
    def remove(self, note_ids: Collection[str]) -> None:
        """Remove notes. Ids that the index does not have are ignored."""

    # ---------------------------------------------------------------- reading

    @abstractmethod
    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Found:
        """Return the k nearest visible notes of each query that pass the filter, fewer if there are fewer.

        Args:
            queries: (q, dim) float32 array of unit norm.
            k: number of notes, at least 1.
            where: filter for all queries.
            exclude: for each query, ids that must not be returned (the note itself, notes the user has seen).

        Raises:
            ConfigError: if ``k`` is not positive or larger than :attr:`most_results`.
            DataError: if the queries have another dimension, or ``exclude`` has another length.
        """

    @abstractmethod
    def vectors(self, note_ids: Sequence[str]) -> np.ndarray:
        """Return the vectors of notes, (n, dim) float32; hidden and expired notes have theirs, too.

        Raises:
            DataError: if the index does not have one of the notes.
        """

    @abstractmethod
    def contains(self, note_ids: Sequence[str]) -> np.ndarray:
        """Return whether the index has each note, hidden or not, as a bool array (n,)."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of notes, including hidden and expired ones."""

    @property
    def is_quick(self) -> bool:
        """Whether a search without a filter takes less time than handing it to another thread."""
        return False

    # ---------------------------------------------------------------- between two runs

    @classmethod
    def accepts(cls, option: str) -> bool:
        """Return whether a user who writes this option means this kind of index."""
        return option == cls.kind

    @classmethod
    @abstractmethod
    def build(
        cls, rows: pa.Table, place: Place, *, current: "Index | None" = None, progress: bool = False
    ) -> Self:
        """Build a new index.

        Args:
            rows: all notes of the store; it has at least the columns of :func:`entries_schema`.
            place: where the index will be saved.
            current: index that answers until the new one is complete; it keeps its contents.
            progress: show a progress bar.
        """

    @classmethod
    def open(cls, rows: pa.Table, place: Place) -> Self | None:  # noqa: ARG003 - for those that save something
        """Return the index that an earlier run left, updated to what the store holds now.

        Args:
            rows: all notes of the store, as for :meth:`build`.
            place: where the index was saved.

        Returns:
            None if nothing was left or it cannot be used; then the index has to be built.
        """
        return None

    def save(self, place: Place) -> None:  # noqa: B027 - nothing to do for an index without files
        """Write what spares the next start from building the index. The index stays in use.

        Raises:
            StorageError: if the files cannot be written.
        """

    @abstractmethod
    def close(self, place: Place | None = None) -> None:
        """Release what the index holds. It cannot be used afterwards.

        Args:
            place: where to leave the index for the next start. None if the index may differ from the store,
                as after a failed write.

        Raises:
            StorageError: if nothing could be left for the next start. The index is closed all the same.
        """

    @classmethod  # noqa: B027 - nothing to do for an index without files
    def drop_others(cls, place: Place) -> None:
        """Remove what this kind of index left beside the store for other models."""

    @classmethod  # noqa: B027 - nothing to do for an index without files
    def invalidate(cls, place: Place) -> None:
        """Make the next start distrust a saved index: the store has gone back to an earlier version."""

    # ---------------------------------------------------------------- checks shared by all implementations

    def _checked_entries(self, entries: pa.Table) -> tuple[list[str], np.ndarray]:
        """Return the ids and the vectors, (n, dim) float32."""
        for field in entries_schema(self.dim):
            if field.name not in entries.column_names:
                raise DataError(
                    f"the entries have no column {field.name!r}; they have {', '.join(entries.column_names)}"
                )
            if not field.nullable and entries.column(field.name).null_count:
                raise DataError(
                    f"the column {field.name} of the entries has nulls; give a value for each note"
                )
        ids: list[str] = entries.column("note_id").to_pylist()
        if len(set(ids)) < len(ids):
            repeated = next(note_id for note_id, count in Counter(ids).items() if count > 1)
            raise DataError(f"the note {repeated!r} occurs twice in the entries; give each note once")
        return ids, vector_matrix(entries.column("vector"), self.dim)

    def _checked_queries(
        self, queries: np.ndarray, k: int, exclude: Sequence[Collection[str]] | None
    ) -> tuple[np.ndarray, Sequence[Collection[str]]]:
        """Return the queries as a contiguous float32 array, and the excluded ids of each query."""
        if k < 1:
            raise ConfigError(f"k is {k}; ask for at least 1 note")
        if self.most_results is not None and k > self.most_results:
            raise ConfigError(
                f"k is {k:,}; this index returns at most {self.most_results:,} notes: ask for fewer"
            )
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DataError(
                f"the queries have the shape {queries.shape}, the index has {self.dim} dimensions; "
                "they must come from the same model"
            )
        if exclude is None:
            return np.ascontiguousarray(queries, np.float32), [()] * len(queries)
        if len(exclude) != len(queries):
            raise DataError(
                f"there are {len(queries)} queries and {len(exclude)} exclusions; give one for each query"
            )
        return np.ascontiguousarray(queries, np.float32), exclude


def vectors_there(index: Index, note_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Look up vectors of notes that another thread may be removing.

    Returns:
        Whether the index has each note, bool (n,), and the vectors of those that it has, (m, dim) float32.
    """
    while True:
        present = index.contains(note_ids)
        try:
            return present, index.vectors([i for i, kept in zip(note_ids, present, strict=True) if kept])
        except DataError:  # a note was removed between the two calls
            continue


def text_tuples(column: pa.ChunkedArray) -> list[tuple[str, ...]]:
    """Return a column of lists of texts as tuples; several times as fast as ``to_pylist``."""
    whole = column.combine_chunks()
    texts = pc.list_flatten(whole).to_pylist()
    ends = np.cumsum(pc.list_value_length(whole).to_numpy(zero_copy_only=False)).tolist()
    return [tuple(texts[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)] if ends else []


def now() -> int:
    """Return the current time by which notes expire, in UTC microseconds since 1970."""
    return time.time_ns() // 1_000
