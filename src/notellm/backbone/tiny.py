"""Parts of a backbone that needs no download: a trained BPE, token vectors, a Llama of random weights."""

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
    replacements: Sequence[normalizers.Replace] = (),
    splits: Sequence[pre_tokenizers.Split] = (),
    prefix_space: bool = True,
) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE whose special tokens cannot occur in texts.

    Args:
        texts: the texts that it is trained on.
        vocabulary: largest number of tokens.
        new_tokens: special tokens to add.
        replacements: further normalization, after NFKC and lower-casing.
        splits: where a text is split before it is split into words; a token never crosses a split.
        prefix_space: read the first word of a text as if a space were before it.

    Raises:
        DataError: if the texts are empty.
    """
    if not any(text.strip() for text in texts):
        raise DataError("there is no text to train a tokenizer on; give texts that are not empty")
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), *replacements])
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level]) if splits else byte_level
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


def random_llama(
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    length: int,
) -> LlamaForCausalLM:
    """Build a Llama of random float32 weights, with biases in attention and an untied output head.

    Args:
        tokenizer: the tokenizer, for the size of its vocabulary and its special tokens.
        hidden: width of the hidden states.
        intermediate: width of the feed-forward parts.
        layers: number of layers.
        heads: number of attention heads of a layer.
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
    """Compute latent-semantic vectors of tokens, and their inverse document frequencies.

    Args:
        tokenizer: a tokenizer that was trained on the texts.
        texts: the texts.
        width: dimensions of a vector.
        clicked: which user clicked which text, (users, texts) of ones. Tokens of texts that the same users
            clicked then get similar vectors.
        power: exponent of the singular values in the vectors. With 1 the inner product is the similarity of
            tokens, with 0 all directions weigh the same.
        seed: seed of the decomposition, and of the random vectors of tokens that occur in no text.

    Returns:
        Vectors of unit norm, (tokens, width) float32, and smoothed idf, (tokens,) float64, at least 1.
    """
    weighted, idf = _weighted_counts(tokenizer, texts)
    size = len(tokenizer)
    if clicked is not None:
        weighted = sp.vstack([weighted, _user_profiles(clicked, weighted)]).tocsr()
    rank = min(width, min(weighted.shape) - 1)
    rng = np.random.default_rng(seed)
    vectors = np.zeros((size, width), dtype=np.float32)
    if rank > 0:
        _, values, right = svd(weighted, rank, seed)
        vectors[:, :rank] = right.T * values**power
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    random = rng.standard_normal((size, width)).astype(np.float32)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    # Special and unused tokens get random directions, so that training can move them apart.
    return np.where(norms > 1e-6, vectors / np.maximum(norms, 1e-6), random), idf


def taught_token_vectors(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], taught: np.ndarray, width: int
) -> np.ndarray:
    """Compute token vectors whose sum over a text approximates the vector that a teacher gives the text.

        V = argmin |W V - T|^2 + n/m |V|^2

    W is the TF-IDF matrix of n texts and m tokens. T are the leading principal components of the teacher's
    vectors, each less the mean. The penalty is the mean squared norm of a column of W.

    Args:
        tokenizer: a tokenizer that was trained on the texts.
        texts: the texts.
        taught: (texts, k) float32, the teacher's vectors of unit norm.
        width: dimensions of a token vector.

    Returns:
        (tokens, width) float32. The norms tell how much a token says, with the median 1 over the tokens of
        the texts. Tokens that occur in no text, and dimensions that the teacher does not have, are 0.
    """
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - slow to import, and a service does not need it

    counts, _ = _weighted_counts(tokenizer, texts)
    centred = taught.astype(np.float64)
    centred -= centred.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    targets = centred @ axes[:, ::-1][:, :width]
    penalty = counts.shape[0] / counts.shape[1]
    regression = Ridge(alpha=penalty, fit_intercept=False, solver="sparse_cg", tol=1e-3)
    found = regression.fit(counts.astype(np.float64), targets).coef_.reshape(targets.shape[1], -1).T
    vectors = np.zeros((counts.shape[1], width), dtype=np.float32)
    vectors[:, : found.shape[1]] = found
    vectors[counts.getnnz(axis=0) == 0] = 0
    norms = np.linalg.norm(vectors, axis=1)
    median = np.median(norms[norms > 0]) if (norms > 0).any() else 1.0
    return (vectors / median).astype(np.float32)


def _weighted_counts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return the TF-IDF matrix of texts, (texts, tokens) with rows of unit norm, and the smoothed idf."""
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    lengths = [len(row) for row in ids]
    size = len(tokenizer)
    columns = np.fromiter((i for row in ids for i in row), dtype=np.int64, count=sum(lengths))
    rows = np.repeat(np.arange(len(ids)), lengths)
    counts = sp.csr_matrix((np.ones(len(columns), dtype=np.float32), (rows, columns)), shape=(len(ids), size))
    counts.sum_duplicates()
    frequency = np.bincount(counts.indices, minlength=size)
    idf = np.log((1 + len(ids)) / (1 + frequency)) + 1
    idf[frequency == 0] = 1.0  # special and unused tokens carry no information
    weighted = counts.copy()
    weighted.data = (1 + np.log(weighted.data)).astype(np.float32)
    weighted = (weighted @ sp.diags(idf.astype(np.float32))).tocsr()
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return (sp.diags(1 / np.maximum(norms, 1e-9)) @ weighted).tocsr(), idf


def _user_profiles(clicked: sp.csr_matrix, texts: sp.csr_matrix) -> sp.csr_matrix:
    """Return the token profile of each user with at least two clicks, (users, tokens).

    A profile is the sum of the clicked texts. Active users and popular texts are damped by the powers -1/4
    and -1/2, and the profiles get three times the Frobenius norm of the texts (benchmarks/README.md).

    Args:
        clicked: (users, texts) of ones.
        texts: (texts, tokens), weighted counts of tokens.
    """
    clicked = clicked[np.asarray(clicked.sum(axis=1)).ravel() > 1]
    per_user = np.asarray(clicked.sum(axis=1)).ravel()
    per_text = np.maximum(np.asarray(clicked.sum(axis=0)).ravel(), 1)
    profiles = sp.diags(per_user**-0.25) @ clicked @ sp.diags(per_text**-0.5) @ texts
    norm = _frobenius_norm(profiles)
    return profiles * (3.0 * _frobenius_norm(texts) / norm if norm > 0 else 1.0)


def _frobenius_norm(matrix: sp.csr_matrix) -> float:
    return float(np.sqrt((matrix.data.astype(np.float64) ** 2).sum()))


def svd(matrix: sp.spmatrix, rank: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a truncated singular value decomposition: left vectors, singular values, right vectors."""
    from sklearn.utils.extmath import randomized_svd  # noqa: PLC0415 - slow to import, and a service does not need it

    left, values, right = randomized_svd(matrix, rank, random_state=seed)
    return left, values, right
