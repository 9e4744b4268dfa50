import numpy as np
import pyarrow as pa
import pytest

from notellm.data import ids
from notellm.errors import DataError

ALLOWED = ["a", "x" * 512, "é" * 512, "日本語", "a b", "a,b", "\u00a0", "a\u0085", "😄"]
REFUSED = ["", "x" * 513, "😄" * 513, "a\nb", "a\n", "\x00", "a\x1f", "a\x7fb", "\t"]


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_column_is_judged_id_by_id(type_):
    column = pa.array([*ALLOWED, None, *REFUSED], pa.string()).cast(type_)
    expected = [False] * (len(ALLOWED) + 1) + [True] * len(REFUSED)
    for given in (column, pa.chunked_array([column[:3], column[3:]])):
        refused = ids.refused_ids(given)
        assert refused.tolist() == expected
        assert refused.dtype == np.dtype(np.bool_)


def test_an_empty_column_and_one_without_chunks():
    assert ids.refused_ids(pa.array([], pa.string())).tolist() == []
    assert ids.refused_ids(pa.chunked_array([], pa.string())).tolist() == []


@pytest.mark.parametrize("note_id", ALLOWED)
def test_one_id_that_is_allowed(note_id):
    ids.check_id(note_id)


def test_the_message_names_the_id_the_rule_and_the_fix():
    with pytest.raises(DataError) as caught:
        ids.check_ids(pa.array(["ok", "x" * 600, "a\nb"]))
    message = str(caught.value)
    assert f"the note id '{'x' * 60}…' (600 characters, the first of 2) cannot be used" in message
    assert "any text without control characters, of 1 to 512 characters; give the note another id" in message
    with pytest.raises(DataError, match=r"the note id 'a\\nb' \(3 characters\) cannot be used"):
        ids.check_id("a\nb")


def test_chunks_that_were_encoded_before_get_one_dictionary():
    both = pa.array(["a", "b", "c", "a"]).dictionary_encode()
    one, other = pa.array(["b", "a"]).dictionary_encode(), pa.array(["c"]).dictionary_encode()
    column = pa.chunked_array([both, one, other])
    found, names = ids.codes(column)
    assert names.take(pa.array(found)).to_pylist() == column.to_pylist() == list("abcabac")
    assert len(names) == len(set(names.to_pylist()))


def test_chunks_of_one_array_with_other_parts_of_it_as_dictionaries():
    values = pa.array(["a", "b", "c"])
    parts = [
        pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), values.slice(start, 2))
        for start in (0, 1)
    ]
    column = pa.chunked_array(parts)
    found, names = ids.codes(column)
    assert names.take(pa.array(found)).to_pylist() == column.to_pylist() == ["a", "b", "b", "c"]


def test_one_dictionary_is_not_unified_with_itself():
    """Arrow encodes all chunks with one dictionary; to unify it would be slow, and would make another."""
    column = pa.chunked_array([["b", "a"], [], ["a", "c"]]).dictionary_encode()
    places = {chunk.dictionary.buffers()[-1].address for chunk in column.chunks}
    assert len(places) == 1
    assert {chunk.dictionary.buffers()[-1].address for chunk in ids.encoded(column).chunks} == places
