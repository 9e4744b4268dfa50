"""An index of notes that come and go, searched by BM25.

    BM25(q, d) = sum_{t in q} idf_t count_td (k1 + 1) / (count_td + k1 (1 - b + b length_d / mean length))
    idf_t      = ln(1 + (N - N_t + 1/2) / (N_t + 1/2))      N_t of the N notes hold the term t
    lexical score = BM25(q, d) / BM25(q, q)                 about 0 to 1

BM25: Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009. The share of the query's own score
makes the scores of different queries comparable.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from threading import RLock

import numpy as np
import scipy.sparse as sp

from notellm.errors import ConfigError, DataError
from notellm.lexical.terms import BUCKETS, term_counts

_K1, _B = 1.2, 0.75
_DEAD_SHARE = 0.25  # of removed rows, from which they are dropped
_TOGETHER = 64  # queries whose scores are held at once
_POSTINGS = 20_000  # of the rarest terms of a query, which bring notes
#: So many times k notes, and at least so many, are then scored with all terms.
_RESCORED, _RESCORED_AT_LEAST = 2, 300
_FEW_TERMS = 2**14  # up to so many are counted one by one, which costs less than going through all BUCKETS


@dataclass(frozen=True)
class _Piece:
    """Consecutive rows of an index.

    Attributes:
        counts: (rows, BUCKETS), see :func:`term_counts`.
        postings: (BUCKETS, rows), the terms of BM25 without idf, at the mean length when they were made.
    """

    counts: sp.csr_matrix
    postings: sp.csr_matrix

    @classmethod
    def of(cls, counts: sp.csr_matrix, length: float) -> "_Piece":
        return cls(counts, sp.csr_matrix(_dampened(counts, length).T))

    def __len__(self) -> int:
        return int(self.counts.shape[0])


def _dampened(counts: sp.csr_matrix, length: float) -> sp.csr_matrix:
    """Return the terms of BM25 without idf, (texts, BUCKETS) float32.

    Args:
        counts: from :func:`term_counts`.
        length: the mean number of terms of a text.
    """
    lengths = np.repeat(np.asarray(counts.sum(axis=1)).ravel(), np.diff(counts.indptr))
    values = _saturated(counts.data, lengths, length)
    return sp.csr_matrix((values.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def _saturated(counts: np.ndarray, lengths: np.ndarray, mean_length: float) -> np.ndarray:
    """Return what counts of terms are worth in texts of some lengths, without idf."""
    values: np.ndarray = counts * (_K1 + 1) / (counts + _K1 * (1 - _B + _B * lengths / mean_length))
    return values


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
    """Notes by the terms of their texts, with the frequencies of terms as they are now.

    Threads may share it. A search goes over postings whose mean length may be a little out of date; the notes
    that it finds are then scored exactly.

    Args:
        note_ids: ids of the first notes.
        texts: their texts, from :func:`text_of`.
    """

    def __init__(self, note_ids: Sequence[str] = (), texts: Sequence[str] = ()) -> None:
        self._lock = RLock()
        self._ids: list[str] = []
        self._row: dict[str, int] = {}
        self._alive = np.zeros(0, dtype=bool)
        self._having = np.zeros(BUCKETS, dtype=np.int32)  # notes that hold each term
        self._terms = 0.0  # of all notes
        self._weights = np.zeros(BUCKETS, dtype=np.float32)  # of the terms of a query, while it is scored
        # Pieces become smaller: one is joined with the next when that is not much smaller, so there are few.
        self._pieces: list[_Piece] = []
        self._made_at = 1.0  # the mean length for which all postings are made; 0 if they differ
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
            self._count(counts, 1)
            pieces = [counts]
            while self._pieces and len(self._pieces[-1]) <= 2 * sum(piece.shape[0] for piece in pieces):
                pieces.insert(0, self._pieces.pop().counts)
            self._made_at = self._mean_length if not self._pieces else 0.0
            self._pieces.append(_Piece.of(sp.csr_matrix(sp.vstack(pieces)), self._mean_length))
            if self._alive.mean() < 1 - _DEAD_SHARE:
                self._make_postings()

    def remove(self, note_ids: Iterable[str]) -> None:
        """Remove notes; ids that are not there are ignored."""
        with self._lock:
            rows = [self._row.pop(note_id) for note_id in note_ids if note_id in self._row]
            self._alive[rows] = False
            first = 0
            for piece in self._pieces:
                here = [row - first for row in rows if first <= row < first + len(piece)]
                if here:
                    self._count(piece.counts[here], -1)
                first += len(piece)

    def _count(self, counts: sp.csr_matrix, sign: int) -> None:
        """Count texts that come (1) or go (-1)."""
        if counts.nnz < _FEW_TERMS:
            np.add.at(self._having, counts.indices, sign)
        else:
            self._having += sign * np.bincount(counts.indices, minlength=BUCKETS).astype(np.int32)
        self._terms += sign * float(counts.sum())

    def _make_postings(self) -> None:
        """Drop removed notes, and make all postings for the mean length of now."""
        kept = np.flatnonzero(self._alive)
        counts = [piece.counts for piece in self._pieces] or [term_counts([])]
        self._ids = [self._ids[row] for row in kept.tolist()]
        self._row = {note_id: row for row, note_id in enumerate(self._ids)}
        self._alive = np.ones(len(kept), dtype=bool)
        self._pieces = [_Piece.of(sp.csr_matrix(sp.vstack(counts))[kept], self._mean_length)]
        self._made_at = self._mean_length

    # ---------------------------------------------------------------- what is known of all notes

    @property
    def _mean_length(self) -> float:
        return max(self._terms / max(len(self._row), 1), 1.0)

    def _idf(self, buckets: np.ndarray) -> np.ndarray:
        having = np.minimum(self._having[buckets], len(self._row))
        idf: np.ndarray = np.log1p((len(self._row) - having + 0.5) / (having + 0.5)).astype(np.float32)
        return idf

    def _queries(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Return texts as queries, (texts, BUCKETS) float32: the idf of their terms, by their own score."""
        idf = self._idf(counts.indices)
        row = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        own = np.bincount(
            row, weights=idf * _dampened(counts, self._mean_length).data, minlength=counts.shape[0]
        )
        values = (idf / np.maximum(own, 1e-6)[row]).astype(np.float32)
        return sp.csr_matrix((values, counts.indices, counts.indptr), shape=counts.shape)

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
        for place in range(len(texts)):
            barred = () if exclude is None else exclude[place]
            named = [] if others is None else others[place]
            with self._lock:
                query = self._queries(counts[place])
                rows = self._likely(query, max(_RESCORED * k, _RESCORED_AT_LEAST), barred)
                beside = np.array([self._row.get(note_id, -1) for note_id in named], dtype=np.int64)
                scores = self._scores(query, np.concatenate([rows, beside]))
                best = _best(scores[: len(rows)], k)
                ids = [self._ids[row] for row in rows[best].tolist()]
                hits.append(LexicalHits(ids, scores[best], scores[len(rows) :]))
        return hits

    def scores(self, texts: Sequence[str], note_ids: Sequence[str]) -> np.ndarray:
        """Return the lexical scores of notes, (texts, notes) float32; 0 for a note that is not there."""
        counts = term_counts(texts)
        result = np.zeros((len(texts), len(note_ids)), dtype=np.float32)
        with self._lock:
            if len(self._pieces) != 1 or self._made_at != self._mean_length:
                self._make_postings()
            rows = np.array([self._row.get(note_id, -1) for note_id in note_ids], dtype=np.int64)
            there = np.flatnonzero(rows >= 0)
            for start in range(0, len(texts), _TOGETHER):
                part = slice(start, start + _TOGETHER)
                found = (self._queries(counts[part]) @ self._pieces[0].postings).toarray()
                result[part, there] = found[:, rows[there]]
        return result

    def _likely(self, query: sp.csr_matrix, count: int, barred: Collection[str]) -> np.ndarray:
        """Return the rows that are likely to score highest, ascending.

        They are those with the highest scores by the rarest terms: as many terms as have _POSTINGS postings.
        In an index of many notes the other terms are in so many of them that they tell little and would cost
        most of the time.

        Args:
            query: one row from :meth:`_queries`.
            count: number of rows.
            barred: ids that must not be returned.
        """
        having = self._having[query.indices]
        order = np.argsort(having, kind="stable")
        kept = order[: max(1, int(np.searchsorted(np.cumsum(having[order]), _POSTINGS, side="right")))]
        buckets, values = query.indices[kept], query.data[kept]
        scores = np.zeros(len(self._ids), dtype=np.float64)
        first = 0
        for piece in self._pieces:
            entries, sizes = _entries(piece.postings.indptr, buckets)
            weights = piece.postings.data[entries] * np.repeat(values, sizes)
            rows = piece.postings.indices[entries]
            scores[first : first + len(piece)] = np.bincount(rows, weights=weights, minlength=len(piece))
            first += len(piece)
        if len(self._row) < len(self._ids):
            scores[~self._alive] = 0
        scores[[self._row[note_id] for note_id in barred if note_id in self._row]] = 0
        found = np.flatnonzero(scores > 0)
        return np.sort(found[_best(scores[found], count)])

    def _scores(self, query: sp.csr_matrix, rows: np.ndarray) -> np.ndarray:
        """Return the lexical scores of some rows for one query, (n,) float32; 0 for the row -1."""
        result = np.zeros(len(rows), dtype=np.float32)
        self._weights[query.indices] = query.data
        first = 0
        for piece in self._pieces:
            here = np.flatnonzero((rows >= first) & (rows < first + len(piece)))
            entries, sizes = _entries(piece.counts.indptr, rows[here] - first)
            weights = self._weights[piece.counts.indices[entries]]
            counts = piece.counts.data[entries]
            owner = np.repeat(np.arange(len(here)), sizes)
            lengths = np.bincount(owner, weights=counts, minlength=len(here))[owner]
            parts = weights * _saturated(counts, lengths, self._mean_length)
            result[here] = np.bincount(owner, weights=parts, minlength=len(here))
            first += len(piece)
        self._weights[query.indices] = 0
        return result


def _entries(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of the entries of some rows of a sparse matrix, and how many each row has."""
    starts = indptr[rows].astype(np.int64)
    sizes = indptr[rows + 1] - starts
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - sizes), sizes), sizes


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest scores, highest first; of equal ones the lowest place first."""
    places = np.arange(len(scores))
    if len(scores) > k:
        places = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    order: np.ndarray = places[np.argsort(-scores[places], kind="stable")][:k]
    return order
