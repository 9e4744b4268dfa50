"""The model whose signs are the codes: a collaborative model and one linear layer for each side.

    h_u = sign(tanh(W e_u + b))        h_i = sign(tanh(V e_i + c))        logit = s (h_u . h_i)

The collaborative model's vectors e and both layers are trained together by binary cross-entropy. The sign
passes the gradient of tanh through unchanged ("straight through", BinLLM, arXiv 2406.03210). The scale s is
learnt, too; the paper fixes it at 1.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from notellm.data.ids import Ids
from notellm.rank.codes.options import CodeOptions
from notellm.rank.codes.text import Bits
from notellm.rank.collaborative.base import CollaborativeModel, Floats, blocks, inference, lookup, seeded
from notellm.rank.collaborative.rows import Histories, Rows


class CodeModel(nn.Module):
    """A collaborative model, two layers and a scale, which are trained together.

    Args:
        base: the collaborative model.
        bits: length of a code.
        seed: seed of the layers' first weights.

    Attributes:
        sign_share: share of the bits that are signs in training; the others are tanh values.
    """

    def __init__(self, base: CollaborativeModel, bits: int, *, seed: int = 0) -> None:
        super().__init__()
        self.base = base
        with seeded(seed):
            self.user_layer = nn.Linear(base.width, bits)
            self.item_layer = nn.Linear(base.width, bits)
        self.scale = nn.Parameter(torch.tensor(bits**-0.5))
        self.sign_share = 1.0

    @classmethod
    def from_options(cls, user_ids: Ids, note_ids: Ids, options: CodeOptions) -> "CodeModel":
        """Build an untrained model for some users and items."""
        kind, seed = options.kind, options.training_options().seed
        dimensions = options.dimensions or kind.dimensions
        base = kind.load()(user_ids, note_ids, dimensions=dimensions, seed=seed, **kind.arguments)
        return cls(base, options.bits, seed=seed + 1)

    def forward(self, rows: Rows) -> Tensor:
        """Return the logits (n,) of some rows."""
        users, items = self.base.vectors(rows)
        products = self._code(self.user_layer(users)) * self._code(self.item_layer(items))  # n x bits
        return self.scale * products.sum(1)

    def _code(self, real: Tensor) -> Tensor:
        """Return the signs of real-valued codes, with the gradient of tanh."""
        soft = torch.tanh(real)
        hard = torch.where(soft >= 0, 1.0, -1.0)
        if self.training and self.sign_share < 1:
            hard = torch.where(torch.rand_like(soft) < self.sign_share, hard, soft)
        return soft + (hard - soft).detach()

    def real_users(self, rows: Rows) -> Floats:
        """Return the real-valued codes of the users of some rows, float32 (n, bits)."""
        parts: Iterable[Rows] = blocks(rows) if self.base.max_history else [rows]
        with inference(self):
            tables = self.base.tables()
            return np.concatenate(
                [self.user_layer(self.base.user_vectors(*tables, part)).numpy() for part in parts]
            )

    def real_items(self) -> Floats:
        """Return the real-valued codes of all items, float32 (I + 1, bits).

        Unknown items, and the last row, have the code of the mean vector.
        """
        with inference(self):
            table = self.base.tables()[1]
            rows = torch.tensor([*range(len(table)), -1])
            vectors: Tensor = self.item_layer(lookup(table, rows, self.base.known_items))
            return vectors.numpy()

    def user_bits(self, user_ids: Ids, histories: Histories) -> Bits:
        """Return the codes of users, bool (n, bits), computed from their ids and histories."""
        codes: Bits = self.real_users(self.base.user_rows(user_ids, histories)) >= 0
        return codes

    def description(self) -> dict[str, Any]:
        """Return the kind and the configuration of the collaborative model, as JSON values."""
        return {"kind": self.base.kind, "config": self.base.config}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved weights, as ``state_dict`` names them.

        Raises:
            ValueError: if a tensor does not fit this model.
            KeyError: if a tensor is missing.
            RuntimeError: if weights are missing or have another shape.
        """
        start = "base."
        self.base.load({name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)})
        self.load_state_dict(tensors)
        self.eval()
