"""The files of a saved NoteLLM: one folder that common libraries open, without pickles.

    config.json  model.safetensors  tokenizer.json ...          AutoModelForCausalLM opens the folder
    modules.json  1_Pooling/  2_Dense/  3_Normalize/ ...        SentenceTransformer opens the folder
    notellm.json      settings, template, tau, lexical share, what it has learnt to write, fingerprint, dtype
    manifest.json     size and digest of each file
    start.safetensors where the projection started, of a trained model (``start.py``)

All libraries compute the same vectors: last-token pooling of a prompt, the dense layer (the projection), and
normalization; an end token behind each prompt is added by the saved tokenizer. LoRA adapters are merged.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from notellm.backbone.source import is_file
from notellm.backbone.tokenizer import keep_ends
from notellm.errors import ConfigError, ModelError
from notellm.files import json_text
from notellm.lexical.hybrid import DEFAULT_SHARE, check_share
from notellm.recall.prompt import EMB_TOKEN

CONFIG = "notellm.json"
_DENSE = "2_Dense"


def check_complete(path: Path) -> None:
    """Refuse a folder without settings file whose other files are those of a saved NoteLLM.

    Opening it as a plain backbone would silently replace its projection by a random one.

    Raises:
        ModelError: if the folder has a projection and its tokenizer the token [EMB].
    """
    tokenizer = path / "tokenizer.json"
    if not is_file(path / _DENSE / "model.safetensors") or not is_file(tokenizer):
        return
    if json.dumps(EMB_TOKEN).encode() in tokenizer.read_bytes():
        raise ModelError(
            f"{path} lacks {CONFIG}, but its other files are those of a saved NoteLLM; copy the whole "
            "folder again"
        )


def is_tau(value: Any) -> bool:
    """Return whether a value of ``notellm.json`` is a finite number, as the temperature must be."""
    return isinstance(value, float) and math.isfinite(value)


def read_share(saved: Mapping[str, Any]) -> float:
    """Return the lexical share of a settings file; the default if it has none.

    Raises:
        ModelError: if it is not a number from 0 to 1.
    """
    share = saved.get("lexical_share", DEFAULT_SHARE)
    try:
        check_share(float(share))
    except (ConfigError, TypeError, ValueError) as error:
        raise ModelError(
            f"lexical_share is {share!r}; it must be a number from 0 to 1. Save the model again"
        ) from error
    return float(share)


def load_projection(path: Path, projection: nn.Linear) -> None:
    """Load the saved weights of the projection.

    Raises:
        ModelError: if they are missing, or of another shape.
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


def write_projection(folder: Path, projection: nn.Linear, max_length: int, *, ends: bool = False) -> None:
    """Write the projection, and the files with which SentenceTransformer(path) computes the same vectors.

    Args:
        folder: the folder of the model, with its tokenizer.
        projection: the linear layer from hidden states to vectors.
        max_length: the longest sequence in tokens.
        ends: whether the tokenizer ends every prompt in its end token (``backbone.tokenizer.end_texts``).
    """
    if ends:
        keep_ends(folder)
    root = "sentence_transformers.models"  # versions 2 to 6 all know this path
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
