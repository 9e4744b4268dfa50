"""Sums and batches over all processes of a distributed training; with one process they change nothing."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from notellm.errors import DataError


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor may be changed in place."""
    if _is_distributed():
        dist.all_reduce(value)
    return value


def gather(value: Tensor) -> Tensor:
    """Return the tensors of all processes, joined along the first dimension, without gradients."""
    if not _is_distributed():
        return value
    pieces = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, value.contiguous())
    return torch.cat(pieces)


def gather_with_gradients(value: Tensor) -> Tensor:
    """Return the tensors of all processes, joined along the first dimension, with their gradients."""
    if not _is_distributed():
        return value
    return torch.cat(tuple(all_gather(value)))  # type: ignore[no-untyped-call]


def check_equal_sizes(size: int, device: torch.device) -> None:
    """Refuse batches of different size, which cannot be gathered.

    Raises:
        DataError: if the processes hold batches of different size.
    """
    if len(set(gather(torch.tensor([size], device=device)).tolist())) > 1:
        raise DataError("the processes hold batches of different size; drop the last partial batch")


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
