"""Split a causal language model into frozen lower layers and upper layers, which are computed apart.

``lower`` gives the states that enter the upper layers, ``upper`` the last hidden states from them. Both call
the whole model on the tokens, so that it makes its own positions, masks and types of layers; the layers of
the other part pass on what they are given, and stored states take the place of what would enter the upper
layers. Embeddings are looked up twice, which costs nothing, and their scaling does not matter.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from notellm.backbone.layers import transformer_layers
from notellm.backbone.load import evaluation_mode, hidden_states
from notellm.errors import ConfigError, ModelError


class SplitModel:
    """The two parts of a model, which stays whole and shares its weights.

    Args:
        model: the model, with or without LoRA adapters.
        upper: number of last layers that are trained.

    Attributes:
        frozen: number of layers below them.
        dtype: dtype of the states between the parts.
        width: size of a state.

    Raises:
        ConfigError: if ``upper`` is not positive, or no layer would be frozen.
        ModelError: if the two parts compute something else than the model: its layers are not in one list,
            or they hand on more than one state a token.
    """

    def __init__(self, model: PreTrainedModel, upper: int) -> None:
        layers = transformer_layers(model)
        if layers is None:
            raise _not_split(model, "its layers are not in one list")
        if not 1 <= upper < len(layers):
            raise ConfigError(
                f"train_layers is {upper}, but the backbone has {len(layers)} layers; give 1 to "
                f"{len(layers) - 1}, or leave train_layers out to train all"
            )
        self.model = model
        self.frozen = len(layers) - upper
        self._layers: list[nn.Module] = list(layers)
        self._outputs = 0  # entries of the tuple that a layer returns; 0 where it returns its states alone
        self._reached: set[int] = set()
        try:
            self._check()
        except ModelError:
            raise
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise _not_split(model, reason) from error

    @torch.no_grad()
    def lower(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the states that enter the upper layers, (n, length, hidden).

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
        """
        found: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append(inputs[0] if inputs else named["hidden_states"])

        hook = self._layers[self.frozen].register_forward_pre_hook(keep, with_kwargs=True)
        try:
            with self._passing_on(self._layers[self.frozen :]):
                hidden_states(self.model, input_ids, attention_mask)
        finally:
            hook.remove()
        return found[0]

    def upper(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor) -> Tensor:
        """Return the last hidden states after the final norm, (n, length, hidden).

        Args:
            input_ids: (n, length) int64.
            attention_mask: (n, length), 1 for tokens, 0 for padding (on the right).
            states: (n, length, hidden), from :meth:`lower`, in any dtype; those of padding do not matter.
        """

        def replace(
            _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if inputs:
                return (states.to(inputs[0].dtype), *inputs[1:]), named
            return inputs, {**named, "hidden_states": states.to(named["hidden_states"].dtype)}

        hook = self._layers[self.frozen].register_forward_pre_hook(replace, with_kwargs=True)
        try:
            with self._passing_on(self._layers[: self.frozen]):
                return hidden_states(self.model, input_ids, attention_mask)
        finally:
            hook.remove()

    def freeze(self) -> None:
        """Freeze everything below the upper layers: token embeddings, lower layers and their adapters.

        An output head that is tied to the token embeddings is frozen with them.
        """
        for parameter in self.model.base_model.parameters():
            if id(parameter) not in self._reached:
                parameter.requires_grad_(False)
        self.model.get_input_embeddings().requires_grad_(False)

    @contextmanager
    def _passing_on(self, layers: Sequence[nn.Module]) -> Iterator[None]:
        """Let some layers return the states that they are given."""

        def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
            return (hidden_states, *(None,) * (self._outputs - 1)) if self._outputs else hidden_states

        own = [vars(layer).get("forward") for layer in layers]
        for layer in layers:
            layer.forward = forward
        try:
            yield
        finally:
            for layer, before in zip(layers, own, strict=True):
                if before is None:
                    del layer.forward
                else:
                    layer.forward = before

    def _check(self) -> None:
        """Compare both parts with the model on two sequences; find what the upper layers' states reach.

        Raises:
            ModelError: if they compute something else.
        """
        ids = torch.tensor([[1, 2, 3, 1, 2, 3, 3, 2, 1, 1], [3, 1, 1, 2, 2, 1, 0, 0, 0, 0]])
        ids = ids.to(self.model.device)
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        seen: list[Any] = []
        hook = self._layers[0].register_forward_hook(lambda _, __, output: seen.append(output))
        with evaluation_mode(self.model):
            try:
                with torch.no_grad():
                    whole = hidden_states(self.model, ids, mask)
            finally:
                hook.remove()
            self._outputs = len(seen[0]) if isinstance(seen[0], tuple) else 0
            between = self.lower(ids, mask)
            if between.ndim != 3 or between.shape[:2] != ids.shape:
                raise _not_split(self.model, "its layers hand on more than one state a token")
            self.width, self.dtype = between.shape[-1], between.dtype
            with torch.enable_grad():
                parts = self.upper(ids, mask, between)
                weights = [each for each in self.model.base_model.parameters() if each.requires_grad]
                slopes = (
                    torch.autograd.grad(parts.float().square().sum(), weights, allow_unused=True)
                    if weights
                    else ()
                )
        self._reached = {id(w) for w, slope in zip(weights, slopes, strict=True) if slope is not None}
        wanted, computed = whole[mask.bool()].float(), parts.detach()[mask.bool()].float()
        if not torch.allclose(wanted, computed, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())):
            raise _not_split(self.model, "its upper layers read more than the states of the layer below")


def _not_split(model: PreTrainedModel, reason: str) -> ModelError:
    return ModelError(
        f"the lower layers of {type(model).__name__} cannot be computed apart: {reason}; leave train_layers "
        "out, or choose another backbone"
    )
