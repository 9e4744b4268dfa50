"""What the words of notes say for names (topics or categories).

Terms are counted in BUCKETS by their CRC-32. With x_t = (1 + ln count_t) idf_t, of unit length, for a name c

    evidence(c) = sum_t x_t (ln(1 - N_c / N) - ln(1 - N_ct / (N_t + alpha)))
    mention(c)  = share of the idf of the name's own terms that occur in the note

N_ct sums x_t over the known notes that carry c, N_t over all, N_c and N over all terms. The evidence is
complement naive Bayes (Rennie et al., ICML 2003) relative to a name that no known note carries: it is sparse.
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
import scipy.sparse as sp

from notellm.evaluate.tfidf import terms

BUCKETS = 2**20
_ALPHA = 0.1  # added to the total of each term (benchmarks/README.md)
_LEAST = 1e-6  # a share of 1 has no logarithm


def word_counts(texts: Sequence[str]) -> sp.csr_matrix:
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


class Words:
    """The words of known notes and names.

    Args:
        counts: (notes, BUCKETS) from :func:`word_counts`, of the known notes.
        answers: (notes, names) of ones: which known note carries which name.
        names: the names.
    """

    def __init__(self, counts: sp.csr_matrix, answers: sp.csr_matrix, names: Sequence[str]) -> None:
        notes = counts.shape[0]
        frequency = np.bincount(counts.indices, minlength=BUCKETS)
        self._idf = (np.log((1 + notes) / (1 + frequency)) + 1).astype(np.float32)
        weighted = self._weighted(counts)
        self._of_term = np.asarray(weighted.sum(axis=0)).ravel()  # N_t
        self._evidence, self._offset = self._evidence_of(weighted, answers)
        self._names = self._own_words(names)

    def add_names(self, names: Sequence[str], counts: sp.csr_matrix, answers: sp.csr_matrix) -> None:
        """Add names with the new notes that carry them; the evidence for other names does not change.

        Args:
            names: the new names.
            counts: (notes, BUCKETS), of the new notes.
            answers: (notes, new names) of ones: which new note carries which new name.
        """
        weighted = self._weighted(counts)
        self._of_term = self._of_term + np.asarray(weighted.sum(axis=0)).ravel()
        evidence, offset = self._evidence_of(weighted, answers)
        self._evidence = sp.csr_matrix(sp.hstack([self._evidence, evidence]))
        self._offset = np.append(self._offset, offset)
        self._names = sp.csr_matrix(sp.hstack([self._names, self._own_words(names)]))

    def _evidence_of(
        self, weighted: sp.csr_matrix, answers: sp.csr_matrix
    ) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return the evidence of each term for each name, (BUCKETS, names), and what each name starts from.

        Args:
            weighted: (notes, BUCKETS), the weighted counts of all notes that carry these names.
            answers: (notes, names) of ones.
        """
        of_name = sp.csr_matrix(answers.T @ weighted)  # N_ct, (names, BUCKETS)
        shares = of_name.data / (self._of_term[of_name.indices] + _ALPHA)
        of_name.data = -np.log(np.maximum(1 - shares, _LEAST)).astype(np.float32)
        total = max(float(self._of_term.sum()), _LEAST)
        share = np.asarray(answers.T @ weighted.sum(axis=1)).ravel() / total
        return sp.csr_matrix(of_name.T), np.log(np.maximum(1 - share, _LEAST)).astype(np.float32)

    def _own_words(self, names: Sequence[str]) -> sp.csr_matrix:
        """Return the shares of the idf of each name that its terms have, (BUCKETS, names)."""
        own = (word_counts(names) > 0).astype(np.float32) @ sp.diags(self._idf)
        totals = np.maximum(np.asarray(own.sum(axis=1)).ravel(), _LEAST)
        return sp.csr_matrix((sp.diags(1 / totals) @ own).T, dtype=np.float32)

    def evidence(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the evidence of notes for every name, (notes, names) float32."""
        weighted = self._weighted(counts)
        lengths = np.asarray(weighted.sum(axis=1))
        scores: np.ndarray = (weighted @ self._evidence).toarray() + lengths * self._offset[None, :]
        return scores

    def mentions(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the share of each name that occurs in each note, (notes, names) float32, 0 to 1."""
        present = counts.copy()
        present.data = np.ones_like(present.data)
        shares: np.ndarray = (present @ self._names).toarray()
        return shares

    def _weighted(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        weighted = counts.copy()
        weighted.data = (1 + np.log(weighted.data)) * self._idf[weighted.indices]
        lengths = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return sp.csr_matrix(sp.diags((1 / np.maximum(lengths, _LEAST)).astype(np.float32)) @ weighted)
