"""The tiny backbone for ranking: a Llama whose first weights compare codes and texts.

Random weights would have to discover from clicks alone that bit k of one code belongs to bit k of the other.
The comparison is known, so :func:`build_tiny_rank` writes it into the weights of a plain two-layer
``LlamaForCausalLM``, from which training continues. A token holds 8 bits (``rank.code_tokens.octet``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from notellm.backbone.tiny import random_llama, token_vectors
from notellm.errors import ConfigError

# Channels of the residual stream; after them come token vectors, mean history and mean text, ``width`` each.
_BITS, _MATCHES = range(8), range(8, 16)
_CODE, _IDF, _BOS, _MARK, _END, _ITEM, _AFTER, _PRODUCT, _AGREEMENT, _TEXTS = range(16, 26)
_CHANNELS = 26
_SURE = 24.0  # an attention score with which a head attends to one kind of token and no other
_FIRM = 4.0  # size of END; each value that it gathers has a size of about 1
_FAINT = 1 / 8  # size of products, which differ within a code; bits have the size 1


@dataclass(frozen=True)
class TinyRankOptions:
    """Size of the tiny ranking backbone (chosen on ML-1M, benchmarks/README.md).

    Attributes:
        vocabulary: largest number of tokens of the BPE.
        width: dimensions of the token vectors; two heads together hold one dimension more.
        heads: number of attention heads, at least 4, together wide enough for 3 x width + 26 channels; those
            after the fourth start with an output of 0.
        head: dimensions of a head, even, at least 8.
        intermediate: width of the feed-forward parts, at least 2 x width.
        max_length: longest sequence in tokens.
    """

    vocabulary: int = 8_000
    width: int = 54
    heads: int = 6
    head: int = 32
    intermediate: int = 256
    max_length: int = 512

    def __post_init__(self) -> None:
        """Check that the sizes have room for the first weights.

        Raises:
            ConfigError: if a size is too small; the message lists every problem.
        """
        limits = (
            ("heads", self.heads, 4),
            ("head", self.head, max(8, (self.width + 1) // 2 + 1)),
            ("heads x head", self.hidden, _CHANNELS + 3 * self.width),
            ("intermediate", self.intermediate, 2 * max(2 * len(_BITS), self.width)),
            ("width", self.width, 1),
        )
        problems = [f"{name} is {n}; it must be at least {least}" for name, n, least in limits if n < least]
        if self.head % 2:
            problems.append(f"head is {self.head}; it must be even")
        if problems:
            raise ConfigError(f"width {self.width}: " + "; ".join(problems))

    @property
    def hidden(self) -> int:
        """Width of the model: all heads together."""
        return self.heads * self.head


@dataclass(frozen=True)
class Marks:
    """The tokens of the prompt that the weights are written for.

    Attributes:
        octets: (256,) token ids of 8 bits of a code, by their value.
        blank: token ids of the prompt's fixed words.
        mark: token id that ends the part that all candidates share.
        end: token id that ends the prompt.
        distance: tokens from 8 bits of the user's code to the same bits of the item's; None if the prompt
            holds no binary codes, or not at a fixed distance.
        length: number of tokens of a code.
    """

    octets: Sequence[int]
    blank: Sequence[int]
    mark: int
    end: int
    distance: int | None
    length: int


def build_tiny_rank(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    marks: Marks,
    options: TinyRankOptions | None = None,
    *,
    liked: sp.csr_matrix | None = None,
    seed: int = 0,
) -> LlamaForCausalLM:
    """Build a Llama whose last state holds the agreement of two codes and of two texts, before any training.

    A prompt is

        [BOS] history | user code MARK item code, text of the candidate END

    and the layers start as

        layer 0  "match" head       8 bits of the item's code attend to the same bits of the user's, a fixed
                                    distance back: rotary phases agree there and nowhere else
                 "history" heads    at the codes: mean of the token vectors so far, weights ~ idf
                 "after" head       tells the tokens behind MARK from those before it
                 feed-forward       (own bits) . (matched bits): silu(x) y - silu(-x) y = x y, exactly
        layer 1  "codes" heads      at END: mean over the item's bits: agreement of the codes, and the history
                 "text" heads       at END: mean of the token vectors behind MARK, weights ~ idf
                 feed-forward       the inner product of the two means, dimension by dimension
        output                      fitted to training rows by the caller (``rank.answers.fit_answer_rows``)

    A head without a matching token attends to [BOS], which is empty, as are the prompt's punctuation and the
    words of the prompt that occur in no note. Every norm divides by the size of the whole token, so values
    that vary from prompt to prompt are small beside constant ones: the agreement of codes is then read
    equally, whatever the texts are. Token vectors are a truncated SVD of TF-IDF profiles of users (the notes
    they liked) and of notes, so texts that the same people like are near each other. All other weights start
    random with an output of 0, and are trained.

    Args:
        tokenizer: from ``rank.code_tokens.train_code_tokenizer``.
        texts: the candidates' texts as the prompt writes them.
        marks: the tokens that structure the prompt.
        options: sizes; None uses the defaults.
        liked: who liked which of the texts, (users, texts) of ones; None uses the texts alone.
        seed: seed of the random parts.

    Returns:
        The model in float32 on the CPU, in training mode.
    """
    size = options or TinyRankOptions()
    torch.manual_seed(seed)
    model = random_llama(
        tokenizer,
        hidden=size.hidden,
        intermediate=size.intermediate,
        layers=2,
        heads=size.heads,
        length=size.max_length,
    )
    vectors, idf = token_vectors(tokenizer, texts, size.width, clicked=liked, power=0.0, seed=seed)
    used = {token for ids in tokenizer(list(texts))["input_ids"] for token in ids}
    used = {token for token in used if any(map(str.isalnum, str(tokenizer.decode([token]))))}
    with torch.no_grad():
        spread = _write_embeddings(model, vectors, idf, marks, [i for i in marks.blank if i not in used])
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        _write_first_layer(model, size, marks, spread)
        _write_second_layer(model, size, spread)
        # The last state's norm is about 1.2 x END, so gathered values leave it with about their size.
        model.model.norm.weight.fill_(_FIRM / 2)
        model.model.norm.weight[_END] = 0.5
    return model


def _write_embeddings(
    model: LlamaForCausalLM, vectors: np.ndarray, idf: np.ndarray, marks: Marks, blank: Sequence[int]
) -> float:
    """Write token embeddings: unit vector and log idf scaled to [-0.5, 0.5]; one channel for each mark.

    Returns:
        The largest log idf; a key multiplies the channel by it to restore the log idf.
    """
    log_idf = np.log(idf)
    spread = max(float(log_idf.max()), 1e-9)
    wanted = log_idf / spread - 0.5
    table = np.zeros((len(vectors), model.config.hidden_size), dtype=np.float32)
    table[:, _CHANNELS : _CHANNELS + vectors.shape[1]] = vectors
    # After the norm, beside a unit vector, the channel then has the value ``wanted``.
    table[:, _IDF] = wanted / np.sqrt(1 - wanted**2)
    channels_of = {token: {_BOS: 1.0} for token in (model.config.bos_token_id, *blank)} | {
        marks.mark: {_MARK: 2.0},  # as large as an item's code, which holds the history, too
        marks.end: {_END: _FIRM},
    }
    for number, octet_token in enumerate(marks.octets):
        signs = [1.0 if number >> (7 - bit) & 1 else -1.0 for bit in _BITS]
        channels_of[octet_token] = {_CODE: 1.0} | {
            bit: sign / math.sqrt(8) for bit, sign in zip(_BITS, signs, strict=True)
        }
    for token, channels in channels_of.items():
        table[token] = 0
        for channel, value in channels.items():
            table[token, channel] = value
    model.model.embed_tokens.weight.copy_(torch.from_numpy(table))
    return spread


class _Heads:
    """Writes single heads into an attention layer whose input is normed to a root mean square of 1.

    A channel of size 1 beside n other ones of size 1 has the value sqrt(hidden / (n + 1)) after the norm;
    ``unit`` is the value of a channel that is alone in its token, so the scores below are upper bounds.
    """

    def __init__(self, layer: int, model: LlamaForCausalLM, size: TinyRankOptions) -> None:
        self.attention = model.model.layers[layer].self_attn
        self.size = size
        self.unit = math.sqrt(size.hidden)
        #: theta of each rotary pair, fastest first.
        self.angles: Tensor = model.model.rotary_emb.inv_freq.double()

    def pair(self, head: int, index: int) -> int:
        """Return the row of a rotary pair's first member; a negative index counts from the slowest pair."""
        return head * self.size.head + index % (self.size.head // 2)

    def quiet(self, head: int) -> None:
        """Set query, key and value of a head to 0, before other weights are written."""
        rows = slice(head * self.size.head, (head + 1) * self.size.head)
        for part in (self.attention.q_proj, self.attention.k_proj, self.attention.v_proj):
            part.weight[rows] = 0
            part.bias[rows] = 0

    def attend(self, head: int, scores: dict[int, float], *, pair: int = -1, only: int | None = None) -> None:
        """Score keys by their channels, for every querying token or only for those with a channel.

        Args:
            head: number of the head.
            scores: score of a token that has only this channel, by channel.
            pair: the rotary pair to use; slow ones hardly turn over the length of a prompt.
            only: the channel that a querying token must have; None for every token.
        """
        row = self.pair(head, pair)
        if only is None:
            self.attention.q_proj.bias[row] = 1.0
        else:
            self.attention.q_proj.weight[row, only] = 1 / self.unit
        for channel, score in scores.items():
            self.attention.k_proj.weight[row, channel] = score * math.sqrt(self.size.head) / self.unit

    def copy(
        self, head: int, source: Sequence[int], target: Sequence[int], gain: float, *, first: int = 0
    ) -> None:
        """Write the mean of channels of the attended tokens into channels of the attending token.

        Uses the head's values from ``first`` on.
        """
        for i, (read, write) in enumerate(zip(source, target, strict=True), start=first):
            row = head * self.size.head + i
            self.attention.v_proj.weight[row, read] = 1.0
            self.attention.o_proj.weight[write, row] = gain / self.unit


def _write_first_layer(model: LlamaForCausalLM, size: TinyRankOptions, marks: Marks, spread: float) -> None:
    heads = _Heads(0, model, size)
    for head in range(4):
        heads.quiet(head)
    if marks.distance is not None:
        _write_match(heads, 0, marks.distance, marks.length)
        heads.copy(0, _BITS, _MATCHES, math.sqrt(2))  # the bits share their token with _CODE
    words = list(range(_CHANNELS, _CHANNELS + size.width))
    past = list(range(_CHANNELS + size.width, _CHANNELS + 2 * size.width))
    half = (size.width + 1) // 2
    for head, part in ((1, slice(0, half)), (2, slice(half, size.width))):
        # Only codes and MARK attend to earlier words; other tokens attend to [BOS] by another pair.
        heads.attend(head, {_IDF: spread, _CODE: -_SURE, _MARK: -_SURE, _BOS: -_SURE})
        heads.attend(head, {_BOS: 2 * _SURE}, pair=-2)
        heads.copy(head, words[part], past[part], 0.5)
        row = heads.pair(head, -2)
        for channel in (_CODE, _MARK):
            heads.attention.q_proj.weight[row, channel] = -1.5 / heads.unit
    heads.attend(3, {_MARK: _SURE, _BOS: _SURE / 2})
    heads.copy(3, [_MARK], [_AFTER], 1.0)
    # The channels of a token share its norm: bits, _CODE, matched bits and _AFTER of size 1 in an item's
    # code.
    agree = list(zip(_BITS, _MATCHES, strict=True))
    _multiply(model, 0, {_PRODUCT: agree}, gain=_FAINT * 4 / size.hidden)
    _multiply(
        model, 0, {_ITEM: [(match, match) for match in _MATCHES]}, gain=4 / size.hidden, first=len(agree)
    )


def _write_match(heads: _Heads, head: int, distance: int, length: int) -> None:
    """Let a token of a code attend to the code's token ``distance`` back, or to [BOS] if there is none.

    With q of pair j turned back by theta_j x distance, the score over a lag of n tokens is
    sum_j w_j cos(theta_j (n - distance)), which is largest at the distance. Fast pairs have larger weights,
    because they distinguish neighbours. The slowest pair scores [BOS] half way between the peak and the next
    best lag.
    """
    half = heads.size.head // 2
    weights = torch.linspace(3.0, 0.5, half, dtype=torch.float64)
    weights[-1] = 0
    # All lags between two tokens of codes; a lag is never below 0.
    lags = torch.arange(distance + length, dtype=torch.float64) - distance
    curve = (weights[None] * torch.cos(lags[:, None] * heads.angles[None])).sum(1)
    peak, second = float(weights.sum()), float(curve[lags != 0].max())
    scale = _SURE / (peak - second)
    query, key = heads.attention.q_proj.weight, heads.attention.k_proj.weight
    root = math.sqrt(scale * math.sqrt(heads.size.head)) / (heads.unit / math.sqrt(2))
    for j in range(half - 1):
        first, other = heads.pair(head, j), heads.pair(head, j) + half
        size = root * math.sqrt(float(weights[j]))
        turn = -float(heads.angles[j]) * distance
        query[first, _CODE], query[other, _CODE] = size * math.cos(turn), size * math.sin(turn)
        key[first, _CODE] = size
    heads.attend(head, {_BOS: scale * (peak + second) / 2})


def _write_second_layer(model: LlamaForCausalLM, size: TinyRankOptions, spread: float) -> None:
    heads = _Heads(1, model, size)
    for head in range(4):
        heads.quiet(head)
    words, past, text = (
        list(range(_CHANNELS + i * size.width, _CHANNELS + (i + 1) * size.width)) for i in range(3)
    )
    half = (size.width + 1) // 2
    # MARK holds the history, too, for prompts without codes.
    for head, part, more in ((0, slice(0, half), True), (1, slice(half, size.width), False)):
        heads.attend(head, {_ITEM: 3 * _SURE, _MARK: _SURE, _BOS: _SURE / 3}, only=_END)
        heads.copy(head, past[part], past[part], 8.0)
        if more:
            heads.copy(head, [_PRODUCT], [_AGREEMENT], 2 / _FAINT, first=half)
    for head, part in ((2, slice(0, half)), (3, slice(half, size.width))):
        # sqrt(2) because the channel shares its token with _AFTER; the weights are then proportional to idf.
        scores = {_AFTER: 2 * _SURE, _IDF: math.sqrt(2) * spread}
        scores |= dict.fromkeys((_CODE, _MARK, _END), -4 * _SURE)
        heads.attend(head, scores, only=_END)
        heads.copy(head, words[part], text[part], 3.0)
    _multiply(model, 1, {_TEXTS: list(zip(past, text, strict=True))}, gain=1.2 * _FIRM**2 / size.hidden)


def _multiply(
    model: LlamaForCausalLM,
    layer: int,
    products: dict[int, list[tuple[int, int]]],
    gain: float,
    *,
    first: int = 0,
) -> None:
    """Add sums of products of two channels to channels: silu(x) y - silu(-x) y = x y, two units for each.

    Uses the units from 2 x ``first`` on.
    """
    mlp = model.model.layers[layer].mlp
    flat = [(target, x, y) for target, factors in products.items() for x, y in factors]
    for i, (target, x, y) in enumerate(flat, start=first):
        for unit, sign in ((2 * i, 1.0), (2 * i + 1, -1.0)):
            mlp.gate_proj.weight[unit] = 0
            mlp.up_proj.weight[unit] = 0
            mlp.gate_proj.weight[unit, x] = sign
            mlp.up_proj.weight[unit, y] = 1.0
            mlp.down_proj.weight[target, unit] = sign * gain
