"""The interface of all collaborative models: vectors of users and items whose dot product is the score.

    score(u, i) = x_u . y_i        P(u likes i) = 1 / (1 + exp(-score))

Biases are dimensions of the vectors, so this holds for every model. All methods take batches:
``user_embeddings``, ``item_embeddings``, ``scores``; ``save_pretrained`` and ``from_pretrained``.

A user or an item without training rows gets the mean of the trained vectors, never its own random first
weights.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from notellm.artifacts.manifest import check_whole
from notellm.artifacts.write import write_folder
from notellm.data.ids import Ids
from notellm.errors import ConfigError, DataError, ModelError
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.rank.collaborative.kinds import KINDS
from notellm.rank.collaborative.rows import Histories, IdIndex, Rows, labels_of

Floats = npt.NDArray[np.float32]

CONFIG, WEIGHTS, USERS, ITEMS = "config.json", "model.safetensors", "users.parquet", "items.parquet"
_BLOCK = 4096  # rows scored at once


class CollaborativeModel(nn.Module, ABC):
    """Base class; a subclass supplies ``tables`` and, if it reads histories, ``user_vectors``.

    Args:
        user_ids: distinct ids of the users.
        note_ids: distinct ids of the items.
        config: the other arguments of the subclass, from which it can be built again.

    Attributes:
        known_users: bool (U,), which users had a training row.
        known_items: bool (I,), which items had a training row.
        max_history: how many of the last liked items the model reads; 0 for a model that has a vector for
            each user instead.

    Raises:
        ConfigError: if ``dimensions`` is below 1.
        DataError: if an id occurs twice, or there is none.
    """

    kind: ClassVar[str]
    max_history: int = 0
    known_users: Tensor
    known_items: Tensor

    def __init__(self, user_ids: Ids, note_ids: Ids, config: Mapping[str, Any]) -> None:
        super().__init__()
        if config["dimensions"] < 1:
            raise ConfigError(f"dimensions is {config['dimensions']}; it must be 1 or more")
        self.users, self.items = IdIndex(user_ids), IdIndex(note_ids)
        self.config = dict(config)
        self.register_buffer("known_users", torch.zeros(len(self.users), dtype=torch.bool))
        self.register_buffer("known_items", torch.zeros(len(self.items), dtype=torch.bool))

    # ---------------------------------------------------------------- vectors

    @abstractmethod
    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users (U, d) and all items (I, d); no users if histories define them."""

    @property
    def width(self) -> int:
        """Dimensions of the vectors, those of biases included."""
        with torch.no_grad():
            return self.tables()[1].shape[1]

    def prepare(self, train: pa.Table) -> None:
        """Mark the users and items of the training impressions as known."""
        for index, known, column in (
            (self.users, self.known_users, "user_id"),
            (self.items, self.known_items, "note_id"),
        ):
            rows = torch.from_numpy(index.rows(train[column]))
            known.zero_()
            known[rows[rows >= 0]] = True

    def user_vectors(self, table: Tensor, items: Tensor, rows: Rows) -> Tensor:  # noqa: ARG002 - for SASRec
        """Return the vectors (n, d) of the users of some rows.

        Args:
            table: (U, d), the first of ``tables``.
            items: (I, d), the second of ``tables``.
            rows: the rows.
        """
        return lookup(table, rows.users, self.known_users)

    def vectors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return the vectors of the users and of the items of some rows, (n, d) each."""
        users, items = self.tables()
        return self.user_vectors(users, items, rows), lookup(items, rows.items, self.known_items)

    def forward(self, rows: Rows) -> Tensor:
        """Return the scores (n,) of some rows: logits of being liked."""
        users, items = self.vectors(rows)
        return (users * items).sum(1)

    # ---------------------------------------------------------------- rows

    def rows_of(self, user_ids: Ids, note_ids: Ids, histories: Histories | None) -> Rows:
        """Return users, items and histories as rows of this model's tables, without labels."""
        rows = self.user_rows(user_ids, histories)
        return replace(rows, items=torch.from_numpy(self.items.rows(note_ids)))

    def rows_of_table(self, table: pa.Table, name: str) -> Rows:
        """Return impressions as rows of this model's tables.

        Args:
            table: impressions: user_id, note_id, label and history.
            name: name of the table, for error messages.

        Raises:
            DataError: if a column is missing, or not both labels occur.
        """
        labels = labels_of(table, name)
        return replace(self.rows_of(table["user_id"], table["note_id"], table["history"]), labels=labels)

    def user_rows(self, user_ids: Ids, histories: Histories | None) -> Rows:
        """Return users and histories as rows of this model's tables, without items and labels."""
        count = len(user_ids)
        if histories is None or self.max_history == 0:
            past = torch.full((count, self.max_history), -1)
        else:
            past = torch.from_numpy(self.items.last(histories, self.max_history, self.known_items.numpy()))
        users = torch.from_numpy(self.users.rows(user_ids))
        return Rows(users=users, items=torch.full((count,), -1), histories=past, labels=torch.empty(count))

    # ---------------------------------------------------------------- results

    def user_embeddings(self, user_ids: Ids, histories: Histories | None = None) -> Floats:
        """Return the vectors of users, float32 (n, d).

        Args:
            user_ids: n ids; a user without training rows has the mean vector.
            histories: notes that each user liked before, which only ``SASRec`` reads; None for none.
        """
        rows = self.user_rows(user_ids, histories)
        with inference(self):
            tables = self.tables()
            parts = [self.user_vectors(*tables, part).numpy() for part in blocks(rows)]
        return np.concatenate(parts)

    def item_embeddings(self, note_ids: Ids) -> Floats:
        """Return the vectors of items, float32 (n, d); an item without training rows has the mean vector."""
        rows = torch.from_numpy(self.items.rows(note_ids))
        with inference(self):
            return lookup(self.tables()[1], rows, self.known_items).numpy()

    def scores(self, user_ids: Ids, note_ids: Ids, histories: Histories | None = None) -> Floats:
        """Return the score of each user for the item in the same place, float32 (n,)."""
        return predict(self, self.rows_of(user_ids, note_ids, histories))

    # ---------------------------------------------------------------- disk

    def save_pretrained(
        self, folder: str | Path, training: Mapping[str, Any] | None = None, *, force: bool = False
    ) -> None:
        """Write the model as a folder of safetensors, Parquet and JSON, whole or not at all.

        Args:
            folder: where to write; a collaborative model in that place is replaced.
            training: how the model was trained, stored with its configuration.
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: if the folder cannot be written.
        """
        with write_folder(folder, "collaborative model", force=force) as aside:
            save_file({n: t.contiguous() for n, t in self.state_dict().items()}, aside / WEIGHTS)
            write_parquet(pa.table({"user_id": self.users.ids}), aside / USERS)
            write_parquet(pa.table({"note_id": self.items.ids}), aside / ITEMS)
            described = {"kind": self.kind, "config": self.config, "training": dict(training or {})}
            write_json(described, aside / CONFIG)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Open a model that :meth:`save_pretrained` wrote, ready to score.

        ``CollaborativeModel.from_pretrained`` opens every kind, a subclass its own.

        Raises:
            StorageError: if there is no ``config.json``.
            DataError: if a file of ids or the configuration cannot be read.
            ModelError: if the folder holds another kind of model, the weights do not fit, or a file is
                missing or damaged.
        """
        source = Path(folder)
        description = read_json(source / CONFIG)
        kind = description.get("kind") if isinstance(description, dict) else description
        allowed = [name for name, each in KINDS.items() if issubclass(each.load(), cls)]
        if not isinstance(kind, str) or kind not in allowed:
            raise ModelError(
                f"{source / CONFIG} describes a model of kind {str(kind)[:40]!r}; it must be one of "
                f"{', '.join(allowed)}"
            )
        check_whole(source, besides=[CONFIG])
        users, items = _read_ids(source / USERS, "user_id"), _read_ids(source / ITEMS, "note_id")
        try:
            model = build_saved(kind, users, items, description.get("config"))
            model.load(load_file(source / WEIGHTS))
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{source} is not a whole {kind} model: {reason}; save it again") from error
        model.eval()
        return model  # type: ignore[return-value]  # `allowed` holds subclasses of cls only

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved weights, and which users and items are known.

        Args:
            tensors: the tensors by name, as ``state_dict`` gives them.

        Raises:
            ValueError: if a tensor does not fit this model.
            KeyError: if a tensor is missing.
            RuntimeError: if weights are missing or have another shape.
        """
        for name, buffer in list(self.named_buffers()):
            tensor = tensors[name]
            free = buffer.numel() == 0  # the number of edges of a graph is not part of the configuration
            same = tensor.shape[:-1] == buffer.shape[:-1] if free else tensor.shape == buffer.shape
            if tensor.dtype != buffer.dtype or not same:
                raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}")
            setattr(self, name, tensor)
        self.load_state_dict(tensors)


