"""The record of an artifact: what made it, from which data, and how good it is.

    {"kind", "versions", "seed", "config", "data", "metrics", "fingerprint"}

A folder (dataset, split, model, report) has its record in ``record.json``. A Parquet file that is an artifact
in itself (related pairs, vectors, item-to-item table, tags) has it in its schema metadata. ``data`` names
each input by its fingerprint, which leads to the record of the previous stage. The record contains no time,
so the same inputs give the same bytes.
"""

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from notellm.artifacts.parquet import parquet_record
from notellm.errors import DataError, StorageError
from notellm.files import parquet_batches, read_json, write_json
from notellm.version import __version__

RECORD = "record.json"
_BLOCK = 1 << 20
_ROWS = 1 << 13  # read at once from a file; texts may be long
_PACKAGES = (
    "numpy",
    "scipy",
    "polars",
    "pyarrow",
    "numba",
    "scikit-learn",
    "sacrebleu",
    "rouge-score",
    "tokenizers",
    "torch",
    "transformers",
    "peft",
    "accelerate",
)


def versions() -> dict[str, str]:
    """Return the versions of notellm, Python and the packages that can change a result."""
    numbers = {"notellm": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers


def fingerprint(table: pa.Table) -> str:
    """Return the SHA-256 of the names, types and values of a table in row order, 16 hexadecimal digits.

    Chunks and metadata do not count, so a table and its copy from disk have the same fingerprint.
    """
    return fingerprint_of_columns(lambda name: [table.column(name)], table.schema, table.num_rows)


def fingerprint_of_columns(
    column: Callable[[str], Iterable[pa.ChunkedArray]], schema: pa.Schema, rows: int
) -> str:
    """Return the fingerprint of a table whose columns come in pieces.

    Args:
        column: makes the pieces of a column; it is called several times.
        schema: schema of the table.
        rows: number of rows of the table.
    """
    digest = hashlib.sha256()
    for name in schema.names:
        digest.update(f"{name}:{_kind(schema.field(name).type)}:{rows}".encode())
        _hash_column(digest, partial(column, name), schema.field(name).type)
    return digest.hexdigest()[:16]


def _kind(type_: pa.DataType) -> str:
    """Return the name of a type, without the name of a list's items, which Parquet does not keep."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"list of {_kind(type_.value_type)}"
    if pa.types.is_fixed_size_list(type_):
        return f"list of {type_.list_size} {_kind(type_.value_type)}"
    return str(type_)


def _hash_column(
    digest: "hashlib._Hash", column: Callable[[], Iterable[pa.ChunkedArray]], type_: pa.DataType
) -> None:
    """Add the nulls, lengths and values of a column, which do not depend on pieces, chunks or offsets.

    Args:
        digest: the digest.
        column: makes the pieces of the column; it is called for each part of them that is added.
        type_: type of the column.
    """
    for piece in column():
        for block in _blocks(piece):
            digest.update(block.is_null().to_numpy().tobytes())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        for piece in column():
            digest.update(pc.list_value_length(piece).fill_null(0).to_numpy().tobytes())
        _hash_column(digest, lambda: map(pc.list_flatten, column()), type_.value_type)
    elif pa.types.is_string(type_) or pa.types.is_large_string(type_):
        for piece in column():
            digest.update(pc.binary_length(_filled(piece)).to_numpy().tobytes())
        for piece in column():
            _hash_texts(digest, _filled(piece))
    elif pa.types.is_fixed_size_list(type_):
        _hash_column(digest, lambda: map(pc.list_flatten, column()), type_.value_type)
    else:
        number = pa.int64() if pa.types.is_timestamp(type_) else type_
        number = pa.uint8() if pa.types.is_boolean(type_) else number
        for piece in column():
            _hash_numbers(digest, piece.cast(number))


def _filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.large_string()).fill_null("")


def _hash_texts(digest: "hashlib._Hash", column: pa.ChunkedArray) -> None:
    for chunk in column.chunks:
        offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int64)
        first, last = offsets[chunk.offset], offsets[chunk.offset + len(chunk)]
        if last > first:
            digest.update(memoryview(chunk.buffers()[2])[first:last])


def _hash_numbers(digest: "hashlib._Hash", column: pa.ChunkedArray) -> None:
    for block in _blocks(column):
        digest.update(block.fill_null(0).to_numpy().tobytes())


def _blocks(column: pa.ChunkedArray) -> Iterator[pa.ChunkedArray]:
    """Yield a column in pieces, since numbers are copied to be hashed."""
    for start in range(0, len(column), _BLOCK):
        yield column.slice(start, _BLOCK)


def describe(table: pa.Table) -> dict[str, Any]:
    """Return how a record names a table among its data: ``rows`` and ``fingerprint``."""
    return {"rows": table.num_rows, "fingerprint": fingerprint(table)}


def describe_parquet(path: Path, schema: pa.Schema) -> dict[str, Any]:
    """Return what :func:`describe` says of the columns of a Parquet file, read in pieces.

    Args:
        path: a file that notellm wrote a moment ago.
        schema: names and types of the columns that count; the file may have more.
    """

    def column(name: str) -> Iterator[pa.ChunkedArray]:
        for batch in parquet_batches(path, _ROWS, [name]):
            yield pa.chunked_array([batch.column(0)])

    rows = pq.read_metadata(path).num_rows
    return {"rows": rows, "fingerprint": fingerprint_of_columns(column, schema, rows)}


def make_record(
    *,
    kind: str,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    seed: int | None = None,
    metrics: Mapping[str, Any] | None = None,
    fingerprint: str | None = None,
) -> dict[str, Any]:
    """Return the record of an artifact, for the function that writes the artifact.

    Args:
        kind: kind of the artifact: "dataset", "split", "pairs", "model", "vectors", "related", "tags",
            "ranker" or "report".
        config: the resolved options, JSON values only.
        data: what it was made from: each table by :func:`describe`, a model by its ``fingerprint``. For a
            dataset or split, the tables in it, since later stages read those.
        seed: the seed that makes it reproducible; None if nothing is drawn.
        metrics: figures measured while it was made, and counts of its contents.
        fingerprint: fingerprint of the artifact, by which records of other artifacts name it.
    """
    return {
        "kind": kind,
        "versions": versions(),
        "seed": seed,
        "config": dict(config),
        "data": dict(data),
        "metrics": dict(metrics or {}),
        "fingerprint": fingerprint,
    }


def write_record(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write ``record.json`` into the existing folder of an artifact.

    Raises:
        StorageError: if the file cannot be written.
    """
    write_json(record, Path(folder) / RECORD)


def read_record(path: str | Path) -> dict[str, Any]:
    """Return the record of an artifact, a folder or a Parquet file.

    Raises:
        StorageError: if there is no such folder or file.
        DataError: if it carries no record.
    """
    source = Path(path)
    if source.is_dir():
        record = read_json(source / RECORD) if (source / RECORD).is_file() else None
    elif source.is_file():
        record = parquet_record(source)
    else:
        raise StorageError(f"no such file or folder: {source}")
    if not isinstance(record, dict):
        raise DataError(
            f"{source} carries no record (no {RECORD}, or nothing in the Parquet file's metadata); "
            "make it again with notellm"
        )
    return record
