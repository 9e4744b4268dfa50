"""Where the projection of an untrained model starts, computed from its notes without a gradient step.

    x = hidden state at the token before [EMB], less the mean of the notes
    components    W = the leading principal axes of x, each divided by a power of its standard deviation
    ridge         W = argmin sum |y - W x|^2 + penalty |W|^2

W is (k, hidden). y are co-click vectors, similar for notes with the same readers. The mean is subtracted by
the bias: states of language models share a large common part, and vary most in few directions.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from notellm.backbone.tiny import svd
from notellm.data.ids import Ids
from notellm.data.matrices import click_matrix
from notellm.errors import ModelError

#: Notes that a start is computed from, at most.
MOST_NOTES = 20_000
#: Penalties that ridge regression tries, as multiples of the mean variance of a hidden dimension.
PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-10, 5))
#: Notes with a reader in common with another one that ridge regression needs.
LEAST_CLICKED = 20
#: Power of the standard deviation by which components of a pretrained backbone are divided: by measurement,
#: as is the criterion of the penalty (benchmarks/README.md).
WHITENING = 0.75


@dataclass(frozen=True)
class Start:
    """A linear map from hidden states to vectors.

    Attributes:
        weight: (k, hidden) float64; k may be smaller than the dimensions of the model.
        mean: (hidden,) float64, the state that is mapped to 0.
    """

    weight: Tensor
    mean: Tensor


def drawn_rows(count: int, seed: int) -> np.ndarray:
    """Return the rows of the notes that a start is computed from, (min(count, MOST_NOTES),) int64."""
    if count <= MOST_NOTES:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, MOST_NOTES, replace=False)


def principal_components(states: Tensor, dim: int, *, whitening: float = 0.0) -> Start:
    """Return the projection onto the leading principal axes of hidden states.

    Args:
        states: (n, hidden).
        dim: number of axes, at most.
        whitening: power w; components are divided by their standard deviation to this power. With 0 they are
            orthonormal, with 1 they all vary alike. Axes along which nothing varies are left out then.

    Raises:
        ModelError: if a state is not finite.
    """
    states = _finite(states)
    mean = states.mean(dim=0)
    _, variances, axes = torch.linalg.svd(torch.cov((states - mean).T))
    variances, axes = variances[:dim], axes[:dim]
    if whitening == 0:
        return Start(axes, mean)
    varies = variances > 1e-9 * variances[0]
    weight = axes[varies] * variances[varies, None] ** (-whitening / 2)
    return Start(_scaled(weight), mean)


def ridge(states: Tensor, targets: Tensor, seed: int) -> tuple[Start, float]:
    """Return the ridge regression of targets on hidden states, and its penalty.

    The penalty is the one of ``PENALTIES`` with the largest mean cosine of targets and predictions, both less
    the mean, on a tenth of the rows that is held out. (Clicks are mostly noise, so the squared error is
    smallest where nearly everything is shrunk away.) The regression is then computed from all rows.

    Args:
        states: (n, hidden).
        targets: (n, k).
        seed: seed of the held-out tenth.

    Returns:
        The map, and the penalty as a multiple of the mean variance of a hidden dimension.

    Raises:
        ModelError: if a state is not finite.
    """
    states, targets = _finite(states), targets.double()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(states)))
    held_out, fitted = order[: max(1, len(order) // 10)], order[max(1, len(order) // 10) :]
    mean, target_mean = states[fitted].mean(dim=0), targets[fitted].mean(dim=0)
    cosines = [
        float(
            functional.cosine_similarity(
                (states[held_out] - mean) @ weight.T, targets[held_out] - target_mean
            ).mean()
        )
        for weight in _ridge_weights(states[fitted] - mean, targets[fitted] - target_mean, PENALTIES)
    ]
    penalty = PENALTIES[int(np.argmax(cosines))]
    mean = states.mean(dim=0)
    (weight,) = _ridge_weights(states - mean, targets - targets.mean(dim=0), (penalty,))
    return Start(_scaled(weight), mean), penalty


def _ridge_weights(states: Tensor, targets: Tensor, penalties: tuple[float, ...]) -> list[Tensor]:
    """Return the weight, (k, hidden), of each penalty for centred states and targets."""
    gram = states.T @ states
    values, axes = torch.linalg.eigh(gram)
    mean_value = values.clamp(min=0).mean().clamp(min=1e-30)
    turned = axes.T @ (states.T @ targets)  # (hidden, k)
    return [
        (axes @ (turned / (values.clamp(min=0) + penalty * mean_value)[:, None])).T for penalty in penalties
    ]


def common_readers(note_ids: Ids, clicks: pa.Table) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Return the notes that have a reader in common with another one, and their readers.

    Args:
        note_ids: ids of the notes.
        clicks: clicks table; users with one click on these notes do not count.

    Returns:
        The rows of the notes, (n,) int64, and who clicked them, (n, users) of ones.
    """
    clicked = sparse.csr_matrix(click_matrix(note_ids, clicks))
    clicked = clicked[:, np.asarray(clicked.sum(axis=0)).ravel() > 1]
    rows = np.flatnonzero(np.asarray(clicked.sum(axis=1)).ravel())
    return rows, clicked[rows]


def co_click_vectors(clicked: sparse.csr_matrix, dim: int, seed: int) -> np.ndarray:
    """Return the vectors of notes by who clicked them, (n, k) float64: similar where the same users clicked.

    They are the leading left singular vectors of the matrix of notes and users, whose entries are damped as
    for the tiny backbone, n(user)^(-1/4) n(note)^(-1/2).

    Args:
        clicked: (n, users) of ones, from :func:`common_readers`.
        dim: dimensions of a vector, at most.
        seed: seed of the decomposition.
    """
    per_note = np.asarray(clicked.sum(axis=1)).ravel()
    per_user = np.asarray(clicked.sum(axis=0)).ravel()
    weighted = sparse.diags(per_note**-0.5) @ clicked @ sparse.diags(per_user**-0.25)
    left, _, _ = svd(sparse.csr_matrix(weighted), min(dim, *weighted.shape), seed)
    vectors: np.ndarray = left.astype(np.float64)
    return vectors


def write_start(projection: nn.Linear, start: Start) -> None:
    """Write a start into the projection; dimensions beyond it get small random weights.

    Args:
        projection: the linear layer.
        start: the map.
    """
    weight = torch.empty(projection.weight.shape).normal_(std=1e-3)
    weight[: len(start.weight)] = start.weight.float()
    bias = -(weight.double() @ start.mean).float()
    projection.weight.data.copy_(weight)
    projection.bias.data.copy_(bias)


def _scaled(weight: Tensor) -> Tensor:
    """Return a weight with rows of root mean square norm 1, as axes have; cosines do not change.

    So training moves every start at the same pace.
    """
    norm = weight.square().sum(dim=1).mean().sqrt()
    return weight / norm if norm > 0 else weight


def _finite(states: Tensor) -> Tensor:
    """Return states in float64.

    Raises:
        ModelError: if one is not finite.
    """
    if not torch.isfinite(states).all():
        raise ModelError(
            "the backbone gives hidden states that are not finite; load it in a wider dtype, or choose "
            "another backbone"
        )
    return states.double()
