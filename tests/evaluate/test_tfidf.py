import pyarrow as pa
import pytest

from notellm.data.schema import NOTES
from notellm.errors import DataError
from notellm.evaluate.tfidf import fitted_vectorizer, terms, texts_of


def test_terms_of_spaced_and_unspaced_scripts():
    assert list(terms("A Cat")) == ["a", "cat"]
    assert list(terms("cats")) == ["cats", "#cat", "#ats"]
    assert list(terms("抹茶店")) == ["抹", "茶", "店", "抹茶", "茶店"]
    assert list(terms("去Paris咖啡 7!")) == [
        *("去", "paris", "#par", "#ari", "#ris"),
        *("咖", "啡", "咖啡", "7"),
    ]
    assert list(terms("ＡＢＣ")) == list(terms("abc"))
    assert list(terms("... 🎉 _")) == []


def test_a_text_is_title_topics_and_content():
    note = {"note_id": "a", "title": "t", "content": "c", "topics": ["x", "y"], "category": "no"}
    notes = pa.Table.from_pylist([note | {"published_at": None}], NOTES)
    assert texts_of(notes) == ["t\nx\ny\nc"]
    assert texts_of(notes, with_topics=False) == ["t\nc"]


def test_the_most_frequent_terms_are_kept():
    vectorizer = fitted_vectorizer(["a b", "a c", "a b"], max_features=2)
    assert sorted(vectorizer.vocabulary_) == ["a", "b"]
    with pytest.raises(DataError, match="none of 2 notes has a word"):
        fitted_vectorizer(["", "!"])
