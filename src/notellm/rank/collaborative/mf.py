"""Matrix factorization, with or without biases.

    score(u, i) = p_u . q_i [+ b_u + b_i + b]

With biases the vectors are x_u = [p_u, b_u + b, 1] and y_i = [q_i, 1, b_i], whose dot product is that
(Koren, Bell and Volinsky 2009, Computer 42(8), https://doi.org/10.1109/MC.2009.263).
"""

import torch
from torch import Tensor, nn

from notellm.data.ids import Ids
from notellm.rank.collaborative.base import CollaborativeModel, seeded


class MatrixFactorization(CollaborativeModel):
    """One vector for each user and one for each item.

    Args:
        user_ids: ids of the users.
        note_ids: ids of the items.
        dimensions: dimensions of the vectors, without the two that biases add.
        biases: whether each user, each item and the whole model have a bias.
        seed: seed of the first weights.

    Raises:
        ConfigError: if ``dimensions`` is below 1.
        DataError: if an id occurs twice, or there is none.
    """

    kind = "mf"

    def __init__(
        self, user_ids: Ids, note_ids: Ids, *, dimensions: int = 32, biases: bool = True, seed: int = 0
    ) -> None:
        super().__init__(user_ids, note_ids, {"dimensions": dimensions, "biases": biases, "seed": seed})
        self.biases = biases
        with seeded(seed):
            self.user_table = nn.Parameter(0.1 * torch.randn(len(self.users), dimensions))
            self.item_table = nn.Parameter(0.1 * torch.randn(len(self.items), dimensions))
        if biases:
            self.user_bias = nn.Parameter(torch.zeros(len(self.users), 1))
            self.item_bias = nn.Parameter(torch.zeros(len(self.items), 1))
            self.bias = nn.Parameter(torch.zeros(1))

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users (U, d) and items (I, d)."""
        if not self.biases:
            return self.user_table, self.item_table
        return (
            torch.cat([self.user_table, self.user_bias + self.bias, torch.ones_like(self.user_bias)], 1),
            torch.cat([self.item_table, torch.ones_like(self.item_bias), self.item_bias], 1),
        )
