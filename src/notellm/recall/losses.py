"""The two losses of NoteLLM as functions of tensors (arXiv 2403.01744, section 4).

GCL:   L_cl  = -1/N sum_i log( exp(cos(n_i, n_i+) e^tau) / sum_{j in C(i)} exp(cos(n_i, n_j) e^tau) )
CSFT:  L_gen = mean negative log-likelihood of the output tokens
total: L     = (L_cl + alpha L_gen) / (1 + alpha)

N = 2B notes of B pairs (n_i, n_i+); both notes of a pair are queries; tau is learnt. C(i) holds n_i+ and all
other notes of the batch, by default without false negatives (:func:`false_negatives`), which the paper keeps.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

#: Scores of queries and candidates that are held at once, 16 MiB in float32.
BLOCK = 2**22


def contrastive_loss(
    queries: Tensor,
    candidates: Tensor,
    positive: Tensor,
    excluded: Tensor,
    tau: Tensor,
    log_frequency: Tensor | None = None,
) -> Tensor:
    """Return the sum of the GCL terms of some queries; divide it by the number of notes in the whole batch.

    A note is in a batch as often as it is in pairs. So without a correction popular notes are pushed away as
    negatives, and the cosine learns the pointwise mutual information. With ``log_frequency`` the sampling is
    corrected (Yi et al., RecSys 2019, "Sampling-bias-corrected neural modeling"), and the cosine learns what
    is clicked next, including the popularity that can be read from the text.

    Args:
        queries: (n, d) vectors of unit norm.
        candidates: (N, d) vectors of unit norm, the whole batch of all processes.
        positive: (n,) int64, index of each query's partner among the candidates.
        excluded: (n, N) bool, the candidates that are no negatives of a query: the query itself and the false
            negatives.
        tau: scalar, log of the inverse temperature.
        log_frequency: (N,) log of how often each candidate is drawn into a batch; None is the paper's loss.
    """
    scores = queries.float() @ candidates.float().T * tau.float().exp()
    if log_frequency is not None:
        scores = scores - log_frequency.float()[None, :]
    scores = scores.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(scores, positive, reduction="sum")


def blockwise_contrastive_loss(
    queries: Tensor,
    candidates: Tensor,
    positive: Tensor,
    excluded: Callable[[slice], Tensor],
    tau: Tensor,
    log_frequency: Tensor | None = None,
    *,
    block: int = BLOCK,
) -> Tensor:
    """Return :func:`contrastive_loss` with the memory of a few blocks of scores instead of all n x N.

    The scores of a block of queries are computed again for the gradient. A batch of one block is computed as
    a whole.

    Args:
        queries: as there.
        candidates: as there.
        positive: as there.
        excluded: returns the rows of ``excluded`` of some queries, (rows, N) bool.
        tau: as there.
        log_frequency: as there.
        block: number of scores in a block; a query has all of its scores in one.
    """

    def of_rows(rows: slice, some: Tensor, others: Tensor, tau: Tensor) -> Tensor:
        return contrastive_loss(some, others, positive[rows], excluded(rows), tau, log_frequency)

    size = max(1, block // len(candidates))
    if size >= len(queries):
        return of_rows(slice(None), queries, candidates, tau)
    total = queries.new_zeros((), dtype=torch.float32)
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        part: Tensor = checkpoint(of_rows, rows, queries[rows], candidates, tau, use_reentrant=False)
        total = total + part
    return total


def generation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the negative log-likelihoods of output tokens; divide it by their number.

    Args:
        logits: (n, vocabulary), at the positions that predict an output token.
        labels: (n,) int64, the output tokens.
    """
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def joint_loss(contrastive: Tensor, generation: Tensor, alpha: float) -> Tensor:
    """Return the weighted mean of both losses; alpha = 0 takes the contrastive loss only."""
    return (contrastive + alpha * generation) / (1 + alpha)


def false_negatives(
    note: Tensor, text: Tensor, positive: Tensor, all_notes: Tensor, all_texts: Tensor, known: Tensor
) -> Tensor:
    """Return which candidates are no true negatives of a query, (n, N) bool; its partner is never among them.

    These are the query's note and its partner's note in other pairs, notes with the text of either, and known
    related notes.

    Args:
        note: (n,) row of each query's note.
        text: (n,) key of each query's text; equal texts have equal keys.
        positive: (n,) index of each query's partner among the candidates.
        all_notes: (N,) row of each candidate's note.
        all_texts: (N,) key of each candidate's text.
        known: (n, N) bool, whether query and candidate are a related pair in either direction.
    """
    partner_note, partner_text = all_notes[positive], all_texts[positive]
    same = (all_notes[None, :] == note[:, None]) | (all_texts[None, :] == text[:, None])
    same |= (all_notes[None, :] == partner_note[:, None]) | (all_texts[None, :] == partner_text[:, None])
    masked = same | known
    masked[torch.arange(len(note), device=note.device), positive] = False
    return masked


def known_pairs(note: Tensor, others: Tensor, known: Tensor, count: int) -> Tensor:
    """Return whether (note, other) is a known related pair, (n, N) bool.

    Args:
        note: (n,) rows of the notes.
        others: (N,) rows of the other notes.
        known: int64, the sorted keys ``a * count + b`` of the pairs (``PairIndex.known``), at least one.
        count: number of notes in the table of the rows.
    """
    keys = note[:, None] * count + others[None, :]
    position = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
    return known[position] == keys
