"""The fingerprint of a model: a hash of everything that decides what it computes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from notellm.backbone.tokenizer import tokenizer_state

#: Fields of a backbone's configuration that have no effect on what it computes.
_VOLATILE = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def digest_of(
    settings: object,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Tensor],
) -> str:
    """Return the SHA-256 of settings, configuration, tokenizer and weights, as 16 hexadecimal digits.

    It does not depend on the device or dtype of the weights, nor on fields that another version of
    transformers adds to configurations with a default.
    """
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(json.dumps(_decisive_fields(config), sort_keys=True, default=str).encode())
    digest.update(tokenizer_state(tokenizer).encode())
    for name, weight in weights.items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _decisive_fields(config: PretrainedConfig) -> Any:
    """Return the model type and the fields that differ from the defaults of this type."""
    try:
        defaults = type(config)().to_diff_dict()
    except Exception:  # noqa: BLE001 - a type without defaults, or remote code
        defaults = {}
    values = config.to_diff_dict()
    return {"model_type": values.get("model_type"), "fields": _differing(values, defaults)}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for name, value in values.items():
        if name in _VOLATILE or (name in defaults and defaults[name] == value):
            continue
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            result[name] = _differing(value, default)
        else:
            result[name] = value
    return result
