"""The terms of texts, and how often each occurs.

Terms are counted in BUCKETS by their CRC-32, so that no vocabulary is kept.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from notellm.data.note import Note
from notellm.data.same_text import UNSPACED

BUCKETS = 2**20

_RUNS = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")
_WINDOW = 3
_TOGETHER = 4_096  # texts whose terms are sorted together


def terms(text: str) -> Iterator[str]:
    """Yield the terms of a text, after NFKC and case folding.

    In scripts written without spaces the terms are single characters and pairs of neighbours. Elsewhere they
    are words, and windows of 3 characters of longer words, which match inflections, compounds and typing
    errors.
    """
    for run in _RUNS.finditer(unicodedata.normalize("NFKC", text).casefold()):
        yield from _characters(run.group()) if run["unspaced"] else _windows(run.group())


def _characters(run: str) -> Iterator[str]:
    """Yield the terms of a run of a script without spaces."""
    yield from run
    yield from (run[i : i + 2] for i in range(len(run) - 1))


def _windows(word: str) -> Iterator[str]:
    """Yield the terms of a word."""
    yield word
    if len(word) > _WINDOW:
        # The "#" distinguishes a window from the word of the same letters.
        yield from ("#" + word[i : i + _WINDOW] for i in range(len(word) - _WINDOW + 1))


def note_text(title: str, topics: Sequence[str], content: str) -> str:
    """Return title, topics and content, one per line."""
    return "\n".join((title, *topics, content))


def text_of(note: Note) -> str:
    """Return the text of a note that lexical search reads."""
    return note_text(note.title, note.topics, note.content)


def texts_of(notes: pa.Table, *, with_topics: bool = True) -> list[str]:
    """Return the title, topics and content of each note, one per line.

    Args:
        notes: the notes, schema NOTES.
        with_topics: False leaves the topics out, for methods that predict them.
    """
    columns = (notes[name].to_pylist() for name in ("title", "topics", "content"))
    return [
        note_text(title, topics if with_topics else (), content)
        for title, topics, content in zip(*columns, strict=True)
    ]


def term_counts(texts: Sequence[str]) -> sp.csr_matrix:
    """Return how often each term occurs in each text, (texts, BUCKETS) float32, with ascending columns."""
    pieces = [_counts(texts[start : start + _TOGETHER]) for start in range(0, len(texts), _TOGETHER)]
    return sp.csr_matrix(sp.vstack(pieces)) if len(pieces) > 1 else pieces[0] if pieces else _counts([])


def _counts(texts: Sequence[str]) -> sp.csr_matrix:
    buckets: list[int] = []
    sizes: list[int] = []
    for text in texts:
        before = len(buckets)
        for run in _RUNS.finditer(unicodedata.normalize("NFKC", text).casefold()):
            word = run.group()
            buckets += map(_bucket, _characters(word)) if run["unspaced"] else _of_word(word)
        sizes.append(len(buckets) - before)
    row = np.repeat(np.arange(len(texts)), sizes)
    keys, counts = np.unique(row * BUCKETS + np.array(buckets, dtype=np.int64), return_counts=True)
    indptr = np.searchsorted(keys, np.arange(len(texts) + 1) * BUCKETS)
    return sp.csr_matrix(
        (counts.astype(np.float32), (keys % BUCKETS).astype(np.int32), indptr), shape=(len(texts), BUCKETS)
    )


@lru_cache(maxsize=2**17)  # a language has few words that are frequent
def _of_word(word: str) -> tuple[int, ...]:
    """Return the buckets of the terms of a word."""
    return tuple(map(_bucket, _windows(word)))


@lru_cache(maxsize=2**18)
def _bucket(term: str) -> int:
    return crc32(term.encode("utf-8", "surrogatepass")) % BUCKETS
