"""The record that travels with every artifact: what made it, from what, and how good it is.

``record.json`` holds the resolved configuration, the versions, the seed, the fingerprint of the data
and the metrics, so that an artifact found a year later explains itself.
"""

import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm import __version__
from notellm.files import write_json

RECORD = "record.json"
_PACKAGES = (
    "numpy",
    "polars",
    "pyarrow",
    "numba",
    "tokenizers",
    "torch",
    "transformers",
    "peft",
    "accelerate",
)


def versions() -> dict[str, str]:
    """Versions of notellm, Python and the packages that can change a result."""
    found = {"notellm": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def fingerprint(table: pa.Table) -> str:
    """SHA-256 over names, types and values of a table, in row order; 16 hexadecimal digits.

    Chunking and metadata do not count, so a table and its copy from disk have the same fingerprint.
    """
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table.column(name)
        digest.update(f"{name}:{_kind(column.type)}:{len(column)}".encode())
        _hash_column(digest, column)
    return digest.hexdigest()[:16]


def _kind(type_: pa.DataType) -> str:
    """A type's name without what Parquet does not keep: the name of a list's items."""
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"list of {_kind(type_.value_type)}"
    return str(type_)


def _hash_column(digest: "hashlib._Hash", column: pa.ChunkedArray) -> None:
    """Add a column's nulls, lengths and values, none of which depend on chunks or offsets."""
    digest.update(column.is_null().to_numpy().tobytes())
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        digest.update(pc.list_value_length(column).fill_null(0).to_numpy().tobytes())
        _hash_column(digest, pc.list_flatten(column))
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = column.cast(pa.large_string()).fill_null("")
        digest.update(pc.binary_length(text).to_numpy().tobytes())
        for chunk in text.chunks:
            offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int64)
            first, last = offsets[chunk.offset], offsets[chunk.offset + len(chunk)]
            if last > first:
                digest.update(memoryview(chunk.buffers()[2])[first:last])
    elif pa.types.is_timestamp(column.type):
        digest.update(column.cast(pa.int64()).fill_null(0).to_numpy().tobytes())
    else:
        digest.update(column.fill_null(0).to_numpy().tobytes())


def write_record(
    folder: str | Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    data: Mapping[str, Any],
    seed: int | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``record.json`` into an artifact's folder and return its content.

    Args:
        folder: the artifact's folder, which exists.
        kind: what the artifact is: "dataset", "split" or "model".
        config: the resolved options, JSON values only.
        data: fingerprints and sizes of the inputs.
        seed: the seed that makes it reproducible, None where nothing is drawn.
        metrics: figures measured while it was made.

    Raises:
        StorageError: the file cannot be written.
    """
    record = {
        "kind": kind,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "seed": seed,
        "config": dict(config),
        "data": dict(data),
        "metrics": dict(metrics or {}),
    }
    write_json(record, Path(folder) / RECORD)
    return record
