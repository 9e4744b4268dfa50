"""How much the words of notes count beside their vectors: the lexical share, fitted on validation notes.

The figure is the mean of Recall@10, Recall@100 and MRR, as for checkpoints. Validation pools are small, and
so are differences between shares. So another share than the default is taken only if its gain is more than
twice the standard error of that gain: the best of several shares is some standard errors up by chance alone.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from notellm.evaluate.baselines import bm25_scorer
from notellm.evaluate.retrieval import evaluate_related, hybrid_scorer, targets_from_pairs, vector_scorer
from notellm.lexical.hybrid import DEFAULT_SHARE
from notellm.recall.trainer import Validation

_SHARES = (0.0, 0.15, DEFAULT_SHARE, 0.45, 0.6, 0.75)
_LEAST_QUERIES = 50


def fit_lexical_share(validation: Validation, notes: pa.Table, vectors: np.ndarray) -> dict[str, Any]:
    """Fit the share of the words beside vectors.

    Args:
        validation: notes and pairs from which the vectors have not learnt.
        notes: notes over which the frequencies of words are counted, too.
        vectors: (n, dim) float32, the vectors of the validation notes.

    Returns:
        "share", "queries", and "mean" by share; the mean is empty, and the share the default, if there are
        fewer than fifty queries.
    """
    ids = validation.notes.column("note_id")
    queries, targets = targets_from_pairs(validation.pairs, min_users=1)
    found: dict[str, Any] = {"share": DEFAULT_SHARE, "queries": len(queries), "mean": {}}
    if len(queries) < _LEAST_QUERIES:
        return found
    by_vector = vector_scorer(vectors)
    by_words = bm25_scorer(validation.notes, notes)
    figures = {}
    for share in _SHARES:
        scorer = hybrid_scorer(by_vector, by_words, share)
        result = evaluate_related(
            scorer, ids, queries, targets, ks=(10, 100), resamples=1, progress=False
        ).per_query
        figures[share] = np.mean(list(result.values()), axis=0)  # of each query
    best = max(_SHARES, key=lambda share: float(figures[share].mean()))
    gain = figures[best] - figures[DEFAULT_SHARE]
    if gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain)):
        found["share"] = best
    means = {str(share): round(float(values.mean()), 4) for share, values in figures.items()}
    return found | {"mean": means}
