"""Lexical search: terms of texts, and an index of notes that come and go, searched by BM25.

    BM25(q, d) = sum_{t in q} idf_t count_td (k1 + 1) / (count_td + k1 (1 - b + b length_d / mean length))
    idf_t      = ln(1 + (N - N_t + 1/2) / (N_t + 1/2))      N_t of the N notes hold the term t
    lexical score  = BM25(q, d) / BM25(q, q)                about 0 to 1
    hybrid score   = (1 - share) cosine of vectors + share lexical score

Terms are counted in BUCKETS by their CRC-32, so that no vocabulary is kept. BM25: Robertson and Zaragoza, The
Probabilistic Relevance Framework, 2009; its share of the query's own score makes queries comparable.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import RLock
from zlib import crc32

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from notellm.data.same_text import UNSPACED
from notellm.errors import ConfigError, DataError

BUCKETS = 2**20
#: The lexical share of the score of hybrid search, where none was fitted (benchmarks/README.md).
DEFAULT_SHARE = 0.4

_RUNS = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")
_WINDOW = 3
_K1, _B = 1.2, 0.75
_GROWN_AT_LEAST = 1_000  # new texts before the frequencies of terms are counted anew
_TOGETHER = 64  # queries whose scores are held at once
#: Among so many notes, terms in more than this share of them do not bring notes, they only count.
_MANY, _COMMON = 5_000, 0.02
#: So many times k notes, and at least so many, are then scored with all terms.
_RESCORED, _RESCORED_AT_LEAST = 4, 400


# -------------------------------------------------------------------- terms


def terms(text: str) -> Iterator[str]:
    """Yield the terms of a text, after NFKC and case folding.

    In scripts written without spaces the terms are single characters and pairs of neighbours. Elsewhere they
    are words, and windows of 3 characters of longer words, which match inflections, compounds and typing
    errors.
    """
    for run in _RUNS.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = run.group()
        if run["unspaced"]:
            yield from word
            yield from (word[i : i + 2] for i in range(len(word) - 1))
        else:
            yield word
            if len(word) > _WINDOW:
                # The "#" distinguishes a window from the word of the same letters.
                yield from ("#" + word[i : i + _WINDOW] for i in range(len(word) - _WINDOW + 1))


def note_text(title: str, topics: Sequence[str], content: str) -> str:
    """Return the text of a note that lexical search reads."""
    return "\n".join((title, *topics, content))


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
    """Return how often each term occurs in each text, (texts, BUCKETS) float32."""
    indptr = [0]
    indices: list[int] = []
    data: list[int] = []
    for text in texts:
        counts = Counter(map(_bucket, terms(text)))
        indices.extend(counts)
        data.extend(counts.values())
        indptr.append(len(indices))
    matrix = sp.csr_matrix(
        (np.array(data, dtype=np.float32), np.array(indices, dtype=np.int32), np.array(indptr)),
        shape=(len(texts), BUCKETS),
    )
    matrix.sort_indices()
    return matrix


@lru_cache(maxsize=2**18)
def _bucket(term: str) -> int:
    return crc32(term.encode("utf-8", "surrogatepass")) % BUCKETS


# -------------------------------------------------------------------- hybrid scores


def check_share(share: float) -> None:
    """Refuse a lexical share that is not between 0 and 1.

    Raises:
        ConfigError: if it is not.
    """
    if not 0 <= share <= 1:
        raise ConfigError(
            f"the lexical share is {share}; it must be a number from 0 (vectors only) to 1 (words only)"
        )


def hybrid_scores(cosines: np.ndarray, lexical: np.ndarray, share: float) -> np.ndarray:
    """Return the weighted mean of cosines of vectors and lexical scores, of the same shape."""
    scores: np.ndarray = (1 - share) * cosines + share * lexical
    return scores


# -------------------------------------------------------------------- the index


@dataclass(frozen=True)
class Corpus:
    """What BM25 needs to know of all notes.

    Attributes:
        idf: (BUCKETS,) float32.
        length: mean number of terms of a text.
    """

    idf: np.ndarray
    length: float

    @classmethod
    def of(cls, counts: sp.csr_matrix) -> "Corpus":
        """Return it for the counted texts, see :func:`term_counts`."""
        texts, having = counts.shape[0], np.bincount(counts.indices, minlength=BUCKETS)
        idf = np.log1p((texts - having + 0.5) / (having + 0.5)).astype(np.float32)
        return cls(idf, max(float(counts.sum()) / max(texts, 1), 1.0))

    def weights(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Return what each term of a text adds to BM25, (texts, BUCKETS) float32."""
        lengths = np.asarray(counts.sum(axis=1)).ravel()
        dampened = _K1 * (1 - _B + _B * np.repeat(lengths, np.diff(counts.indptr)) / self.length)
        weights = counts.copy()
        weights.data = self.idf[counts.indices] * counts.data * (_K1 + 1) / (counts.data + dampened)
        weights.data = weights.data.astype(np.float32)
        return weights

    def queries(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Return queries, (texts, BUCKETS) float32, whose product with weights is the lexical score."""
        own = np.asarray(self.weights(counts).sum(axis=1)).ravel()
        queries = counts.copy()
        queries.data = np.repeat(1 / np.maximum(own, 1e-6), np.diff(counts.indptr)).astype(np.float32)
        return queries


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of an index.

    Attributes:
        counts: (rows, BUCKETS), see :func:`term_counts`.
        postings: (BUCKETS, rows), the weights by term.
    """

    counts: sp.csr_matrix
    postings: sp.csr_matrix

    @classmethod
    def of(cls, counts: sp.csr_matrix, corpus: Corpus) -> "_Piece":
        return cls(counts, sp.csr_matrix(corpus.weights(counts).T))

    def __len__(self) -> int:
        return int(self.counts.shape[0])


@dataclass(frozen=True)
class LexicalHits:
    """The result of a lexical search for one query.

    Attributes:
        ids: the notes, best first.
        scores: (n,) float32, their lexical scores.
        others: (m,) float32, the lexical scores of the notes that were named beside the search.
    """

    ids: list[str]
    scores: np.ndarray
    others: np.ndarray


class LexicalIndex:
    """Notes by the terms of their texts. Threads may share it.

    A new note is found at once. The frequencies of terms are counted anew when the notes have grown by a
    tenth.

    Args:
        note_ids: ids of the first notes.
        texts: their texts, from :func:`note_text`.
    """

    def __init__(self, note_ids: Sequence[str] = (), texts: Sequence[str] = ()) -> None:
        self._lock = RLock()
        self._ids: list[str] = []
        self._row: dict[str, int] = {}
        self._alive = np.zeros(0, dtype=bool)
        self._corpus = Corpus.of(term_counts([]))
        self._counted = 0  # rows that the corpus is of
        # Pieces become smaller: one is joined with the next when that is not much smaller, so there are few.
        self._pieces: list[_Piece] = []
        self.upsert(note_ids, texts)

    def __len__(self) -> int:
        return len(self._row)

    # ---------------------------------------------------------------- writing

    def upsert(self, note_ids: Sequence[str], texts: Sequence[str]) -> None:
        """Add notes, or replace them; of an id that is given twice the last text counts.

        Raises:
            DataError: if there are not as many texts as ids.
        """
        if len(note_ids) != len(texts):
            raise DataError(f"{len(note_ids)} note ids and {len(texts)} texts: give each note one text")
        new = dict(zip(note_ids, texts, strict=True))
        if not new:
            return
        counts = term_counts(list(new.values()))
        with self._lock:
            self.remove(new)
            first = len(self._ids)
            self._ids += new
            self._row |= {note_id: first + place for place, note_id in enumerate(new)}
            self._alive = np.append(self._alive, np.ones(len(new), dtype=bool))
            if first == 0 or len(self._ids) - self._counted > max(_GROWN_AT_LEAST, self._counted // 10):
                self._count_anew(counts)
            else:
                self._pieces.append(_Piece.of(counts, self._corpus))
            while len(self._pieces) > 1 and len(self._pieces[-2]) <= 2 * len(self._pieces[-1]):
                both = sp.vstack([piece.counts for piece in self._pieces[-2:]])
                self._pieces[-2:] = [_Piece.of(sp.csr_matrix(both), self._corpus)]

    def remove(self, note_ids: Iterable[str]) -> None:
        """Remove notes; ids that are not there are ignored."""
        with self._lock:
            for note_id in note_ids:
                row = self._row.pop(note_id, None)
                if row is not None:
                    self._alive[row] = False

    def _count_anew(self, counts: sp.csr_matrix) -> None:
        """Drop removed notes, and count the frequencies of terms.

        Args:
            counts: the counts of the last rows, which have no piece yet.
        """
        kept = np.flatnonzero(self._alive)
        counts = sp.csr_matrix(sp.vstack([*(piece.counts for piece in self._pieces), counts]))[kept]
        self._ids = [self._ids[row] for row in kept.tolist()]
        self._row = {note_id: row for row, note_id in enumerate(self._ids)}
        self._alive = np.ones(len(kept), dtype=bool)
        self._corpus = Corpus.of(counts)
        self._pieces = [_Piece.of(counts, self._corpus)]
        self._counted = len(kept)

    # ---------------------------------------------------------------- reading

    def search(
        self,
        texts: Sequence[str],
        k: int,
        *,
        exclude: Sequence[Collection[str]] | None = None,
        others: Sequence[Sequence[str]] | None = None,
    ) -> list[LexicalHits]:
        """Return the k notes with the highest lexical score above 0 for each text, fewer if there are fewer.

        Args:
            texts: the texts.
            k: number of notes.
            exclude: for each text, ids that must not be returned.
            others: for each text, further ids whose scores are wanted; 0 for a note that is not there.

        Returns:
            For each text its notes. Of equal notes the one that was written first comes first.

        Raises:
            ConfigError: if k is not positive.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; ask for at least 1 note")
        counts = term_counts(texts)
        hits: list[LexicalHits] = []
        for start in range(0, len(texts), _TOGETHER):
            with self._lock:
                queries = self._corpus.queries(counts[start : start + _TOGETHER])
                bringing, is_pruned = self._bringing(queries)
                found = [bringing @ piece.postings for piece in self._pieces]
                empty = sp.csr_matrix((queries.shape[0], 0), dtype=np.float32)
                partial = sp.csr_matrix(sp.hstack(found or [empty]))
                for row in range(queries.shape[0]):
                    barred = () if exclude is None else exclude[start + row]
                    rows, scores = self._allowed(partial[row], barred)
                    if is_pruned:
                        rows = rows[_best(scores, max(_RESCORED * k, _RESCORED_AT_LEAST))]
                        rows.sort()  # so that equal notes keep their order
                        scores = self._scores(queries[row], rows)
                    best = _best(scores, k)
                    named = [] if others is None else others[start + row]
                    beside = np.array([self._row.get(note_id, -1) for note_id in named], dtype=np.int64)
                    ids = [self._ids[i] for i in rows[best].tolist()]
                    hits.append(LexicalHits(ids, scores[best], self._scores(queries[row], beside)))
        return hits

    def scores(self, texts: Sequence[str], note_ids: Sequence[str]) -> np.ndarray:
        """Return the lexical scores of notes, (texts, notes) float32; 0 for a note that is not there."""
        counts = term_counts(texts)
        result = np.zeros((len(texts), len(note_ids)), dtype=np.float32)
        with self._lock:
            queries = self._corpus.queries(counts)
            rows = np.array([self._row.get(note_id, -1) for note_id in note_ids], dtype=np.int64)
            first = 0
            for piece in self._pieces:
                here = np.flatnonzero((rows >= first) & (rows < first + len(piece)))
                result[:, here] = (queries @ piece.postings).tocsc()[:, rows[here] - first].toarray()
                first += len(piece)
        return result

    def _bringing(self, queries: sp.csr_matrix) -> tuple[sp.csr_matrix, bool]:
        """Return the terms of queries that bring notes, and whether others were left out.

        Among many notes, terms that many of them hold tell little and would cost most of the time. A query
        without rarer terms keeps all.
        """
        if self._counted < _MANY:
            return queries, False
        common = np.log1p((1 - _COMMON) / _COMMON)  # idf of a term in this share of the notes
        is_rare = self._corpus.idf[queries.indices] > common
        row = np.repeat(np.arange(queries.shape[0]), np.diff(queries.indptr))
        has_rare = np.bincount(row[is_rare], minlength=queries.shape[0]) > 0
        kept = is_rare | ~has_rare[row]
        sizes = np.bincount(row[kept], minlength=queries.shape[0])
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        rare = sp.csr_matrix((queries.data[kept], queries.indices[kept], indptr), shape=queries.shape)
        return rare, True

    def _allowed(self, found: sp.csr_matrix, barred: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a sparse row of scores that may be returned, ascending, and their scores."""
        excluded = [self._row[note_id] for note_id in barred if note_id in self._row]
        kept = self._alive[found.indices] & (found.data > 0) & ~np.isin(found.indices, excluded)
        rows, scores = found.indices[kept].astype(np.int64), found.data[kept]
        order = np.argsort(rows, kind="stable")
        return rows[order], scores[order]

    def _scores(self, query: sp.csr_matrix, rows: np.ndarray) -> np.ndarray:
        """Return the lexical scores of some rows for one query, (n,) float32; 0 for the row -1."""
        result = np.zeros(len(rows), dtype=np.float32)
        if not query.nnz:
            return result
        first = 0
        for piece in self._pieces:
            here = np.flatnonzero((rows >= first) & (rows < first + len(piece)))
            if len(here):  # scipy's product would go through all BUCKETS
                notes = self._corpus.weights(piece.counts[rows[here] - first])
                places = np.minimum(np.searchsorted(query.indices, notes.indices), query.nnz - 1)
                shared = query.indices[places] == notes.indices
                parts = np.where(shared, notes.data * query.data[places], 0)
                owner = np.repeat(np.arange(len(here)), np.diff(notes.indptr))
                result[here] = np.bincount(owner, weights=parts, minlength=len(here))
            first += len(piece)
        return result


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest scores, highest first; of equal ones the lowest place first."""
    places = np.arange(len(scores))
    if len(scores) > k:
        places = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    order: np.ndarray = places[np.argsort(-scores[places], kind="stable")][:k]
    return order
