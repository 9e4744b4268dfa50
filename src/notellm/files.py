"""Parquet and JSON files: written whole or not at all, read with errors that name the file.

How a file is put in place, and which one may be replaced: ``notellm.artifacts``.

A Parquet file that is an artifact of its own carries its record (``notellm.record``) in its schema metadata,
under ``RECORD_KEY``, as JSON: nobody can part the two. Pages carry checksums, which are verified when a file
is read.
"""

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.artifacts import RECORD_KEY, write_file
from notellm.errors import DataError, StorageError

_WRITING: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def write_parquet(
    table: pa.Table, path: str | Path, *, record: Mapping[str, Any] | None = None, force: bool = False
) -> None:
    """Write an Arrow table as one Parquet file (zstd), whole or not at all.

    Args:
        table: the table.
        path: the file. One that is there is replaced where its record is of the same kind as the new one's;
            without a record none is.
        record: what made it; None where the record lies beside it in its folder.
        force: replace any file.

    Raises:
        StorageError: a file is there that may not be replaced, or the new one cannot be written.
    """
    write_parquet_pieces([table], path, record=record, force=force)


def write_parquet_pieces(
    pieces: Iterable[pa.Table],
    path: str | Path,
    *,
    record: Mapping[str, Any] | None = None,
    force: bool = False,
) -> None:
    """Write a table that comes in pieces, one at least, as :func:`write_parquet` writes one."""
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
    """Schema metadata that is the record alone; one that came with the table is of another file."""
    return None if record is None else {RECORD_KEY: json_text(record)}


def read_parquet(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file; its record stays behind, since a table in memory may be changed.

    Args:
        path: the file.
        columns: columns to read, all of them when None.

    Raises:
        StorageError: there is no such file, or it cannot be opened.
        DataError: it is not Parquet, is damaged, or lacks a column.
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
        table = pq.read_table(source, columns=columns, page_checksum_verification=True)
        table.validate(full=True)  # a text that is not UTF-8 would fail far from here
    except PermissionError as error:
        raise StorageError(f"cannot read {source}: {error.strerror}") from error
    except (pa.ArrowException, OSError) as error:  # damaged pages raise a plain OSError
        raise DataError(f"{source} is not a readable Parquet file, or is damaged: {error}") from error
    return table.replace_schema_metadata()


def write_json(value: Any, path: str | Path, *, replace: bool = False) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all.

    Args:
        value: what JSON can hold.
        path: the file.
        replace: replace a file that is there; for files within notellm's own folders.

    Raises:
        StorageError: a file is there and ``replace`` is false, or it cannot be written.
    """
    with write_file(path, force=replace) as new:
        new.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """``value`` as indented JSON that ends in a line feed."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        StorageError: there is no such file.
        DataError: it is not JSON.
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
