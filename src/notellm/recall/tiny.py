"""A tiny Llama for NoteLLM that starts from latent semantic analysis of the notes and needs no download.

- Token vectors are right singular vectors of the TF-IDF matrix of notes and of users' click profiles; where
  a pretrained teacher is given, a third of their dimensions is regressed on its vectors of the notes.
- In layer 0 attention weights are proportional to idf^p: the last position reads the idf-weighted mean of the
  token vectors before it. Further layers have no effect until they are trained.
- The output head adds up what a token has in common with the note and how often it follows the last token.

The functions below write each part into the weights of a plain ``LlamaForCausalLM``.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from notellm.backbone.tiny import random_llama, svd, taught_token_vectors, token_vectors

#: Median norm of what a token has from a teacher, beside a norm of 1 that it has from notes and clicks.
TAUGHT_NORM = 0.5


@dataclass(frozen=True)
class TinyOptions:
    """Size of the tiny backbone; the defaults were measured on MicroLens (benchmarks/README.md).

    Attributes:
        vocabulary: largest number of tokens of the BPE.
        hidden: width of the hidden states.
        layers: number of layers, at least 1.
        heads: number of attention heads; hidden / heads must be even.
        intermediate: width of the feed-forward parts.
        max_length: the longest sequence in tokens.
        idf_power: exponent p of the idf in the attention weights; 0 is a plain mean.
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
    taught: np.ndarray | None = None,
    seed: int = 0,
) -> LlamaForCausalLM:
    """Build a Llama whose last hidden state starts as the idf-weighted mean of latent-semantic token vectors.

    The hidden state has three parts: the token vector, a bigram vector (the last quarter of the width), and
    in the last dimension the log of the token's inverse document frequency.

    Args:
        tokenizer: from ``backbone.tiny.train_tokenizer``, trained on the same texts.
        texts: the prompts of the notes.
        outputs: whole sequences as token ids, each with the position at which guidance and output begin;
            empty if there is nothing to generate.
        options: the size.
        clicked: which user clicked which text, (users, texts) of ones; None if there are no clicks.
        taught: (texts, k) float32, what a teacher makes of each text, of unit norm; None without a teacher. A
            third of a token vector then approximates it, and tokens that say more weigh more.
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
    width = size.hidden - 1 - bigram
    own = width if taught is None else width - width // 3
    vectors, weights = token_vectors(tokenizer, texts, own, clicked=clicked, seed=seed)
    if taught is not None:
        known = taught_token_vectors(tokenizer, texts, taught, width - own)
        vectors = np.concatenate([vectors, TAUGHT_NORM * known], axis=1)
        # The input norm takes the norm of a token away; its weight in the mean restores it.
        norms = np.linalg.norm(vectors, axis=1)
        vectors, weights = vectors / norms[:, None], weights * np.maximum(norms, 1)
    before, after = _bigram_vectors(outputs, len(tokenizer), bigram, seed)
    with torch.no_grad():
        spread = _write_embeddings(model, np.concatenate([vectors, before], axis=1), weights)
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
    """Return the vectors of tokens as last token and as next token, (tokens, width) float32 each.

    They are a truncated SVD of log(1 + 1000 P(next | last)), which is 0 for tokens that never follow each
    other. The vectors of last tokens get a root mean square norm of 0.2, since they share the input norm with
    token vectors of norm 1.
    """
    bigrams = [(ids[i], ids[i + 1]) for ids, start in outputs for i in range(start, len(ids) - 1)]
    before, after = np.zeros((2, size, width), dtype=np.float32)
    if not bigrams:
        return before, after
    last, following = np.array(bigrams).T
    counts = sp.csr_matrix((np.ones(len(last)), (last, following)), shape=(size, size))
    counts.sum_duplicates()
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    probability = (sp.diags(1 / totals) @ counts).tocsr()
    probability.data = np.log1p(1000 * probability.data)
    rank = min(width, len(np.unique(last)), len(np.unique(following)))
    left, values, right = svd(probability.astype(np.float32), rank, seed)
    before[:, :rank] = left * np.sqrt(values)
    after[:, :rank] = right.T * np.sqrt(values)
    scale = 5 * np.sqrt((before[np.unique(last)] ** 2).sum(axis=1).mean())
    return before / max(scale, 1e-9), after * scale


def _write_embeddings(model: LlamaForCausalLM, vectors: np.ndarray, weights: np.ndarray) -> float:
    """Write token vectors and, last, log weights mapped to [-0.5, 0.5]; root mean square about 0.1.

    Returns:
        The largest log weight. A key multiplies the last dimension by it to restore the log weight.
    """
    log_weight = np.log(weights)
    spread = max(float(log_weight.max()), 1e-9)
    wanted = log_weight / spread - 0.5
    # After the row is normalized the channel is exactly ``wanted``.
    squares = (vectors.astype(np.float64) ** 2).sum(axis=1)
    channel = wanted * np.sqrt(squares / (1 - wanted**2))
    table = np.concatenate([vectors, channel[:, None]], axis=1)
    scale = 0.1 * math.sqrt(table.shape[1])
    model.model.embed_tokens.weight.copy_(torch.from_numpy(table * scale))
    return spread


def _write_first_layer(model: LlamaForCausalLM, gain: float, width: int) -> None:
    """Write attention weights proportional to exp(gain x last dimension); values copy ``width`` dimensions.

    The query is a constant in each head's slowest rotary pair, which RoPE hardly turns over the length of a
    prompt. The key reads the last dimension; value and output projections are the identity.
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
    # The input norm scales a token to root mean square 1, which multiplies the channel by sqrt(hidden).
    # Attention divides scores by sqrt(head).
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

    a and b are the scales with the smallest loss on up to 200 outputs.
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
    used = np.unique([token for ids, start in outputs for token in ids[start:]])
    output_vectors = np.zeros_like(vectors)
    output_vectors[used] = vectors[used]  # tokens that are in no output keep the logit 0
    common = state[:, :width] @ torch.from_numpy(output_vectors).T
    follows = state[:, width : width + after.shape[1]] @ torch.from_numpy(after).T
    scales = [(a, b) for a in (0.0, 0.1, 0.2, 0.4, 0.8) for b in (0.05, 0.1, 0.2, 0.4, 0.8)]
    losses = [float(functional.cross_entropy(a * common + b * follows, label)) for a, b in scales]
    a, b = scales[int(np.argmin(losses))]
    head = np.zeros((len(vectors), model.config.hidden_size), dtype=np.float32)
    head[:, :width] = a * output_vectors
    head[:, width : width + after.shape[1]] = b * after
    head += 0.002 * np.random.default_rng(seed).standard_normal(head.shape).astype(np.float32)
    model.lm_head.weight.copy_(torch.from_numpy(head))
