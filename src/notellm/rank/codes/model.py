"""The model whose signs are the codes: a collaborative model and one linear layer for each side.

    h_u = sign(tanh(W e_u + b))        h_i = sign(tanh(V e_i + c))        logit = s (h_u . h_i)

The collaborative model's vectors e and both layers are trained together by binary cross-entropy. The sign
passes the gradient of tanh through unchanged ("straight through", BinLLM, arXiv 2406.03210). The scale s is
learnt, too; the paper fixes it at 1.
"""

import torch
from torch import Tensor, nn

from notellm.rank.codes.options import CodeOptions
from notellm.rank.collaborative.base import Floats, inference, lookup, seeded
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.rows import Ids, Rows


class CodeModel(nn.Module):
    """The collaborative model, the two layers and the scale, which are trained together.

    Args:
        user_ids: ids of the users.
        note_ids: ids of the items.
        options: options of the codes.

    Attributes:
        sign_share: share of the bits that are signs in training; the others are tanh values.
    """

    def __init__(self, user_ids: Ids, note_ids: Ids, options: CodeOptions) -> None:
        super().__init__()
        seed = options.training.seed
        self.base = MatrixFactorization(
            user_ids, note_ids, dimensions=options.dimensions, biases=False, seed=seed
        )
        with seeded(seed + 1):
            self.user_layer = nn.Linear(options.dimensions, options.bits)
            self.item_layer = nn.Linear(options.dimensions, options.bits)
        self.scale = nn.Parameter(torch.tensor(options.bits**-0.5))
        self.sign_share = 1.0

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

    def real(self) -> tuple[Floats, Floats]:
        """Return the real-valued codes of users (U + 1, bits) and of items (I + 1, bits).

        Unknown users and items, and the last row, have the code of the mean vector.
        """
        with inference(self):
            users, items = self.base.tables()
            return tuple(
                layer(lookup(table, torch.tensor([*range(len(table)), -1]), known)).numpy()
                for layer, table, known in (
                    (self.user_layer, users, self.base.known_users),
                    (self.item_layer, items, self.base.known_items),
                )
            )
