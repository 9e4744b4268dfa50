"""The states of frozen lower layers, computed once for every training sequence and kept on disk.

One file holds the states of all tokens of all sequences, (tokens, hidden) float16, in the order in which they
were computed: the longest sequences first. It only grows, batch by batch, so that a run that was killed
continues after the last whole batch. Its name holds a key of everything that the states depend on.
"""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from notellm.backbone.batch import by_length, length_batches
from notellm.backbone.fingerprint import digest_of
from notellm.backbone.frozen import SplitModel
from notellm.backbone.load import evaluation_mode
from notellm.errors import ModelError, StorageError
from notellm.progress import progress_bar

#: Folder of the states in the working folder of a run.
FOLDER = "frozen_states"
_ITEM = np.dtype(np.float16)


class FrozenStates:
    """The stored states of sequences, which are read from disk as they are needed.

    Args:
        file: the complete file.
        starts: (sequences,) int64, the first token of each sequence in the file.
        lengths: (sequences,) int64, tokens of each sequence.
        width: size of a state.
    """

    def __init__(self, file: Path, starts: np.ndarray, lengths: np.ndarray, width: int) -> None:
        self.starts, self.lengths = starts, lengths
        self._tokens = np.memmap(file, dtype=_ITEM, mode="r", shape=(int(lengths.sum()), width))

    def read(self, numbers: Sequence[int]) -> Tensor:
        """Return the states of some sequences, (n, longest, hidden) float16, 0 after each one's end."""
        lengths = self.lengths[list(numbers)]
        states = np.zeros((len(lengths), int(lengths.max()), self._tokens.shape[1]), dtype=_ITEM)
        for row, number in enumerate(numbers):
            start = self.starts[number]
            states[row, : lengths[row]] = self._tokens[start : start + lengths[row]]
        return torch.from_numpy(states)


def compute_states(
    folder: Path,
    split: SplitModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[Sequence[int]],
    *,
    progress: bool,
) -> FrozenStates:
    """Compute the states that enter the upper layers, or what a killed run has left to compute.

    They are computed without dropout, which the frozen layers of some models (GPT-2) have in training.

    Args:
        folder: where the file is kept; states of other sequences or weights in it are removed.
        split: the model.
        tokenizer: its tokenizer.
        sequences: token ids.
        progress: show a progress bar, which names the size of the file.

    Raises:
        StorageError: if the file does not fit on the disk or cannot be written.
        ModelError: if a state does not fit into float16.
    """
    device = split.model.device
    batches = [rows for rows, _ in length_batches(sequences, tokenizer, torch.device("cpu"))]
    lengths = np.array([len(row) for row in sequences], dtype=np.int64)
    order = np.concatenate(batches)
    starts = np.empty_like(lengths)
    starts[order] = np.cumsum(lengths[order]) - lengths[order]
    token = split.width * _ITEM.itemsize  # bytes
    ends = np.cumsum([int(lengths[rows].sum()) for rows in batches]) * token
    file = folder / f"{_key(split, tokenizer, sequences)}.f16"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.glob("*.f16"):
            if other != file:
                other.unlink()
        size = file.stat().st_size if file.is_file() else 0
        done = int(np.searchsorted(ends, size, side="right"))
        kept = int(ends[done - 1]) if done else 0
        _check_space(folder, int(ends[-1]) - kept)
        count = sum(len(rows) for rows in batches[:done])
        label = f"frozen layers ({_gigabytes(int(ends[-1]))} on disk)"
        with (
            file.open("ab") as out,
            evaluation_mode(split.model),
            progress_bar(
                total=len(sequences), initial=count, unit="sequence", desc=label, disable=not progress
            ) as bar,
        ):
            out.truncate(kept)
            for rows in batches[done:]:
                (_, batch), *_ = length_batches([sequences[row] for row in rows], tokenizer, device)
                out.write(_states_of(split, batch).tobytes())
                bar.update(len(rows))
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror or error}") from error
    return FrozenStates(file, starts, lengths, split.width)


def _states_of(split: SplitModel, batch: dict[str, Tensor]) -> np.ndarray:
    """Return the states of a batch's tokens without padding, (tokens, hidden) float16.

    Raises:
        ModelError: if a state does not fit into float16.
    """
    mask = batch["attention_mask"]
    found: dict[int, Tensor] = {}
    for rows, width in by_length(mask):
        states = split.lower(batch["input_ids"][rows, :width], mask[rows, :width])
        half = states.to(torch.float16).cpu()
        if not torch.isfinite(half).all():
            largest = float(states.float().abs().max())
            raise ModelError(
                f"a hidden state of {type(split.model).__name__} after layer {split.frozen} is "
                f"{largest:.3g}, which float16 (up to 65504) does not hold; leave train_layers out, or give "
                "another number"
            )
        for row, each, length in zip(rows.tolist(), half, mask[rows].sum(dim=1).tolist(), strict=True):
            found[row] = each[:length]
    tokens: np.ndarray = torch.cat([found[row] for row in range(len(mask))]).numpy()
    return tokens


def _key(split: SplitModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[Sequence[int]]) -> str:
    """Return a hash of what the states depend on: sequences, frozen weights and their number of layers."""
    model: Any = split.model
    frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    digest = hashlib.sha256(digest_of(split.frozen, model.config, tokenizer, frozen).encode())
    for row in sequences:
        digest.update(np.array([len(row), *row], dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]


def _check_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk cannot hold.

    Raises:
        StorageError: if there is too little space.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"the states of the frozen layers take {_gigabytes(needed)}, but {folder} has "
            f"{_gigabytes(free)} left; free disk space, choose another output, or leave train_layers out"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"
