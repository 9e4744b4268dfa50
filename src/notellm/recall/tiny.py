"""The first weights of NoteLLM's tiny backbone, computed from the notes, so that nothing is downloaded.

1. Token vectors of unit norm come from a truncated SVD of the TF-IDF matrix of notes and user profiles.
2. The last input dimension holds the log inverse document frequency of the token, idf_t.
3. In layer 0 the query is constant and the key reads that dimension, so attention weights are proportional to
   idf_t^p; values pass unchanged. The last position starts as the idf-weighted mean of the token vectors.
4. The last quarter of the width holds bigram vectors, a truncated SVD of log(1 + c P(next | token)) of the
   outputs. The output head adds what a token has in common with the note and how often it follows the last
   token.
5. The other layers start silent and learn what they can add. The architecture is plain ``LlamaForCausalLM``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from notellm.backbone.tiny import random_llama, svd, token_vectors


@dataclass(frozen=True)
class TinyOptions:
    """Size of the tiny backbone; the defaults were measured on MicroLens (benchmarks/README.md).

    Attributes:
        vocabulary: largest number of tokens of the BPE.
        hidden: width of the model.
        layers: number of layers, at least 1.
        heads: attention heads; hidden / heads must be even.
        intermediate: width of the feed-forward parts.
        max_length: longest sequence in tokens.
        idf_power: the power p of the inverse document frequency; 0 is a plain mean.
    """

    vocabulary: int = 16_000
    hidden: int = 256
    layers: int = 2
    heads: int = 4
    intermediate: int = 512
    max_length: int = 512
    idf_power: float = 1.0


def build_tiny(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    outputs: Sequence[tuple[Sequence[int], int]],
    options: TinyOptions | None = None,
    *,
    clicked: sp.csr_matrix | None = None,
    seed: int = 0,
) -> LlamaForCausalLM:
    """Make a Llama whose last position starts as the idf-weighted mean of latent-semantic token vectors.

    Args: tokenizer: from ``backbone.tiny.train_tokenizer`` on the same texts. texts: the rendered prompts of
        the notes, as the model will read them. outputs: token ids of whole sequences and the position where
        the output begins, guidance included; empty if
            there is nothing to write.
        options: the size.
        clicked: who clicked which text, (users, texts) of ones; None uses the notes alone.
        seed: seed of the random parts (feed-forward weights, output head).

    Returns:
        The model in float32 on the CPU, in training mode.
    """
    size = options or TinyOptions()
    torch.manual_seed(seed)
    model = random_llama(
        tokenizer,
        hidden=size.hidden,
        intermediate=size.intermediate,
        layers=size.layers,
        heads=size.heads,
        length=size.max_length,
    )
    bigram = size.hidden // 4
    vectors, idf = token_vectors(tokenizer, texts, size.hidden - 1 - bigram, clicked=clicked, seed=seed)
    before, after = _bigram_vectors(outputs, len(tokenizer), bigram, seed)
    with torch.no_grad():
        spread = _write_embeddings(model, np.concatenate([vectors, before], axis=1), idf)
        _write_first_layer(model, size.idf_power * spread, vectors.shape[1])
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
        if outputs:
            _write_head(model, vectors, after, outputs, seed)
    return model


def _bigram_vectors(
    outputs: Sequence[tuple[Sequence[int], int]], size: int, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors of tokens as the last and as the next token, (tokens, width) float32 each.

    Their inner product approximates log(1 + c P(next | token)) with c = 1000, so it is zero for tokens that
    never follow. The first ones are scaled to a root mean square norm of 0.2 over the tokens that occur, so
    that they leave most of the input norm to the token vector of norm 1 beside them.
    """
    ends = [(ids[i], ids[i + 1]) for ids, start in outputs for i in range(start, len(ids) - 1)]
    before, after = np.zeros((2, size, width), dtype=np.float32)
    if not ends:
        return before, after
    last, following = np.array(ends).T
    counts = sp.csr_matrix((np.ones(len(last)), (last, following)), shape=(size, size))
    counts.sum_duplicates()
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    chance = (sp.diags(1 / totals) @ counts).tocsr()
    chance.data = np.log1p(1000 * chance.data)
    rank = min(width, len(np.unique(last)), len(np.unique(following)))
    left, strength, right = svd(chance.astype(np.float32), rank, seed)
    before[:, :rank] = left * np.sqrt(strength)
    after[:, :rank] = right.T * np.sqrt(strength)
    scale = 5 * np.sqrt((before[np.unique(last)] ** 2).sum(axis=1).mean())
    return before / max(scale, 1e-9), after * scale


