"""Many sequences with one beginning: its keys and values are computed once, and no sequence holds a copy.

For n continuations of L tokens after P shared ones, attention is

    softmax([Q K_shared^T, Q K_own^T + causal]) [V_shared; V_own]

where Q K_shared^T is one matrix product of all n x L queries. A cache that is repeated for every sequence
gives the same, but spends most of its time copying keys and values when the continuations are short.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

_NAME = "notellm_shared_beginning"


@dataclass(frozen=True)
class Beginning:
    """What many sequences begin with.

    Attributes:
        length: its tokens, P.
        keys: by layer, (key heads, P, head).
        values: likewise.
    """

    length: int
    keys: list[Tensor]
    values: list[Tensor]


_current: ContextVar[Beginning] = ContextVar("beginning")


def can_share(model: PreTrainedModel) -> bool:
    """Whether a model's attention is the plain one that is computed here.

    Windows, caps on scores and state-space layers are not: such a model must read whole sequences.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)  # counts for every layer where no kinds are given
    usual = ["full_attention" if window is None else "sliding_attention"]
    kinds = set(getattr(config, "layer_types", None) or usual)
    if kinds != {"full_attention"} or getattr(config, "attn_logit_softcapping", None) is not None:
        return False
    ids = torch.tensor([[1, 2, 3, 4]], device=model.device)
    mask = torch.ones_like(ids)
    training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        whole = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, 2:]
        try:
            parts = states_after(model, read_beginning(model, ids[0, :2].tolist()), ids[:, 2:], mask[:, 2:])
        except (AttributeError, LookupError, TypeError, ValueError):
            return False  # no attention layers of the common form
        finally:
            model.train(training)
    return torch.allclose(whole, parts, rtol=1e-2, atol=1e-2 * float(whole.abs().max()))


def read_beginning(model: PreTrainedModel, ids: list[int]) -> Beginning:
    """Compute the keys and values of a beginning."""
    output = model.base_model(input_ids=torch.tensor([ids], device=model.device), use_cache=True)
    layers = output.past_key_values.layers
    return Beginning(len(ids), [layer.keys[0] for layer in layers], [layer.values[0] for layer in layers])


def states_after(
    model: PreTrainedModel, beginning: Beginning, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Last hidden states, (n, length, hidden), of sequences that go on from a beginning.

    Args:
        model: one that :func:`can_share`.
        beginning: from :func:`read_beginning` of the same model.
        input_ids: (n, length) what follows.
        attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device) + beginning.length
    with _attending_to(model, beginning):
        output = model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions.expand(len(input_ids), -1),
            use_cache=False,
        )
    states: Tensor = output.last_hidden_state
    return states


@contextmanager
def _attending_to(model: PreTrainedModel, beginning: Beginning) -> Iterator[None]:
    """Every attention layer of the model sees the beginning before its own tokens."""
    config = model.config.get_text_config()
    usual = config._attn_implementation  # noqa: SLF001 - where layers look for their attention
    config._attn_implementation = _NAME  # noqa: SLF001
    token = _current.set(beginning)
    try:
        yield
    finally:
        _current.reset(token)
        config._attn_implementation = usual  # noqa: SLF001


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention over the beginning and over the own tokens so far.

    Args:
        module: the layer, which knows its index.
        query: (n, heads, L, head).
        key: (n, key heads, L, head); each serves heads / key heads queries.
        value: as key.
        attention_mask: (n, 1, L, L), added to the scores of the own tokens.
        scaling: of the scores; the root of a head's size when None.
    """
    beginning = _current.get()
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    count, heads, length, head = query.shape
    groups = heads // key.shape[1]
    scale = head**-0.5 if scaling is None else scaling
    query = query.contiguous() * scale
    # All queries that read one key head, side by side: (key heads, n x groups x L, head).
    shape = (count, key.shape[1], groups, length)
    flat = query.view(*shape, head).transpose(0, 1).reshape(key.shape[1], -1, head)
    past = flat @ beginning.keys[layer].transpose(-1, -2)  # (key heads, n x groups x L, P)
    past = past.view(key.shape[1], count, groups, length, -1).transpose(0, 1).flatten(1, 2)
    own = query @ key.repeat_interleave(groups, dim=1).transpose(-1, -2)  # (n, heads, L, L)
    if attention_mask is not None:
        own = own + attention_mask[..., :length]
    weights = torch.cat([past, own], dim=-1).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    past, own = weights[..., : beginning.length], weights[..., beginning.length :]
    flat = past.reshape(*shape, -1).transpose(0, 1).reshape(key.shape[1], -1, beginning.length)
    result = (flat @ beginning.values[layer]).view(key.shape[1], count, groups, length, head)
    result = result.transpose(0, 1).flatten(1, 2)
    result = result + own @ value.repeat_interleave(groups, dim=1)
    return result.transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, eager_mask)
