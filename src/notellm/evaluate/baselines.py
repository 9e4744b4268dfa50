"""Simple methods that a model has to beat, computed in the same run as the model.

For related notes: ``popularity`` (for ``constant_scorer``) ranks by clicks, the same for every query;
``tfidf_matrix`` (for ``sparse_cosine_scorer``) compares texts, needs no clicks and so works for cold notes;
``data.matrices.click_matrix`` (for ``sparse_cosine_scorer``) is item co-occurrence, for splits by time only.

For tagging: ``predict_categories`` and ``copy_topics``.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from notellm.data.ids import Ids, as_array
from notellm.data.same_text import UNSPACED
from notellm.errors import DataError

_RUNS = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")
_WINDOW = 3
_FEATURES = 30_000  # of the category baseline, whose weights are a dense matrix, categories x features
_REGULARISATION = 10.0  # C of the category baseline
_BLOCK = 1024  # notes whose similarities to all train notes are held in memory at once


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


def popularity(pool_ids: Ids, clicks: pa.Table) -> npt.NDArray[np.float32]:
    """Return the number of clicks on each note of the pool, float32 (pool,).

    It is also the exposure of ``evaluate_related``.

    Args:
        pool_ids: ids of the pool's notes.
        clicks: table with the schema CLICKS; rows of other events or notes do not count. For the baseline
            give the clicks of train; for exposure, those of the part under evaluation.
    """
    clicked = clicks.filter(pc.equal(clicks["event"], "click"))
    note = pc.index_in(clicked["note_id"], value_set=as_array(pool_ids)).drop_null().to_numpy()
    return np.bincount(note, minlength=len(pool_ids)).astype(np.float32)


def tfidf_matrix(notes: pa.Table, train_notes: pa.Table | None = None) -> sparse.csr_array:
    """Return TF-IDF vectors of title, topics and content, float32 (notes, terms), of unit norm.

    Document frequencies are counted over the texts of the pool and of train. A running system knows the text
    of every published note, so this leaks nothing. A term in a text counts 1 + log(number of occurrences).

    Args:
        notes: the pool, schema NOTES.
        train_notes: more notes to count document frequencies over, schema NOTES.

    Raises:
        DataError: if no note has a text.
    """
    texts = _texts(notes)
    more = _texts(train_notes) if train_notes is not None else []
    return sparse.csr_array(_fitted(texts + more).transform(texts))


def predict_categories(train: pa.Table, notes: pa.Table) -> list[str]:
    """Predict the category of each note by logistic regression on TF-IDF of title, topics and content.

    Args:
        train: notes to learn from (schema NOTES); those without a category do not count.
        notes: notes to predict for (schema NOTES).

    Raises:
        DataError: if no train note has a category, or none that has one has a text.
    """
    known = train.filter(pc.not_equal(train["category"], ""))
    categories: list[str] = known["category"].to_pylist()
    if not categories:
        raise DataError(
            f"none of {train.num_rows} train notes has a category to learn from: give notes with categories"
        )
    if len(set(categories)) == 1:
        return [categories[0]] * int(notes.num_rows)
    texts = _texts(known)
    vectorizer = _fitted(texts, max_features=_FEATURES)
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second, and a service never needs it

    model = LogisticRegression(C=_REGULARISATION, max_iter=200).fit(vectorizer.transform(texts), categories)
    if notes.num_rows == 0:
        return []
    return [str(category) for category in model.predict(vectorizer.transform(_texts(notes)))]


def copy_topics(train: pa.Table, notes: pa.Table) -> list[list[str]]:
    """Return, for each note, the topics of the most similar train note by TF-IDF of title and content.

    The topics of ``notes`` are what is to be predicted, so they are not read. A note that shares no term with
    train gets no topics; among equally similar train notes the first one is used.

    Args:
        train: notes to copy from (schema NOTES); those without topics do not count.
        notes: notes to find topics for (schema NOTES).

    Raises:
        DataError: if no train note has topics, or none that has some has a text.
    """
    known = train.filter(pc.greater(pc.list_value_length(train["topics"]), 0))
    if known.num_rows == 0:
        raise DataError(f"none of {train.num_rows} train notes has topics to copy: give notes with topics")
    topics, texts = known["topics"].to_pylist(), _texts(known, with_topics=False)
    vectorizer = _fitted(texts)
    candidates = sparse.csr_array(vectorizer.transform(texts).T)
    queries = _texts(notes, with_topics=False)
    copied: list[list[str]] = []
    for start in range(0, len(queries), _BLOCK):
        rows = sparse.csr_array(vectorizer.transform(queries[start : start + _BLOCK]))
        similarity = (rows @ candidates).toarray()  # block x train
        for row in similarity:
            nearest = int(row.argmax())
            copied.append(topics[nearest] if row[nearest] > 0 else [])
    return copied


def _texts(notes: pa.Table, *, with_topics: bool = True) -> list[str]:
    """Return the title, topics and content of each note, one per line."""
    columns = (notes[name].to_pylist() for name in ("title", "topics", "content"))
    return [
        "\n".join((title, *(topics if with_topics else ()), content))
        for title, topics, content in zip(*columns, strict=True)
    ]


def _fitted(texts: list[str], max_features: int | None = None) -> Any:
    """Return a TF-IDF vectorizer fitted to texts, with at most ``max_features`` terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - takes a second, and a service never needs it

    vectorizer = TfidfVectorizer(
        analyzer=terms, sublinear_tf=True, dtype=np.float32, max_features=max_features
    )
    try:
        return vectorizer.fit(texts)
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        raise DataError(f"none of {len(texts)} notes has a word in its title or content") from error
