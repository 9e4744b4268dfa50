"""How filters and texts are written in Milvus' filter language.

Texts are stored percent-encoded where they hold a quote, a backslash, a brace, a percent sign, a control
character or a character beyond the basic plane (``a"b`` is ``a%22b``), so no text in a filter needs an
escape. Milvus Lite reads few escapes and no filter templates, and a server keeps 16 bits of each character
in a filter (``formatUnicode`` in its internal/parser/planparserv2/utils.go).
"""

import re
from collections.abc import Collection
from urllib.parse import quote

import pyarrow as pa

from notellm.data.schema import TIME
from notellm.errors import DataError
from notellm.store.index import base
from notellm.store.index.filters import Filter, microseconds

#: Bytes that a server allows in one text.
MOST_BYTES = 65_535
#: They stand for missing times: Milvus compares a null with nothing, Milvus Lite treats it differently.
UNKNOWN_TIME, NEVER = -(2**63) + 1, 2**63 - 1

_UNSAFE = re.compile("[%\"'\\\\{}\x00-\x1f\x7f\U00010000-\U0010ffff]")


def condition_of(where: Filter) -> str | None:
    """Return a condition for visible notes that pass a filter; None if no note can pass."""
    parts = ["hidden == false", f"expires_at > {base.now()}"]
    if where.categories:
        parts.append(f"category in {listed(where.categories)}")
    if where.topics:
        parts.append(f"array_contains_any(topics, {listed(where.topics)})")
    if where.published_after is not None:
        parts.append(f"published_at >= {microseconds(where.published_after)}")
    if where.published_before is not None:
        parts.append(f"published_at < {microseconds(where.published_before)}")
        parts.append(f"published_at > {UNKNOWN_TIME}")
    if where.allow is not None:
        if not (allowed := frozenset(where.allow).difference(where.deny)):
            return None
        parts.append(f"note_id in {listed(allowed)}")
    elif where.deny:
        parts.append(f"note_id not in {listed(where.deny)}")
    return " and ".join(parts)


def listed(texts: Collection[str]) -> str:
    """Return texts as a list in the filter language."""
    return "[" + ", ".join(f'"{_encoded(text)}"' for text in texts) + "]"


def stored(text: str, what: str) -> str:
    """Return a text as the collection stores it.

    Args:
        text: the text.
        what: what the text is, for the error message.

    Raises:
        DataError: if it is longer than Milvus allows.
    """
    encoded = _encoded(text)
    if (size := byte_size(encoded)) > MOST_BYTES:
        raise DataError(
            f"the {what} {text[:40]!r}... has {size:,} bytes; Milvus takes at most {MOST_BYTES:,}: "
            "give a shorter one"
        )
    return encoded


def times_of(column: pa.ChunkedArray, missing: int) -> list[int]:
    """Return times as microseconds since 1970, with ``missing`` for nulls."""
    times: list[int] = column.cast(TIME).cast(pa.int64()).fill_null(missing).to_pylist()
    return times


def byte_size(text: str) -> int:
    """Return the number of bytes of a text in UTF-8."""
    return len(text.encode())


def _encoded(text: str) -> str:
    return _UNSAFE.sub(lambda match: quote(match[0], safe=""), text)
