"""An index in memory that follows a graph of neighbours: FAISS's HNSW, with its measured recall.

    index = HnswIndex(128)
    index.upsert(entries)
    index.write_graph("index")                             # building the graph takes minutes
    index = HnswIndex.load("index", entries)               # only differences to the store are added

A search follows the graph and so reads few vectors. If a filter leaves few notes, or the graph finds fewer
notes than there are, the allowed rows are read exactly instead, so a filter never costs results. A graph
keeps its dead rows until it is built again; ``dead_share`` tells when that is worth it.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.artifacts.manifest import check_whole
from notellm.artifacts.replace import remove_folder
from notellm.artifacts.write import write_folder
from notellm.errors import DataError, MissingDependencyError, ModelError, StorageError
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.progress import progress_bar
from notellm.store.index import base
from notellm.store.index.base import Index, Place
from notellm.store.index.exact import nearest_of_all
from notellm.store.index.memory import MemoryIndex
from notellm.store.index.rows import Allowed, Attributes
from notellm.vectors import search

log = logging.getLogger("notellm.store")

#: Links of a note in the graph (FAISS's M) and candidates that are weighed when links are made
#: (efConstruction). The choice is measured in benchmarks/README.md, "Index".
LINKS, CONSTRUCTION = 32, 100

_BATCH = 4_096  # rows added to the graph between two updates of the progress bar
_COST = 90  # rows that an exact search reads in the time in which the graph weighs one note
_FEW = 64  # queries or rows for which one thread is enough: waking a second one takes longer
_GRAPH, _ROWS, _ABOUT = "graph.faiss", "rows.parquet", "index.json"


class HnswIndex(MemoryIndex):
    """An HNSW graph held in memory.

    Args:
        dim: number of dimensions of the vectors.
        exact_below: a search for which at most this many notes are allowed reads them all, and so does a
            search for which the graph would take longer. With 0 every search follows the graph.
        progress: show a progress bar while many notes are added.
    """

    kind = "hnsw"
    option = "hnsw"
    files: ClassVar[re.Pattern[str]] = re.compile(
        r"index_\w+/(manifest\.json|graph\.faiss|rows\.parquet|index\.json)|\.index_\w+\.\w+\.part/.+"
    )

    def __init__(self, dim: int, *, exact_below: int = 20_000, progress: bool = False) -> None:
        self.exact_below = exact_below
        self.progress = progress
        super().__init__(dim)

    @property
    def is_quick(self) -> bool:
        """True: following the graph takes less time than handing the search to another thread."""
        return True

    # ---------------------------------------------------------------- between two runs

    @classmethod
    def build(
        cls,
        rows: pa.Table,
        place: Place,  # noqa: ARG003 - the graph is written by ``save``
        *,
        current: Index | None = None,  # noqa: ARG003 - a second index in memory is in nobody's way
        progress: bool = False,
    ) -> Self:
        """Build a graph and measure its recall, see :meth:`Index.build`."""
        index = cls(rows.schema.field("vector").type.list_size, progress=progress)
        index.upsert(rows)
        index.measure_recall()
        return index

    @classmethod
    def open(cls, rows: pa.Table, place: Place) -> Self | None:
        """Load the saved graph and add what the store has written since, see :meth:`Index.open`."""
        folder = _folder(place)
        if folder is None or not folder.is_dir():
            return None
        try:
            return cls.load(folder, rows)
        except (DataError, StorageError) as error:  # the store has everything that a new graph needs
            log.warning("the saved index cannot be used and is built again: %s", error)
            return None

    def save(self, place: Place) -> None:
        """Write the graph beside the store, see :meth:`Index.save`."""
        folder = _folder(place)
        if folder is not None:
            self.write_graph(folder)

    @classmethod
    def drop_others(cls, place: Place) -> None:
        """Remove graphs of other models. A folder with files of somebody else stays, with a warning."""
        if place.folder is None:
            return
        for folder in place.folder.glob("index_*"):
            if folder != _folder(place):
                try:
                    remove_folder(folder, "index")
                except StorageError as error:
                    log.warning("a folder beside the store is not removed: %s", error)

    def write_graph(self, folder: str | Path) -> None:
        """Write the graph, the note of each row, and the measured recall, completely or not at all.

        Attributes are not written, since the store has them.

        Raises:
            StorageError: if the folder cannot be written.
        """
        # A graph can always be built from the store, so a damaged former one may be replaced.
        with self._write_lock, write_folder(folder, "index", force=True) as new:
            _faiss().write_index(self._graph, str(new / _GRAPH))
            row_of = self._rows.row_of
            ids = [i if row_of.get(i) == row else None for row, i in enumerate(self._rows.ids)]
            write_parquet(pa.table({"note_id": pa.array(ids, pa.string())}), new / _ROWS)
            write_json({"dim": self.dim, "recall": self.recall}, new / _ABOUT)

    @classmethod
    def load(cls, folder: str | Path, entries: pa.Table, *, exact_below: int = 20_000) -> Self:
        """Load a graph and update it to what the store holds.

        Args:
            folder: folder that :meth:`write_graph` wrote.
            entries: all notes of the store, with the columns of ``base.entries_schema``. A note that the
                graph lacks, or has with another vector, is added. Rows of other notes are dead.
            exact_below: as in the class.

        Raises:
            DataError: if the graph cannot be read or has vectors of another dimension.
            StorageError: if there is no such folder.
        """
        path = Path(folder)
        about = read_json(path / _ABOUT)
        try:
            check_whole(path)  # a changed link would silently lead searches elsewhere
        except ModelError as error:
            raise DataError(f"{error}, or build the index again") from error
        saved_ids = read_parquet(path / _ROWS, ["note_id"]).column("note_id").combine_chunks()
        try:
            graph = _faiss().read_index(str(path / _GRAPH))
        except RuntimeError as error:
            raise DataError(f"{path / _GRAPH} cannot be read; build the index again: {error}") from error
        dim = entries.schema.field("vector").type.list_size
        if graph.d != dim or graph.ntotal != len(saved_ids):
            raise DataError(
                f"{path} holds {graph.ntotal:,} vectors of {graph.d} dimensions and {len(saved_ids):,} ids, "
                f"but the vectors of the store have {dim} dimensions; build the index again"
            )
        entries = entries.select(base.entries_schema(dim).names)
        index = cls(dim, exact_below=exact_below)
        index.recall = about.get("recall")
        index._graph = graph
        index._rows.add_dead(pc.fill_null(saved_ids, "").to_pylist())
        entry_of_row = pc.index_in(
            saved_ids, value_set=entries.column("note_id").combine_chunks(), skip_nulls=True
        )
        rows = np.flatnonzero(entry_of_row.is_valid().to_numpy(zero_copy_only=False))
        index._adopt(rows, entries.take(entry_of_row.drop_null()))
        missing = ~index.contains(entries.column("note_id").to_pylist())
        index.upsert(entries.filter(pa.array(missing)))
        return index

    def _adopt(self, rows: np.ndarray, entries: pa.Table) -> None:
        """Give rows of a loaded graph to their notes, where the store still has the same vector."""
        ids, vectors = self._checked_entries(entries)
        same = np.flatnonzero((self._vectors()[rows] == vectors).all(axis=1))
        attributes = Attributes(entries.take(pa.array(same)))
        self._rows.revive(rows[same], [ids[i] for i in same], attributes, np.arange(len(same)))

    # ---------------------------------------------------------------- vectors and search

    def _clear(self) -> None:
        super()._clear()
        faiss = _faiss()
        self._graph = faiss.IndexHNSWFlat(self.dim, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._graph.hnsw.efConstruction = CONSTRUCTION

    def _add_vectors(self, vectors: np.ndarray) -> None:
        _set_threads(len(vectors))
        hidden = not self.progress or len(vectors) <= _BATCH
        with progress_bar(total=len(vectors), unit="note", desc="index", disable=hidden) as bar:
            for start in range(0, len(vectors), _BATCH):
                piece = np.ascontiguousarray(vectors[start : start + _BATCH])
                self._graph.add(piece)
                bar.update(len(piece))

    def _vectors(self) -> np.ndarray:
        count = self._graph.ntotal
        if not count:
            return np.empty((0, self.dim), dtype=np.float32)
        storage = _faiss().downcast_index(self._graph.storage)
        flat: np.ndarray = _faiss().rev_swig_ptr(storage.get_xb(), count * self.dim)
        return flat.reshape(count, self.dim)

    def _nearest(self, queries: np.ndarray, width: int, allowed: Allowed) -> tuple[np.ndarray, np.ndarray]:
        graph_cost = _COST * _breadth(width, len(self._rows) / max(1, allowed.count))
        is_graph_slower = self.exact_below > 0 and graph_cost > len(self._rows)
        if allowed.count <= self.exact_below or is_graph_slower:
            return nearest_of_all(self._vectors(), queries, width, allowed)
        rows, scores = self._follow_graph(queries, width, allowed)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            rows[short], scores[short] = search(self._vectors(), queries[short], width, allowed=allowed.mask)
        return rows, scores

    def _follow_graph(
        self, queries: np.ndarray, width: int, allowed: Allowed
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search the graph; the fewer rows are allowed, the more of them are weighed."""
        _set_threads(len(queries))
        parameters = _faiss().SearchParametersHNSW()
        parameters.efSearch = _breadth(width, len(self._rows) / allowed.count)
        if allowed.count < len(self._rows):
            selector = _faiss().IDSelectorBitmap(allowed.bits)
            parameters.sel = selector  # only a pointer: the name above keeps the selector alive
        scores, rows = self._graph.search(queries, width, params=parameters)
        return rows, scores

    def measure_recall(self, *, k: int = 100, queries: int = 200, seed: int = 0) -> dict[str, float]:
        """Measure the share of the k nearest notes that the graph finds, averaged over visible notes.

        Args:
            k: number of neighbours.
            queries: number of notes drawn as queries; fewer if there are fewer.
            seed: seed of the draw.

        Returns:
            ``k``, ``queries`` and ``recall`` (0 to 1; 1 if there are no notes), also kept as :attr:`recall`.
        """
        with self._lock:
            visible = self._rows.visible()
            rows = np.flatnonzero(visible.mask)
            drawn = np.random.default_rng(seed).choice(rows, min(queries, len(rows)), replace=False)
            share = 1.0
            if len(drawn):
                vectors = np.array(self._vectors()[drawn])
                width = min(k, len(rows))
                neighbours = self._follow_graph(vectors, width, visible)[0]
                truth = search(self._vectors(), vectors, width, allowed=visible.mask)[0]
                hits = [len(np.intersect1d(n, t)) for n, t in zip(neighbours, truth, strict=True)]
                share = float(np.mean([count / width for count in hits]))
            self.recall = {"k": float(k), "queries": float(len(drawn)), "recall": share}
            return self.recall


def _folder(place: Place) -> Path | None:
    return None if place.folder is None else place.folder / f"index_{place.fingerprint}"


def _faiss() -> Any:
    try:
        import faiss  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise MissingDependencyError("an HNSW index needs FAISS: pip install 'notellm[serve]'") from error
    return faiss


def _set_threads(items: int) -> None:
    _faiss().omp_set_num_threads(1 if items <= _FEW else os.cpu_count() or 1)


def _breadth(width: int, scarcity: float) -> int:
    """Return how many notes of the graph a search weighs (FAISS's efSearch).

    Args:
        width: number of results.
        scarcity: number of rows in the graph divided by the number of allowed rows.
    """
    return min(int(max(64, 3 * width) * scarcity), 8_192)
