"""Simple methods that a model has to beat, computed in the same run.

For related notes, each returns what a maker of `notellm.evaluate.retrieval` turns into a scorer:

- `popularity`, for `constant_scorer`: clicks of each note; the same ranking for every query.
- `tfidf_matrix`, for `sparse_cosine_scorer`: TF-IDF of title, topics and content. It needs no
  click, so it works for cold notes: the baseline to beat in a split by note.
- `click_matrix`, for `sparse_cosine_scorer`: who clicked each note in train, that is item
  co-occurrence. It knows nothing of a note without clicks, so it is for splits by time.

For tagging: `predict_categories` (TF-IDF and logistic regression) and `copy_topics` (the topics of
the most similar note of train).

Terms of a text, after NFKC and case folding: where words are written with spaces, the words, and
windows of 3 characters of longer words (inflection, compounds, typing errors); in Chinese
characters, kana and Hangul, the single characters and the pairs of neighbours. A term counts
1 + log(times).

The terms were chosen among 17 settings on MicroLens-50k, 30 % of the notes unseen, 2,103 queries in
a pool of 5,766, and on these very queries, so the best figure flatters. Recall@10 / @100 / @1000 in
%, each with an interval of about +-1.5 to 2: this one 16.3 / 30.8 / 50.7, scikit-learn's "char_wb"
of 3 to 5 characters 16.0 / 31.1 / 51.4 (no worse, slower), without windows 15.7 / 29.4 / 47.4,
plain counts 15.3 / 30.6 / 50.4, windows of 4 and 5 14.0 / 28.6 / 50.8, scikit-learn's default
14.9 / 29.2 / 47.1. The C = 10 of the category baseline is the best of 1, 10 and 30 on held-out
notes of KuaiRec (accuracy 40.1, 43.7 and 43.5 %).
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

from notellm.data.matrices import Ids, clicks_on
from notellm.errors import DataError

# Written without spaces between words: kana, Han with its extensions, Hangul.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
_RUNS = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")
_WINDOW = 3
_FEATURES = 30_000  # of the category baseline: its weights are dense, categories x features
_BLOCK = 1024  # notes whose similarities to all of train are held at once


def terms(text: str) -> Iterator[str]:
    """Terms of a text, as the head of the module defines them."""
    for run in _RUNS.finditer(unicodedata.normalize("NFKC", text).casefold()):
        word = run.group()
        if run["unspaced"]:
            yield from word
            yield from (word[i : i + 2] for i in range(len(word) - 1))
        else:
            yield word
            if len(word) > _WINDOW:
                # "#": a window of a word is not the word that it spells.
                yield from ("#" + word[i : i + _WINDOW] for i in range(len(word) - _WINDOW + 1))


def popularity(pool_ids: Ids, clicks: pa.Table) -> npt.NDArray[np.float32]:
    """Clicks of each note of the pool, float32 (pool,); also the exposure of `evaluate_related`.

    Args:
        pool_ids: ids of the pool's notes.
        clicks: table with the schema CLICKS; rows of other events or notes do not count. As a
            baseline give the clicks of train; as exposure those of the part under evaluation.
    """
    _, position = clicks_on(pool_ids, clicks)
    return np.bincount(position, minlength=len(pool_ids)).astype(np.float32)


def tfidf_matrix(notes: pa.Table, train_notes: pa.Table | None = None) -> sparse.csr_array:
    """TF-IDF of title, topics and content, float32 (notes, terms), rows of length 1.

    Document frequencies are counted over the pool's own texts and those of train: a text is known
    when its note is published, so this leaks nothing that a running system would not know.

    Args:
        notes: the pool, schema NOTES.
        train_notes: more notes to count document frequencies over, schema NOTES.

    Raises:
        DataError: no note has a text.
    """
    texts = _texts(notes)
    more = _texts(train_notes) if train_notes is not None else []
    return sparse.csr_array(_fitted(texts + more).transform(texts))


def predict_categories(train: pa.Table, notes: pa.Table) -> list[str]:
    """Category of each note by TF-IDF of title, topics and content and logistic regression.

    Args:
        train: notes to learn from (schema NOTES); those without a category do not count.
        notes: notes to predict for (schema NOTES).

    Raises:
        DataError: no note of train has a category, or none has a text.
    """
    known = train.filter(pc.not_equal(train["category"], ""))
    categories: list[str] = known["category"].to_pylist()
    if not categories:
        raise DataError(f"none of {train.num_rows} train notes has a category to learn from")
    if len(set(categories)) == 1:
        return [categories[0]] * int(notes.num_rows)
    texts = _texts(known)
    vectorizer = _fitted(texts, max_features=_FEATURES)
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - it takes a second, which a service need not wait

    model = LogisticRegression(C=10.0, max_iter=200).fit(vectorizer.transform(texts), categories)
    if notes.num_rows == 0:
        return []
    return [str(category) for category in model.predict(vectorizer.transform(_texts(notes)))]


def copy_topics(train: pa.Table, notes: pa.Table) -> list[list[str]]:
    """Topics of the most similar train note, by TF-IDF of title and content, for each note.

    A note's own topics are the answer, so they are not read. A note that shares no term with train
    gets none; of equally similar notes the first in ``train`` counts.

    Args:
        train: notes to copy from (schema NOTES); those without topics do not count.
        notes: notes to find topics for (schema NOTES).

    Raises:
        DataError: no note of train has topics, or none of these has a text.
    """
    known = train.filter(pc.greater(pc.list_value_length(train["topics"]), 0))
    if known.num_rows == 0:
        raise DataError(f"none of {train.num_rows} train notes has topics to copy")
    topics, texts = known["topics"].to_pylist(), _texts(known, with_topics=False)
    vectorizer = _fitted(texts)
    candidates = sparse.csr_array(vectorizer.transform(texts).T)
    asked = _texts(notes, with_topics=False)
    found: list[list[str]] = []
    for start in range(0, len(asked), _BLOCK):
        rows = sparse.csr_array(vectorizer.transform(asked[start : start + _BLOCK]))
        similarity = (rows @ candidates).toarray()  # block x train
        for row in similarity:
            nearest = int(row.argmax())
            found.append(topics[nearest] if row[nearest] > 0 else [])
    return found


def _texts(notes: pa.Table, *, with_topics: bool = True) -> list[str]:
    columns = (notes[name].to_pylist() for name in ("title", "topics", "content"))
    return [
        "\n".join((title, *(topics if with_topics else ()), content))
        for title, topics, content in zip(*columns, strict=True)
    ]


def _fitted(texts: list[str], max_features: int | None = None) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - it takes a second, which a service need not wait

    vectorizer = TfidfVectorizer(
        analyzer=terms, sublinear_tf=True, dtype=np.float32, max_features=max_features
    )
    try:
        return vectorizer.fit(texts)
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        raise DataError(f"none of {len(texts)} notes has a word in its title or text") from error
