"""A NoteLLM on disk: one directory in the ecosystem's own format, whole or not at all, no pickle.

    config.json  generation_config.json  model.safetensors  tokenizer.json ...   AutoModelForCausalLM opens it
    modules.json  sentence_bert_config.json  config_sentence_transformers.json
    1_Pooling/  2_Dense/  3_Normalize/                                           SentenceTransformer opens it
    notellm.json                                             settings, template, tau, fingerprint of the model
    manifest.json                                            size and digest of each file

The vectors are the same wherever it is opened: last-token pooling of a prompt, the dense layer (the
projection), normalization. Adapters are merged into the weights.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from notellm.artifacts.write import write_folder
from notellm.backbone.base import read_saved, written_down
from notellm.backbone.load import save_backbone
from notellm.backbone.source import is_file
from notellm.errors import ModelError
from notellm.files import json_text
from notellm.recall.config import NoteLLMConfig
from notellm.recall.prompt import EMB_TOKEN

CONFIG = "notellm.json"
_DENSE = "2_Dense"


@dataclass(frozen=True)
class Settings:
    """The content of ``notellm.json``.

    Attributes:
        config: fields of :class:`NoteLLMConfig`, ``dim`` among them.
        template: the wording of the prompt.
        tau: the log inverse temperature.
        fingerprint: of the whole model; None in files of older versions.
        written: the content as it is in the file.
    """

    config: dict[str, Any]
    template: dict[str, Any]
    tau: float
    fingerprint: str | None = None
    written: Mapping[str, Any] = field(default_factory=dict)


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is the directory of a saved NoteLLM, and not of a causal language model alone."""
    return is_file(Path(path) / CONFIG)


def check_complete(path: Path) -> None:
    """Refuse a folder that was copied from a saved NoteLLM, but without its settings.

    Its projection would be replaced by a random one without a word.

    Raises:
        ModelError: it has the projection of a NoteLLM and the token [EMB], but no ``notellm.json``.
    """
    tokenizer = path / "tokenizer.json"
    if is_checkpoint(path) or not is_file(path / _DENSE / "model.safetensors") or not is_file(tokenizer):
        return
    if json.dumps(EMB_TOKEN).encode() in tokenizer.read_bytes():
        raise ModelError(
            f"{path} lacks {CONFIG}, but its other files are those of a saved NoteLLM; copy the whole "
            "folder again"
        )


def write_checkpoint(
    folder: str | Path,
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    projection: nn.Linear,
    settings: Settings,
    extra: Mapping[str, str],
    *,
    force: bool = False,
) -> None:
    """Write a model's directory.

    Args:
        folder: where; a model that is there is replaced.
        backbone: the causal language model.
        tokenizer: its tokenizer.
        projection: the linear layer to the vector.
        settings: the rest.
        extra: further text files, by name.
        force: as in ``artifacts.write_folder``.

    Raises:
        StorageError: it cannot be written.
    """
    with write_folder(folder, "model", force=force) as aside:
        dtype = save_backbone(backbone, aside)
        tokenizer.save_pretrained(aside)
        _write_sentence_transformers(aside, projection, settings.config["max_length"])
        content = {"config": settings.config, "template": settings.template, "tau": settings.tau}
        content |= written_down(str(settings.fingerprint), dtype)
        for name, text in {CONFIG: json_text(content), **extra}.items():
            (aside / name).write_text(text, encoding="utf-8")


def read_settings(path: Path) -> Settings:
    """The content of ``notellm.json``, once the other files have been compared with it.

    Raises:
        ModelError: it is not what :func:`write_checkpoint` writes, or another file is missing or damaged.
    """
    saved = read_saved(path / CONFIG, NoteLLMConfig, "NoteLLM")
    tau = saved.get("tau")
    if "dim" not in saved["config"] or not isinstance(tau, float) or not math.isfinite(tau):
        raise ModelError(f"{path / CONFIG} is not a NoteLLM configuration; save the model again")
    return Settings(saved["config"], saved["template"], tau, saved.get("fingerprint"), saved)


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
