"""Batches of sequences of different length: padding, and groups of similar length."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

#: Tokens in a batch of :func:`length_batches`, with padding.
TOKENS_PER_BATCH = 16_384
#: Sequences in a group of :func:`by_length`.
GROUP = 32


def pad(
    rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Return token ids as one batch that is padded on the right.

    Returns:
        ``input_ids`` and ``attention_mask``, (n, length) int64, and ``position``, (n,) int64, the index of
        each sequence's last token.
    """
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    width = int(lengths.max())
    ids = torch.full((len(rows), width), int(tokenizer.pad_token_id), dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
    mask = (torch.arange(width)[None, :] < lengths[:, None]).long()
    batch = {"input_ids": ids, "attention_mask": mask, "position": lengths - 1}
    return {name: value.to(device) for name, value in batch.items()}


def pad_left(
    rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` of a batch that is padded on the left, for generation."""
    width = max(len(row) for row in rows)
    pad_id = int(tokenizer.pad_token_id)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def by_length(attention_mask: Tensor) -> list[tuple[Tensor, int]]:
    """Return the rows of a batch in groups of similar length, each with its greatest length.

    Lengths in a batch differ by up to a factor of ten, so that most of it is padding; a group has little.
    """
    lengths = attention_mask.sum(dim=1)
    groups = torch.argsort(lengths, stable=True).split(GROUP)  # type: ignore[no-untyped-call]
    return [(rows, int(lengths[rows[-1]])) for rows in groups]


def longest_first(ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the rows of sequences, (n,) int64, from the longest to the shortest.

    Batches of neighbouring rows need little padding, and memory that suffices for the first one suffices for
    all.
    """
    return np.argsort([-len(row) for row in ids], kind="stable")


def length_batches(
    ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield padded batches of sequences of similar length with the rows of their sequences, longest first."""
    order = longest_first(ids)
    start = 0
    while start < len(order):
        size = max(1, TOKENS_PER_BATCH // len(ids[order[start]]))
        rows = order[start : start + size]
        start += size
        yield rows, pad([ids[row] for row in rows], tokenizer, device)