def build_saved(kind: str, user_ids: Ids, note_ids: Ids, config: Any) -> CollaborativeModel:
    """Build an untrained model from a saved configuration.

    Raises:
        ValueError: if the kind or the configuration is not one that this version knows.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    model = KINDS[kind].load()
    if not isinstance(config, dict):
        raise ValueError(f"the config in {CONFIG} is {str(config)[:40]!r}")  # noqa: TRY004 - damaged data
    defaults = {name: each.default for name, each in signature(model).parameters.items()}
    for name, value in config.items():
        usual = defaults.get(name)
        numbers = (int, float) if isinstance(usual, float) else (type(usual),)
        if name not in defaults or type(value) not in numbers:
            raise ValueError(f"{name} in {CONFIG} is {str(value)[:40]!r}")
    built: CollaborativeModel = model(user_ids, note_ids, **config)
    return built


def _read_ids(path: Path, column: str) -> pa.ChunkedArray:
    ids = read_parquet(path, [column])[column]
    if ids.type != pa.string():
        raise DataError(f"{path}: the column {column} is {ids.type}; it must be string; save the model again")
    return ids


def lookup(table: Tensor, rows: Tensor, known: Tensor) -> Tensor:
    """Return rows (n,) of a table (R, d); for -1 and for unknown rows the mean of the known ones."""
    vectors = functional.embedding(rows.clamp(min=0), table)
    usable = (rows >= 0) & known[rows]
    if usable.all():
        return vectors
    return torch.where(usable[:, None], vectors, table[known].mean(0))


def blocks(rows: Rows) -> Iterator[Rows]:
    """Yield the rows in blocks; no rows are one empty block."""
    for start in range(0, max(len(rows), 1), _BLOCK):
        yield rows[start : start + _BLOCK]


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """Compute without gradients and dropout in the block; afterwards the module's mode is as before."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def predict(module: nn.Module, rows: Rows) -> Floats:
    """Return the logits of all rows, float32 (n,)."""
    with inference(module):
        return np.concatenate([module(part).numpy() for part in blocks(rows)])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw torch's random numbers in the block from the seed; its generator outside is unaffected."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
