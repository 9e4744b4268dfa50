import pytest

from notellm.errors import DataError
from notellm.evaluate.tfidf import fitted_vectorizer


def test_the_most_frequent_terms_are_kept():
    vectorizer = fitted_vectorizer(["a b", "a c", "a b"], max_features=2)
    assert sorted(vectorizer.vocabulary_) == ["a", "b"]
    with pytest.raises(DataError, match="none of 2 notes has a word"):
        fitted_vectorizer(["", "!"])
