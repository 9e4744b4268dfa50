"""Where the index of a store lies between two runs, and how it is opened, built and saved.

exact    nowhere: the store's vectors are all there is to it
hnsw     STORE/index_FINGERPRINT/, the graph; what the store has written since is added when it is opened
Milvus   collections notes_FINGERPRINT_a and _b, in turn: a new one is built while the other answers.
         STORE/milvus_FINGERPRINT.json is written when the index is closed in order and taken away when it
         is opened; without it nobody knows what the collection has missed, and it is built anew
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from notellm.artifacts.replace import remove_folder
from notellm.artifacts.workspace import sync_folder
from notellm.errors import ConfigError, DataError, StorageError
from notellm.files import read_json, write_json
from notellm.store.index.base import Index
from notellm.store.index.local import KINDS, LocalIndex
from notellm.store.index.milvus import MilvusIndex

log = logging.getLogger("notellm.store")

_TOGETHER = 50_000  # rows given to a server between two moves of the bar


@dataclass(frozen=True)
class IndexHome:
    """The index of one store and model.

    Args:
        store: URI of the store; only a local directory keeps anything beside it.
        fingerprint: of the model.
        kind: "exact", "hnsw", or the URI of a Milvus server (or a Milvus Lite file, which ends in .db).
        token: of the server.

    Raises:
        ConfigError: the kind is unknown.
    """

    store: str
    fingerprint: str
    kind: str
    token: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS and "://" not in self.kind and not self.kind.endswith(".db"):
            raise ConfigError(
                f"the index is {self.kind!r}; allowed are {', '.join(KINDS)}, or the URI of a Milvus server "
                "such as http://localhost:19530"
            )

    def open(self, rows: pa.Table, *, progress: bool = False) -> Index:
        """The index as it was left, brought up to date, or a new one.

        Args:
            rows: all that the store holds (schema ``store.notes.rows_schema``).
            progress: show a bar where it is built.
        """
        if self.kind == "hnsw" and (folder := self._folder()) is not None and folder.is_dir():
            try:
                return LocalIndex.load(folder, rows)
            except (DataError, StorageError) as error:  # the store has all that it takes
                log.warning("the saved index is not used, and is built anew: %s", error)
        if self.kind not in KINDS and (left := self._left()) is not None:
            index = MilvusIndex(self.kind, _dim(rows), collection=left, token=self.token)
            if len(index) == rows.num_rows:
                return index
            index.close()
        made = self.build(rows, progress=progress)
        if isinstance(made, LocalIndex):
            self.save(made)
        return made

    def build(self, rows: pa.Table, *, now: Index | None = None, progress: bool = False) -> Index:
        """A new index of these rows, beside the one that answers ``now``."""
        if self.kind in KINDS:
            index = LocalIndex(_dim(rows), "hnsw" if self.kind == "hnsw" else "exact", progress=progress)
            index.upsert(rows)
            index.measure_recall()
            return index
        name = f"notes_{self.fingerprint}_"
        other = isinstance(now, MilvusIndex) and now.collection == f"{name}a"
        made = MilvusIndex(self.kind, _dim(rows), collection=name + ("b" if other else "a"), token=self.token)
        made.clear()
        for start in range(0, rows.num_rows, _TOGETHER):
            made.upsert(rows.slice(start, _TOGETHER))
        return made

    def save(self, index: Index) -> None:
        """Write a graph beside the store, so that it need not be built again.

        If that fails, the next start has more to do, so nobody but the log is told.
        """
        folder = self._folder()
        if folder is not None and isinstance(index, LocalIndex) and index.kind == "hnsw":
            try:
                index.save(folder)
            except StorageError as error:
                log.warning("the index was not saved, which will be tried again later: %s", error)

    def close(self, index: Index) -> None:
        """Save the index and close it; the store holds just what it holds."""
        self.save(index)
        marker = self._marker()
        if isinstance(index, MilvusIndex) and marker is not None:
            try:
                write_json({"collection": index.collection}, marker, replace=True)
            except StorageError as error:
                log.warning("the collection will be built anew at the next start: %s", error)
        index.close()

    def drop_others(self) -> None:
        """Take away graphs of other models; what is not a graph of notellm's stays, and the log has it."""
        if "://" not in self.store:
            for folder in Path(self.store).glob("index_*"):
                if folder != self._folder():
                    try:
                        remove_folder(folder, "index")
                    except StorageError as error:
                        log.warning("a folder beside the store is left alone: %s", error)

    def _folder(self) -> Path | None:
        return None if "://" in self.store else Path(self.store) / f"index_{self.fingerprint}"

    def _marker(self) -> Path | None:
        return None if "://" in self.store else Path(self.store) / f"milvus_{self.fingerprint}.json"

    def _left(self) -> str | None:
        """The collection that was closed in order; asked once, since it may change from now on."""
        marker = self._marker()
        if marker is None or not marker.is_file():
            return None
        try:
            return str(read_json(marker)["collection"])
        except (DataError, TypeError, KeyError):
            return None  # damaged: nobody knows, either
        finally:
            marker.unlink()
            sync_folder(marker.parent)  # after a power failure it would vouch for what was written since


def _dim(rows: pa.Table) -> int:
    dim: int = rows.schema.field("vector").type.list_size
    return dim