def _write_embeddings(model: LlamaForCausalLM, vectors: np.ndarray, idf: np.ndarray) -> float:
    """Write token vectors and, as last dimension, log idf scaled to [-0.5, 0.5]; root mean square about 0.1.

    Returns the largest log idf, by which a key must multiply the last dimension to restore it.
    """
    log_idf = np.log(idf)
    spread = max(float(log_idf.max()), 1e-9)
    wanted = log_idf / spread - 0.5
    # What remains of it after the norm of the row is then exactly ``wanted``.
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    channel = wanted * np.sqrt(squares / (1 - wanted**2))
    table = np.concatenate([vectors, channel[:, None]], axis=1)
    scale = 0.1 * math.sqrt(table.shape[1])
    model.model.embed_tokens.weight.copy_(torch.from_numpy(table * scale))
    return spread


def _write_first_layer(model: LlamaForCausalLM, gain: float, width: int) -> None:
    """Write a constant query on the slowest rotary pair, a key of gain x last dimension, and the values.

    RoPE turns queries and keys by position; the slowest pair hardly turns over the length of a prompt.
    """
    config = model.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = hidden // heads
    attention = model.model.layers[0].self_attn
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        part.weight.zero_()
        part.bias.zero_()
    slowest = torch.arange(heads) * head + head // 2 - 1
    attention.q_proj.bias[slowest] = 1.0
    # The input norm brings a token to root mean square 1, so the channel arrives times sqrt(hidden);
    # scores are divided by sqrt(head).
    attention.k_proj.weight[slowest, hidden - 1] = gain * math.sqrt(head) / math.sqrt(hidden)
    attention.v_proj.weight[:width, :width] = torch.eye(width)
    attention.o_proj.weight.copy_(torch.eye(hidden))


def _write_head(
    model: LlamaForCausalLM,
    vectors: np.ndarray,
    after: np.ndarray,
    outputs: Sequence[tuple[Sequence[int], int]],
    seed: int,
) -> None:
    """Set the output head to a x (in common with the note) + b x (follows the last token).

    The scales a and b are those with the smallest loss on a sample of the outputs.
    """
    chosen = np.random.default_rng(seed).permutation(len(outputs))[:200]
    states, labels = [], []
    for row in chosen:
        ids, start = outputs[row]
        hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
        states.append(hidden[start:-1])
        labels.append(torch.tensor(ids[start + 1 :]))
    state, label = torch.cat(states), torch.cat(labels)
    width = vectors.shape[1]
    ever = np.unique([token for ids, start in outputs for token in ids[start:]])
    own = np.zeros_like(vectors)
    own[ever] = vectors[ever]  # what is never written needs no push
    common = state[:, :width] @ torch.from_numpy(own).T
    follows = state[:, width : width + after.shape[1]] @ torch.from_numpy(after).T
    scales = [(a, b) for a in (0.0, 0.1, 0.2, 0.4, 0.8) for b in (0.05, 0.1, 0.2, 0.4, 0.8)]
    losses = [float(functional.cross_entropy(a * common + b * follows, label)) for a, b in scales]
    a, b = scales[int(np.argmin(losses))]
    head = np.zeros((len(vectors), model.config.hidden_size), dtype=np.float32)
    head[:, :width] = a * own
    head[:, width : width + after.shape[1]] = b * after
    head += 0.002 * np.random.default_rng(seed).standard_normal(head.shape).astype(np.float32)
    model.lm_head.weight.copy_(torch.from_numpy(head))
