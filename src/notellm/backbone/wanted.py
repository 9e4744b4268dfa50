"""Compute in the last layer only the tokens whose last hidden state is needed.

Other tokens are needed there as keys and values alone. So their queries, the projection of their attention
and their feed-forward part, which is most of the work of a layer, are left out. A note needs the state at the
token before [EMB] and at its output tokens, which are few of its tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from notellm.backbone.layers import transformer_layers
from notellm.backbone.load import evaluation_mode, hidden_states

#: Parts of a layer that compute every token by itself, and whose other tokens no part after them reads.
_PARTS = ("self_attn.q_proj", "self_attn.o_proj", "mlp")
#: Rows and positions of the tokens that the last layer computes in this thread.
_wanted: ContextVar[tuple[Tensor, Tensor] | None] = ContextVar("wanted", default=None)


def states_at(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, positions: Tensor
) -> Tensor:
    """Return the last hidden states of some tokens, (k, hidden), with their gradients.

    Args:
        model: a model for which :func:`can_skip` is true.
        input_ids: (n, length) int64.
        attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
        rows: (k,) int64, the sequence of each token.
        positions: (k,) int64, its place there. No token may be given twice.
    """
    with last_layer_at(model, rows, positions):
        return hidden_states(model, input_ids, attention_mask)[rows, positions]


def can_skip(model: PreTrainedModel) -> bool:
    """Return whether :func:`states_at` gives what the whole model gives; tried on a few tokens.

    A layer that is computed a second time in the backward pass (gradient checkpointing) would compute all
    tokens there.
    """
    if model.is_activation_checkpointing:
        return False
    ids = torch.tensor([[1, 2, 3, 1], [3, 1, 2, 2]], device=model.device)
    mask = torch.ones_like(ids)
    rows, positions = torch.tensor([[0, 0, 1], [1, 3, 3]], device=model.device)
    try:
        with evaluation_mode(model), torch.no_grad():
            whole = hidden_states(model, ids, mask)[rows, positions]
            parts = states_at(model, ids, mask, rows, positions)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):
        return False  # a part of its last layer takes or returns something else
    return torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * float(whole.abs().max()))


@contextmanager
def last_layer_at(model: PreTrainedModel, rows: Tensor, positions: Tensor) -> Iterator[None]:
    """Let the last layer compute some tokens only; the states of others are wrong meanwhile.

    A part that the model's layers do not have under its usual name computes all tokens.

    Args:
        model: the model.
        rows: (k,) int64, the sequence of each token whose last hidden state is needed.
        positions: (k,) int64, its place there.
    """
    tokens = rows, positions
    hooks = [hook for part in _parts_of_last_layer(model) for hook in _hooks(part, tokens)]
    before = _wanted.set(tokens)
    try:
        yield
    finally:
        _wanted.reset(before)
        for hook in hooks:
            hook.remove()


def _parts_of_last_layer(model: PreTrainedModel) -> list[nn.Module]:
    """Return the parts of the last layer that can leave tokens out."""
    layers = transformer_layers(model)
    if layers is None:
        return []
    named = dict(layers[-1].named_modules())
    return [named[name] for name in _PARTS if name in named]


def _hooks(part: nn.Module, tokens: tuple[Tensor, Tensor]) -> list[RemovableHandle]:
    """Let a module compute only some tokens; its output is 0 for all others."""
    shapes: list[tuple[int, int]] = []

    # Other threads may run the module meanwhile, and meet these hooks.
    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if _wanted.get() is not tokens:
            return None
        shapes.append((inputs[0].shape[0], inputs[0].shape[1]))
        return inputs[0][tokens][None], *inputs[1:]

    def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if _wanted.get() is not tokens:
            return None
        if not isinstance(output, Tensor):
            raise TypeError(f"{type(part).__name__} returns a {type(output).__name__}")
        return spread(output[0], *tokens, shapes.pop())

    return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]


def spread(values: Tensor, rows: Tensor, positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """Put values of some tokens, (k, ...), into zeros for all tokens, (n, length, ...).

    Args:
        values: (k, ...).
        rows: (k,) int64, the sequence of each token.
        positions: (k,) int64, its place there.
        shape: number of sequences, and of tokens of each.
    """
    result = values.new_zeros(*shape, *values.shape[1:])
    result[rows, positions] = values
    return result
