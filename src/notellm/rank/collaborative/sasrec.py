"""SASRec: a small transformer computes the user's vector from the history of liked items.

    x_u = transformer([start, y_1 + p_k, ..., y_k + p_1]) at its last position        score = x_u . y_i

Each token is an item vector plus a vector for its distance from the end (p_1 is the latest); a learnt start
token comes first, so that an empty history has a vector, too (Kang and McAuley 2018, arXiv 1808.09781). It is
trained on labels with binary cross-entropy, as in CoLLM (arXiv 2310.19488). Users have no vectors of their
own: a new user is scored from the history like all others. Items without training rows are skipped.
"""

import torch
from torch import Tensor, nn

from notellm.data.ids import Ids
from notellm.errors import ConfigError
from notellm.rank.collaborative.base import CollaborativeModel, seeded
from notellm.rank.collaborative.rows import Rows


class SASRec(CollaborativeModel):
    """User vectors computed from histories.

    Args:
        user_ids: ids of the users.
        note_ids: ids of the items.
        dimensions: dimensions of the vectors.
        max_history: number of the latest liked items that are read.
        layers: layers of the transformer.
        heads: heads of its attention, a divisor of ``dimensions``.
        dropout: share of activations dropped in training.
        seed: seed of the first weights.

    Raises:
        ConfigError: if ``dimensions``, ``max_history`` or ``layers`` is below 1, or ``heads`` does not divide
            ``dimensions``.
        DataError: if an id occurs twice, or there is none.
    """

    kind = "sasrec"

    def __init__(
        self,
        user_ids: Ids,
        note_ids: Ids,
        *,
        dimensions: int = 64,
        max_history: int = 25,
        layers: int = 2,
        heads: int = 1,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(
            user_ids,
            note_ids,
            {
                "dimensions": dimensions,
                "max_history": max_history,
                "layers": layers,
                "heads": heads,
                "dropout": dropout,
                "seed": seed,
            },
        )
        if min(max_history, layers, heads) < 1 or dimensions % heads:
            raise ConfigError(
                f"max_history is {max_history}, layers {layers}, heads {heads}, dimensions {dimensions}; "
                "each must be 1 or more, and heads must divide dimensions"
            )
        self.max_history = max_history
        with seeded(seed):
            self.item_table = nn.Parameter(0.1 * torch.randn(len(self.items), dimensions))
            self.start = nn.Parameter(0.1 * torch.randn(dimensions))
            self.ago = nn.Parameter(0.1 * torch.randn(max_history, dimensions))
            layer = nn.TransformerEncoderLayer(
                dimensions, heads, dimensions, dropout, batch_first=True, norm_first=True
            )
            self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.norm = nn.LayerNorm(dimensions)
            self.dropout = nn.Dropout(dropout)

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return no user vectors (0, d), and the vectors of all items (I, d)."""
        return self.item_table[:0], self.item_table

    def user_vectors(self, table: Tensor, items: Tensor, rows: Rows) -> Tensor:  # noqa: ARG002
        """Return the vectors (n, d) of the users of some rows, computed from their histories."""
        if len(rows) == 0:
            return items[:0]
        present = rows.histories >= 0  # n x L, filled from the left
        length = present.sum(1)
        longest = int(length.max())  # columns that are padding in all rows are left out
        present, past = present[:, :longest], rows.histories[:, :longest]
        ago = (length[:, None] - 1 - torch.arange(longest)).clamp(min=0)  # n x L
        tokens = items[past.clamp(min=0)] + self.ago[ago]
        tokens = torch.cat([self.start.expand(len(rows), 1, -1), tokens], 1)
        absent = torch.cat([torch.zeros(len(rows), 1, dtype=torch.bool), ~present], 1)
        future = torch.ones(longest + 1, longest + 1, dtype=torch.bool).triu(1)
        states = self.encoder(self.dropout(tokens), mask=future, src_key_padding_mask=absent)
        last: Tensor = states[torch.arange(len(rows)), length]
        vectors: Tensor = self.norm(last)
        return vectors
