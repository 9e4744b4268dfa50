"""What tiny backbones share: a BPE learnt from the notes, latent-semantic token vectors, a random Llama.

``recall/tiny.py`` and ``rank/tiny.py`` write their first weights into it.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import scipy.sparse as sp
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from notellm.backbone.tokenizer import harden
from notellm.errors import DataError

_BOS, _EOS, _PAD = "<s>", "</s>", "<pad>"
_OCTETS = 256  # values of 8 bits
#: What the digits of a binary code are read as.
CODE_SIGNS = {"0": "\N{CIRCLED DIGIT ZERO}", "1": "\N{CIRCLED DIGIT ONE}"}


def train_tokenizer(
    texts: Sequence[str], *, vocabulary: int, new_tokens: Sequence[str] = (), codes: bool = False
) -> PreTrainedTokenizerFast:
    """A lower-casing byte-level BPE learnt from texts, safe for texts that are data.

    Args:
        texts: what it shall be good at.
        vocabulary: the largest number of tokens.
        new_tokens: special tokens to add.
        codes: read every 8 digits of a run of 0s and 1s as one token, which no other text is (:func:`octet`).

    Raises:
        DataError: there is no text to learn from.
    """
    if not any(text.strip() for text in texts):
        raise DataError("the notes hold no text to build a backbone from; give notes with titles")
    bpe = Tokenizer(models.BPE())
    steps = [normalizers.NFKC(), normalizers.Lowercase()]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=not codes)
    bpe.pre_tokenizer = byte_level
    if codes:
        # After NFKC no text holds these signs, so a bit of a code is never taken for a digit of a text.
        for digit, sign in CODE_SIGNS.items():
            steps.append(normalizers.Replace(Regex(_in_a_run(digit)), sign))
        octets = pre_tokenizers.Split(Regex(f"[{''.join(CODE_SIGNS.values())}]{{8}}"), behavior="isolated")
        bpe.pre_tokenizer = pre_tokenizers.Sequence([octets, byte_level])
        # As often as the commonest words, so that their merges come early and each becomes a token.
        vocabulary = max(vocabulary, 2 * _OCTETS + 512)
        texts = [*texts, *["".join(map(octet, range(_OCTETS)))] * max(100, len(texts) // 20)]
    bpe.normalizer = normalizers.Sequence(steps)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            special_tokens=[_PAD, _BOS, _EOS, *new_tokens],
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, bpe.token_to_id(_BOS))]
    )
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, bos_token=_BOS, eos_token=_EOS, pad_token=_PAD
    )
    return cast("PreTrainedTokenizerFast", harden(tokenizer, *new_tokens))


def octet(value: int) -> str:
    """The text of 8 bits of a code, the highest first: "00000101" for 5."""
    return f"{value:08b}"


def _in_a_run(digit: str) -> str:
    """A pattern for a digit of a run of eight or more: with a before it and 7 - a behind it, for any a."""
    bit = f"[01{''.join(CODE_SIGNS.values())}]"
    return "|".join(f"(?<={bit}{{{a}}}){digit}(?={bit}{{{7 - a}}})" for a in range(8))


def random_llama(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    length: int,
) -> LlamaForCausalLM:
    """A Llama of random weights, float32, with biases in attention and an output head of its own.

    Args:
        tokenizer: whose tokens it reads.
        hidden: width.
        intermediate: width of the feed-forward parts.
        layers: how many.
        heads: attention heads of a layer.
        length: the longest sequence in tokens.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=length,
        attention_bias=True,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def token_vectors(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    width: int,
    *,
    clicked: sp.csr_matrix | None = None,
    power: float = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Latent-semantic vectors of tokens, and how rare they are.

    Args:
        tokenizer: trained on the texts.
        texts: one a note.
        width: dimensions of a vector.
        clicked: who clicked which note, (users, texts) of ones.
        power: of the singular values in the vectors; 1 for likeness, 0 makes all directions alike.
        seed: of the decomposition, and of vectors for tokens that occur nowhere.

    Returns:
        Vectors of unit norm (tokens, width) float32, and smoothed idf (tokens,) float64, 1 or more.
    """
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    lengths = [len(row) for row in ids]
    size = len(tokenizer)
    columns = np.fromiter((i for row in ids for i in row), dtype=np.int64, count=sum(lengths))
    rows = np.repeat(np.arange(len(ids)), lengths)
    counts = sp.csr_matrix((np.ones(len(columns), dtype=np.float32), (rows, columns)), shape=(len(ids), size))
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=size)
    idf = np.log((1 + len(ids)) / (1 + frequency)) + 1
    idf[frequency == 0] = 1.0  # special tokens and unused ones say nothing about a note
    weighted = counts.copy()
    weighted.data = (1 + np.log(weighted.data)).astype(np.float32)
    weighted = (weighted @ sp.diags(idf.astype(np.float32))).tocsr()
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    weighted = sp.diags(1 / np.maximum(norms, 1e-9)) @ weighted
    if clicked is not None:
        weighted = sp.vstack([weighted, _user_profiles(clicked, weighted)]).tocsr()
    rank = min(width, min(weighted.shape) - 1)
    rng = np.random.default_rng(seed)
    vectors = np.zeros((size, width), dtype=np.float32)
    if rank > 0:
        _, strength, right = svd(weighted, rank, seed)
        vectors[:, :rank] = right.T * strength**power
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    random = rng.standard_normal(vectors.shape).astype(np.float32)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    # Tokens without a direction (special, unused) get a random one: training may move them apart.
    return np.where(norms > 1e-6, vectors / np.maximum(norms, 1e-6), random), idf


def _user_profiles(clicked: sp.csr_matrix, notes: sp.csr_matrix) -> sp.csr_matrix:
    """What each user with two clicks or more reads, (users, tokens).

    Users who click much count less, popular notes too; the damping (the powers -1/4 and -1/2) and the
    profiles' weight, three times that of the notes in the Frobenius norm, are from MicroLens
    (benchmarks/README.md), where larger weights change nothing.
    """
    clicked = clicked[np.asarray(clicked.sum(axis=1)).ravel() > 1]
    per_user = np.asarray(clicked.sum(axis=1)).ravel()
    per_note = np.maximum(np.asarray(clicked.sum(axis=0)).ravel(), 1)
    profiles = sp.diags(per_user**-0.25) @ clicked @ sp.diags(per_note**-0.5) @ notes
    norm = _size(profiles)
    return profiles * (3.0 * _size(notes) / norm if norm > 0 else 1.0)


def _size(matrix: sp.csr_matrix) -> float:
    """The Frobenius norm."""
    return float(np.sqrt((matrix.data.astype(np.float64) ** 2).sum()))


def svd(matrix: sp.spmatrix, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A truncated singular value decomposition: left vectors, singular values, right vectors."""
    from sklearn.utils.extmath import randomized_svd  # noqa: PLC0415 - it takes a second, which a service need not wait

    left, strength, right = randomized_svd(matrix, rank, random_state=seed)
    return left, strength, right
