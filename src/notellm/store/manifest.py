"""Reads from a manifest, without LanceDB, which files a version of a Lance table consists of.

Every commit adds one manifest, ``_versions/NUMBER.manifest``, that lists the files of the version: data,
deletions (removed rows of a data file), index files and the transaction. A file never changes once it is
written. LanceDB neither tells these files nor flushes them; ``durable.py`` checks and flushes them.

A manifest is a protobuf message (``protos/table.proto`` of https://github.com/lance-format/lance) between an
optional index section and a footer of 16 bytes: position of the message, version of the format, ``LANC``.
"""

import re
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(r"(\d+)\.manifest")
_FOOTER = struct.Struct("<QHH4s")
_LENGTH = struct.Struct("<I")
_MAGIC = b"LANC"
#: File names count down from here, so that the newest manifest is listed first; older ones count up from 1.
_LAST = 2**64 - 1
VERSIONS, DATA, DELETIONS, INDICES, TRANSACTIONS = (
    "_versions",
    "data",
    "_deletions",
    "_indices",
    "_transactions",
)
# Field numbers of the messages Manifest, DataFragment, DataFile, DeletionFile, IndexMetadata and Timestamp.
_FRAGMENTS, _VERSION, _INDEX_SECTION, _WRITTEN, _TRANSACTION = 2, 3, 6, 7, 12
_FRAGMENT_ID, _FRAGMENT_FILES, _FRAGMENT_DELETION = 1, 2, 3
_FILE_PATH, _FILE_BYTES = 1, 6
_DELETION_KIND, _DELETION_READ, _DELETION_ID = 1, 2, 3
_INDEX_UUID, _INDEX_FILES, _INDEX_FILE_NAME, _INDEX_FILE_BYTES = 1, 10, 1, 2
_SECONDS, _NANOSECONDS = 1, 2

#: Sizes of files in bytes by their paths within the table's folder; None if the manifest does not tell.
Files = dict[str, int | None]


class TornError(ValueError):
    """A manifest is incomplete or damaged."""


@dataclass(frozen=True)
class Version:
    """A version of a table.

    Attributes:
        number: number of the version; each commit takes the next one.
        written_at: time of the commit, in seconds since 1970.
        data: data and deletion files.
        transaction: file that describes the commit; a version can be read without it.
        index: index files, which can be built again from the data.
    """

    number: int
    written_at: float
    data: Files
    transaction: Files
    index: Files


class ManifestReader:
    """Reads the manifests of one table, and decodes what two of them share only once.

    Args:
        table: folder of the table.
    """

    def __init__(self, table: Path) -> None:
        self._table = table
        self._fragments: dict[bytes, Files] = {}

    def numbered(self) -> dict[int, Path]:
        """Return the manifests by the number of their version, newest first.

        Raises:
            OSError: if the folder cannot be read.
        """
        folder = self._table / VERSIONS
        if not folder.is_dir():
            return {}
        manifests = {}
        for path in folder.iterdir():
            if (match := _NAME.fullmatch(path.name)) is not None:
                digits = match[1]
                manifests[_LAST - int(digits) if len(digits) == len(str(_LAST)) else int(digits)] = path
        return dict(sorted(manifests.items(), reverse=True))

    def path(self, number: int) -> Path:
        """Return the path of a version's manifest."""
        newest = self._table / VERSIONS / f"{_LAST - number:020}.manifest"
        return newest if newest.is_file() else self._table / VERSIONS / f"{number}.manifest"

    def read(self, path: Path, number: int) -> Version:
        """Read a manifest.

        Args:
            path: file of the manifest.
            number: number of the version by the file's name.

        Raises:
            TornError: if it is not whole, or belongs to another version.
            OSError: if it cannot be read.
        """
        content = path.read_bytes()
        try:
            version = self._decode(content)
        except (ValueError, LookupError, struct.error, OverflowError) as error:
            raise TornError(f"{path.name} is not a whole manifest") from error
        if version.number != number:
            raise TornError(f"{path.name} is the manifest of version {version.number}, not of {number}")
        return version

    def _decode(self, content: bytes) -> Version:
        position, _, _, magic = _FOOTER.unpack(content[-_FOOTER.size :])
        if magic != _MAGIC:
            raise TornError("the footer is missing")
        number, written, index_at = 0, (0, 0), None
        data: Files = {}
        transaction: Files = {}
        fragments: dict[bytes, Files] = {}
        for field, value in _fields(_message(content, position, end=len(content) - _FOOTER.size)):
            if field == _FRAGMENTS:
                raw = _bytes(value)
                files = fragments[raw] = self._fragments.get(raw) or _files_of_fragment(raw)
                data.update(files)
            elif field == _VERSION:
                number = _int(value)
            elif field == _WRITTEN:
                times = dict(_fields(_bytes(value)))
                written = (_int(times.get(_SECONDS, 0)), _int(times.get(_NANOSECONDS, 0)))
            elif field == _INDEX_SECTION:
                index_at = _int(value)
            elif field == _TRANSACTION:
                transaction[f"{TRANSACTIONS}/{_text(value)}"] = None
        index: Files = {}
        if index_at is not None:
            for _, value in _fields(_message(content, index_at, end=len(content) - _FOOTER.size)):
                index.update(_files_of_index(self._table, _bytes(value)))
        self._fragments = fragments
        return Version(number, written[0] + written[1] / 1e9, data, transaction, index)


