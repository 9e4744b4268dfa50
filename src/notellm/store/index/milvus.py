"""An index in a Milvus collection, for more vectors than one machine holds, or for several readers.

    index = MilvusIndex("http://milvus:19530", 128, collection="notes_1f3a", token="user:password")

The collection uses inner product, AUTOINDEX and strong consistency. A path that ends in .db is a file of
Milvus Lite, which runs in this process, for tests. The index of a store alternates between two collections: a
new one is built while the other answers. ``milvus_FINGERPRINT.json`` in the store's folder is written when
the index is closed in order and deleted when it is opened; without it the collection is rebuilt.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote

import numpy as np
import pyarrow as pa

from notellm.artifacts.workspace import sync_folder
from notellm.errors import ConfigError, DataError, MissingDependencyError, StorageError
from notellm.files import read_json, write_json
from notellm.store.index import base
from notellm.store.index.base import Found, Index, Place
from notellm.store.index.filters import Filter
from notellm.store.index.milvus_filters import (
    MOST_BYTES,
    NEVER,
    UNKNOWN_TIME,
    byte_size,
    condition_of,
    listed,
    stored,
    times_of,
)

#: Limits of a server: results of one query (and queries of one call), and topics of a note.
MOST_RESULTS, MOST_TOPICS = 16_384, 4_096

_BUILD_ROWS = 50_000  # rows that are prepared together while a collection is built
# Bytes that one call sends, a quarter of what a server accepts, and results that it returns.
_CALL_BYTES, _CALL_RESULTS = 16 * 2**20, 100_000
# A query with at most this many exclusions fetches as many more results, so that it can share its call.
_SPARE = 1_000

_CONNECT_SECONDS, _CALL_SECONDS, _LOAD_SECONDS = 10, 30, 600

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")


class MilvusIndex(Index):
    """An index in a collection of Milvus.

    Args:
        uri: address of the server, ``http://host:19530``, or path of a Milvus Lite file, which ends in .db.
        dim: number of dimensions of the vectors.
        collection: name of the collection, one for each model; it is created if it is missing.
        token: the server's token, or ``user:password``.

    Raises:
        MissingDependencyError: if pymilvus is not installed.
        ConfigError: if the name of the collection is not allowed.
        DataError: if the collection has other dimensions or lacks a column.
        StorageError: if the server does not answer or refuses the request.
    """

    kind = "milvus"
    option = "the URI of a Milvus server such as http://localhost:19530"
    most_results = MOST_RESULTS
    files: ClassVar[re.Pattern[str]] = re.compile(r"milvus_\w+\.json|\.milvus_\w+\.json\.\w+\.part/.+")

    def __init__(self, uri: str, dim: int, *, collection: str, token: str = "") -> None:
        super().__init__(dim)
        if not _NAME.fullmatch(collection):
            raise ConfigError(
                f"the collection is named {collection!r}; allowed are at most 255 letters, digits and "
                "underscores, and the first character is not a digit"
            )
        try:
            import grpc  # noqa: PLC0415 - an optional package
            import pymilvus  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError("Milvus needs pymilvus: pip install 'notellm[milvus]'") from error
        # pymilvus logs the trace of every failed call; the error raised here has all that matters.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.uri = uri
        self.collection = collection
        self._types = pymilvus.DataType
        self._failures = (pymilvus.MilvusException, grpc.RpcError)
        with self._calling("be reached"):
            self._client = pymilvus.MilvusClient(uri, token=token, timeout=_CONNECT_SECONDS)
        try:
            self._load_collection()
        except BaseException:
            self._client.close()
            raise

    # ---------------------------------------------------------------- between two runs

    @classmethod
    def accepts(cls, option: str) -> bool:
        """Return whether the option is the address of a server or a Milvus Lite file."""
        return "://" in option or option.endswith(".db")

    @classmethod
    def build(
        cls,
        rows: pa.Table,
        place: Place,
        *,
        current: Index | None = None,
        progress: bool = False,  # noqa: ARG003 - the server does the work
    ) -> Self:
        """Fill the collection that does not answer at present, see :meth:`Index.build`."""
        name = f"notes_{place.fingerprint}_"
        is_a_taken = isinstance(current, MilvusIndex) and current.collection == f"{name}a"
        index = cls(
            place.server,
            rows.schema.field("vector").type.list_size,
            collection=name + ("b" if is_a_taken else "a"),
            token=place.token,
        )
        index.clear()
        for start in range(0, rows.num_rows, _BUILD_ROWS):
            index.upsert(rows.slice(start, _BUILD_ROWS))
        return index

    @classmethod
    def open(cls, rows: pa.Table, place: Place) -> Self | None:
        """Open the collection that was closed in order and has as many notes as the store."""
        collection = _take_marker(place)
        if collection is None:
            return None
        dim = rows.schema.field("vector").type.list_size
        index = cls(place.server, dim, collection=collection, token=place.token)
        if len(index) == rows.num_rows:
            return index
        index.close()
        return None

    def close(self, place: Place | None = None) -> None:
        """Close the connection; with a place, mark the collection as complete."""
        try:
            marker = None if place is None else _marker(place)
            if marker is not None:
                write_json({"collection": self.collection}, marker, replace=True)
        finally:
            self._client.close()

    @classmethod
    def invalidate(cls, place: Place) -> None:
        """Delete the marker: the collection may have notes of a version that no longer counts."""
        if (marker := _marker(place)) is not None:
            marker.unlink(missing_ok=True)

    def _load_collection(self) -> None:
        """Create the collection, or check an existing one, and have the server load it."""
        types = self._types
        with self._calling("open the collection"):
            if not self._client.has_collection(self.collection, timeout=_CALL_SECONDS):
                schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
                text = {"max_length": MOST_BYTES}
                schema.add_field("note_id", types.VARCHAR, is_primary=True, **text)
                schema.add_field("vector", types.FLOAT_VECTOR, dim=self.dim)
                schema.add_field("category", types.VARCHAR, **text)
                schema.add_field(
                    "topics", types.ARRAY, element_type=types.VARCHAR, max_capacity=MOST_TOPICS, **text
                )
                schema.add_field("published_at", types.INT64)
                schema.add_field("hidden", types.BOOL)
                schema.add_field("expires_at", types.INT64)
                self._client.create_collection(
                    self.collection, schema=schema, consistency_level="Strong", timeout=_CALL_SECONDS
                )
            description = self._client.describe_collection(self.collection, timeout=_CALL_SECONDS)
        fields = {field["name"]: field["params"] for field in description["fields"]}
        missing = [name for name in base.entries_schema(self.dim).names if name not in fields]
        if missing:
            raise DataError(
                f"the collection {self.collection} of {self.uri} has no column {missing[0]!r}, so notellm "
                "did not create it; name another collection"
            )
        if (dim := int(fields["vector"].get("dim", 0))) != self.dim:
            raise DataError(
                f"the collection {self.collection} of {self.uri} has {dim} dimensions, the model {self.dim}: "
                "they belong to different models; name another collection"
            )
        with self._calling("load the collection"):
            # The index is missing, too, if another process was stopped after it created the collection.
            if not self._client.list_indexes(self.collection, timeout=_CALL_SECONDS):
                index = self._client.prepare_index_params()
                index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
                self._client.create_index(self.collection, index, timeout=_CALL_SECONDS, sync=False)
            self._client.load_collection(self.collection, timeout=_LOAD_SECONDS)

    # ---------------------------------------------------------------- writing

    def upsert(self, entries: pa.Table) -> None:
        """Add or replace notes, see :meth:`Index.upsert`.

        Raises:
            DataError: also if a text or a list of topics is longer than Milvus allows.
            StorageError: if the server does not answer or refuses; some of the notes may be written.
        """
        ids, vectors = self._checked_entries(entries)
        topics = entries.column("topics").to_pylist()
        for note_id, topics_of_note in zip(ids, topics, strict=True):
            if len(topics_of_note) > MOST_TOPICS:
                raise DataError(
                    f"the note {note_id!r} has {len(topics_of_note):,} topics; Milvus takes at most "
                    f"{MOST_TOPICS:,}: leave some out"
                )
        columns = {
            "note_id": [stored(note_id, "note id") for note_id in ids],
            "vector": vectors,
            "category": [stored(name, "category") for name in entries.column("category").to_pylist()],
            "topics": [[stored(topic, "topic") for topic in names] for names in topics],
            "published_at": times_of(entries.column("published_at"), UNKNOWN_TIME),
            "hidden": entries.column("hidden").to_pylist(),
            "expires_at": times_of(entries.column("expires_at"), NEVER),
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        for piece in _pieces([self._row_size(row) for row in rows]):
            with self._calling("write notes"):
                self._client.upsert(self.collection, rows[piece], timeout=_CALL_SECONDS)

    def _row_size(self, row: dict[str, Any]) -> int:
        texts = (row["note_id"], row["category"], *row["topics"])
        return 4 * self.dim + sum(map(byte_size, texts))

    def remove(self, note_ids: Collection[str]) -> None:
        """Remove notes, see :meth:`Index.remove`."""
        for condition in self._conditions_naming(note_ids):
            with self._calling("remove notes"):
                self._client.delete(self.collection, filter=condition, timeout=_CALL_SECONDS)

    def clear(self) -> None:
        """Remove all notes."""
        self.drop()
        self._load_collection()

    def drop(self) -> None:
        """Delete the collection; the index cannot be searched afterwards."""
        with self._calling("drop the collection"):
            self._client.drop_collection(self.collection, timeout=_CALL_SECONDS)

    # ---------------------------------------------------------------- searching

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Found:
        """Return the nearest notes, see :meth:`Index.search`. On a server, AUTOINDEX is approximate.

        Raises:
            StorageError: if the server does not answer or refuses the request.
        """
        queries, exclude = self._checked_queries(queries, k, exclude)
        ids: list[list[str]] = [[] for _ in queries]
        scores = [np.empty(0, np.float32) for _ in queries]
        condition = condition_of(where or Filter())
        if condition is None:
            return ids, scores
        excluded = [frozenset(note_ids) for note_ids in exclude]
        for batch, limit, denied in self._batches(excluded, k):
            with self._calling("search"):
                results = self._client.search(
                    self.collection,
                    data=list(queries[batch]),
                    filter=condition + (f" and note_id not in {listed(denied)}" if denied else ""),
                    limit=limit,
                    output_fields=["note_id"],
                    search_params={"metric_type": "IP"},
                    anns_field="vector",
                    consistency_level="Strong",
                    timeout=_CALL_SECONDS,
                )
            for i, hits in zip(batch, results, strict=True):
                named = [(unquote(hit["note_id"]), hit["distance"]) for hit in hits]
                kept = [(note_id, score) for note_id, score in named if note_id not in excluded[i]][:k]
                ids[i] = [note_id for note_id, _ in kept]
                scores[i] = np.array([score for _, score in kept], np.float32)
        return ids, scores

    def _batches(
        self, excluded: Sequence[frozenset[str]], k: int
    ) -> Iterator[tuple[list[int], int, frozenset[str]]]:
        """Group queries into calls.

        Yields:
            Positions of the queries, the number of results to ask for, and the ids that the filter excludes.
        """
        spare = min(_SPARE, MOST_RESULTS - k)
        most = max(1, min(MOST_RESULTS, _CALL_BYTES // (4 * self.dim)))
        groups: defaultdict[frozenset[str], list[int]] = defaultdict(list)
        for i, note_ids in enumerate(excluded):
            groups[note_ids if len(note_ids) > spare else frozenset()].append(i)
        for denied, members in groups.items():
            # Queries with similar numbers of exclusions share a call, so none asks for many results in vain.
            members.sort(key=lambda i: len(excluded[i]))
            batch: list[int] = []
            limit = k
            for i in members:
                limit_of_query = k if denied else k + len(excluded[i])
                if batch and (len(batch) == most or (len(batch) + 1) * limit_of_query > _CALL_RESULTS):
                    yield batch, limit, denied
                    batch = []
                batch.append(i)
                limit = limit_of_query
            yield batch, limit, denied

    def vectors(self, note_ids: Sequence[str]) -> np.ndarray:
        """Return vectors by id, see :meth:`Index.vectors`."""
        vector_of: dict[str, np.ndarray] = {}
        for condition in self._conditions_naming(note_ids):
            for row in self._query(condition, "vector"):
                vector_of[unquote(row["note_id"])] = np.array(row["vector"], np.float32)
        for note_id in note_ids:
            if note_id not in vector_of:
                raise DataError(f"the collection {self.collection} has no note {note_id!r}")
        return np.array([vector_of[note_id] for note_id in note_ids], np.float32).reshape(-1, self.dim)

    def contains(self, note_ids: Sequence[str]) -> np.ndarray:
        """Return which notes the index has, see :meth:`Index.contains`."""
        conditions = self._conditions_naming(note_ids)
        present = {unquote(row["note_id"]) for condition in conditions for row in self._query(condition)}
        return np.array([note_id in present for note_id in note_ids], dtype=bool)

    def __len__(self) -> int:
        return int(self._query("", "count(*)")[0]["count(*)"])

    def _query(self, condition: str, column: str = "note_id") -> list[dict[str, Any]]:
        fields = [column] if column == "count(*)" else list(dict.fromkeys(["note_id", column]))
        with self._calling("look up notes"):
            rows: list[dict[str, Any]] = self._client.query(
                self.collection,
                filter=condition,
                output_fields=fields,
                consistency_level="Strong",
                timeout=_CALL_SECONDS,
            )
        return rows

    def _conditions_naming(self, note_ids: Collection[str]) -> Iterator[str]:
        """Yield conditions that together name the notes; each call sends and returns a bounded amount."""
        names = list(dict.fromkeys(note_ids))
        for piece in _pieces([4 * self.dim + 3 * byte_size(note_id) for note_id in names]):
            yield f"note_id in {listed(names[piece])}"

    @contextmanager
    def _calling(self, action: str) -> Iterator[None]:
        """Turn the errors of the client into a StorageError of one line."""
        try:
            yield
        except self._failures as error:
            reason = " ".join(str(getattr(error, "message", "") or error).split())
            raise StorageError(
                f"Milvus at {self.uri} could not {action} ({self.collection}): {reason}; check the address "
                "and the token, and that the server is running"
            ) from error


def _marker(place: Place) -> Path | None:
    return None if place.folder is None else place.folder / f"milvus_{place.fingerprint}.json"


def _take_marker(place: Place) -> str | None:
    """Delete the marker, since the collection may change from now on, and return the collection it names."""
    marker = _marker(place)
    if marker is None or not marker.is_file():
        return None
    try:
        return str(read_json(marker)["collection"])
    except (DataError, TypeError, KeyError):
        return None  # the marker is damaged
    finally:
        marker.unlink()
        sync_folder(marker.parent)  # else a marker restored by a power failure would vouch for later writes


def _pieces(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield consecutive slices of items that together have at most ``_CALL_BYTES``, or of one larger item."""
    start, total = 0, 0
    for i, size in enumerate(sizes):
        if i > start and total + size > _CALL_BYTES:
            yield slice(start, i)
            start, total = i, 0
        total += size
    if len(sizes) > start:
        yield slice(start, len(sizes))
