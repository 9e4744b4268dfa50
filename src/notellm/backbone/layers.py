"""Keep the first transformer layers of a model and drop the rest.

What follows the layers, the final norm and the head, stays. So the last hidden state of the cut model is the
normed output of layer N of the whole one. The configuration says N layers, also where it has an entry for
each layer (``layer_types``), so that a saved model is a plain one of its architecture.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from notellm.backbone.load import evaluation_mode
from notellm.errors import ConfigError, ModelError


def cut_layers(model: PreTrainedModel, count: int) -> None:
    """Keep the first ``count`` layers of a model, in place.

    Raises:
        ConfigError: if the model has fewer layers, or count is not positive.
        ModelError: if the architecture cannot be cut: its layers are not in one list, or the layers that stay
            would compute something else, or the configuration does not describe them.
    """
    config: Any = model.config.get_text_config()
    total = config.num_hidden_layers
    if not 1 <= count <= total:
        raise ConfigError(f"layers is {count}, but the backbone has {total} layers; give 1 to {total}")
    if count == total:
        return
    layers = transformer_layers(model)
    if layers is None:
        raise _not_cut(model, "its layers are not in one list")
    before = _output_of(model, layers[count - 1])
    del layers[count:]
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == total and not name.endswith("_token_id"):
            setattr(config, name, value[:count])
    config.num_hidden_layers = count
    try:
        same = torch.allclose(before, _output_of(model, layers[-1]), rtol=1e-3, atol=1e-3)
        with torch.device("meta"):
            described = type(model)(model.config).state_dict()
    except Exception as error:  # a configuration that does not fit fails in many ways
        raise _not_cut(model, str(error).strip().split("\n", 1)[0]) from error
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}
    if not same or shapes != {name: weight.shape for name, weight in described.items()}:
        raise _not_cut(model, "what its layers compute depends on those that follow")


def transformer_layers(model: PreTrainedModel) -> nn.ModuleList | None:
    """Return the list of a model's transformer layers; None if there is none of the configured length."""
    total = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == total:
            return module
    return None


def _output_of(model: PreTrainedModel, layer: nn.Module) -> Tensor:
    """Return what a layer gives for a few tokens."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        found.append(output if isinstance(output, Tensor) else output[0])

    hook = layer.register_forward_hook(keep)
    ids = torch.tensor([[1, 2, 3, 1]], device=model.device)
    try:
        with evaluation_mode(model), torch.no_grad():
            model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        hook.remove()
    return found[0].float()


def _not_cut(model: PreTrainedModel, reason: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__} cannot be cut to its first layers: {reason}; leave layers out, or choose "
        "another backbone"
    )
