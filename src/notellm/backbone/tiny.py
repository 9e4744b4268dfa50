"""Parts that the tiny backbones of recall and rank share.

A BPE tokenizer trained on the notes, latent-semantic token vectors (truncated SVD of TF-IDF profiles), and
a Llama of random weights. ``recall/tiny.py`` and ``rank/tiny.py`` then write their first weights into it.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import scipy.sparse as sp
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from notellm.backbone.tokenizer import harden
from notellm.errors import DataError

_BOS, _EOS, _PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(
    texts: Sequence[str],
    *,
    vocabulary: int,
    new_tokens: Sequence[str] = (),
    normalizer_steps: Sequence[normalizers.Normalizer] = (),
    first_split: pre_tokenizers.PreTokenizer | None = None,
    prefix_space: bool = True,
    extra_texts: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE tokenizer that reads special tokens in texts as plain characters.

    Args:
        texts: the texts to learn from.
        vocabulary: the largest number of tokens.
        new_tokens: special tokens to add.
        normalizer_steps: normalizers that run after NFKC and lower-casing.
        first_split: a pre-tokenizer that runs before the byte-level one.
        prefix_space: put a space before a text that does not begin with one.
        extra_texts: further texts to learn from; ``texts`` must hold text without them.

    Raises:
        DataError: if ``texts`` hold nothing but white space.
    """
    if not any(text.strip() for text in texts):
        raise DataError("the notes hold no text to build a backbone from; give notes with titles")
    bpe = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    bpe.pre_tokenizer = (
        byte_level if first_split is None else pre_tokenizers.Sequence([first_split, byte_level])
    )
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *normalizer_steps])
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [*texts, *extra_texts],
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


def random_llama(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    length: int,
) -> LlamaForCausalLM:
    """Build a float32 Llama of random weights with biases in attention and an untied output head.

    Args:
        tokenizer: the tokenizer whose tokens it reads.
        hidden: width of the hidden states.
        intermediate: width of the feed-forward parts.
        layers: number of layers.
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
    """Compute latent-semantic vectors of tokens and the inverse document frequency of each token.

    Args:
        tokenizer: a tokenizer trained on the texts.
        texts: one text a note.
        width: dimensions of a vector.
        clicked: which user clicked which note, a (users, texts) matrix of ones.
        power: exponent of the singular values in the vectors; 1 keeps similarities, 0 gives all directions
            the same weight.
        seed: seed of the decomposition and of the vectors for tokens that occur in no text.

    Returns:
        Vectors of unit norm, (tokens, width) float32, and smoothed idf, (tokens,) float64, at least 1.
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
    idf[frequency == 0] = 1.0  # special and unused tokens tell nothing about a note
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
    # Special and unused tokens get a random direction, so that training can move them apart.
    return np.where(norms > 1e-6, vectors / np.maximum(norms, 1e-6), random), idf


def _user_profiles(clicked: sp.csr_matrix, notes: sp.csr_matrix) -> sp.csr_matrix:
    """Return the token profiles of all users with at least two clicks, (users, tokens).

    A profile is a weighted sum of the notes that the user clicked. Active users and popular notes count
    less (powers -1/4 and -1/2); together the profiles weigh three times as much as the notes in the
    Frobenius norm. See "Choices and their measurements" in benchmarks/README.md.
    """
    clicked = clicked[np.asarray(clicked.sum(axis=1)).ravel() > 1]
    per_user = np.asarray(clicked.sum(axis=1)).ravel()
    per_note = np.maximum(np.asarray(clicked.sum(axis=0)).ravel(), 1)
    profiles = sp.diags(per_user**-0.25) @ clicked @ sp.diags(per_note**-0.5) @ notes
    norm = _size(profiles)
    return profiles * (3.0 * _size(notes) / norm if norm > 0 else 1.0)


def _size(matrix: sp.csr_matrix) -> float:
    """Return the Frobenius norm of a sparse matrix."""
    return float(np.sqrt((matrix.data.astype(np.float64) ** 2).sum()))


def svd(matrix: sp.spmatrix, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the left vectors, singular values and right vectors of a truncated SVD."""
    from sklearn.utils.extmath import randomized_svd  # noqa: PLC0415 - the import is slow

    left, strength, right = randomized_svd(matrix, rank, random_state=seed)
    return left, strength, right
