"""Which notes have the same text, or nearly the same, under several ids.

Equal: title and content are the same after Unicode NFKC, case folding and joining of white space; topics
count where there is no other text. Nearly equal: the Jaccard index of their sets of shingles (pairs of
neighbouring words; of characters in scripts without spaces) is at least a threshold (Broder 1997). Candidates
come from MinHash signatures of ``_HASHES`` values in bands (Leskovec et al., Mining of Massive Datasets,
3.4). The index is exact for texts of up to ``_SKETCH`` shingles and estimated from bottom-k sketches beyond.
Memory: 1 KiB a text for signatures and at most 2 KiB for sketches, some 300 MB for 100,000 notes.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm.data.note import Note, notes_from_table
from notellm.errors import ConfigError

#: Characters of scripts that are treated as written without spaces, for a class of a regular expression:
#: kana, Han with its extensions, Hangul.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
#: The lowest Jaccard index that may be asked for; below it, notes of one template or one subject are "equal".
LEAST_NEAR = 0.5

_WORDS = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
_HASHES = 128  # values of a signature
_SKETCH = 256  # shingles of a text that are kept, those with the lowest hashes
_BLOCK = 1 << 18  # characters whose shingles are hashed together
_MISSED = 1e-3  # largest share of pairs at the threshold that may be missed
_REPRESENTATIVES = 8  # texts of a bucket that each further text is compared with, at most
Hashes = npt.NDArray[np.uint64]


def text_of(note: Note) -> str:
    """Return the text by which notes are compared: "" if there is none."""
    text = _plain(f"{note.title}\n{note.content}")
    # The sign keeps a note of topics apart from a title of the same words; no plain text begins with a space.
    return text or " ".join(" " + topic for topic in map(_plain, note.topics) if topic)


def equal_texts(notes: pa.Table) -> npt.NDArray[np.int64]:
    """Return a group number for each note, int64 (n,): notes of one text share it, others have their own.

    Groups are counted in the order of their first rows. Notes without any text are no group.

    Args:
        notes: notes table.
    """
    groups: dict[bytes, int] = {}
    result = np.empty(notes.num_rows, np.int64)
    for row, text in enumerate(_texts(notes)):
        # A digest instead of the text, since whole contents of millions of notes would not fit into memory.
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() if text else b"%d" % row
        result[row] = groups.setdefault(key, len(groups))
    return result


def near_texts(notes: pa.Table, threshold: float) -> npt.NDArray[np.int64]:
    """Return a group number for each note, int64 (n,), as :func:`equal_texts`, also for nearly equal texts.

    Groups are the connected components: of three notes, the first and the last may differ by more than each
    does from the second. The groups depend on ids and texts, not on the order of rows.

    Args:
        notes: notes table with ``note_id``.
        threshold: smallest Jaccard index of the shingles of near-equal texts.

    Raises:
        ConfigError: if the threshold is not allowed.
    """
    if not LEAST_NEAR <= threshold <= 1:
        raise ConfigError(
            f"near_duplicates is {threshold}; give a Jaccard index from {LEAST_NEAR} to 1, such as 0.8"
        )
    equal = equal_texts(notes)
    order = np.argsort(np.array(notes["note_id"].to_pylist(), dtype=object), kind="stable")
    _, first = np.unique(equal[order], return_index=True)
    rows = order[np.sort(first)]  # the note of each text with the lowest id, by id
    joined = _similar(notes.take(pa.array(rows)), threshold)
    component = np.empty(int(equal.max(initial=-1)) + 1, np.int64)
    component[equal[rows]] = joined
    return _numbered(component[equal])


def _similar(notes: pa.Table, threshold: float) -> npt.NDArray[np.int64]:
    """Return the component (n,) of each of n different texts under near-equality."""
    signatures, sketches = [], []
    for signature, kept in _signed(_texts(notes)):
        signatures.append(signature)
        sketches += kept
    table = np.concatenate(signatures) if signatures else np.empty((0, _HASHES), np.uint64)
    has_shingles = np.array([len(sketch) > 0 for sketch in sketches], np.bool_)
    parent = list(range(len(table)))
    per_band = _rows_per_band(threshold)
    for start in range(0, _HASHES - per_band + 1, per_band):
        for bucket in _buckets(table[:, start : start + per_band], has_shingles):
            representatives = bucket[:1]
            for row in bucket[1:]:
                for other in representatives:
                    root, other_root = _root(parent, row), _root(parent, other)
                    if root == other_root:
                        break
                    if _jaccard(sketches[other], sketches[row]) >= threshold:
                        parent[max(root, other_root)] = min(root, other_root)
                        break
                else:
                    if len(representatives) < _REPRESENTATIVES:
                        representatives.append(row)
    return np.array([_root(parent, row) for row in range(len(parent))], np.int64)


def _root(parent: list[int], row: int) -> int:
    """Return the row that stands for the component of a row, and shorten the way to it."""
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _rows_per_band(threshold: float) -> int:
    """Return the largest number of rows of a band with which too few pairs at the threshold are missed."""
    return max(r for r in range(1, 17) if (1 - threshold**r) ** (_HASHES // r) <= _MISSED)


def _buckets(band: Hashes, usable: npt.NDArray[np.bool_]) -> Iterator[list[int]]:
    """Yield the rows, ascending, that have equal values in a band, where there are several."""
    key = np.zeros(len(band), np.uint64)
    for column in band.T:
        key = _mixed(key ^ column)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(key[rows], kind="stable")]
    for run in np.split(rows, np.flatnonzero(np.diff(key[rows])) + 1):
        if len(run) > 1:
            yield run.tolist()


def _jaccard(a: Hashes, b: Hashes) -> float:
    """Return the Jaccard index of two sets from their bottom-k sketches; exact if both are whole."""
    union = np.union1d(a, b)
    if max(len(a), len(b)) == _SKETCH:  # the lowest of the union are a uniform sample of it
        union = union[:_SKETCH]
    return float(np.isin(union, np.intersect1d(a, b, assume_unique=True), assume_unique=True).mean())


def _signed(texts: Iterator[str]) -> Iterator[tuple[Hashes, list[Hashes]]]:
    """Yield the signatures (block, _HASHES) and the sketches of texts, block by block."""
    seeds = np.random.default_rng(0).integers(0, 1 << 63, _HASHES, dtype=np.uint64)
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= _BLOCK:
            yield _signed_block(block, seeds)
            block, size = [], 0
    if block:
        yield _signed_block(block, seeds)


def _signed_block(texts: Sequence[str], seeds: Hashes) -> tuple[Hashes, list[Hashes]]:
    known: dict[str, int] = {}
    signatures = np.full((len(texts), len(seeds)), np.iinfo(np.uint64).max, np.uint64)
    sketches = []
    for row, text in enumerate(texts):
        shingles = _shingles(text, known)
        sketches.append(shingles[:_SKETCH].copy())
        for start in range(0, len(shingles), 1 << 14):
            mixed = _mixed(shingles[start : start + (1 << 14), None] ^ seeds)
            np.minimum(signatures[row], mixed.min(axis=0), out=signatures[row])
    return signatures, sketches


def _shingles(text: str, known: dict[str, int]) -> Hashes:
    """Return the hashes of the shingles of a text, each once, ascending; a single word is a shingle."""
    words = _WORDS.findall(text)
    hashes = np.empty(len(words), np.uint64)
    for i, word in enumerate(words):
        value = known.get(word)
        if value is None:
            value = int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            known[word] = value
        hashes[i] = value
    return np.unique(hashes if len(words) < 2 else _mixed(_mixed(hashes[:-1]) ^ hashes[1:]))


def _mixed(values: Hashes) -> Hashes:
    """Return values whose bits depend on all bits of the given ones (the finalizer of splitmix64)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _texts(notes: pa.Table) -> Iterator[str]:
    """Yield the texts of notes, some rows at a time."""
    for start in range(0, notes.num_rows, 1 << 12):
        for note in notes_from_table(notes.slice(start, 1 << 12)):
            yield text_of(note)


def _plain(text: str) -> str:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if not text.isascii():  # case folding can leave a text that is not in normal form
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def _numbered(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return group numbers that count the groups in the order of their first rows."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]
