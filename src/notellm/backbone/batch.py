"""Batches of sequences of different lengths: padding, and grouping by similar length."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

#: The number of tokens that a batch of prompts may hold, padding included.
TOKENS_PER_BATCH = 16_384
#: The number of sequences of similar length that pass through the backbone together in training.
GROUP = 32


def pad(
    rows: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Pad token ids on the right to one batch, with the position of each last token.

    Args:
        rows: token ids of n prompts, each with at least one token.
        tokenizer: supplies the padding token.
        device: where the tensors are placed; the CPU when None.

    Returns:
        ``input_ids`` and ``attention_mask``, (n, longest) int64, and ``position``, (n,) int64.
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
    """Pad token ids on the left to one batch for generation: ``input_ids`` and ``attention_mask``."""
    width = max(len(row) for row in rows)
    pad_id = int(tokenizer.pad_token_id)
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return {"input_ids": ids, "attention_mask": mask}


def by_length(attention_mask: Tensor) -> list[tuple[Tensor, int]]:
    """Group the rows of a batch by similar length; return each group's row numbers and longest length.

    Notes differ in length by an order of magnitude, so a single padded batch would be mostly padding.
    """
    lengths = attention_mask.sum(dim=1)
    groups = torch.argsort(lengths, stable=True).split(GROUP)  # type: ignore[no-untyped-call]
    return [(rows, int(lengths[rows[-1]])) for rows in groups]


def length_batches(
    ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield row numbers and padded batches of sequences of similar length, the longest sequences first."""
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, TOKENS_PER_BATCH // int(lengths[order[start]]))
        rows = order[start : start + size]
        start += size
        yield rows, pad([ids[row] for row in rows], tokenizer, device)
