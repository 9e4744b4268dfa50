"""The two losses of NoteLLM, as plain functions of tensors (arXiv 2403.01744, section 4).

GCL:   L_cl  = -1/N sum_i log( exp(cos(n_i, n_i+) e^tau) / sum_{j in C(i)} exp(cos(n_i, n_j) e^tau) )
CSFT:  L_gen = mean negative log-likelihood of the output tokens
total: L     = (L_cl + alpha L_gen) / (1 + alpha)

N = 2B notes of B pairs, both members of a pair are queries, tau is learnt. C(i) is every note of the
batch but i itself and but those that are no true negatives: the same note again, a note with the same
text, or a known related note of i (the partner i+ always stays).

A note stands in a batch as often as it stands in pairs, so plain in-batch negatives push popular notes
away and the cosine learns the pointwise mutual information. With ``log_frequency`` the sampling is
corrected for (Yi et al., RecSys 2019, "Sampling-bias-corrected neural modeling"): the cosine then learns
what is clicked next, popularity included as far as the text tells it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    queries: Tensor,
    candidates: Tensor,
    positive: Tensor,
    excluded: Tensor,
    tau: Tensor,
    log_frequency: Tensor | None = None,
) -> Tensor:
    """Sum of the GCL terms of some queries; divide by the number of notes in the whole batch.

    Args:
        queries: (n, d) vectors of unit norm.
        candidates: (N, d) vectors of unit norm, the whole batch, every process's part of it.
        positive: (n,) int64, where each query's partner stands in ``candidates``.
        excluded: (n, N) bool, candidates that are neither the partner nor a true negative: the query
            itself and the false negatives.
        tau: scalar, log of the inverse temperature.
        log_frequency: (N,) log of how often each candidate is drawn into a batch, to correct for it; None
            is the paper's loss.
    """
    scores = queries.float() @ candidates.float().T * tau.float().exp()
    if log_frequency is not None:
        scores = scores - log_frequency.float()[None, :]
    scores = scores.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(scores, positive, reduction="sum")


def generation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the negative log-likelihoods of output tokens; divide by their number in the whole batch.

    Args:
        logits: (n, vocabulary) at the positions that predict an output token.
        labels: (n,) int64, the tokens they shall predict.
    """
    if labels.numel() == 0:
        return logits.sum() * 0.0
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def joint_loss(contrastive: Tensor, generation: Tensor, alpha: float) -> Tensor:
    """The weighted mean of the two losses; alpha = 0 is contrastive only."""
    return (contrastive + alpha * generation) / (1 + alpha)


def false_negatives(
    note: Tensor, text: Tensor, positive: Tensor, all_notes: Tensor, all_texts: Tensor, known: Tensor
) -> Tensor:
    """Which candidates a query must not be pushed away from, (n, N) bool; the partner is never one.

    Args:
        note: (n,) index of each query's note.
        text: (n,) a key of each query's text; equal keys mean equal texts.
        positive: (n,) where each query's partner stands among the candidates.
        all_notes: (N,) note index of each candidate.
        all_texts: (N,) text key of each candidate.
        known: (n, N) bool, related pairs of the log in either direction.
    """
    partner_note, partner_text = all_notes[positive], all_texts[positive]
    same = (all_notes[None, :] == note[:, None]) | (all_texts[None, :] == text[:, None])
    same |= (all_notes[None, :] == partner_note[:, None]) | (all_texts[None, :] == partner_text[:, None])
    masked = same | known
    masked[torch.arange(len(note), device=note.device), positive] = False
    return masked
