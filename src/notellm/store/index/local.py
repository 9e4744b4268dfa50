"""An index in this process: exact search, or FAISS's HNSW graph with its measured recall.

    index = LocalIndex(128, "hnsw")
    index.upsert(entries)
    index.save("index")                                # HNSW: the graph takes minutes to build
    index = LocalIndex.load("index", entries)          # what the store holds now; only differences are added

A note is a row. A note whose vector changes gets a new row, its old one is dead: it stays in the matrix or
the graph, but no search returns it. Where many rows are dead, exact search drops them at once; a graph keeps
them until it is built anew (`dead_share` says when that is worth it).

Exact search reads every allowed row. HNSW reads a few: where a filter leaves few notes, or where the graph
finds fewer than there are, the allowed rows are read exactly instead, so a filter never costs results.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from notellm.artifacts.manifest import check_whole
from notellm.artifacts.write import write_folder
from notellm.errors import ConfigError, DataError, MissingDependencyError, ModelError
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.store.index import base
from notellm.store.index.base import Found, Index
from notellm.store.index.filters import Filter, microseconds
from notellm.vectors import search

Kind = Literal["exact", "hnsw"]
KINDS: tuple[Kind, ...] = ("exact", "hnsw")

#: Links of a note in the graph (FAISS's M), and how many candidates are weighed when they are made; measured
#: in benchmarks/README.md, "Index".
LINKS, CONSTRUCTION = 32, 100

_UNKNOWN_TIME, _NEVER = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_ADDED_TOGETHER = 4_096  # rows put into the graph before the bar moves
_COST = 90  # rows that exact search reads while a search of the graph weighs one note
_FEW = 64  # queries or rows for which one thread is enough
_GRAPH, _ROWS, _ABOUT = "graph.faiss", "rows.parquet", "index.json"


class LocalIndex(Index):
    """An index held in memory.

    Args:
        dim: dimensions of the vectors.
        kind: "exact" reads every vector, "hnsw" follows a graph.
        exact_below: HNSW: a search that at most this many notes may answer reads them all, and so does one
            for which the graph would take longer; 0 always follows the graph.
        progress: show a bar while many notes are added.

    Attributes:
        recall: HNSW: what :meth:`measure_recall` found last; None before, and for exact search.

    Threads may share it: they search and write one after the other.

    Raises:
        ConfigError: the kind is unknown.
    """

    def __init__(
        self, dim: int, kind: Kind = "exact", *, exact_below: int = 20_000, progress: bool = False
    ) -> None:
        super().__init__(dim)
        if kind not in KINDS:
            raise ConfigError(f"the index is {kind!r}; allowed are {', '.join(KINDS)}")
        self.kind = kind
        self.exact_below = exact_below
        self.progress = progress
        self.recall: dict[str, float] | None = None
        self._lock = RLock()
        self._writing = RLock()  # held longer: saving stops writers, not readers
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._row: dict[str, int] = {}
        self._alive = _Column(bool)
        self._hidden = _Column(bool)
        self._category = _Column(np.int32)
        self._published = _Column(np.int64)
        self._expires = _Column(np.int64)
        self._matrix = _Column(np.float32, self.dim)
        self._graph = _new_graph(self.dim) if self.kind == "hnsw" else None
        self._categories: dict[str, int] = {}
        self._topics: dict[int, tuple[str, ...]] = {}  # of rows that have any
        self._rows_of_topic: defaultdict[str, list[int]] = defaultdict(list)
        self._visible: _Visible | None = None

    # ---------------------------------------------------------------- writing

    def upsert(self, entries: pa.Table) -> None:
        """Add or replace notes, as :meth:`Index.upsert` says."""
        ids, vectors = self._checked_entries(entries)
        columns = _Attributes(entries)
        with self._writing, self._lock:
            same = self._rows_of_same_vector(ids, vectors, columns.topics)
            kept = np.flatnonzero(same >= 0)
            self._write(same[kept], columns, kept)
            fresh = np.flatnonzero(same < 0)
            if len(fresh):
                self._append([ids[i] for i in fresh], vectors[fresh], columns, fresh)
            self._visible = None
            self._drop_dead_rows()

    def remove(self, note_ids: Collection[str]) -> None:
        """Take notes out, as :meth:`Index.remove` says."""
        with self._writing, self._lock:
            rows = [self._row.pop(note_id) for note_id in note_ids if note_id in self._row]
            self._alive.values[rows] = False
            self._visible = None
            self._drop_dead_rows()

    def _rows_of_same_vector(
        self, ids: Sequence[str], vectors: np.ndarray, topics: Sequence[tuple[str, ...]]
    ) -> np.ndarray:
        """For each note the row that can stay its own: vector and topics are as they were; else -1."""
        rows = np.array([self._row.get(note_id, -1) for note_id in ids], dtype=np.int64)
        known = np.flatnonzero(rows >= 0)
        if len(known):
            changed = (self._vectors()[rows[known]] != vectors[known]).any(axis=1)
            changed |= [self._topics.get(int(rows[i]), ()) != topics[i] for i in known.tolist()]
            rows[known[changed]] = -1
        return rows

    def _append(
        self, ids: Sequence[str], vectors: np.ndarray, columns: "_Attributes", chosen: np.ndarray
    ) -> None:
        first = len(self._ids)
        rows = np.arange(first, first + len(ids))
        self._alive.values[[self._row[i] for i in ids if i in self._row]] = False
        for column in (self._alive, self._hidden, self._category, self._published, self._expires):
            column.grow(len(ids))
        self._alive.values[rows] = True
        if self._graph is None:
            self._matrix.grow(len(ids))
            self._matrix.values[rows] = vectors
        else:
            self._add_to_graph(self._graph, vectors)
        self._ids.extend(ids)
        self._row.update(zip(ids, rows.tolist(), strict=True))
        for row, i in zip(rows.tolist(), chosen, strict=True):
            if columns.topics[i]:
                self._topics[row] = columns.topics[i]
                for topic in columns.topics[i]:
                    self._rows_of_topic[topic].append(row)
        self._write(rows, columns, chosen)

    def _write(self, rows: np.ndarray, columns: "_Attributes", chosen: np.ndarray) -> None:
        """Attributes of some of the entries into rows."""
        names = [columns.categories[i] for i in chosen]
        codes = [self._categories.setdefault(name, len(self._categories)) for name in names]
        self._category.values[rows] = codes
        self._published.values[rows] = columns.published[chosen]
        self._expires.values[rows] = columns.expires[chosen]
        self._hidden.values[rows] = columns.hidden[chosen]

    def _add_to_graph(self, graph: Any, vectors: np.ndarray) -> None:
        _faiss().omp_set_num_threads(1 if len(vectors) <= _FEW else os.cpu_count() or 1)
        many = len(vectors) > _ADDED_TOGETHER
        with tqdm(total=len(vectors), unit="note", desc="index", disable=not (self.progress and many)) as bar:
            for start in range(0, len(vectors), _ADDED_TOGETHER):
                piece = np.ascontiguousarray(vectors[start : start + _ADDED_TOGETHER])
                graph.add(piece)
                bar.update(len(piece))

    def _drop_dead_rows(self) -> None:
        """Exact search copies its rows together once a quarter is dead; a graph cannot lose rows."""
        if self._graph is not None or self.dead_share() < 0.25 or len(self._ids) < 1_000:
            return
        alive = np.flatnonzero(self._alive.values)
        place = np.full(len(self._ids), -1, dtype=np.int64)
        place[alive] = np.arange(len(alive))
        for column in (
            self._alive,
            self._hidden,
            self._category,
            self._published,
            self._expires,
            self._matrix,
        ):
            column.keep(alive)
        self._ids = [self._ids[row] for row in alive]
        self._row = {note_id: row for row, note_id in enumerate(self._ids)}
        self._topics = {int(place[row]): topics for row, topics in self._topics.items() if place[row] >= 0}
        self._rows_of_topic = defaultdict(list)
        for row, topics in self._topics.items():
            for topic in topics:
                self._rows_of_topic[topic].append(row)
        self._visible = None

    def dead_share(self) -> float:
        """How many of the rows are of notes that were replaced or removed, 0 to 1."""
        return 1 - len(self._row) / len(self._ids) if self._ids else 0.0

    # ---------------------------------------------------------------- searching

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Found:
        """The nearest notes, as :meth:`Index.search` says."""
        queries, barred = self._checked_queries(queries, k, exclude)
        with self._lock:
            visible = self._visible_now()
            if where is None or where.is_empty:
                allowed, count = visible.mask, visible.count
            else:
                allowed = visible.mask & self._passes(where)
                count = int(np.count_nonzero(allowed))
            width = min(count, k + max((len(own) for own in barred), default=0))
            if not width or not len(queries):
                return [[] for _ in queries], [np.empty(0, np.float32) for _ in queries]
            selector = visible.selector if allowed is visible.mask else None
            rows, scores = self._nearest(queries, width, allowed, count, selector)
            return self._named(rows, scores, k, barred)

    def vectors(self, note_ids: Sequence[str]) -> np.ndarray:
        """Vectors by id, as :meth:`Index.vectors` says."""
        with self._lock:
            rows = []
            for note_id in note_ids:
                row = self._row.get(note_id)
                if row is None:
                    raise DataError(f"there is no note {note_id!r} among the {len(self):,} of the index")
                rows.append(row)
            return np.array(self._vectors()[rows], dtype=np.float32).reshape(len(rows), self.dim)

    def close(self) -> None:
        """Let go of everything; there is nothing to let go of but memory."""
        self._clear()

    def contains(self, note_ids: Sequence[str]) -> np.ndarray:
        """Which notes are there, as :meth:`Index.contains` says."""
        return np.array([note_id in self._row for note_id in note_ids], dtype=bool)

    def __len__(self) -> int:
        return len(self._row)

    def measure_recall(self, *, k: int = 100, queries: int = 200, seed: int = 0) -> dict[str, float]:
        """How many of the k nearest notes the graph finds, the mean over visible notes drawn as queries.

        Args:
            k: neighbours asked for.
            queries: notes drawn, fewer where there are fewer.
            seed: of the draw.

        Returns:
            ``k``, ``queries`` and ``recall`` (0 to 1; 1 of nothing), which :attr:`recall` keeps, too.
        """
        with self._lock:
            visible = self._visible_now()
            rows = np.flatnonzero(visible.mask)
            drawn = np.random.default_rng(seed).choice(rows, min(queries, len(rows)), replace=False)
            share = 1.0
            if len(drawn) and self._graph is not None:
                asked = np.array(self._vectors()[drawn])
                width = min(k, len(rows))
                found = self._follow_graph(self._graph, asked, width, len(rows), visible.selector)[0]
                truth = search(self._vectors(), asked, width, allowed=visible.mask)[0]
                share = float(
                    np.mean([len(np.intersect1d(f, t)) / width for f, t in zip(found, truth, strict=True)])
                )
            measured = {"k": float(k), "queries": float(len(drawn)), "recall": share}
            self.recall = measured if self._graph is not None else None
            return measured

    def _vectors(self) -> np.ndarray:
        """All rows, dead ones among them, (n, dim) float32: a view."""
        if self._graph is None:
            return self._matrix.values
        count = self._graph.ntotal
        if not count:
            return np.empty((0, self.dim), dtype=np.float32)
        storage = _faiss().downcast_index(self._graph.storage)
        flat: np.ndarray = _faiss().rev_swig_ptr(storage.get_xb(), count * self.dim)
        return flat.reshape(count, self.dim)

    def _nearest(
        self, queries: np.ndarray, width: int, allowed: np.ndarray, count: int, selector: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows (q, width) int64, -1 where there is none, and scores (q, width), best first."""
        steps = _COST * _breadth(width, len(self._ids) / max(1, count))
        few = count <= self.exact_below or (self.exact_below > 0 and steps > len(self._ids))
        if self._graph is not None and not few:
            rows, scores = self._follow_graph(
                self._graph, queries, width, count, selector or _selector(allowed)
            )
            short = np.flatnonzero((rows < 0).any(axis=1))
            if len(short):
                rows[short], scores[short] = search(self._vectors(), queries[short], width, allowed=allowed)
            return rows, scores
        if count < len(allowed) // 8:
            own = np.flatnonzero(allowed)
            rows, scores = search(self._vectors()[own], queries, width)
            return np.where(rows >= 0, own[rows], -1), scores
        return search(self._vectors(), queries, width, allowed=allowed)

    def _follow_graph(
        self, graph: Any, queries: np.ndarray, width: int, count: int, selector: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The graph's answer; where only some notes may answer, more of them are looked at."""
        # To wake a second thread takes longer than to follow the graph a few times.
        _faiss().omp_set_num_threads(1 if len(queries) <= _FEW else os.cpu_count() or 1)
        parameters = _faiss().SearchParametersHNSW()
        parameters.efSearch = _breadth(width, len(self._ids) / count)
        if count < len(self._ids):
            parameters.sel = selector
        scores, rows = graph.search(queries, width, params=parameters)
        return rows, scores

    def _named(
        self, rows: np.ndarray, scores: np.ndarray, k: int, barred: Sequence[Collection[str]]
    ) -> Found:
        ids, kept = [], []
        for own_rows, own_scores, own_barred in zip(rows, scores, barred, strict=True):
            names = [self._ids[row] for row in own_rows.tolist() if row >= 0]
            free = [i for i, name in enumerate(names) if name not in own_barred][:k]
            ids.append([names[i] for i in free])
            kept.append(own_scores[free])
        return ids, kept

    def _visible_now(self) -> "_Visible":
        """The rows that a search may return now; kept until something changes or a note expires."""
        now = base.now()
        if self._visible is None or now >= self._visible.until:
            later = self._expires.values > now
            mask = self._alive.values & ~self._hidden.values & later
            waiting = self._expires.values[mask]
            until = int(waiting.min()) if len(waiting) else _NEVER
            self._visible = _Visible(mask, int(np.count_nonzero(mask)), until)
        return self._visible

    def _passes(self, where: Filter) -> np.ndarray:
        """Which rows fulfil a filter, bool (n,)."""
        mask = np.ones(len(self._ids), dtype=bool)
        if where.categories:
            codes = [self._categories[name] for name in where.categories if name in self._categories]
            mask &= np.isin(self._category.values, codes)
        if where.topics:
            tagged = np.zeros(len(mask), dtype=bool)
            for topic in where.topics:
                tagged[self._rows_of_topic.get(topic, [])] = True
            mask &= tagged
        published = self._published.values
        if where.published_after is not None:
            mask &= published >= microseconds(where.published_after)
        if where.published_before is not None:
            mask &= (published < microseconds(where.published_before)) & (published != _UNKNOWN_TIME)
        if where.allow is not None:
            listed = np.zeros(len(mask), dtype=bool)
            listed[self._rows_among(where.allow)] = True
            mask &= listed
        mask[self._rows_among(where.deny)] = False
        return mask

    def _rows_among(self, note_ids: Collection[str]) -> list[int]:
        return [self._row[note_id] for note_id in note_ids if note_id in self._row]

    # ---------------------------------------------------------------- disk

    def save(self, folder: str | Path) -> None:
        """Write the graph, which row is whose, and the measured recall, whole or not at all.

        Attributes are not written: the store has them.

        Raises:
            ConfigError: the index is exact; there is nothing that the store does not have.
            StorageError: it cannot be written.
        """
        if self._graph is None:
            raise ConfigError("an exact index is not saved; make it from the store's vectors")
        # The store has all that a graph is made of: whatever became of a former one, nothing is lost with it.
        with self._writing, write_folder(folder, "index", force=True) as aside:
            _faiss().write_index(self._graph, str(aside / _GRAPH))
            ids = pa.array(
                [i if self._row.get(i) == row else None for row, i in enumerate(self._ids)], pa.string()
            )
            write_parquet(pa.table({"note_id": ids}), aside / _ROWS)
            write_json({"dim": self.dim, "recall": self.recall}, aside / _ABOUT)

    @classmethod
    def load(cls, folder: str | Path, entries: pa.Table, *, exact_below: int = 20_000) -> Self:
        """A saved graph, brought up to date with what the store holds.

        Args:
            folder: what :meth:`save` wrote.
            entries: all notes of the store (schema ``base.entries_schema``). Notes that the graph has not,
                or has with another vector, are added; what is in the graph alone is dead.
            exact_below: as in the class.

        Raises:
            DataError: it cannot be read, or is of vectors of another dimension: build it anew.
            StorageError: it is not there.
        """
        path = Path(folder)
        about = read_json(path / _ABOUT)
        try:
            check_whole(path)  # a link of the graph that changed would lead elsewhere without a word
        except ModelError as error:
            raise DataError(f"{error}, or build the index anew") from error
        saved = read_parquet(path / _ROWS, ["note_id"]).column("note_id").combine_chunks()
        try:
            graph = _faiss().read_index(str(path / _GRAPH))
        except RuntimeError as error:
            raise DataError(f"{path / _GRAPH} cannot be read; build the index anew: {error}") from error
        dim = entries.schema.field("vector").type.list_size
        if graph.d != dim or graph.ntotal != len(saved):
            raise DataError(
                f"{path} holds {graph.ntotal:,} vectors of {graph.d} dimensions and {len(saved):,} ids, the "
                f"store vectors of {dim}; build the index anew"
            )
        entries = entries.select(base.entries_schema(dim).names)
        index = cls(dim, "hnsw", exact_below=exact_below)
        index.recall = about.get("recall")
        index._take_graph(graph, saved)
        place = pc.index_in(saved, value_set=entries.column("note_id").combine_chunks(), skip_nulls=True)
        rows = np.flatnonzero(place.is_valid().to_numpy(zero_copy_only=False))
        index._adopt(rows, entries.take(place.drop_null()))
        missing = ~index.contains(entries.column("note_id").to_pylist())
        index.upsert(entries.filter(pa.array(missing)))
        return index

    def _take_graph(self, graph: Any, saved: pa.StringArray) -> None:
        """All rows of a graph, dead until somebody claims them."""
        self._graph = graph
        self._ids = pc.fill_null(saved, "").to_pylist()
        for column in (self._alive, self._hidden, self._category, self._published, self._expires):
            column.grow(len(self._ids))

    def _adopt(self, rows: np.ndarray, entries: pa.Table) -> None:
        """Let rows live that hold just the vector that the store has for their note."""
        ids, vectors = self._checked_entries(entries)
        same = np.flatnonzero((self._vectors()[rows] == vectors).all(axis=1))
        columns = _Attributes(entries.take(pa.array(same)))
        rows = rows[same]
        self._alive.values[rows] = True
        self._row.update(zip((ids[i] for i in same), rows.tolist(), strict=True))
        for row, topics in zip(rows.tolist(), columns.topics, strict=True):
            if topics:
                self._topics[row] = topics
                for topic in topics:
                    self._rows_of_topic[topic].append(row)
        self._write(rows, columns, np.arange(len(rows)))


class _Column:
    """An array that grows: room is doubled, so adding n rows one by one costs n, not n squared."""

    def __init__(self, dtype: Any, *shape: int) -> None:
        self._room = np.zeros((16, *shape), dtype=dtype)
        self._count = 0

    @property
    def values(self) -> np.ndarray:
        """The rows, a view."""
        return self._room[: self._count]

    def grow(self, rows: int) -> None:
        """Add rows of zeros."""
        needed = self._count + rows
        if needed > len(self._room):
            room = np.zeros((max(needed, 2 * len(self._room)), *self._room.shape[1:]), dtype=self._room.dtype)
            room[: self._count] = self.values
            self._room = room
        self._count = needed

    def keep(self, rows: np.ndarray) -> None:
        """Keep these rows only, in this order."""
        self._room = np.ascontiguousarray(self.values[rows])
        self._count = len(rows)


class _Attributes:
    """What filters ask of the entries of one call."""

    def __init__(self, entries: pa.Table) -> None:
        self.categories: list[str] = entries.column("category").to_pylist()
        self.topics = base.text_tuples(entries.column("topics"))
        self.published = _times(entries.column("published_at"), _UNKNOWN_TIME)
        self.expires = _times(entries.column("expires_at"), _NEVER)
        self.hidden = entries.column("hidden").to_numpy().astype(bool)


class _Visible:
    """The rows that a search may return until a time; their bitmap is made when a graph asks for it."""

    def __init__(self, mask: np.ndarray, count: int, until: int) -> None:
        self.mask = mask
        self.count = count
        self.until = until
        self._bits: Any = None

    @property
    def selector(self) -> Any:
        """The rows as FAISS reads them."""
        if self._bits is None:
            self._bits = _selector(self.mask)
        return self._bits


def _faiss() -> Any:
    try:
        import faiss  # noqa: PLC0415 - an extra, which exact search does without
    except ImportError as error:
        raise MissingDependencyError("an HNSW index needs FAISS: pip install 'notellm[serve]'") from error
    return faiss


def _selector(mask: np.ndarray) -> Any:
    return _faiss().IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def _new_graph(dim: int) -> Any:
    faiss = _faiss()
    graph = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = CONSTRUCTION
    return graph


def _breadth(width: int, scarcity: float) -> int:
    """How many notes of the graph a search weighs (FAISS's efSearch).

    Args:
        width: results asked for.
        scarcity: rows of the graph for each row that may be a result, at least 1.
    """
    return min(int(max(64, 3 * width) * scarcity), 8_192)


def _times(column: pa.ChunkedArray, missing: int) -> np.ndarray:
    times: np.ndarray = pc.fill_null(column.cast(pa.int64()), missing).to_numpy().astype(np.int64)
    return times
