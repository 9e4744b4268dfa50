"""An index in a Milvus collection, for more vectors than one machine holds or several readers of one index.

    index = MilvusIndex("http://milvus:19530", 128, collection="notes_1f3a", token="user:password")

The collection is made at first use: inner product, AUTOINDEX, strong consistency, so a search waits until it
sees every earlier write. A path that ends in .db is a file of Milvus Lite, which runs in this process and
serves it alone: for tests and trials.

Texts stand in the collection percent-encoded where they hold a quote, a backslash, a brace, a percent sign, a
control character or one beyond the basic plane (``a"b`` is ``a%22b``): no text in a filter needs an escape.
Milvus Lite reads few escapes and no filter templates; a server reads a rare Chinese character as another one,
since it keeps 16 bits of each (``formatUnicode`` in its internal/parser/planparserv2/utils.go).
"""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa

from notellm.data.schema import TIME
from notellm.errors import ConfigError, DataError, MissingDependencyError, StorageError
from notellm.store.index import base
from notellm.store.index.base import Found, Index
from notellm.store.index.filters import Filter, microseconds

#: What a server allows: results of one query, and queries of one call; bytes of a text; topics of a note.
MOST_RESULTS, MOST_BYTES, MOST_TOPICS = 16_384, 65_535, 4_096

# One call carries about this much, a quarter of what a server takes; and returns this many results.
_CALL_BYTES, _CALL_RESULTS = 16 * 2**20, 100_000
# Up to so many exclusions of a query are fetched and dropped, so that it shares its call with others.
_SPARE = 1_000

_CONNECT_SECONDS, _CALL_SECONDS, _LOAD_SECONDS = 10, 30, 600

# Milvus compares a null with nothing, and Milvus Lite treats it otherwise; these stand for it instead.
_UNKNOWN_TIME, _NEVER = -(2**63) + 1, 2**63 - 1

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_UNSAFE = re.compile("[%\"'\\\\{}\x00-\x1f\x7f\U00010000-\U0010ffff]")


