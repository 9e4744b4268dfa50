"""LightGCN: vectors smoothed over the graph of users and the items that they liked.

    E_(k+1) = D^-1/2 A D^-1/2 E_k        x, y = mean of E_0 ... E_K

A has an edge for every liked training row, and D holds the degrees of A (He et al. 2020, arXiv 2002.02126).
Like all models here it is trained on labels with binary cross-entropy; the paper ranks pairs.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from notellm.data.ids import Ids
from notellm.errors import ConfigError
from notellm.rank.collaborative.base import CollaborativeModel, seeded


class LightGCN(CollaborativeModel):
    """Vectors that are averaged over neighbours in the graph.

    Args:
        user_ids: ids of the users.
        note_ids: ids of the items.
        dimensions: dimensions of the vectors.
        layers: K, number of steps over the graph.
        seed: seed of the first weights.

    Attributes:
        edges: int64 (2, E), user row and item row of each distinct liked training row.

    Raises:
        ConfigError: if ``dimensions`` or ``layers`` is below 1.
        DataError: if an id occurs twice, or there is none.
    """

    kind = "lightgcn"
    edges: Tensor

    def __init__(
        self, user_ids: Ids, note_ids: Ids, *, dimensions: int = 64, layers: int = 2, seed: int = 0
    ) -> None:
        super().__init__(user_ids, note_ids, {"dimensions": dimensions, "layers": layers, "seed": seed})
        if layers < 1:
            raise ConfigError(f"layers is {layers}; it must be 1 or more")
        self.layers = layers
        with seeded(seed):
            self.table = nn.Parameter(0.1 * torch.randn(len(self.users) + len(self.items), dimensions))
        self.register_buffer("edges", torch.empty(2, 0, dtype=torch.int64))

    def prepare(self, train: pa.Table) -> None:
        """Mark the users and items of the training impressions as known, and build the graph."""
        super().prepare(train)
        liked = train.filter(pc.cast(train["label"], pa.bool_()))
        ends = torch.stack(
            [
                torch.from_numpy(self.users.rows(liked["user_id"])),
                torch.from_numpy(self.items.rows(liked["note_id"])),
            ]
        )
        self.edges = torch.unique(ends[:, (ends >= 0).all(0)], dim=1)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over saved weights, as the base class does; refuse edges between rows that do not exist."""
        super().load(tensors)
        sizes = torch.tensor([[len(self.users)], [len(self.items)]])
        if not ((self.edges >= 0) & (self.edges < sizes)).all():
            raise ValueError("edges name users or items that do not exist")

    def tables(self) -> tuple[Tensor, Tensor]:
        """Return the vectors of all users (U, d) and items (I, d)."""
        graph = self._graph()
        layer = total = self.table
        for _ in range(self.layers):
            layer = torch.sparse.mm(graph, layer)
            total = total + layer
        mean = total / (self.layers + 1)
        return mean[: len(self.users)], mean[len(self.users) :]

    def _graph(self) -> Tensor:
        """Return the normalized adjacency matrix, sparse (U + I, U + I), users first."""
        size = len(self.table)
        user, item = self.edges[0], self.edges[1] + len(self.users)
        degree = torch.bincount(torch.cat([user, item]), minlength=size).float()
        weight = (degree[user] * degree[item]).rsqrt()
        ends = torch.cat([torch.stack([user, item]), torch.stack([item, user])], 1)
        return torch.sparse_coo_tensor(
            ends, weight.repeat(2), (size, size), check_invariants=False
        ).coalesce()
