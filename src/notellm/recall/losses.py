"""The two losses of NoteLLM as functions of tensors (arXiv 2403.01744, section 4).

GCL:   L_cl  = -1/N sum_i log( exp(cos(n_i, n_i+) e^tau) / sum_{j in C(i)} exp(cos(n_i, n_j) e^tau) )
CSFT:  L_gen = mean negative log-likelihood of the output tokens
total: L     = (L_cl + alpha L_gen) / (1 + alpha)

N = 2B notes of B pairs; both notes of a pair are queries, tau is learnt. C(i) holds the notes of the batch
except i itself and false negatives (:func:`false_negatives`). With ``log_frequency`` the logits are corrected
for how often a note is sampled as a negative (Yi et al., RecSys 2019, "Sampling-bias-corrected neural
modeling").
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
    """Return the sum of the GCL terms of some queries; divide it by the number of notes in the whole batch.

    A note is in a batch as often as it is in pairs, so plain in-batch negatives push popular notes away and
    the cosine learns pointwise mutual information. Corrected for that, it learns what is clicked next,
    including the part of popularity that the text tells.

    Args: queries: (n, d), unit norm. candidates: (N, d), unit norm: the whole batch of all processes.
        positive: (n,) int64, row of each query's partner in ``candidates``. excluded: (n, N) bool, candidates
        that are neither the partner nor a true negative: the query itself and
            false negatives.
        tau: scalar, log of the inverse temperature.
        log_frequency: (N,) log of how often each candidate is drawn into a batch; None is the loss of the
            paper.
    """
    scores = queries.float() @ candidates.float().T * tau.float().exp()
    if log_frequency is not None:
        scores = scores - log_frequency.float()[None, :]
    scores = scores.masked_fill(excluded, float("-inf"))
    return functional.cross_entropy(scores, positive, reduction="sum")


def generation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed negative log-likelihood of output tokens; divide it by their number in the batch.

    Args:
        logits: (n, vocabulary) at the positions that predict an output token.
        labels: (n,) int64, the predicted tokens.
    """
    if labels.numel() == 0:
        return logits.sum() * 0.0
    return functional.cross_entropy(logits.float(), labels, reduction="sum")


def joint_loss(contrastive: Tensor, generation: Tensor, alpha: float) -> Tensor:
    """Return the weighted mean of the two losses; alpha = 0 is the contrastive loss alone."""
    return (contrastive + alpha * generation) / (1 + alpha)


def false_negatives(
    note: Tensor, text: Tensor, positive: Tensor, all_notes: Tensor, all_texts: Tensor, known: Tensor
) -> Tensor:
    """Return which candidates a query must not be pushed away from, (n, N) bool.

    These are the same note again, a note with the same text, and known related notes; the same holds for the
    note and text of the partner. The partner itself is never one.

    Args:
        note: (n,) index of each query's note.
        text: (n,) key of each query's text; equal keys mean equal texts.
        positive: (n,) row of each query's partner among the candidates.
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