class MilvusIndex(Index):
    """An index in a collection of Milvus.

    Args:
        uri: of the server, ``http://host:19530``, or the path of a Milvus Lite file, which ends in .db.
        dim: dimensions of the vectors.
        collection: its name, one for each model; made where it is missing.
        token: the server's token, or ``user:password``.

    Raises:
        MissingDependencyError: pymilvus is not installed.
        ConfigError: the collection's name is not allowed.
        DataError: the collection is there with other dimensions or without the columns.
        StorageError: the server does not answer or refuses.
    """

    def __init__(self, uri: str, dim: int, *, collection: str, token: str = "") -> None:
        super().__init__(dim)
        if not _NAME.fullmatch(collection):
            raise ConfigError(
                f"the collection is named {collection!r}; allowed are at most 255 letters, digits and "
                "underscores, no digit first"
            )
        try:
            import grpc  # noqa: PLC0415 - an optional package
            import pymilvus  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependencyError("Milvus needs pymilvus: pip install 'notellm[milvus]'") from error
        # It logs the trace of every failed call; what it says is in the error that is raised here.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self.uri = uri
        self.collection = collection
        self._types = pymilvus.DataType
        self._failures = (pymilvus.MilvusException, grpc.RpcError)
        with self._calling("be reached"):
            self._client = pymilvus.MilvusClient(uri, token=token, timeout=_CONNECT_SECONDS)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Make the collection or check the one that is there, and have the server load it."""
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
            described = self._client.describe_collection(self.collection, timeout=_CALL_SECONDS)
        fields = {field["name"]: field["params"] for field in described["fields"]}
        missing = [name for name in base.entries_schema(self.dim).names if name not in fields]
        if missing:
            raise DataError(
                f"the collection {self.collection} of {self.uri} has no column {missing[0]!r}, so it is "
                "not one of notellm's; name another collection"
            )
        if (dim := int(fields["vector"].get("dim", 0))) != self.dim:
            raise DataError(
                f"the collection {self.collection} of {self.uri} has {dim} dimensions, the model {self.dim}: "
                "they are of different models; name another collection"
            )
        with self._calling("load the collection"):
            # Also where another process was stopped between the two; a new index has nothing to wait for.
            if not self._client.list_indexes(self.collection, timeout=_CALL_SECONDS):
                index = self._client.prepare_index_params()
                index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
                self._client.create_index(self.collection, index, timeout=_CALL_SECONDS, sync=False)
            self._client.load_collection(self.collection, timeout=_LOAD_SECONDS)

    # ---------------------------------------------------------------- writing

    def upsert(self, entries: pa.Table) -> None:
        """Add or replace notes, as :meth:`Index.upsert` says.

        Raises:
            DataError: also where a text or a list of topics is longer than Milvus allows.
            StorageError: the server does not answer or refuses; some of the notes may be written.
        """
        ids, vectors = self._checked_entries(entries)
        topics = entries.column("topics").to_pylist()
        for note_id, own in zip(ids, topics, strict=True):
            if len(own) > MOST_TOPICS:
                raise DataError(
                    f"the note {note_id!r} has {len(own):,} topics; Milvus takes at most {MOST_TOPICS:,}: "
                    "leave some out"
                )
        columns = {
            "note_id": [_stored(note_id, "note id") for note_id in ids],
            "vector": vectors,
            "category": [_stored(name, "category") for name in entries.column("category").to_pylist()],
            "topics": [[_stored(topic, "topic") for topic in own] for own in topics],
            "published_at": _times(entries.column("published_at"), _UNKNOWN_TIME),
            "hidden": entries.column("hidden").to_pylist(),
            "expires_at": _times(entries.column("expires_at"), _NEVER),
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        sizes = [
            4 * self.dim + _size(row["note_id"]) + _size(row["category"]) + sum(map(_size, row["topics"]))
            for row in rows
        ]
        for cut in _cuts(sizes):
            with self._calling("write notes"):
                self._client.upsert(self.collection, rows[cut], timeout=_CALL_SECONDS)

    def remove(self, note_ids: Collection[str]) -> None:
        """Take notes out, as :meth:`Index.remove` says."""
        for named in self._in_calls(note_ids):
            with self._calling("remove notes"):
                self._client.delete(self.collection, filter=named, timeout=_CALL_SECONDS)

    # ---------------------------------------------------------------- searching

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        where: Filter | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Found:
        """The nearest notes, as :meth:`Index.search` says; AUTOINDEX is approximate on a server.

        Raises:
            ConfigError: also where k is larger than Milvus allows.
            StorageError: the server does not answer or refuses.
        """
        queries, exclude = self._checked_queries(queries, k, exclude)
        if k > MOST_RESULTS:
            raise ConfigError(f"k is {k:,}; Milvus returns at most {MOST_RESULTS:,} notes: ask for fewer")
        ids: list[list[str]] = [[] for _ in queries]
        scores = [np.empty(0, np.float32) for _ in queries]
        condition = _condition(where or Filter())
        if condition is None:
            return ids, scores
        barred = [frozenset(own) for own in exclude]
        for batch, width, denied in self._batches(barred, k):
            with self._calling("search"):
                found = self._client.search(
                    self.collection,
                    data=list(queries[batch]),
                    filter=condition + (f" and note_id not in {_listed(denied)}" if denied else ""),
                    limit=width,
                    output_fields=["note_id"],
                    search_params={"metric_type": "IP"},
                    anns_field="vector",
                    consistency_level="Strong",
                    timeout=_CALL_SECONDS,
                )
            for i, hits in zip(batch, found, strict=True):
                named = [(unquote(hit["note_id"]), hit["distance"]) for hit in hits]
                kept = [(note_id, score) for note_id, score in named if note_id not in barred[i]][:k]
                ids[i] = [note_id for note_id, _ in kept]
                scores[i] = np.array([score for _, score in kept], np.float32)
        return ids, scores

    def _batches(
        self, barred: Sequence[frozenset[str]], k: int
    ) -> Iterator[tuple[list[int], int, frozenset[str]]]:
        """Which queries share a call, how many results it asks for, and what its filter excludes."""
        spare = min(_SPARE, MOST_RESULTS - k)
        most = max(1, min(MOST_RESULTS, _CALL_BYTES // (4 * self.dim)))
        shared: defaultdict[frozenset[str], list[int]] = defaultdict(list)
        for i, own in enumerate(barred):
            shared[own if len(own) > spare else frozenset()].append(i)
        for denied, members in shared.items():
            # Few exclusions first: a query is asked for no more than the longest list of its call needs.
            members.sort(key=lambda i: len(barred[i]))
            batch: list[int] = []
            width = k
            for i in members:
                own_width = k if denied else k + len(barred[i])
                if batch and (len(batch) == most or (len(batch) + 1) * own_width > _CALL_RESULTS):
                    yield batch, width, denied
                    batch = []
                batch.append(i)
                width = own_width
            yield batch, width, denied

    def vectors(self, note_ids: Sequence[str]) -> np.ndarray:
        """Vectors by id, as :meth:`Index.vectors` says."""
        found: dict[str, np.ndarray] = {}
        for named in self._in_calls(note_ids):
            for row in self._query(named, "vector"):
                found[unquote(row["note_id"])] = np.array(row["vector"], np.float32)
        for note_id in note_ids:
            if note_id not in found:
                raise DataError(f"there is no note {note_id!r} in the collection {self.collection}")
        return np.array([found[note_id] for note_id in note_ids], np.float32).reshape(-1, self.dim)

    def contains(self, note_ids: Sequence[str]) -> np.ndarray:
        """Which notes are there, as :meth:`Index.contains` says."""
        found = {unquote(row["note_id"]) for named in self._in_calls(note_ids) for row in self._query(named)}
        return np.array([note_id in found for note_id in note_ids], dtype=bool)

    def __len__(self) -> int:
        return int(self._query("", "count(*)")[0]["count(*)"])

    def clear(self) -> None:
        """Take all notes out."""
        self.drop()
        self._open()

    def drop(self) -> None:
        """Remove the collection; nothing can be searched afterwards."""
        with self._calling("drop the collection"):
            self._client.drop_collection(self.collection, timeout=_CALL_SECONDS)

    def close(self) -> None:
        """Close the connection; the collection stays."""
        self._client.close()

    def _query(self, condition: str, column: str = "note_id") -> list[dict[str, Any]]:
        fields = [column] if column == "count(*)" else list(dict.fromkeys(["note_id", column]))
        with self._calling("look notes up"):
            rows: list[dict[str, Any]] = self._client.query(
                self.collection,
                filter=condition,
                output_fields=fields,
                consistency_level="Strong",
                timeout=_CALL_SECONDS,
            )
        return rows

    def _in_calls(self, note_ids: Collection[str]) -> Iterator[str]:
        """Filters that together name the notes; what one call sends, or returns with vectors, is bounded."""
        each = list(dict.fromkeys(note_ids))
        for cut in _cuts([4 * self.dim + 3 * _size(note_id) for note_id in each]):
            yield f"note_id in {_listed(each[cut])}"

    @contextmanager
    def _calling(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._failures as error:
            said = " ".join(str(getattr(error, "message", "") or error).split())
            raise StorageError(
                f"Milvus at {self.uri} could not {what} ({self.collection}): {said}; check the address, "
                "the token and that it runs"
            ) from error


def _condition(where: Filter) -> str | None:
    """A filter, and that a note is visible now, as Milvus writes it; None where no note can pass."""
    parts = ["hidden == false", f"expires_at > {base.now()}"]
    if where.categories:
        parts.append(f"category in {_listed(where.categories)}")
    if where.topics:
        parts.append(f"array_contains_any(topics, {_listed(where.topics)})")
    if where.published_after is not None:
        parts.append(f"published_at >= {microseconds(where.published_after)}")
    if where.published_before is not None:
        parts.append(f"published_at < {microseconds(where.published_before)}")
        parts.append(f"published_at > {_UNKNOWN_TIME}")
    if where.allow is not None:
        if not (allowed := frozenset(where.allow).difference(where.deny)):
            return None
        parts.append(f"note_id in {_listed(allowed)}")
    elif where.deny:
        parts.append(f"note_id not in {_listed(where.deny)}")
    return " and ".join(parts)


def _encoded(text: str) -> str:
    return _UNSAFE.sub(lambda found: quote(found[0], safe=""), text)


def _listed(texts: Collection[str]) -> str:
    return "[" + ", ".join(f'"{_encoded(text)}"' for text in texts) + "]"


def _stored(text: str, what: str) -> str:
    encoded = _encoded(text)
    if (size := _size(encoded)) > MOST_BYTES:
        raise DataError(
            f"the {what} {text[:40]!r}... has {size:,} bytes; Milvus takes at most {MOST_BYTES:,}: "
            "give a shorter one"
        )
    return encoded


def _size(text: str) -> int:
    return len(text.encode())


def _times(column: pa.ChunkedArray, missing: int) -> list[int]:
    times: list[int] = column.cast(TIME).cast(pa.int64()).fill_null(missing).to_pylist()
    return times


def _cuts(sizes: Sequence[int]) -> Iterator[slice]:
    """Consecutive pieces of at most ``_CALL_BYTES``, or of one item."""
    start, held = 0, 0
    for i, size in enumerate(sizes):
        if i > start and held + size > _CALL_BYTES:
            yield slice(start, i)
            start, held = i, 0
        held += size
    if len(sizes) > start:
        yield slice(start, len(sizes))
