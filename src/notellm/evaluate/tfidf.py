"""TF-IDF of notes, which the baselines share: the terms of a text, the text of a note, the vectorizer.

A term in a text counts 1 + log(number of occurrences); vectors have unit norm.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from notellm.data.same_text import UNSPACED
from notellm.errors import DataError

_RUNS = re.compile(rf"(?P<unspaced>[{UNSPACED}]+)|[^\W_{UNSPACED}]+")
_WINDOW = 3


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


def texts_of(notes: pa.Table, *, with_topics: bool = True) -> list[str]:
    """Return the title, topics and content of each note, one per line.

    Args:
        notes: the notes, schema NOTES.
        with_topics: False leaves the topics out, for methods that predict them.
    """
    columns = (notes[name].to_pylist() for name in ("title", "topics", "content"))
    return [
        "\n".join((title, *(topics if with_topics else ()), content))
        for title, topics, content in zip(*columns, strict=True)
    ]


def fitted_vectorizer(texts: list[str], max_features: int | None = None) -> Any:
    """Return a TfidfVectorizer of scikit-learn fitted to texts; its vectors are float32 (texts, terms).

    Args:
        texts: the texts whose document frequencies are counted.
        max_features: keep only so many terms, those that occur most often; None keeps all.

    Raises:
        DataError: if no text has a term.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - takes a second, and a service never needs it

    vectorizer = TfidfVectorizer(
        analyzer=terms, sublinear_tf=True, dtype=np.float32, max_features=max_features
    )
    try:
        return vectorizer.fit(texts)
    except ValueError as error:  # scikit-learn's "empty vocabulary"
        raise DataError(f"none of {len(texts)} notes has a word in its title or content") from error
