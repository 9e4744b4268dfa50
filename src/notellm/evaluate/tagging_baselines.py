"""Simple methods that predict categories and topics: the most frequent category, and the nearest train notes.

The nearest train notes of a note have the largest cosine of TF-IDF vectors. Each votes with its cosine w for
its names, and a name has the share of the weight: sum of w over the notes that carry it / sum of all w
(distance-weighted k nearest neighbours, Dudani 1976, doi 10.1109/TSMC.1976.5408784).

Methods for categories read title, topics and content. Methods for topics never read the topics of the notes
that they predict for. ``tagging_classifier`` is the linear baseline.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from notellm.data.same_text import equal_texts
from notellm.errors import DataError
from notellm.evaluate.tagging import Ranked, distinct, key, names_of
from notellm.evaluate.tagging_categories import TOP
from notellm.evaluate.tagging_topics import overlap
from notellm.evaluate.tfidf import fitted_vectorizer
from notellm.lexical.terms import texts_of
from notellm.progress import progress_bar

#: Train notes that vote.
NEIGHBOURS = 20
_MOST_TOPICS = 10  # largest number of topics that a vote publishes
_TRIED = 2_000  # train notes on which that number is chosen
_SIMILARITIES = 1 << 24  # cosines that are held in memory at once
_BLOCK = 1_024  # notes whose cosines are computed at once, at most

Neighbours = tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]


def majority_category(train: pa.Table, notes: pa.Table) -> list[Ranked]:
    """Return, for every note alike, the most frequent categories of train with their shares.

    Args:
        train: notes to learn from (schema NOTES); those without a category do not count.
        notes: notes to predict for (schema NOTES).

    Returns:
        A ranking of at most five categories for each note; equally frequent ones in alphabetical order.

    Raises:
        DataError: if no train note has a category.
    """
    return [_most_frequent(with_category(train))] * int(notes.num_rows)


def vote_categories(train: pa.Table, notes: pa.Table, *, progress: bool = True) -> list[Ranked]:
    """Return the categories of the 20 nearest train notes by their shares of the weight.

    Args:
        train: notes to learn from (schema NOTES); those without a category do not count.
        notes: notes to predict for (schema NOTES).
        progress: show a progress bar.

    Returns:
        A ranking for each note. A note that shares no term with train gets the most frequent categories.

    Raises:
        DataError: if no train note has a category, or none that has one has a text.
    """
    known = with_category(train)
    names = [[category] for category in known["category"].to_pylist()]
    index = _Index(texts_of(known))
    fallback = _most_frequent(known)
    nearest = index.nearest(texts_of(notes), NEIGHBOURS, progress=progress)
    return [_vote(neighbours, names) or fallback for neighbours in nearest]


def copy_topics(train: pa.Table, notes: pa.Table, *, progress: bool = True) -> tuple[list[Ranked], list[int]]:
    """Return, for each note, the topics of the most similar train note, all of which would be published.

    Args:
        train: notes to copy from (schema NOTES); those without topics do not count.
        notes: notes to find topics for (schema NOTES); their topics are not read.
        progress: show a progress bar.

    Returns:
        A ranking for each note, in the order of the train note and with the cosine (0 to 1) as the score of
        each topic, and the number of topics. A note that shares no term with train gets no topics; among
        equally similar train notes the first one is used.

    Raises:
        DataError: if no train note has topics, or none that has some has a text.
    """
    known = _with_topics(train)
    topics = known["topics"].to_pylist()
    index = _Index(texts_of(known, with_topics=False))
    ranked: list[Ranked] = []
    for rows, cosines in index.nearest(texts_of(notes, with_topics=False), 1, progress=progress):
        score = min(1.0, float(cosines[0])) if len(rows) else 0.0
        ranked.append([(topic, score) for topic in topics[rows[0]]] if len(rows) else [])
    return ranked, [len(ranking) for ranking in ranked]


def vote_topics(
    train: pa.Table, notes: pa.Table, *, seed: int = 0, progress: bool = True
) -> tuple[list[Ranked], list[int]]:
    """Return the topics of the 20 nearest train notes by their shares of the weight.

    The number of topics that would be published is that of 1 to 10 which has the best mean F1 on a draw
    of at most 2,000 train notes, each predicted from the others that do not have the same text.

    Args:
        train: notes to learn from (schema NOTES); those without topics do not count.
        notes: notes to find topics for (schema NOTES); their topics are not read.
        seed: seed of the draw of train notes.
        progress: show progress bars.

    Returns:
        A ranking for each note, empty for a note that shares no term with train, and the numbers of topics.

    Raises:
        DataError: if no train note has topics, or none that has some has a text.
    """
    known = _with_topics(train)
    topics, texts = known["topics"].to_pylist(), texts_of(known, with_topics=False)
    index = _Index(texts)
    drawn = np.random.default_rng(seed).permutation(len(texts))[:_TRIED]
    others = index.nearest(
        [texts[row] for row in drawn],
        NEIGHBOURS,
        groups=equal_texts(known),
        own=drawn,
        progress=progress,
    )
    count = _best_count([_vote(nearest, topics) for nearest in others], [topics[row] for row in drawn])
    queries = texts_of(notes, with_topics=False)
    ranked = [_vote(nearest, topics) for nearest in index.nearest(queries, NEIGHBOURS, progress=progress)]
    return ranked, [min(count, len(ranking)) for ranking in ranked]


def with_category(train: pa.Table) -> pa.Table:
    """Return the notes that have a category.

    Raises:
        DataError: if there are none.
    """
    known = train.filter(pc.not_equal(train["category"], ""))
    if known.num_rows == 0:
        raise DataError(
            f"none of {train.num_rows} train notes has a category to learn from: give notes with categories"
        )
    return known


def _with_topics(train: pa.Table) -> pa.Table:
    """Return the notes that have topics.

    Raises:
        DataError: if there are none.
    """
    known = train.filter(pc.greater(pc.list_value_length(train["topics"]), 0))
    if known.num_rows == 0:
        raise DataError(f"none of {train.num_rows} train notes has topics to copy: give notes with topics")
    return known


def _most_frequent(known: pa.Table) -> Ranked:
    """Return the most frequent categories with their shares."""
    counts = Counter(known["category"].to_pylist())
    best = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    return [(category, count / known.num_rows) for category, count in best]


class _Index:
    """TF-IDF vectors of train texts, in which the nearest ones are searched exactly.

    Args:
        texts: the train texts.

    Raises:
        DataError: if no text has a term.
    """

    def __init__(self, texts: list[str]) -> None:
        self._vectorizer = fitted_vectorizer(texts)
        self._columns = sparse.csr_array(self._vectorizer.transform(texts).T)  # terms x train
        self._size = len(texts)

    def nearest(
        self,
        queries: list[str],
        k: int,
        *,
        groups: npt.NDArray[np.int64] | None = None,
        own: npt.NDArray[np.int64] | None = None,
        progress: bool,
    ) -> Iterator[Neighbours]:
        """Yield the rows and cosines of the k nearest train texts of each query, nearest first.

        Texts that share no term with the query are left out, so there may be fewer than k. Of equally near
        ones the first is taken.

        Args:
            queries: the texts to search for.
            k: number of neighbours.
            groups: a group of each train text (train,): those of the group of a query are left out.
            own: where there are groups, the row of each query among the train texts (queries,).
            progress: show a progress bar.
        """
        block = max(1, min(_BLOCK, _SIMILARITIES // self._size))
        with progress_bar(total=len(queries), desc="nearest notes", unit="note", disable=not progress) as bar:
            for start in range(0, len(queries), block):
                texts = queries[start : start + block]
                cosines = (sparse.csr_array(self._vectorizer.transform(texts)) @ self._columns).toarray()
                if groups is not None and own is not None:
                    cosines[groups[None, :] == groups[own[start : start + block], None]] = 0.0
                yield from (_largest(row, k) for row in cosines)
                bar.update(len(texts))


def _largest(cosines: npt.NDArray[np.float32], k: int) -> Neighbours:
    """Return the positions and values of the k largest positive cosines (n,), largest first."""
    k = min(k, len(cosines))
    least = np.partition(cosines, len(cosines) - k)[len(cosines) - k]
    rows = np.flatnonzero((cosines >= least) & (cosines > 0))
    rows = rows[np.argsort(-cosines[rows], kind="stable")][:k]
    return rows, cosines[rows]


def _vote(neighbours: Neighbours, names: Sequence[Sequence[str]]) -> Ranked:
    """Return the names of the neighbours by their share of the weight, of equal ones the nearer first."""
    weights: dict[str, float] = defaultdict(float)
    spelling: dict[str, str] = {}  # that of the nearest note
    for row, cosine in zip(*neighbours, strict=True):
        own = {key(name): name for name in reversed(names[row])}
        for form in distinct(names[row]):
            weights[form] += float(cosine)
            spelling.setdefault(form, own[form])
    total = float(neighbours[1].sum(dtype=np.float64))
    best = sorted(weights.items(), key=lambda item: -item[1])
    return [(spelling[form], min(1.0, weight / total)) for form, weight in best]


def _best_count(ranked: Sequence[Ranked], true: Sequence[Sequence[str]]) -> int:
    """Return the number of topics whose mean F1 is the largest, the smallest of equal ones.

    Where no topic is ever right, the mean number of true topics is returned.
    """
    truths = [set(distinct(topics)) for topics in true]
    names = [distinct(names_of(ranking)) for ranking in ranked]
    sums = [
        sum(overlap(topics[:count], truth)[2] for topics, truth in zip(names, truths, strict=True))
        for count in range(1, _MOST_TOPICS + 1)
    ]
    if max(sums) == 0:
        return max(1, min(_MOST_TOPICS, round(sum(map(len, truths)) / len(truths))))
    return 1 + int(np.argmax(sums))
