"""Read and write Parquet and JSON files; files are written whole or not at all, and errors name the file.

A Parquet file that is an artifact in itself carries its record (``notellm.record``) as JSON in its schema
metadata, under ``RECORD_KEY``. Pages have checksums, which are verified when a file is read. Which files may
be replaced is decided in ``notellm.artifacts.replace``.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.artifacts.parquet import RECORD_KEY
from notellm.artifacts.write import write_file
from notellm.errors import DataError, StorageError

_WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def write_parquet(
    table: pa.Table, path: str | Path, *, record: Mapping[str, Any] | None = None, force: bool = False
) -> None:
    """Write an Arrow table as one Parquet file (zstd), whole or not at all.

    Args:
        table: the table.
        path: the file. An existing file is replaced only if its record is of the same kind as ``record``.
        record: how the table was made; None if the record is a separate file in the same folder.
        force: replace any file.

    Raises:
        StorageError: if an existing file may not be replaced, or the new one cannot be written.
    """
    write_parquet_pieces([table], path, record=record, force=force)


def write_parquet_pieces(
    pieces: Iterable[pa.Table],
    path: str | Path,
    *,
    record: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write a table that comes in pieces, at least one, as :func:`write_parquet` does."""
    rest = iter(pieces)
    first = next(rest)
    kind = None if record is None else str(record["kind"])
    with (
        write_file(path, kind, force=force) as new,
        pq.ParquetWriter(new, first.schema.with_metadata(_metadata(record)), **_WRITING) as writer,
    ):
        for piece in chain([first], rest):
            writer.write_table(piece)


def _metadata(record: Mapping[str, Any] | None) -> dict[bytes, str] | None:
    """Return schema metadata with the record only, without metadata that the table brought along."""
    return None if record is None else {RECORD_KEY: json_text(record)}


def read_parquet(
    path: str | Path, columns: list[str] | None = None, *, optional: Sequence[str] = ()
) -> pa.Table:
    """Read a Parquet file, without its record.

    Args:
        path: the file.
        columns: columns to read; None for all.
        optional: further columns to read, if the file has all of them.

    Raises:
        StorageError: if there is no such file, or it cannot be opened.
        DataError: if it is not Parquet, is damaged, or lacks a column.
    """
    source = Path(path)
    if not source.is_file():
        raise StorageError(f"no such file: {source}")
    try:
        schema = pq.read_schema(source)
        missing = [name for name in columns or [] if name not in schema.names]
        if missing:
            raise DataError(
                f"{source} has no column {missing[0]!r}; its columns are {', '.join(schema.names)}"
            )
        if columns is not None and set(optional) <= set(schema.names):
            columns = [*columns, *optional]
        table = pq.read_table(source, columns=columns, page_checksum_verification=True)
        table.validate(full=True)  # otherwise text that is not UTF-8 fails later
    except PermissionError as error:
        raise StorageError(f"cannot read {source}: {error.strerror}") from error
    except (pa.ArrowException, OSError) as error:  # damaged pages raise an OSError
        raise DataError(f"{source} is not a readable Parquet file, or is damaged: {error}") from error
    return table.replace_schema_metadata()


def parquet_batches(
    path: str | Path, rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield a Parquet file in batches, of which one at a time is in memory.

    Args:
        path: the file.
        rows: most rows of a batch.
        columns: columns to read; None for all.

    Raises:
        DataError: if it is not Parquet, or is damaged.
    """
    names = None if columns is None else list(columns)
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        yield from file.iter_batches(rows, columns=names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file, or is damaged: {error}") from error


def write_json(value: Any, path: str | Path, *, replace: bool = False) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all.

    Args:
        value: JSON values.
        path: the file.
        replace: replace an existing file; for files in folders that notellm wrote.

    Raises:
        StorageError: if the file exists and ``replace`` is false, or it cannot be written.
    """
    with write_file(path, force=replace) as new:
        new.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """Return ``value`` as indented JSON that ends in a line feed."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        StorageError: if there is no such file, or it cannot be read.
        DataError: if it is not valid JSON.
    """
    source = Path(path)
    if not source.is_file():
        raise StorageError(f"no such file: {source}")
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {source}: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{source} is not valid JSON: {error}") from error
