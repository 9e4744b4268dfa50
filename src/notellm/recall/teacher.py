"""Vectors of the training notes by a pretrained model, from which the tiny backbone learns (``--teacher``).

The teacher reads every training note once. Its vectors are kept in the run's working folder, shard by shard,
so that a killed run continues there; then the teacher is freed. A saved NoteLLM and a sentence encoder give
their own vectors, a causal language model the mean of its last hidden states. These share a large common part
and vary most in few directions, so that they become whitened principal components (``projection.py``).
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from notellm.backbone.encoder import TextEncoder
from notellm.errors import ConfigError, ModelError
from notellm.files import write_parquet
from notellm.lexical.terms import texts_of
from notellm.recall.model import NoteLLM
from notellm.recall.projection import WHITENING, drawn_rows, principal_components
from notellm.recall.shards import computed_shards, shortest_first
from notellm.record import fingerprint
from notellm.vectors import read_vectors, vector_table

#: Folder of the teacher's vectors in the working folder of a run.
FOLDER = "teacher"
_SHARD = 256  # notes; a slow teacher reads five to thirty a second
_COMPONENTS = 128


class _Teacher(NamedTuple):
    """A pretrained model as far as it teaches.

    Attributes:
        read: returns what it says of notes, (n, k) float32.
        fingerprint: hash of everything that this depends on.
        whitened: whether this is to become whitened principal components.
    """

    read: Callable[[pa.Table], np.ndarray]
    fingerprint: str
    whitened: bool = False


def teacher_vectors(
    teacher: str,
    notes: pa.Table,
    folder: Path,
    *,
    layers: int | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> np.ndarray:
    """Return the teacher's vectors of notes, (n, k) float32 of unit norm.

    Args:
        teacher: a causal language model (a name on the hub, a folder, or a GGUF file), a saved NoteLLM, or a
            folder of sentence-transformers.
        notes: notes table.
        folder: where the vectors are kept; those of the same teacher and notes are not computed again.
        layers: keep the first layers of a causal language model, that many; None keeps all.
        seed: seed of the draw of notes from which principal components are computed.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show a progress bar.

    Raises:
        ModelError: if there is no usable model, or a vector is not finite.
        ConfigError: if ``layers`` is given for a model that is not cut to its first layers.
        DataError: if there are no notes.
        StorageError: if the vectors cannot be written.
    """
    model = _open(teacher, layers, trust_remote_code=trust_remote_code)
    inputs = (model.fingerprint, fingerprint(notes))
    file = folder / f"{hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]}.parquet"

    def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
        vectors = model.read(notes.take(rows))
        if not np.isfinite(vectors).all():
            raise ModelError(f"the teacher {teacher} gives vectors that are not finite; choose another one")
        return {"vector": vectors}

    if not file.is_file():
        order = shortest_first(notes, "for the teacher to read")
        with computed_shards(
            file, inputs, order, compute, size=_SHARD, label="teacher", progress=progress
        ) as results:
            found = np.concatenate([result["vector"] for _, result in results])
            write_parquet(vector_table(notes.column("note_id"), found[np.argsort(order)]), file)
    vectors = torch.from_numpy(read_vectors(file)[1])
    if model.whitened:
        start = principal_components(
            vectors[drawn_rows(len(vectors), seed)], _COMPONENTS, whitening=WHITENING
        )
        vectors = ((vectors.double() - start.mean) @ start.weight.T).float()
    return functional.normalize(vectors, dim=1).numpy()


def _open(teacher: str, layers: int | None, *, trust_remote_code: bool) -> _Teacher:
    """Open a teacher of any kind; errors as in :func:`teacher_vectors`."""
    if NoteLLM.is_saved(teacher):
        model = NoteLLM.from_pretrained(teacher, layers=layers, trust_remote_code=trust_remote_code)
        return _Teacher(model.encode, model.fingerprint())
    is_sentence_encoder = TextEncoder.is_sentence_encoder(teacher)
    if is_sentence_encoder and layers is not None:
        raise ConfigError(
            f"teacher_layers is {layers}, but {teacher} is a sentence encoder, whose vectors need all of its "
            "layers; leave teacher_layers out, or name a causal language model"
        )
    encoder = (
        TextEncoder.from_sentence_encoder(teacher)
        if is_sentence_encoder
        else TextEncoder.from_language_model(teacher, layers=layers, trust_remote_code=trust_remote_code)
    )
    return _Teacher(
        lambda notes: encoder.encode(texts_of(notes)), encoder.fingerprint(), whitened=not is_sentence_encoder
    )
