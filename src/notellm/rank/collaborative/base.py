"""What every collaborative model is: vectors of users and items whose dot product is the score.

    score(u, i) = x_u . y_i        P(u likes i) = 1 / (1 + exp(-score))

Biases are dimensions of the vectors, so this holds for all of them. Five verbs, batch-first:
``user_embeddings``, ``item_embeddings``, ``scores``, ``save``, :func:`~notellm.rank.load_collaborative`.

A user or an item without a training row has no vector of its own: it gets the mean of the vectors that
were trained. The first values of its row mean nothing, and are never used.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from notellm.artifacts.write import write_folder
from notellm.errors import ConfigError
from notellm.files import write_json, write_parquet
from notellm.rank.collaborative.rows import Histories, IdIndex, Ids, Rows, labels_of

Floats = npt.NDArray[np.float32]

CONFIG, WEIGHTS, USERS, ITEMS = "config.json", "model.safetensors", "users.parquet", "items.parquet"
_BLOCK = 4096  # rows scored at once


class CollaborativeModel(nn.Module, ABC):
    """Base of the models; a subclass supplies ``tables`` and, if it reads histories, ``user_vectors``.

    Args:
        user_ids: the users, distinct.
        note_ids: the items, distinct.
        config: the other arguments of the subclass, to build it again.

    Attributes:
        known_users: bool (U,), which users had a row in training.
        known_items: bool (I,), likewise.

    Raises:
        ConfigError: ``dimensions`` is below 1.
        DataError: an id stands there twice, or there is none.
    """

    kind: ClassVar[str]
    max_history: int = 0
    known_users: Tensor
    known_items: Tensor

    def __init__(self, user_ids: Ids, note_ids: Ids, config: Mapping[str, Any]) -> None:
        super().__init__()
        if config["dimensions"] < 1:
            raise ConfigError(f"dimensions is {config['dimensions']}: give 1 or more")
        self.users, self.items = IdIndex(user_ids), IdIndex(note_ids)
        self.config = dict(config)
        self.register_buffer("known_users", torch.zeros(len(self.users), dtype=torch.bool))
        self.register_buffer("known_items", torch.zeros(len(self.items), dtype=torch.bool))

    @abstractmethod
    def tables(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users (U, d) and all items (I, d); no users where histories make them."""

    def prepare(self, train: pa.Table) -> None:
        """Mark as known what has a row in the training impressions."""
        for index, known, column in (
            (self.users, self.known_users, "user_id"),
            (self.items, self.known_items, "note_id"),
        ):
            rows = torch.from_numpy(index.rows(train[column]))
            known.zero_()
            known[rows[rows >= 0]] = True

    def user_vectors(self, table: Tensor, items: Tensor, rows: Rows) -> Tensor:  # noqa: ARG002 - SASRec's
        """Vectors (n, d) of the users of some rows.

        Args:
            table: (U, d) the first of ``tables``.
            items: (I, d) the second.
            rows: the rows.
        """
        return lookup(table, rows.users, self.known_users)

    def vectors(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Vectors of the users and of the items of some rows, (n, d) each."""
        users, items = self.tables()
        return self.user_vectors(users, items, rows), lookup(items, rows.items, self.known_items)

    def forward(self, rows: Rows) -> Tensor:
        """Scores (n,), logits of being liked."""
        users, items = self.vectors(rows)
        return (users * items).sum(1)

    def encode(self, user_ids: Ids, note_ids: Ids, histories: Histories | None) -> Rows:
        """Ids as rows of this model; without labels."""
        return Rows(
            users=torch.from_numpy(self.users.rows(user_ids)),
            items=torch.from_numpy(self.items.rows(note_ids)),
            histories=self._past(len(user_ids), histories),
            labels=torch.empty(len(user_ids)),
        )

    def encode_table(self, table: pa.Table, name: str) -> Rows:
        """Impressions as rows of this model.

        Raises:
            DataError: a column is missing, or not both labels occur.
        """
        labels = labels_of(table, name)
        return replace(self.encode(table["user_id"], table["note_id"], table["history"]), labels=labels)

    def user_embeddings(self, user_ids: Ids, histories: Histories | None = None) -> Floats:
        """Vectors of users, float32 (n, d).

        Args:
            user_ids: n ids; the mean vector for one without training row.
            histories: what each liked before, which only ``SASRec`` reads; None for nothing.
        """
        rows = Rows(
            users=torch.from_numpy(self.users.rows(user_ids)),
            items=torch.full((len(user_ids),), -1),
            histories=self._past(len(user_ids), histories),
            labels=torch.empty(len(user_ids)),
        )
        with inference(self):
            tables = self.tables()
            parts = [self.user_vectors(*tables, part).numpy() for part in blocks(rows)]
        return np.concatenate(parts)

    def item_embeddings(self, note_ids: Ids) -> Floats:
        """Vectors of items, float32 (n, d); the mean vector for one without training row."""
        rows = torch.from_numpy(self.items.rows(note_ids))
        with inference(self):
            return lookup(self.tables()[1], rows, self.known_items).numpy()

    def scores(self, user_ids: Ids, note_ids: Ids, histories: Histories | None = None) -> Floats:
        """Score of each user for the item in the same place, float32 (n,): the dot product of the vectors."""
        return predict(self, self.encode(user_ids, note_ids, histories))

    def save(
        self, folder: str | Path, training: Mapping[str, Any] | None = None, *, force: bool = False
    ) -> None:
        """Write the model as a folder of safetensors, Parquet and JSON, whole or not at all.

        Args:
            folder: where; a collaborative model that is there is replaced.
            training: kept beside the configuration: how the model was trained.
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: it cannot be written.
        """
        with write_folder(folder, "collaborative model", force=force) as aside:
            save_file({n: t.contiguous() for n, t in self.state_dict().items()}, aside / WEIGHTS)
            write_parquet(pa.table({"user_id": self.users.ids}), aside / USERS)
            write_parquet(pa.table({"note_id": self.items.ids}), aside / ITEMS)
            described = {"kind": self.kind, "config": self.config, "training": dict(training or {})}
            write_json(described, aside / CONFIG)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take on saved weights, and what the model knows of its training rows.

        Args:
            tensors: by name, as ``state_dict`` gives them.

        Raises:
            ValueError: one does not fit this model.
            KeyError: one is missing.
            RuntimeError: weights are missing, or of another shape.
        """
        for name, buffer in list(self.named_buffers()):
            tensor = tensors[name]
            free = buffer.numel() == 0  # the edges of a graph have no number of their own
            same = tensor.shape[:-1] == buffer.shape[:-1] if free else tensor.shape == buffer.shape
            if tensor.dtype != buffer.dtype or not same:
                raise ValueError(f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}")
            setattr(self, name, tensor)
        self.load_state_dict(tensors)

    def _past(self, count: int, histories: Histories | None) -> Tensor:
        """Rows of the last liked items, (n, max_history)."""
        if histories is None or self.max_history == 0:
            return torch.full((count, self.max_history), -1)
        return torch.from_numpy(self.items.last(histories, self.max_history, self.known_items.numpy()))


def lookup(table: Tensor, rows: Tensor, known: Tensor) -> Tensor:
    """Rows (n,) of a table (R, d); the mean of the known rows for -1 and for a row that is not known."""
    found = functional.embedding(rows.clamp(min=0), table)
    usable = (rows >= 0) & known[rows]
    if usable.all():
        return found
    return torch.where(usable[:, None], found, table[known].mean(0))


def blocks(rows: Rows) -> Iterator[Rows]:
    """The rows in blocks, of which at least one is there."""
    for start in range(0, max(len(rows), 1), _BLOCK):
        yield rows[start : start + _BLOCK]


@contextmanager
def inference(module: nn.Module) -> Iterator[None]:
    """No gradients and no dropout within; training goes on as it was after it."""
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(training)


def predict(module: nn.Module, rows: Rows) -> Floats:
    """Logits of all rows, float32 (n,)."""
    with inference(module):
        return np.concatenate([module(part).numpy() for part in blocks(rows)])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch within follow from the seed; outside nothing has changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
