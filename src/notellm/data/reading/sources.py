"""Which files a path names, and what they hold: looked up in their content, not in their names.

Compressed files (gzip, zstd, bzip2, LZ4) are read as what is inside. What holds no table (an archive, a web
page, a workbook) is named in the error.
"""

import codecs
import glob
import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from notellm.errors import DataError, StorageError
from notellm.progress import progress_bar

Content = Literal["parquet", "json", "delimited"]

_HEAD = 4096
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bz2"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
_REFUSED = (
    (b"PK\x03\x04", "a zip archive (or an Excel workbook); unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save the sheet as CSV"),
    (b"SQLite format 3", "an SQLite database; export the table as CSV"),
    (b"%PDF", "a PDF document; give a table"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"Rar!", "a RAR archive; unpack it"),
    (b"ARROW1", "an Arrow file; save the table as Parquet"),
    (b"ORC", "an ORC file; save the table as Parquet"),
    (b"Obj\x01", "an Avro file; save the table as Parquet"),
    (b"\x89HDF", "an HDF5 file; save the table as Parquet"),
    (b"\x80\x04", "a Python pickle, which notellm never opens; save the table as Parquet"),
)
_PAGE = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|\?xml)", re.IGNORECASE)
_IGNORED = re.compile(r"[._].*|.*\.crc")
_BLOCK = 1 << 22
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ZEROS = 0.2  # share of zero bytes from which on a text is UTF-16
_MOST_CONTROLS = 0.05  # share of control characters up to which bytes may be text
#: Control characters that no text has; \x01 to \x03 separate in Hive.
_CONTROL = re.compile(r"[\x04-\x08\x0e-\x1a\x1c-\x1f]")


def files_of(path: str | Path) -> list[Path]:
    """Return the files that a path names: one file, those of a folder and its folders, or those of a pattern.

    Names that begin with a point or an underscore are left out, as Spark's ``_SUCCESS``.

    Raises:
        StorageError: if there is no such file.
        DataError: if the folder holds no file.
    """
    given = Path(path)
    if given.is_file():
        return [given]
    if given.is_dir():
        found = [each for each in sorted(given.rglob("*")) if each.is_file()]
        found = [
            each for each in found if not any(_IGNORED.fullmatch(p) for p in each.relative_to(given).parts)
        ]
        if not found:
            raise DataError(
                f"{given} is a folder without files; give a file, or a folder of parts of one table"
            )
        return found
    if glob.has_magic(str(path)):
        names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - the pattern may be absolute
        if found := [Path(name) for name in sorted(names) if Path(name).is_file()]:
            return found
    raise StorageError(f"no such file: {given}")


def content_of(path: Path) -> Content:
    """Return what a file holds.

    Raises:
        StorageError: if it cannot be read.
        DataError: if it holds no table that notellm reads.
    """
    with opened(path, progress=False) as source:
        head = source.read(_HEAD)
    if not head:
        return "delimited" if path.suffix.lower() not in (".jsonl", ".ndjson", ".json") else "json"
    if head.startswith(b"PAR1"):
        return "parquet"
    for magic, what in _REFUSED:
        if head.startswith(magic):
            raise DataError(f"{path} is {what}")
    if _PAGE.match(head):
        raise DataError(
            f"{path} is a web page or XML, perhaps of a login or an error; download the table again"
        )
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh")):
        raise DataError(f"{path} is compressed twice; decompress it once")
    if head[257:262] == b"ustar":
        raise DataError(f"{path} is a tar archive; unpack it")
    # The zeros are those of UTF-16.
    if head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1] in (b"{", b"["):
        return "json"
    text = head.decode(wide_codec(head) or "latin-1", "replace")
    if len(_CONTROL.findall(text)) > _MOST_CONTROLS * len(text):
        raise DataError(f"{path} is no text; give Parquet, delimited text or JSON")
    if path.suffix.lower() == ".parquet":
        raise DataError(f"{path} is not a readable Parquet file: it does not begin with PAR1")
    return "delimited"


def wide_codec(head: bytes) -> str:
    """Return the codec of UTF-16 or UTF-32, with or without a mark; "" for other bytes."""
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    if marked or head.startswith(codecs.BOM_UTF8):
        return marked
    half = max(1, len(head) // 2)
    even, odd = head[::2].count(0) / half, head[1::2].count(0) / half
    if max(even, odd) < _ZEROS or min(even, odd) > _ZEROS / 2:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


@contextmanager
def opened(path: Path, *, progress: bool = True) -> Iterator[IO[bytes]]:
    """Open a file, compressed or not, with a progress bar after 2 seconds.

    Raises:
        StorageError: if the file cannot be read.
        DataError: if it is compressed, and damaged.
    """
    try:
        with path.open("rb") as raw:
            head = raw.peek(8)[:8]
            kind = next((name for magic, name in _COMPRESSED if head.startswith(magic)), None)
            if kind is None and path.suffix.lower() == ".gz" and head:
                raise DataError(f"{path} is not a whole gzip file: it does not begin as one")
            size = path.stat().st_size
            with progress_bar(
                total=size,
                desc=path.name,
                unit="B",
                unit_scale=True,
                delay=2,
                leave=False,
                disable=not progress,
            ) as bar:
                yield _Counted(_decompressed(raw, kind), raw, bar)  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from error
    except pa.ArrowException as error:
        raise DataError(f"{path} is not a whole compressed file: {error}") from error
    except OSError as error:
        if isinstance(error, (DataError, StorageError)):
            raise
        if error.errno is None:  # not from the system, but from Arrow, which decompresses
            raise DataError(f"{path} is not a whole compressed file: {error}") from error
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


class _Counted:
    """A binary file that moves a progress bar by the bytes that were read from the disk."""

    def __init__(self, source: IO[bytes], raw: IO[bytes], bar: Any) -> None:
        self._source = source
        self._raw = raw
        self._bar = bar

    def read(self, size: int = -1) -> bytes:
        block = self._source.read(size)
        self._bar.update(self._raw.tell() - self._bar.n)
        return block

    def blocks(self) -> Iterator[bytes]:
        while block := self.read(_BLOCK):
            yield block


def _decompressed(raw: IO[bytes], kind: str | None) -> IO[bytes]:
    if kind is None:
        return raw
    if kind == "gzip":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    return pa.CompressedInputStream(pa.PythonFile(raw), kind)  # type: ignore[no-any-return]
