"""What NoteLLM and BinLLM have in common: a backbone that reads a prompt, and settings saved beside it."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from notellm.errors import ConfigError, DataError, ModelError
from notellm.files import read_json


class PromptedModel(nn.Module):
    """A causal language model and its tokenizer.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer.
    """

    def __init__(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration, which transformers' Trainer looks at."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.device

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute activations twice rather than keep them; the Trainer calls this when asked to."""
        self.backbone.activation_checkpointing_enable(**options)


def digest_of(settings: object, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of settings and weights, 16 hexadecimal digits."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, weight in weights.items():
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def longest(backbone: PreTrainedModel, wanted: int) -> int:
    """The wanted length of a prompt in tokens, or the longest that the backbone reads."""
    limit = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    return wanted if limit is None else min(wanted, limit)


def check_known(options: Mapping[str, Any], config: type, model: str) -> None:
    """Refuse options that are no fields of a configuration.

    Raises:
        ConfigError: one is not.
    """
    if unknown := _unknown(options, config):
        names = ", ".join(field.name for field in fields(config))
        raise ConfigError(f"unknown option {unknown[0]!r}; {model} knows {names}")


def read_saved(path: Path, config: type, model: str) -> dict[str, Any]:
    """A model's settings file: an object with "config", fields of its configuration, and "template".

    Args:
        path: the file.
        config: the dataclass of its configuration.
        model: its name, for messages.

    Raises:
        ModelError: it is something else, or was written by a newer version.
    """
    try:
        saved = read_json(path)
    except DataError as error:
        raise ModelError(f"{error}; save the model again") from error
    if not (isinstance(saved, dict) and all(isinstance(saved.get(n), dict) for n in ("config", "template"))):
        raise ModelError(f"{path} is not a {model} configuration; save the model again")
    if unknown := _unknown(saved["config"], config):
        raise ModelError(f"{path} has the unknown field {unknown[0]!r}; it needs a newer notellm")
    return saved


def _unknown(options: Mapping[str, Any], config: type) -> list[str]:
    return sorted(set(options) - {field.name for field in fields(config)})
