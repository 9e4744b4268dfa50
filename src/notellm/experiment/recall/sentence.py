"""SentenceBERT: a sentence-transformers model as it is, and tuned on related pairs.

It is tuned by the loss that its library offers for pairs of related texts, MultipleNegativesRankingLoss
(every other text of the batch is a negative), at its usual learning rate of 2e-5 with a warm-up of a tenth.
This is the online baseline of NoteLLM (arXiv 2403.01744).
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from notellm.backbone.source import first_line
from notellm.errors import MissingDependencyError, ModelError
from notellm.lexical.terms import texts_of
from notellm.progress import progress_bar

_BATCH, _RATE, _WARM_UP, _WEIGHT_DECAY = 64, 2e-5, 0.1, 0.01


def load_sentence_model(name_or_path: str) -> Any:
    """Open a sentence-transformers model: a name on the hub, or a folder; weights in safetensors alone.

    Raises:
        MissingDependencyError: if the package is not installed.
        ModelError: if there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - an extra, and takes seconds
    except ImportError as error:
        raise MissingDependencyError(
            "sentence encoders need sentence-transformers: pip install 'notellm[sentence-transformers]'"
        ) from error
    try:
        # Other weights are pickles, which can run code.
        return SentenceTransformer(
            name_or_path, trust_remote_code=False, model_kwargs={"use_safetensors": True}
        )
    except Exception as error:  # a damaged or missing model fails in many ways
        raise ModelError(
            f"no sentence-transformers model at {name_or_path}: {first_line(error)}; give its name on the "
            "hub, or its folder"
        ) from error


def sentence_vectors(model: Any, notes: pa.Table, *, progress: bool = False) -> np.ndarray:
    """Return the vectors of notes, (n, dim) float32 of unit norm."""
    vectors: np.ndarray = model.encode(
        texts_of(notes), normalize_embeddings=True, show_progress_bar=progress, convert_to_numpy=True
    )
    return vectors


def tune_sentence_model(
    model: Any,
    notes: pa.Table,
    pairs: pa.Table,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> int:
    """Tune a model on related pairs, in place, for a number of steps or a time.

    Args:
        model: a ``SentenceTransformer``.
        notes: notes table.
        pairs: related pairs among them.
        steps: number of steps of 64 pairs.
        seconds: in place of steps: the time to tune for.
        seed: seed of the order of the pairs.
        progress: show a progress bar.

    Returns:
        The number of steps.
    """
    from sentence_transformers.sentence_transformer.losses import (  # noqa: PLC0415 - see above
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.util import batch_to_device  # noqa: PLC0415

    texts = texts_of(notes)
    ids = notes["note_id"].combine_chunks()
    sides = [
        pc.index_in(pairs[side].combine_chunks(), value_set=ids).to_numpy() for side in ("source", "target")
    ]
    torch.manual_seed(seed)  # of dropout
    measure = MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_WEIGHT_DECAY)
    batches = _batches(pairs.num_rows, seed)
    start, done, share = time.monotonic(), 0, 0.0
    model.train()
    with progress_bar(total=steps, desc="tune", unit="step", disable=not progress) as bar:
        while share < 1:
            rows = next(batches)
            features = [
                batch_to_device(model.preprocess(part), model.device)
                for part in ([texts[note] for note in side[rows]] for side in sides)
            ]
            for group in optimizer.param_groups:
                group["lr"] = _RATE * _schedule(share)
            optimizer.zero_grad()
            torch.autograd.backward(measure(features, torch.arange(len(rows), device=model.device)))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            done += 1
            bar.update()
            share = done / steps if steps is not None else (time.monotonic() - start) / (seconds or 1)
    model.eval()
    return done


def _schedule(share: float) -> float:
    """Return the share of the learning rate at a share of the training: it rises for a tenth, then falls."""
    return min((share + 1e-3) / _WARM_UP, (1 - share) / (1 - _WARM_UP))


def _batches(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield rows of batches, epoch after epoch, each in a new order."""
    draw = np.random.default_rng(seed)
    while True:
        yield from np.array_split(draw.permutation(count), max(1, math.ceil(count / _BATCH)))
