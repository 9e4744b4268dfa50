"""Start the projection of a new model on a pretrained backbone; what the starts are says ``projection.py``.

model = NoteLLM.from_pretrained("owner/name")
start_projection(model, notes, "ridge", clicks=clicks)

The hidden states of many notes take minutes. With a file, they are kept beside it until the start is computed
and written there, so that a call that was killed continues, and one that is repeated reads the file.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast, get_args

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from notellm.artifacts.write import write_file
from notellm.data.note import notes_from_table
from notellm.errors import ConfigError, DataError, ModelError
from notellm.recall.config import Projection
from notellm.recall.model import NoteLLM
from notellm.recall.projection import (
    LEAST_CLICKED,
    WHITENING,
    co_click_vectors,
    common_readers,
    drawn_rows,
    principal_components,
    ridge,
    write_start,
)
from notellm.recall.shards import computed_shards, shortest_first
from notellm.record import fingerprint

#: File of the start: in the working folder of a run, and in the folder of the model that it began with.
START = "start.safetensors"
#: Notes whose states are computed between two writes to disk.
SHARD = 256


def start_projection(
    model: NoteLLM,
    notes: pa.Table,
    kind: Projection | None = None,
    *,
    clicks: pa.Table | None = None,
    seed: int = 0,
    file: Path | None = None,
    progress: bool = False,
) -> Projection:
    """Set the projection of a model to a start that is computed from notes.

    It depends on the backbone, the notes, the clicks (ridge alone) and the seed. The hidden states of at most
    ``projection.MOST_NOTES`` drawn notes are computed once.

    Args:
        model: the model; its projection is replaced, except by "random".
        notes: notes table.
        kind: "components", "ridge", or "random", which leaves the projection as it is; None takes ridge if
            there are clicks enough, else components.
        clicks: clicks table on the notes.
        seed: seed of the draw of notes, of the decomposition and of the notes that are held out.
        file: where the start is kept; states are kept beside it while they are computed. A file of the same
            model, notes, clicks, kind and seed is read, any other file of a start is replaced. None keeps
            nothing, and gives the same start.
        progress: show a progress bar.

    Returns:
        The kind.

    Raises:
        ConfigError: if there is no such kind.
        DataError: if ridge has no clicks, or too few notes have a reader in common with another note.
        ModelError: if a hidden state is not finite, or ``file`` is damaged.
        StorageError: if ``file`` cannot be written, or another process computes it.
    """
    if kind is not None and kind not in get_args(Projection):
        raise ConfigError(f"projection is {kind!r}; it must be one of {', '.join(get_args(Projection))}")
    if kind == "random":
        return kind
    key = None if file is None else _key(model, notes, kind, clicks, seed)
    if file is not None and file.is_file() and _read_metadata(file).get("key") == key:
        return load_start(model.projection, file)
    torch.manual_seed(seed)  # for dimensions beyond those of the start
    rows, targets = _chosen_rows(model, notes, kind, clicks, seed)
    chosen = notes.take(rows)
    texts = model.prompts(notes_from_table(chosen))
    found: Projection = "components" if targets is None else "ridge"
    if targets is None and len(set(texts)) == 1:
        return found  # a single text has no principal components: the projection stays random
    with _states(model, chosen, texts, file, key, progress=progress) as states:
        if targets is None:
            start = principal_components(states, model.settings.dim, whitening=WHITENING)
        else:
            start, _ = ridge(states, targets, seed)
        write_start(model.projection, start)
        if file is not None:
            _save_start(model.projection, file, {"kind": found, "key": str(key)})
    return found


def load_start(projection: nn.Linear, file: Path) -> Projection:
    """Set a projection to a start that :func:`start_projection` wrote to a file.

    Args:
        projection: the linear layer from hidden states to vectors.
        file: the file.

    Returns:
        The kind of the start.

    Raises:
        ModelError: if the file is damaged, or belongs to a projection of another shape.
    """
    kind = _read_metadata(file).get("kind")
    try:
        with safe_open(file, framework="pt") as content:
            weight, bias = (content.get_tensor(name) for name in ("weight", "bias"))
    except (OSError, SafetensorError) as error:
        raise _damaged(file, str(error)) from error
    if kind not in get_args(Projection):
        raise _damaged(file, f"its kind is {kind!r}")
    if weight.shape != projection.weight.shape or bias.shape != projection.bias.shape:
        raise ModelError(
            f"{file} is the start of a projection of shape {tuple(weight.shape)}, but this one is "
            f"{tuple(projection.weight.shape)}; they belong to two models: give the backbone and the options "
            "that the start was computed with"
        )
    projection.weight.data.copy_(weight)
    projection.bias.data.copy_(bias)
    return cast("Projection", kind)


def _chosen_rows(
    model: NoteLLM, notes: pa.Table, kind: Projection | None, clicks: pa.Table | None, seed: int
) -> tuple[np.ndarray, Tensor | None]:
    """Return the rows of the notes to compute from, (n,) int64, and ridge's targets, (n, k) float64.

    There are no targets for components.

    Raises:
        DataError: if ridge is asked for and not possible.
    """
    if kind != "components" and clicks is not None:
        rows, clicked = common_readers(notes["note_id"], clicks)
        if len(rows) >= LEAST_CLICKED:
            drawn = drawn_rows(len(rows), seed)
            targets = co_click_vectors(clicked[drawn], model.settings.dim, seed)
            return rows[drawn], torch.from_numpy(targets)
        if kind == "ridge":
            raise DataError(
                f"the projection ridge learns from users who clicked several notes, but only {len(rows)} of "
                f"{notes.num_rows} notes have such a user; it needs {LEAST_CLICKED} notes or more: give more "
                "clicks, or choose the projection components"
            )
    if kind == "ridge":
        raise DataError(
            "the projection ridge is fitted to clicks, and there are none; give clicks on the notes, or "
            "choose the projection components"
        )
    return drawn_rows(notes.num_rows, seed), None


@contextmanager
def _states(
    model: NoteLLM, notes: pa.Table, texts: list[str], file: Path | None, key: str | None, *, progress: bool
) -> Iterator[Tensor]:
    """Yield the hidden states of notes, (n, hidden) float32; they are kept on disk until the block ends.

    They are computed in the same shards whether a killed call could go on with them or not, since a state
    depends on the others of its batch by rounding.

    Args:
        model: the model.
        notes: the notes.
        texts: their prompts.
        file: the file that the block writes, beside which they are kept; None keeps them in a temporary
            folder.
        key: what the states depend on.
        progress: show a progress bar.
    """

    def compute(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {"state": model.prompt_states([texts[row] for row in rows]).numpy()}

    order = shortest_first(notes, "to start the projection from")
    with (
        TemporaryDirectory() as scratch,
        computed_shards(
            file or Path(scratch) / START,
            key,
            order,
            compute,
            size=SHARD,
            label="states",
            progress=progress,
        ) as shards,
    ):
        states = np.empty((len(texts), model.projection.in_features), dtype=np.float32)
        for rows, result in shards:
            states[rows] = result["state"]
        yield torch.from_numpy(states)


def _key(model: NoteLLM, notes: pa.Table, kind: Projection | None, clicks: pa.Table | None, seed: int) -> str:
    """Return a hash of everything that a start depends on."""
    clicked = None if clicks is None else fingerprint(clicks)
    given = (model.fingerprint(), fingerprint(notes), kind, clicked, seed)
    return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def _save_start(projection: nn.Linear, file: Path, metadata: dict[str, str]) -> None:
    """Write a projection to a file, whole or not at all."""
    weights = {"weight": projection.weight, "bias": projection.bias}
    with write_file(file, force=True) as new:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, new, metadata)


def _read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a file of a start.

    Raises:
        ModelError: if it is damaged.
    """
    try:
        with safe_open(file, framework="pt") as content:
            return dict(content.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, reason: str) -> ModelError:
    return ModelError(
        f"{file} is not a whole file of a start: {reason}; remove the file, and the start is computed again"
    )
