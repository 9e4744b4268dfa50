"""Read many sequences with a shared beginning, whose keys and values are computed once and never copied.

For n continuations of L tokens after P shared tokens, attention is

    softmax([Q K_shared^T, Q K_rest^T + causal]) [V_shared; V_rest]

It is the mean of the attention to either part, weighted by the sums of their exponentials; that to the shared
part is one attention of all n x L queries. Repeating a cache for every sequence gives the same result, but
copies much. Only the state of each last token is computed in the last layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_NAME = "notellm_shared_beginning"
#: The CPU kernel of scaled_dot_product_attention, which also returns the log of the sum of exponentials.
#: None in versions of torch that lack it.
_FUSED = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


@dataclass(frozen=True)
class Beginning:
    """The keys and values of the tokens that many sequences begin with.

    Attributes:
        length: the number of tokens, P.
        keys: one tensor per layer, (key heads, P, head).
        values: one tensor per layer, (key heads, P, head).
    """

    length: int
    keys: list[Tensor]
    values: list[Tensor]


@dataclass(frozen=True)
class _Reading:
    """Inputs of the attention layers in a forward pass: the beginning, and the index of each last token."""

    beginning: Beginning
    ends: Tensor


_current: ContextVar[_Reading] = ContextVar("reading")


def can_share(model: PreTrainedModel) -> bool:
    """Return whether a model uses full attention only, as it is computed here.

    Models with attention windows, capped scores or state-space layers must read whole sequences.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)  # applies to all layers if layer_types is not set
    default_types = ["full_attention" if window is None else "sliding_attention"]
    layer_types = set(getattr(config, "layer_types", None) or default_types)
    if layer_types != {"full_attention"} or getattr(config, "attn_logit_softcapping", None) is not None:
        return False
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device)
    mask = torch.ones_like(ids)
    training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    try:
        with torch.no_grad():
            output = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            whole = output.last_hidden_state[:, -1]
            parts = end_states(model, read_beginning(model, ids[0, :2].tolist()), ids[:, 2:], mask[:, 2:])
    except (AttributeError, LookupError, TypeError, ValueError):
        return False  # the attention layers have another form
    finally:
        model.train(training)
    return torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * float(whole.abs().max()))


def read_beginning(model: PreTrainedModel, ids: list[int]) -> Beginning:
    """Compute the keys and values of a beginning.

    Raises:
        ValueError: if the model's cache keeps only some of the tokens; it must then read whole sequences.
    """
    output = model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
    layers = output.past_key_values.layers
    if any(layer.keys.shape[2] != len(ids) for layer in layers):
        raise ValueError("this model's cache drops tokens of the beginning; let it read whole sequences")
    return Beginning(len(ids), [layer.keys[0] for layer in layers], [layer.values[0] for layer in layers])


def end_states(
    model: PreTrainedModel, beginning: Beginning, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Return the hidden states of the last tokens of sequences that continue a beginning, (n, hidden).

    Args:
        model: a model for which :func:`can_share` is true.
        beginning: from :func:`read_beginning` with the same model.
        input_ids: (n, length) token ids after the beginning.
        attention_mask: (n, length), 1 for tokens, 0 for padding on the right.
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
    """Let every attention layer of the model attend to the beginning, too, inside the block."""
    config = model.config.get_text_config()
    previous = config._attn_implementation  # noqa: SLF001 - where layers look up their attention
    config._attn_implementation = _NAME  # noqa: SLF001
    token = _current.set(reading)
    hooks = [hook for part in _last_feed_forward(model) for hook in _at_ends(part, reading.ends)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        _current.reset(token)
        config._attn_implementation = previous  # noqa: SLF001


def _last_feed_forward(model: PreTrainedModel) -> list[nn.Module]:
    """Return the feed-forward part of the last layer in a list, which is empty if there is none named mlp."""
    layers = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            part = getattr(module[-1], "mlp", None)
            return [] if part is None else [part]
    return []


def _at_ends(part: nn.Module, ends: Tensor) -> list[RemovableHandle]:
    """Let a module process only the last token of each sequence; its output for the others is 0."""
    rows = torch.arange(len(ends), device=ends.device)
    lengths: list[int] = []

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        lengths.append(inputs[0].shape[1])
        return inputs[0][rows, ends][:, None], *inputs[1:]

    def after(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not isinstance(output, Tensor):
            raise TypeError(f"{type(part).__name__} returns a {type(output).__name__}")
        return _spread(output[:, 0], rows, ends, lengths.pop())

    return [part.register_forward_pre_hook(before), part.register_forward_hook(after)]


def _spread(values: Tensor, rows: Tensor, ends: Tensor, length: int) -> Tensor:
    """Put the values of the last tokens, (n, ...), among zeros, (n, length, ...)."""
    result = values.new_zeros(len(values), length, *values.shape[1:])
    result[rows, ends] = values
    return result


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to the beginning and to the sequence so far; in the last layer only from the last tokens.

    Args:
        module: the attention layer, whose ``layer_idx`` is its index.
        query: (n, heads, L, head).
        key: (n, key heads, L, head); each key head serves heads / key heads query heads.
        value: (n, key heads, L, head).
        attention_mask: (n, 1, L, L), added to the scores of the tokens after the beginning.
        scaling: factor of the scores; 1 / sqrt(head) when None.
    """
    beginning, ends = _current.get().beginning, _current.get().ends
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if layer == len(beginning.keys) - 1 and query.shape[2] > 1:
        rows = torch.arange(len(query), device=query.device)
        mask = None if attention_mask is None else attention_mask[rows, :, ends][:, :, None]
        last = _attend(beginning, layer, query[rows, :, ends][:, :, None], key, value, mask, scaling)
        return _spread(last[:, 0], rows, ends, query.shape[2]), None
    return _attend(beginning, layer, query, key, value, attention_mask, scaling), None


def _attend(
    beginning: Beginning,
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None,
) -> Tensor:
    """Compute what :func:`_attention` returns; there may be fewer queries than keys."""
    count, heads, length, head = query.shape
    groups = heads // key.shape[1]
    scale = head**-0.5 if scaling is None else scaling
    keys, values = (
        part[layer].repeat_interleave(groups, dim=0)[None] for part in (beginning.keys, beginning.values)
    )
    flat = query.transpose(0, 1).reshape(1, heads, -1, head)  # one row of queries: they share keys
    shared, shared_total = _read(flat, keys, values, None, scale)
    shared = shared.view(heads, count, length, head).transpose(0, 1)
    shared_total = shared_total.view(heads, count, length).transpose(0, 1)
    if attention_mask is not None:
        attention_mask = attention_mask[..., : key.shape[2]]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    result, total = _read(query, key, value, attention_mask, scale)
    result = torch.lerp(result, shared, torch.sigmoid(shared_total - total)[..., None].to(result.dtype))
    return result.transpose(1, 2).contiguous()


def _read(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Compute attention and the log-sum-exp of its scores, by which two attentions are combined.

    Args:
        query: (n, heads, L, head).
        key: (n, heads, K, head).
        value: (n, heads, K, head).
        mask: (n, 1, L, K), added to the scores.
        scale: factor of the scores.

    Returns:
        The attention, (n, heads, L, head), and the log-sum-exp, (n, heads, L) float32.
    """
    if query.device.type == "cpu" and _FUSED is not None:  # faster, since the scores are not kept in memory
        fused: tuple[Tensor, Tensor] = _FUSED(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return fused
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if mask is not None:
        scores = scores + mask
    total = scores.logsumexp(dim=-1)
    return (scores - total[..., None]).exp().to(value.dtype) @ value, total


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
