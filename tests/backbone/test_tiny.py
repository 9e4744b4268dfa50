"""What tiny backbones are built from: a tokenizer learnt from texts, and vectors of its tokens."""

import numpy as np
import pytest
import scipy.sparse as sp

from notellm.backbone.tiny import token_vectors, train_tokenizer
from notellm.errors import DataError


def test_words_that_the_same_users_click_start_near_each_other():
    """Cats and dogs never stand in one note; who clicks one clicks the other."""
    texts = [
        f"{word} {kind}word" for word in ("alpha", "beta", "gamma", "delta") for kind in ("cat", "dog", "car")
    ]
    tokenizer = train_tokenizer(texts * 3, vocabulary=400, new_tokens=[])
    kinds = np.array(["cat", "dog", "car"] * 4)
    clicked = sp.csr_matrix(
        np.stack([np.isin(kinds, ["cat", "dog"])] * 5 + [kinds == "car"] * 5).astype(np.float32)
    )
    cat, dog, car = (
        tokenizer(f"{kind}word", add_special_tokens=False)["input_ids"] for kind in ("cat", "dog", "car")
    )
    assert len(cat) == len(dog) == len(car) == 1
    with_clicks, _ = token_vectors(tokenizer, texts, 3, clicked=clicked)
    without, _ = token_vectors(tokenizer, texts, 3)
    assert (with_clicks[cat] @ with_clicks[dog].T).item() > 0.9
    assert (with_clicks[cat] @ with_clicks[car].T).item() < 0.3
    assert (without[cat] @ without[dog].T).item() < 0.3


def test_texts_without_any_character_are_refused():
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_tokenizer(["", "\n"], vocabulary=300, new_tokens=[])
