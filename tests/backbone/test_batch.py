"""Padding and groups of similar length lose nothing and mix nothing up."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from notellm.backbone import batch as batches
from notellm.backbone.batch import by_length, length_batches, pad, pad_left


class Padded:
    """All of a tokenizer that padding looks at."""

    pad_token_id = 99


PADDED: Any = Padded()
CPU = torch.device("cpu")
rows_of_ids = st.lists(st.lists(st.integers(0, 98), min_size=1, max_size=9), min_size=1, max_size=70)


@given(rows_of_ids)
def test_padding_keeps_every_row_and_its_last_position(rows):
    batch = pad(rows, PADDED)
    width = max(map(len, rows))
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(rows), width)
    for i, row in enumerate(rows):
        assert batch["input_ids"][i].tolist() == row + [99] * (width - len(row))
        assert batch["attention_mask"][i].tolist() == [1] * len(row) + [0] * (width - len(row))
        assert batch["input_ids"][i, batch["position"][i]] == row[-1]


@given(rows_of_ids)
def test_padding_on_the_left_ends_every_row_at_the_same_place(rows):
    batch = pad_left(rows, PADDED, CPU)
    for i, row in enumerate(rows):
        assert batch["input_ids"][i, -len(row) :].tolist() == row
        assert batch["attention_mask"][i].sum() == batch["attention_mask"][i, -len(row) :].sum() == len(row)


@given(rows_of_ids)
def test_groups_hold_every_row_once_and_are_no_longer_than_their_longest(rows):
    groups = by_length(pad(rows, PADDED)["attention_mask"])
    assert sorted(i for group, _ in groups for i in group.tolist()) == list(range(len(rows)))
    for group, width in groups:
        assert width == max(len(rows[i]) for i in group.tolist())
        assert len(group) <= batches.GROUP
    assert [width for _, width in groups] == sorted(width for _, width in groups)


@pytest.mark.parametrize("budget", [1, 20, 10_000])
def test_batches_hold_every_row_once_within_the_tokens(monkeypatch, budget):
    monkeypatch.setattr(batches, "TOKENS_PER_BATCH", budget)
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 98, size=n).tolist() for n in draw.integers(1, 12, size=50)]
    found = list(length_batches(rows, PADDED, CPU))
    assert sorted(np.concatenate([part for part, _ in found]).tolist()) == list(range(50))
    assert len(found) == {1: 50, 10_000: 1}.get(budget, len(found))
    widths = []
    for part, batch in found:
        assert batch["input_ids"].numel() <= max(budget, batch["input_ids"].shape[1])
        for place, row in enumerate(part):
            ids = batch["input_ids"][place][batch["attention_mask"][place].bool()]
            assert ids.tolist() == rows[row]
        widths.append(batch["input_ids"].shape[1])
    assert widths == sorted(widths, reverse=True)


def test_nothing_makes_no_batch():
    assert list(length_batches([], PADDED, CPU)) == []
