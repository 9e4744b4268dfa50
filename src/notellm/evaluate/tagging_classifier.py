"""A linear classifier of categories on TF-IDF whose time and memory are bounded: ridge regression.

For train notes X (n, terms) and one-hot categories Y (n, categories), both centred, (X X' + p I) A = Y is
solved by conjugate gradients, a block of categories at a time; the weights are X' A (regularised least
squares: Rifkin and Klautau 2004, JMLR 5). The same fit gives the scores of train notes by fits without them:
Y - p A / (p d - 1/n), with d the diagonal of the inverse (Rifkin and Lippert 2007, MIT-CSAIL-TR-2007-025),
estimated with random signs (Bekas et al. 2007, doi 10.1016/j.apnum.2007.01.003). These scores choose p, and
the temperature of the softmax that makes probabilities of scores (Guo et al. 2017, arXiv 1706.04599).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse
from scipy.optimize import minimize_scalar

from notellm.data.same_text import equal_texts
from notellm.evaluate.tagging import Ranked
from notellm.evaluate.tagging_baselines import with_category
from notellm.evaluate.tagging_categories import TOP
from notellm.evaluate.tfidf import fitted_vectorizer
from notellm.lexical.terms import texts_of
from notellm.progress import progress_bar

_TERMS = 30_000
_NOTES = 100_000  # train notes
_PENALTIES = (1.0, 0.3, 2.0)  # the first one alone where trying all would take long
_WORK = 1 << 32  # terms of all train notes x categories
_WORK_OF_CHOICE = 1 << 29  # the same, up to which all penalties are tried
_BLOCK = 1 << 22  # numbers in a matrix of a block of categories
_PROBES = 64  # columns of random signs
_UNSEEN = 2_000  # train notes that choose penalty and temperature
_STEPS = 50  # of conjugate gradients, at most
_CLOSE = 1e-2  # norm of the residual relative to that of the right side
_SHARPEST = 100.0  # largest inverse temperature

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Train:
    """The train notes of a fit.

    Attributes:
        vectors: TF-IDF, float32 (n, terms).
        transposed: the same, by terms.
        labels: the category of each note as a position among ``names``, (n,).
        names: the categories.
        alone: whether no other note has the same text, bool (n,).
    """

    vectors: sparse.csr_array
    transposed: sparse.csr_array
    labels: Integers
    names: list[str]
    alone: npt.NDArray[np.bool_]

    @property
    def work(self) -> int:
        """Multiplications of half a step of conjugate gradients."""
        return int(self.vectors.nnz) * len(self.names)

    def blocks(self) -> list[Integers]:
        """Return the categories in blocks that are solved at once."""
        width = max(1, _BLOCK // max(self.vectors.shape))
        columns = np.arange(len(self.names))
        return [columns[start : start + width] for start in range(0, len(columns), width)]


def linear_categories(
    train: pa.Table, notes: pa.Table, *, seed: int = 0, progress: bool = True
) -> list[Ranked]:
    """Predict categories by ridge regression on TF-IDF of title, topics and content.

    Time and memory are bounded: of many train notes with long texts or many categories only a draw is used.

    Args:
        train: notes to learn from (schema NOTES); those without a category do not count.
        notes: notes to predict for (schema NOTES).
        seed: seed of the draws.
        progress: show a progress bar.

    Returns:
        The five most probable categories of each note, with calibrated probabilities.

    Raises:
        DataError: if no train note has a category, or none that has one has a text.
    """
    draw = np.random.default_rng(seed)
    known = with_category(train)
    if known.num_rows > _NOTES:
        known = known.take(np.sort(draw.choice(known.num_rows, _NOTES, replace=False)))
    if notes.num_rows == 0:
        return []
    categories = known["category"].to_pylist()
    if len(set(categories)) == 1:
        return [[(categories[0], 1.0)]] * int(notes.num_rows)
    texts = texts_of(known)
    vectorizer = fitted_vectorizer(texts, max_features=_TERMS)
    groups = equal_texts(known)
    alone = np.bincount(groups)[groups] == 1
    learnt = _affordable(_train(vectorizer.transform(texts), categories, alone), draw)
    queries = sparse.csr_array(vectorizer.transform(texts_of(notes)))
    # A fit without a note that shares its text with others has seen the text, which no split would allow.
    candidates = np.flatnonzero(learnt.alone if learnt.alone.any() else ~learnt.alone)
    unseen = np.sort(draw.permutation(candidates)[:_UNSEEN])
    signs = draw.choice(np.array([-1, 1], np.float32), (len(learnt.labels), _PROBES))
    penalties = _PENALTIES if learnt.work <= _WORK_OF_CHOICE else _PENALTIES[:1]
    steps = len(penalties) * len(learnt.blocks())
    with progress_bar(total=steps, desc="linear classifier", unit="block", disable=not progress) as bar:
        fits = [_scores(learnt, queries, unseen, signs, penalty, bar) for penalty in penalties]
    truth = learnt.labels[unseen]
    of_queries, of_unseen = max(fits, key=lambda fit: (fit[1].argmax(axis=1) == truth).sum())
    scale = _inverse_temperature(of_unseen, truth)
    return [_ranking(row, scale, learnt.names) for row in of_queries]


def _train(vectors: sparse.csr_array, categories: list[str], alone: npt.NDArray[np.bool_]) -> _Train:
    names, labels = np.unique(np.array(categories, dtype=object), return_inverse=True)
    rows = sparse.csr_array(vectors)
    return _Train(
        rows, sparse.csr_array(rows.T), labels.astype(np.int64), [str(name) for name in names], alone
    )


def _affordable(train: _Train, draw: np.random.Generator) -> _Train:
    """Return the train notes, or a draw of them where a fit to all would take too long."""
    if train.work <= _WORK:
        return train
    # The draw may have fewer categories, too, so that it errs towards too few notes.
    count = max(2, len(train.labels) * _WORK // train.work)
    rows = np.sort(draw.choice(len(train.labels), count, replace=False))
    return _train(
        train.vectors[rows], [train.names[label] for label in train.labels[rows]], train.alone[rows]
    )


def _scores(
    train: _Train, queries: sparse.csr_array, unseen: Integers, signs: Floats, penalty: float, bar: Any
) -> tuple[Floats, Floats]:
    """Return the scores of other notes, and those of train notes by a fit to the other train notes.

    Args:
        train: the train notes.
        queries: TF-IDF of the other notes (m, terms).
        unseen: rows of train notes.
        signs: random numbers of -1 and 1 (n, probes).
        penalty: the weight of the squared norm of the weights.
        bar: is advanced by one for each block of categories.

    Returns:
        Float32 (m, categories) and float32 (unseen, categories).
    """
    size, means = len(train.labels), train.vectors.mean(axis=0).astype(np.float32)
    diagonal = (signs * _solved(train, signs, penalty)).mean(axis=1)[unseen]
    left = np.maximum(penalty * diagonal - 1 / size, 1e-3)[:, None]  # 1 - leverage, which is positive
    of_queries = np.empty((queries.shape[0], len(train.names)), np.float32)
    of_unseen = np.empty((len(unseen), len(train.names)), np.float32)
    for columns in train.blocks():
        target = (train.labels[:, None] == columns).astype(np.float32)
        shares = target.mean(axis=0)
        dual = _solved(train, target - shares, penalty)
        weights = train.transposed @ dual
        of_queries[:, columns] = queries @ weights + (shares - means @ weights)
        of_unseen[:, columns] = target[unseen] - penalty * dual[unseen] / left
        bar.update()
    return of_queries, of_unseen


def _solved(train: _Train, right: Floats, penalty: float) -> Floats:
    """Return the solution of (X X' + penalty I) A = right by conjugate gradients, float32 (n, columns)."""
    tiny = np.float32(1e-30)
    solution, residual, direction = np.zeros_like(right), right.copy(), right.copy()
    squares = (residual * residual).sum(axis=0)
    end = _CLOSE**2 * float(squares.sum())
    for _ in range(_STEPS):
        # The centred X is never formed: centring before and after the product does the same.
        image = _centred(train.vectors @ (train.transposed @ _centred(direction))) + penalty * direction
        step = squares / np.maximum((direction * image).sum(axis=0), tiny)
        solution += step * direction
        residual -= step * image
        before, squares = squares, (residual * residual).sum(axis=0)
        if float(squares.sum()) <= end:
            break
        direction = residual + (squares / np.maximum(before, tiny)) * direction
    return solution


def _centred(matrix: Floats) -> Floats:
    centred: Floats = matrix - matrix.mean(axis=0)
    return centred


def _inverse_temperature(scores: Floats, labels: Integers) -> float:
    """Return the factor of scores (n, categories) whose softmax gives labels (n,) the least log loss."""

    def loss(exponent: float) -> float:
        scaled = scores * np.float32(math.exp(exponent))
        scaled -= scaled.max(axis=1, keepdims=True)
        chosen = scaled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(scaled).sum(axis=1)) - chosen).mean())

    return math.exp(minimize_scalar(loss, bounds=(0.0, math.log(_SHARPEST)), method="bounded").x)


def _ranking(scores: Floats, scale: float, names: list[str]) -> Ranked:
    """Return the names of the largest scores (categories,) with the probabilities of the softmax."""
    weights = np.exp(scale * (scores - scores.max()).astype(np.float64))
    best = np.argsort(-weights, kind="stable")[:TOP]
    return [(names[each], float(weights[each] / weights.sum())) for each in best]
