"""A NoteLLM on disk: one directory in the ecosystem's own format, whole or not at all, no pickle.

    config.json  generation_config.json  model.safetensors  tokenizer.json ...   AutoModelForCausalLM opens it
    modules.json  sentence_bert_config.json  config_sentence_transformers.json
    1_Pooling/  2_Dense/  3_Normalize/                                           SentenceTransformer opens it
    notellm.json                                                                 settings, template, tau

The vectors are the same wherever it is opened: last-token pooling of a prompt, the dense layer (the
projection), normalization. Adapters are merged into the weights.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.base import read_saved
from notellm.backbone.load import save_backbone
from notellm.errors import ModelError
from notellm.files import json_text, write_aside
from notellm.recall.config import NoteLLMConfig

CONFIG = "notellm.json"
_DENSE = "2_Dense"


@dataclass(frozen=True)
class Settings:
    """The content of ``notellm.json``.

    Attributes:
        config: fields of :class:`NoteLLMConfig`, ``dim`` among them.
        template: the wording of the prompt.
        tau: the log inverse temperature.
    """

    config: dict[str, Any]
    template: dict[str, Any]
    tau: float


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is the directory of a saved NoteLLM, and not of a causal language model alone."""
    return (Path(path) / CONFIG).is_file()


def write_checkpoint(
    folder: str | Path,
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    projection: nn.Linear,
    settings: Settings,
    extra: Mapping[str, str],
) -> None:
    """Write a model's directory.

    Args:
        folder: where; an existing directory is replaced.
        backbone: the causal language model.
        tokenizer: its tokenizer.
        projection: the linear layer to the vector.
        settings: the rest.
        extra: further text files, by name.

    Raises:
        StorageError: it cannot be written.
    """
    with write_aside(folder) as aside:
        aside.mkdir()
        save_backbone(backbone, aside)
        tokenizer.save_pretrained(aside)
        _write_sentence_transformers(aside, projection, settings.config["max_length"])
        for name, text in {CONFIG: json_text(asdict(settings)), **extra}.items():
            (aside / name).write_text(text, encoding="utf-8")


def read_settings(path: Path) -> Settings:
    """The content of ``notellm.json``.

    Raises:
        ModelError: it is not what :func:`write_checkpoint` writes.
    """
    saved = read_saved(path / CONFIG, NoteLLMConfig, "NoteLLM")
    if "dim" not in saved["config"] or not isinstance(saved.get("tau"), float):
        raise ModelError(f"{path / CONFIG} is not a NoteLLM configuration; save the model again")
    return Settings(saved["config"], saved["template"], saved["tau"])


def load_projection(path: Path, projection: nn.Linear) -> None:
    """Give a projection the saved weights.

    Raises:
        ModelError: they are not there, or of another shape.
    """
    try:
        weights = load_file(path / _DENSE / "model.safetensors")
        weight, bias = weights["linear.weight"], weights["linear.bias"]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path} lacks its projection ({_DENSE}/model.safetensors): {error}") from error
    if weight.shape != projection.weight.shape or bias.shape != projection.bias.shape:
        raise ModelError(
            f"the projection of {path} is {tuple(weight.shape)}, but {CONFIG} and the backbone ask for "
            f"{tuple(projection.weight.shape)}; the files do not belong together"
        )
    projection.weight.data = weight.float()
    projection.bias.data = bias.float()


def _write_sentence_transformers(folder: Path, projection: nn.Linear, max_length: int) -> None:
    """The files by which SentenceTransformer(path) gives the same vectors."""
    root = "sentence_transformers.models"  # the path that versions 2 to 6 all understand
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{root}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{root}.Pooling"},
        {"idx": 2, "name": "2", "path": _DENSE, "type": f"{root}.Dense"},
        {"idx": 3, "name": "3", "path": "3_Normalize", "type": f"{root}.Normalize"},
    ]
    dense = {
        "in_features": projection.in_features,
        "out_features": projection.out_features,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    pooling = {
        "word_embedding_dimension": projection.in_features,
        "pooling_mode_lasttoken": True,
        "pooling_mode_mean_tokens": False,
        "include_prompt": True,
    }
    texts = {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
        "1_Pooling/config.json": pooling,
        f"{_DENSE}/config.json": dense,
    }
    for sub in ("1_Pooling", _DENSE, "3_Normalize"):
        (folder / sub).mkdir()
    for name, value in texts.items():
        (folder / name).write_text(json_text(value), encoding="utf-8")
    save_file(
        {
            "linear.weight": projection.weight.detach().cpu().contiguous(),
            "linear.bias": projection.bias.detach().cpu().contiguous(),
        },
        folder / _DENSE / "model.safetensors",
    )
