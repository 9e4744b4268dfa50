"""A BinLLM on disk: one directory in the ecosystem's format, no pickle.

    config.json  generation_config.json  model.safetensors  tokenizer.json ...   AutoModelForCausalLM opens it
    binllm.json                                                  settings, template, fingerprint of the model
    manifest.json                                                size and digest of each file

Adapters are merged into the weights. A ranker's directory (``scorer.py``) holds the same files, and its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.base import identity_entries, read_saved
from notellm.backbone.load import save_backbone
from notellm.backbone.source import is_file
from notellm.files import json_text
from notellm.rank.config import BinLLMConfig

CONFIG = "binllm.json"


@dataclass(frozen=True)
class Settings:
    """The content of ``binllm.json``.

    Attributes:
        config: fields of :class:`BinLLMConfig`.
        template: the wording of the prompt.
        fingerprint: fingerprint of the whole model; None in files of older versions.
        written: the whole content as it is in the file.
    """

    config: dict[str, Any]
    template: dict[str, Any]
    fingerprint: str | None = None
    written: Mapping[str, Any] = field(default_factory=dict)


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a path is the directory of a saved BinLLM, and not of a plain causal language model."""
    return is_file(Path(path) / CONFIG)


def write_checkpoint(
    folder: Path,
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    extra: Mapping[str, str],
) -> None:
    """Write a model's files into an empty folder, which the caller makes whole (``artifacts.write_folder``).

    Args:
        folder: the empty folder.
        backbone: the causal language model.
        tokenizer: its tokenizer.
        settings: content of the settings file; ``written`` is not used.
        extra: further text files by name.
    """
    dtype = save_backbone(backbone, folder)
    tokenizer.save_pretrained(folder)
    content = {"config": settings.config, "template": settings.template}
    content |= identity_entries(str(settings.fingerprint), dtype)
    for name, text in {CONFIG: json_text(content), **extra}.items():
        (folder / name).write_text(text, encoding="utf-8")


def read_settings(path: Path) -> Settings:
    """Read ``binllm.json``, after the other files have been compared with the manifest.

    Raises:
        ModelError: if it is not what :func:`write_checkpoint` writes, or another file is missing or damaged.
    """
    saved = read_saved(path / CONFIG, BinLLMConfig, "BinLLM")
    return Settings(saved["config"], saved["template"], saved.get("fingerprint"), saved)