def _files_of_fragment(raw: bytes) -> Files:
    """Return the data files and the deletion file of a fragment, which is a piece of the table."""
    files: Files = {}
    fragment_id, deletion = 0, b""
    for field, value in _fields(raw):
        if field == _FRAGMENT_ID:
            fragment_id = _int(value)
        elif field == _FRAGMENT_FILES:
            about = dict(_fields(_bytes(value)))
            size = _int(about.get(_FILE_BYTES, 0))
            files[f"{DATA}/{_text(about[_FILE_PATH])}"] = size or None
        elif field == _FRAGMENT_DELETION:
            deletion = _bytes(value)
    if deletion:
        about = dict(_fields(deletion))
        read_version, deletion_id = (_int(about.get(number, 0)) for number in (_DELETION_READ, _DELETION_ID))
        ending = "bin" if about.get(_DELETION_KIND, 0) else "arrow"
        files[f"{DELETIONS}/{fragment_id}-{read_version}-{deletion_id}.{ending}"] = None
    return files


def _files_of_index(table: Path, raw: bytes) -> Files:
    """Return the files of an index."""
    files: Files = {}
    folder = ""
    for field, value in _fields(raw):
        if field == _INDEX_UUID:
            folder = str(uuid.UUID(bytes=_bytes(dict(_fields(_bytes(value)))[1])))
        elif field == _INDEX_FILES:
            about = dict(_fields(_bytes(value)))
            size = _int(about.get(_INDEX_FILE_BYTES, 0))
            files[f"{INDICES}/{folder}/{_text(about[_INDEX_FILE_NAME])}"] = size or None
    if not files and (table / INDICES / folder).is_dir():  # earlier versions of Lance did not list them
        files = {f"{INDICES}/{folder}/{path.name}": None for path in (table / INDICES / folder).iterdir()}
    return files


def _message(content: bytes, position: int, *, end: int) -> bytes:
    """Return a message, which follows its length."""
    (length,) = _LENGTH.unpack_from(content, position)
    start = position + _LENGTH.size
    if start + length > end:
        raise TornError("a message is cut off")
    return content[start : start + length]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the field numbers and values of a protobuf message; numbers of 4 or 8 bytes come as bytes."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if kind == 2:
            length, at = _varint(message, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise TornError(f"there is no wire type {kind}")
        if at + length > end:
            raise TornError("a field is cut off")
        yield field, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Return a number, stored in 7 bits of each byte, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise TornError("a number has no end")


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TornError("a number is expected")
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TornError("a message is expected")
    return value


def _text(value: int | bytes) -> str:
    """Return a file name, which must not lead out of its folder."""
    text = _bytes(value).decode()
    if not text or "/" in text or "\\" in text or text in (".", ".."):
        raise TornError(f"{text!r} is not a file name")
    return text
