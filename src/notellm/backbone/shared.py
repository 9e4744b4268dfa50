"""Compute many sequences with the same beginning, whose keys and values are computed once and never copied.

For n continuations of L tokens after P shared ones, attention is

    softmax([Q K_shared^T, Q K_own^T + causal]) [V_shared; V_own]

This is the mean of the attention to both parts, weighted by their sums of exponentials, and the first part is
one attention of all n x L queries. (Repeating a cache for every sequence would spend most of the time on
copies.) Only the state of each sequence's last token is computed in the last layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from notellm.backbone.load import evaluation_mode
from notellm.backbone.wanted import last_layer_at, spread

_NAME = "notellm_shared_beginning"
#: The implementation of scaled_dot_product_attention on the CPU, which also returns the log of the sums of
#: exponentials; None if this version of torch has no such operator.
_FUSED = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


@dataclass(frozen=True)
class Beginning:
    """The beginning that many sequences share.

    Attributes:
        length: number of its tokens, P.
        keys: the keys of each layer, (key heads, P, head).
        values: the values of each layer, (key heads, P, head).
    """

    length: int
    keys: list[Tensor]
    values: list[Tensor]


@dataclass(frozen=True)
class _Reading:
    """What the attention layers of a forward pass read: the beginning, and the index of each last token."""

    beginning: Beginning
    ends: Tensor


#: None in a thread that reads whole sequences with the same model meanwhile.
_current: ContextVar[_Reading | None] = ContextVar("reading", default=None)
#: By the id of a configuration whose attention is switched: its own one, and how many threads switched it.
_switched: dict[int, tuple[str, int]] = {}
_switching = Lock()


def can_share(model: PreTrainedModel) -> bool:
    """Return whether a model's attention is the plain one that this module computes.

    Models with sliding windows, capped scores or state-space layers must read whole sequences.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)  # it holds for every layer if there are no layer_types
    default = ["full_attention" if window is None else "sliding_attention"]
    layer_types = set(getattr(config, "layer_types", None) or default)
    if layer_types != {"full_attention"} or getattr(config, "attn_logit_softcapping", None) is not None:
        return False
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device)
    mask = torch.ones_like(ids)
    try:
        with evaluation_mode(model), torch.no_grad():
            output = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            whole = output.last_hidden_state[:, -1]
            parts = end_states(model, read_beginning(model, ids[0, :2].tolist()), ids[:, 2:], mask[:, 2:])
    except (AttributeError, LookupError, TypeError, ValueError):
        return False  # its attention layers do not have the common form
    return torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * float(whole.abs().max()))


def read_beginning(model: PreTrainedModel, ids: list[int]) -> Beginning:
    """Compute the keys and values of a beginning.

    Raises:
        ValueError: if the model keeps only some of them.
    """
    output = model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
    layers = output.past_key_values.layers
    if any(layer.keys.shape[2] != len(ids) for layer in layers):
        raise ValueError("this model's cache drops tokens of the beginning; let it read whole sequences")
    return Beginning(len(ids), [layer.keys[0] for layer in layers], [layer.values[0] for layer in layers])


def end_states(
    model: PreTrainedModel, beginning: Beginning, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Return the last hidden states, (n, hidden), of the last tokens of sequences that continue a beginning.

    Args:
        model: a model for which :func:`can_share` is true.
        beginning: the beginning, from :func:`read_beginning` with the same model.
        input_ids: (n, length) int64, the tokens after the beginning.
        attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device) + beginning.length
    ends = attention_mask.sum(dim=1) - 1
    with _attending_to(model, _Reading(beginning, ends)):
        output = model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions.expand(len(input_ids), -1),
            use_cache=False,
        )
    states: Tensor = output.last_hidden_state[torch.arange(len(ends), device=ends.device), ends]
    return states


