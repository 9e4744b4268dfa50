"""What the words of notes say for names (topics or categories).

With x_t = (1 + ln count_t) idf_t, of unit length, for a name c

    evidence(c) = sum_t x_t (ln(1 - N_c / N) - ln(1 - N_ct / (N_t + alpha)))
    mention(c)  = share of the idf of the name's own terms that occur in the note

N_ct sums x_t over the known notes that carry c, N_t over all, N_c and N over all terms. The evidence is
complement naive Bayes (Rennie et al., ICML 2003) relative to a name that no known note carries: it is sparse.
"""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from notellm.lexical.terms import BUCKETS, term_counts

_ALPHA = 0.1  # added to the total of each term (benchmarks/README.md)
_LEAST = 1e-6  # a share of 1 has no logarithm


class Words:
    """The words of known notes and names.

    Args:
        counts: (notes, BUCKETS) from :func:`term_counts`, of the known notes.
        answers: (notes, names) of ones: which known note carries which name.
        names: the names.
    """

    def __init__(self, counts: sp.csr_matrix, answers: sp.csr_matrix, names: Sequence[str]) -> None:
        self._idf = _inverse_frequencies(counts)
        vectors = _weighted(counts, self._idf)
        self._of_term = np.asarray(vectors.sum(axis=0)).ravel()  # N_t
        self._evidence, self._offset = self._evidence_of(vectors, answers)
        self._names = self._own_words(names)

    def add_names(self, names: Sequence[str], counts: sp.csr_matrix, answers: sp.csr_matrix) -> None:
        """Add names with the new notes that carry them; the evidence for other names does not change.

        Args:
            names: the new names.
            counts: (notes, BUCKETS), of the new notes.
            answers: (notes, new names) of ones: which new note carries which new name.
        """
        vectors = _weighted(counts, self._idf)
        self._of_term = self._of_term + np.asarray(vectors.sum(axis=0)).ravel()
        evidence, offset = self._evidence_of(vectors, answers)
        self._evidence = sp.csr_matrix(sp.hstack([self._evidence, evidence]))
        self._offset = np.append(self._offset, offset)
        self._names = sp.csr_matrix(sp.hstack([self._names, self._own_words(names)]))

    def _evidence_of(
        self, vectors: sp.csr_matrix, answers: sp.csr_matrix
    ) -> tuple[sp.csr_matrix, np.ndarray]:
        """Return the evidence of each term for each name, (BUCKETS, names), and what each name starts from.

        Args:
            vectors: (notes, BUCKETS), the TF-IDF vectors of all notes that carry these names.
            answers: (notes, names) of ones.
        """
        of_name = sp.csr_matrix(answers.T @ vectors)  # N_ct, (names, BUCKETS)
        shares = of_name.data / (self._of_term[of_name.indices] + _ALPHA)
        of_name.data = -np.log(np.maximum(1 - shares, _LEAST)).astype(np.float32)
        total = max(float(self._of_term.sum()), _LEAST)
        share = np.asarray(answers.T @ vectors.sum(axis=1)).ravel() / total
        return sp.csr_matrix(of_name.T), np.log(np.maximum(1 - share, _LEAST)).astype(np.float32)

    def _own_words(self, names: Sequence[str]) -> sp.csr_matrix:
        """Return the shares of the idf of each name that its terms have, (BUCKETS, names)."""
        own = (term_counts(names) > 0).astype(np.float32) @ sp.diags(self._idf)
        totals = np.maximum(np.asarray(own.sum(axis=1)).ravel(), _LEAST)
        return sp.csr_matrix((sp.diags(1 / totals) @ own).T, dtype=np.float32)

    def evidence(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the evidence of notes for every name, (notes, names) float32."""
        vectors = _weighted(counts, self._idf)
        lengths = np.asarray(vectors.sum(axis=1))
        scores: np.ndarray = (vectors @ self._evidence).toarray() + lengths * self._offset[None, :]
        return scores

    def mentions(self, counts: sp.csr_matrix) -> np.ndarray:
        """Return the share of each name that occurs in each note, (notes, names) float32, 0 to 1."""
        present = counts.copy()
        present.data = np.ones_like(present.data)
        shares: np.ndarray = (present @ self._names).toarray()
        return shares


def _inverse_frequencies(counts: sp.csr_matrix) -> np.ndarray:
    """Return the idf of each term, (BUCKETS,) float32, over the texts that are counted."""
    frequency = np.bincount(counts.indices, minlength=BUCKETS)
    idf: np.ndarray = (np.log((1 + counts.shape[0]) / (1 + frequency)) + 1).astype(np.float32)
    return idf


def _weighted(counts: sp.csr_matrix, idf: np.ndarray) -> sp.csr_matrix:
    """Return the TF-IDF vectors of texts, (texts, BUCKETS) float32 of unit norm; 0 for a text without terms.

    Args:
        counts: from :func:`term_counts`.
        idf: from :func:`_inverse_frequencies`.
    """
    weights = counts.copy()
    weights.data = (1 + np.log(weights.data)) * idf[weights.indices]
    row = np.repeat(np.arange(weights.shape[0]), np.diff(weights.indptr))
    lengths = np.sqrt(np.bincount(row, weights=weights.data**2, minlength=weights.shape[0]))
    weights.data /= np.maximum(lengths, _LEAST)[row].astype(np.float32)
    return weights
