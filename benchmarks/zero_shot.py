"""Vectors of notes by language models that have learnt from no click: what NoteLLM is compared with.

    mean of states   mean over the tokens of the text of the last hidden states
    PromptEOL        last hidden state at the end of: This sentence : "TEXT" means in one word:"
    SentenceBERT     a sentence-transformers model, as it is or tuned on related pairs

PromptEOL is arXiv 2307.16645. SentenceBERT is tuned by the contrastive loss of sentence-transformers with
in-batch negatives (MultipleNegativesRankingLoss), its scale of 20 and its usual learning rate of 2e-5.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.batch import by_length, length_batches
from notellm.backbone.load import evaluation_mode, hidden_states
from notellm.lexical.terms import texts_of

Pooling = Literal["mean", "eol"]
_MOST_TOKENS = 128  # of a text; the prompt of NoteLLM holds 100
_BATCH, _RATE, _WARM_UP, _SCALE = 64, 2e-5, 0.1, 20.0


@torch.inference_mode()
def zero_shot_vectors(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, notes: pa.Table, pooling: Pooling
) -> np.ndarray:
    """Return the vectors of notes by a causal language model, (n, hidden) float32 of unit norm."""
    texts = [
        tokenizer.decode(
            tokenizer.encode(text, add_special_tokens=False)[:_MOST_TOKENS], skip_special_tokens=True
        )
        for text in texts_of(notes)
    ]
    if pooling == "eol":
        texts = [f'This sentence : "{text}" means in one word:"' for text in texts]
    ids = [list(tokenizer.encode(text)) or [int(tokenizer.pad_token_id)] for text in texts]
    vectors = np.empty((len(ids), backbone.config.get_text_config().hidden_size), np.float32)
    with evaluation_mode(backbone), tqdm(total=len(ids), unit="note", desc="embed") as bar:
        for rows, batch in length_batches(ids, tokenizer, backbone.device):
            for group, width in by_length(batch["attention_mask"]):
                mask = batch["attention_mask"][group, :width]
                states = hidden_states(backbone, batch["input_ids"][group, :width], mask)
                if pooling == "eol":
                    found = states[torch.arange(len(group)), batch["position"][group]]
                else:
                    found = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
                vectors[rows[group.numpy()]] = functional.normalize(found, dim=-1).numpy()
                bar.update(len(group))
    return vectors


def sentence_model(folder: Path) -> Any:
    """Open a sentence-transformers model from a folder."""
    from sentence_transformers import SentenceTransformer  # noqa: PLC0415 - takes seconds

    return SentenceTransformer(str(folder), local_files_only=True, device="cpu")


def sentence_vectors(model: Any, notes: pa.Table) -> np.ndarray:
    """Return the vectors of notes by a sentence-transformers model, (n, dim) float32 of unit norm."""
    vectors: np.ndarray = model.encode(texts_of(notes), normalize_embeddings=True, show_progress_bar=True)
    return vectors


def tune_sentence_model(model: Any, notes: pa.Table, pairs: pa.Table, steps: int, seed: int) -> None:
    """Tune a sentence-transformers model on related pairs; the rate warms up and then falls to 0."""
    texts = texts_of(notes)
    sides = [
        pc.index_in(pairs[side].combine_chunks(), value_set=notes["note_id"].combine_chunks()).to_numpy()
        for side in ("source", "target")
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    warm_up = max(1, round(_WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, max(0.0, (steps - step) / max(1, steps - warm_up))),
    )
    model.train()
    for _, rows in zip(tqdm(range(steps), desc="tune"), _batches(pairs.num_rows, seed), strict=False):
        queries, targets = (_forward(model, [texts[note] for note in side[rows]]) for side in sides)
        loss = functional.cross_entropy(_SCALE * queries @ targets.T, torch.arange(len(rows)))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


def _forward(model: Any, texts: Sequence[str]) -> torch.Tensor:
    features = model.preprocess(texts)
    return functional.normalize(model(features)["sentence_embedding"], dim=-1)


def _batches(count: int, seed: int) -> Iterable[np.ndarray]:
    """Yield rows of batches, epoch after epoch, each in a new order."""
    draw = np.random.default_rng(seed)
    while True:
        order = draw.permutation(count)
        yield from np.array_split(order, max(1, math.ceil(count / _BATCH)))