@contextmanager
def _attending_to(model: PreTrainedModel, reading: _Reading) -> Iterator[None]:
    """Let every attention layer of the model attend to the beginning, too."""
    config = model.config.get_text_config()
    with _switching:
        own, threads = _switched.get(id(config), (config._attn_implementation, 0))  # noqa: SLF001
        _switched[id(config)] = own, threads + 1
        config._attn_implementation = _NAME  # noqa: SLF001 - layers look up their attention by this name
    token = _current.set(reading)
    try:
        rows = torch.arange(len(reading.ends), device=reading.ends.device)
        with last_layer_at(model, rows, reading.ends):
            yield
    finally:
        _current.reset(token)
        with _switching:
            own, threads = _switched[id(config)]
            _switched[id(config)] = own, threads - 1
            if threads == 1:  # the last one
                config._attn_implementation = own  # noqa: SLF001
                del _switched[id(config)]


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attend to the beginning and to the sequence's earlier tokens.

    In the last layer the result is computed for the last token of each sequence, and is 0 for all others. In
    a thread that reads no beginning it is the model's own attention.

    Args:
        module: the attention layer, with its ``layer_idx``.
        query: (n, heads, L, head).
        key: (n, key heads, L, head); each key head serves heads / key heads query heads.
        value: (n, key heads, L, head).
        attention_mask: (n, 1, L, L), added to the scores of the sequence's tokens.
        scaling: factor of the scores; None divides by the square root of the head's size.
        options: what the model's own attention takes beside these.
    """
    reading = _current.get()
    if reading is None:
        attend = _own_attention(module)
        own: tuple[Tensor, Tensor | None] = attend(
            module, query, key, value, attention_mask, scaling=scaling, **options
        )
        return own
    beginning, ends = reading.beginning, reading.ends
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if layer == len(beginning.keys) - 1 and query.shape[2] > 1:
        rows = torch.arange(len(query), device=query.device)
        mask = None if attention_mask is None else attention_mask[rows, :, ends][:, :, None]
        only = _attend(beginning, layer, query[rows, :, ends][:, :, None], key, value, mask, scaling)
        return spread(only[:, 0], rows, ends, (len(query), query.shape[2])), None
    return _attend(beginning, layer, query, key, value, attention_mask, scaling), None


def _own_attention(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """Return the attention that a model has while no thread switches it."""
    config: Any = module.config
    name, _ = _switched.get(id(config), (config._attn_implementation, 0))  # noqa: SLF001
    # "eager" is no function that all architectures share; it computes the same.
    found: Callable[..., tuple[Tensor, Tensor | None]] = ALL_ATTENTION_FUNCTIONS.get(
        name, ALL_ATTENTION_FUNCTIONS["sdpa"]
    )
    return found


def _attend(
    beginning: Beginning,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
) -> Tensor:
    """Compute :func:`_attention` for a layer; there may be fewer queries than keys."""
    count, heads, length, head = query.shape
    groups = heads // key.shape[1]
    scale = head**-0.5 if scaling is None else scaling
    keys, values = (
        part[layer].repeat_interleave(groups, dim=0)[None] for part in (beginning.keys, beginning.values)
    )
    flat = query.transpose(0, 1).reshape(1, heads, -1, head)  # all sequences share these keys
    past, past_total = _read(flat, keys, values, None, scale)
    past = past.view(heads, count, length, head).transpose(0, 1)
    past_total = past_total.view(heads, count, length).transpose(0, 1)
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[2]]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    result, total = _read(query, key, value, attention_mask, scale)
    result = torch.lerp(result, past, torch.sigmoid(past_total - total)[..., None].to(result.dtype))
    return result.transpose(1, 2).contiguous()


def _read(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return attention, and the log of its sum of exponentials, with which two attentions are joined.

    Args:
        query: (n, heads, L, head).
        key: (n, heads, K, head).
        value: (n, heads, K, head).
        mask: (n, 1, L, K), added to the scores.
        scale: factor of the scores.

    Returns:
        The attention, (n, heads, L, head), and the logs, (n, heads, L) float32.
    """
    if query.device.type == "cpu" and _FUSED is not None:  # keeps no scores in memory
        result: tuple[Tensor, Tensor] = _FUSED(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return result
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask
    total = scores.logsumexp(dim=-1)
    return (scores - total[..., None]).exp().to(value.dtype) @ value, total


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
