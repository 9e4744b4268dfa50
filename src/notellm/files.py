"""Writing that never leaves half a file: write aside in the same folder, then rename.

A reader sees the old file or the whole new one, never a part; a failed or killed write leaves at most
a hidden ``.NAME.PID.part``, which a failing write removes itself.

A Parquet file that is an artifact of its own carries its record (``notellm.record``) in its schema
metadata, under ``RECORD_KEY``, as JSON: nobody can part the two.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from notellm.errors import DataError, StorageError

RECORD_KEY = b"notellm.record"


@contextmanager
def write_aside(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it becomes ``path``, on failure it is removed.

    The block may create a file or a directory at the temporary path.

    Args:
        path: where the finished file or directory shall be. Missing parent folders are made.
        overwrite: replace what is there (a directory is replaced as a whole).

    Raises:
        StorageError: nothing can be written there (disk full, no permission), or ``path`` exists and
            ``overwrite`` is false.
    """
    target = Path(path)
    if target.exists() and not overwrite:
        raise StorageError(f"{target} exists already; choose another path or remove it first")
    aside = target.parent / f".{target.name}.{os.getpid()}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(aside)
        yield aside
        _sync(aside)
        if aside.is_dir() and target.is_dir():
            _remove(target)
        aside.replace(target)
    except OSError as error:
        _remove(aside)
        if isinstance(error, StorageError):
            raise
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {target}: {reason}") from error
    except BaseException:
        _remove(aside)
        raise


def write_parquet(table: pa.Table, path: str | Path, *, record: Mapping[str, Any] | None = None) -> None:
    """Write an Arrow table as one Parquet file (zstd), whole or not at all.

    Args:
        table: the table.
        path: the file; replaced when complete.
        record: what made it; None where the record lies beside it in its folder.

    Raises:
        StorageError: the file cannot be written.
    """
    with write_aside(path) as aside:
        pq.write_table(table.replace_schema_metadata(_metadata(record)), aside, compression="zstd")


def write_parquet_pieces(
    pieces: Iterable[pa.Table], path: str | Path, *, record: Mapping[str, Any] | None = None
) -> None:
    """Write a table that comes in pieces, one at least, as :func:`write_parquet` writes one."""
    rest = iter(pieces)
    first = next(rest)
    with (
        write_aside(path) as aside,
        pq.ParquetWriter(aside, first.schema.with_metadata(_metadata(record)), compression="zstd") as writer,
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
        StorageError: there is no such file.
        DataError: it is not Parquet, or lacks a column.
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
        return pq.read_table(source, columns=columns).replace_schema_metadata()
    except pa.ArrowException as error:
        raise DataError(f"{source} is not a readable Parquet file: {error}") from error


def write_json(value: Any, path: str | Path) -> None:
    """Write ``value`` as indented UTF-8 JSON, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    with write_aside(path) as aside:
        aside.write_text(json_text(value), encoding="utf-8")


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
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{source} is not valid JSON: {error}") from error


def _sync(path: Path) -> None:
    """Flush a file to disk, so that the rename never outlives its content."""
    if path.is_file():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
