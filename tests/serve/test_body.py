"""The amount that a body may hold; it is counted correctly whatever its strings contain."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notellm.serve import body as module
from notellm.serve.body import MOST_FIELDS, MOST_NESTED, MOST_VALUES, TooMuchError, check_amount
from notellm.serve.schemas.common import MOST_IDS, MOST_NOTES
from notellm.serve.schemas.notes import NoteBatch


def as_json(value):
    return json.dumps(value, ensure_ascii=False).encode()


def test_the_largest_batch_of_notes_is_taken():
    note = {
        "note_id": "n1",
        "title": "T",
        "content": "C",
        "topics": ["t"] * 100,
        "category": "c",
        "published_at": None,
        "hidden": False,
        "expires_at": None,
    }
    batch = {"notes": [{**note, "note_id": f"n{i}"} for i in range(MOST_NOTES)]}
    NoteBatch.model_validate(batch)
    check_amount(as_json(batch))
    ids = [f"n{i}" for i in range(MOST_IDS)]
    check_amount(as_json({"history": ids, "exclude": ids, "filter": {"allow": ids, "deny": ids}}))


def test_texts_may_hold_what_they_like():
    for text in (
        "[" * 900_000,
        "{:,}" * 200_000,
        '"' * 300_000,
        "\\" * 300_000,
        '\\",[{' * 90_000,
        "a, b: " * 9_999,
    ):
        check_amount(as_json({"title": "a", "content": text}))
        check_amount(as_json([text, text[::-1]]))


@pytest.mark.parametrize(
    ("value", "counted"),
    [
        ({f"k{i}": 0 for i in range(MOST_FIELDS + 1)}, f"{MOST_FIELDS + 1:,} fields"),
        ([[]] * MOST_NESTED, f"{MOST_NESTED + 1:,} lists"),
        ([{}] * MOST_NESTED, f"{MOST_NESTED + 1:,} lists"),
        ([0] * (MOST_VALUES + 1), f"{MOST_VALUES + 1:,} values"),
        ({"a": '\\"[{:,' * 9_000, "b": [0] * MOST_VALUES}, f"{MOST_VALUES + 1:,} values"),
    ],
    ids=range(5),
)
def test_what_takes_long_to_read_is_refused(value, counted):
    with pytest.raises(TooMuchError, match=counted):
        check_amount(as_json(value))
    # One less is taken.
    fewer = dict(list(value.items())[1:]) if isinstance(value, dict) and len(value) > 2 else value
    if fewer is not value:
        check_amount(as_json(fewer))
    elif isinstance(value, list):
        check_amount(as_json(value[1:]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('ab"\\[]{}:,/\n中'), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def counts(value):
    """Count the fields, the lists and objects, and the commas of a value."""
    fields, nested, commas = 0, 0, 0
    if isinstance(value, (list, dict)):
        inner = value.values() if isinstance(value, dict) else value
        fields, nested, commas = len(value) * isinstance(value, dict), 1, max(0, len(value) - 1)
        for one in inner:
            fields, nested, commas = (
                a + b for a, b in zip((fields, nested, commas), counts(one), strict=True)
            )
    return fields, nested, commas


@given(JSON, st.booleans())
def test_the_count_is_that_of_the_values(value, ascii_):
    """The strings may contain any characters."""
    seen: list[tuple[int, ...]] = []

    def remembered(*found):
        seen.append(found)
        return len(seen) > 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_is_little", remembered)
        check_amount(json.dumps(value, ensure_ascii=ascii_).encode())
    assert seen[-1] == counts(value)


@pytest.mark.parametrize("body", [b"", b"nonsense", b'"', b"\\", b'"\\', b"\xff" * 9, b'{"a": "\\'])
def test_what_is_no_json_is_left_to_others(body):
    check_amount(body)
