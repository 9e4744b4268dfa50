"""TF-IDF by scikit-learn, which the baselines share.

The terms and the texts of notes are those of ``notellm.lexical``. A term in a text counts 1 + log(number of
occurrences); vectors have unit norm.
"""

from typing import Any

import numpy as np

from notellm.errors import DataError
from notellm.lexical.terms import terms


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
