"""The record that a Parquet file carries in its schema metadata, which names the kind of the file."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.errors import DataError

RECORD_KEY = b"notellm.record"


def parquet_record(path: Path) -> Any:
    """Return the JSON value of the record in a Parquet file's metadata; None if there is no record.

    Raises:
        DataError: if the file is not readable Parquet.
    """
    try:
        return json.loads((pq.read_schema(path).metadata or {}).get(RECORD_KEY, b"null"))
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def kind_of_parquet(path: Path) -> str | None:
    """Return the kind of a Parquet file by its record; None for any file without a record."""
    try:
        record = parquet_record(path)
    except DataError:
        return None
    kind = record.get("kind") if isinstance(record, dict) else None
    return kind if isinstance(kind, str) else None
