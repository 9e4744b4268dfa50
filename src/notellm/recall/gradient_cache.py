"""Gradient caching: a batch of any size with the memory of one chunk (Gao et al. 2021, arXiv 2101.06983).

1. Compute the vectors of all chunks without a graph.
2. Compute the contrastive loss of all vectors and its gradient g with respect to them.
3. Compute each chunk again, with a graph, and back-propagate the surrogate loss (vectors . g). Its gradient
   with respect to the weights equals that of the contrastive loss.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from notellm.recall.model import NoteLLMOutput

#: Entries of a batch that the model's forward pass takes, in the order of its parameters.
MODEL_INPUTS = ("input_ids", "attention_mask", "position", "labels")
#: The entry that it takes beside them where lower layers are frozen: what they give (``frozen_states.py``).
STATES = "states"


class GradientCache:
    """The chunks of a batch and their vectors.

    Args:
        model: the model in training mode.
        inputs: the batch.
        size: largest number of notes in a chunk.

    Attributes:
        chunks: the model's inputs of each chunk.
        vectors: (n, dim) vectors of the batch, a leaf with the gradient 0. Back-propagate the contrastive
            loss to it before :meth:`surrogate_loss` is called.
        tau: the log inverse temperature, a leaf with the gradient 0.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor], size: int) -> None:
        self.size = size
        self.chunks = [
            {name: inputs[name][start : start + size] for name in (*MODEL_INPUTS, STATES) if name in inputs}
            for start in range(0, len(inputs["input_ids"]), size)
        ]
        self._device = inputs["input_ids"].device
        self._states = []
        vectors = []
        with torch.no_grad():
            for chunk in self.chunks:
                self._states.append(_random_state(self._device))
                # With the labels, though only vectors are needed: the tokens that are read, and so what
                # dropout draws, depend on them.
                output: NoteLLMOutput = model(
                    *(chunk[name] for name in MODEL_INPUTS), states=chunk.get(STATES)
                )
                vectors.append(output.vectors)
        self.vectors, self.tau = torch.cat(vectors).requires_grad_(), output.tau.requires_grad_()
        self.vectors.grad, self.tau.grad = torch.zeros_like(self.vectors), torch.zeros_like(self.tau)

    def replay(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield the number and the inputs of each chunk, with the random state of its first pass.

        So the second pass drops the same activations as the first one.
        """
        for number, (chunk, state) in enumerate(zip(self.chunks, self._states, strict=True)):
            _set_random_state(state, self._device)
            yield number, chunk

    def surrogate_loss(self, number: int, output: NoteLLMOutput) -> Tensor:
        """Return the loss of a chunk whose gradient is that of the contrastive loss.

        Args:
            number: number of the chunk.
            output: result of its second pass.
        """
        gradient, tau_gradient = self.vectors.grad, self.tau.grad
        if gradient is None or tau_gradient is None:
            raise RuntimeError("the gradients of the vectors and of tau were removed from the cache")
        rows = slice(number * self.size, (number + 1) * self.size)
        return (output.vectors * gradient[rows]).sum() + output.tau * tau_gradient / len(self.chunks)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)
