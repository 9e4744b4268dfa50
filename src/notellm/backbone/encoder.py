"""Pretrained models that turn a text into one vector: sentence encoders and causal language models.

A folder of sentence-transformers lists its steps in ``modules.json``: an encoder of transformers, pooling
over its last hidden states, and normalization. It is read without that package. Other steps are refused,
weights are only read from safetensors, no code of the folder runs, and no file outside it is opened. Of a
causal language model, too, the last hidden states are pooled.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from notellm.backbone.batch import length_batches
from notellm.backbone.fingerprint import digest_of
from notellm.backbone.layers import cut_layers
from notellm.backbone.load import load_backbone, to_accelerator
from notellm.backbone.source import asks_for_code, check_folder, first_line, is_file, read_object
from notellm.errors import DataError, ModelError, NotellmError
from notellm.files import read_json
from notellm.progress import progress_bar

_MODULES = "modules.json"
_PACKAGE = "sentence_transformers."
#: Longest text in tokens, even where a model reads longer ones, which take long.
_LENGTH = 256
#: The names of a kind of pooling in the files of sentence-transformers, before and since version 6.
_POOLING = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}


class TextEncoder:
    """A pretrained model with a pooling over its last hidden states.

    Args:
        model: the model without a head, in evaluation mode.
        tokenizer: its fast tokenizer.
        pooling: "mean", "cls" (the first token), "lasttoken", or "tail_mean", the mean of all tokens but the
            first one, on which causal language models rest attention that they do not need.
        length: longest text in tokens; the rest of a longer one is not read.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, pooling: str, length: int
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.pooling, self.length = pooling, length

    @staticmethod
    def is_sentence_encoder(path: str | Path) -> bool:
        """Return whether a path is a folder of sentence-transformers."""
        return is_file(Path(path) / _MODULES)

    @classmethod
    def from_language_model(
        cls,
        name_or_path: str | Path,
        *,
        layers: int | None = None,
        pooling: str = "tail_mean",
        trust_remote_code: bool = False,
    ) -> "TextEncoder":
        """Open a causal language model: a name on the hub, a folder, or a GGUF file.

        Args:
            name_or_path: the model.
            layers: keep its first layers, that many, and drop the rest; None keeps all.
            pooling: as of the class.
            trust_remote_code: allow the model to be Python code that comes with it; that code then runs.

        Raises:
            ModelError: as :func:`notellm.backbone.load.load_backbone`.
            ConfigError: if the model has fewer layers.
            MissingDependencyError: if it is a GGUF file and the package gguf is not installed.
        """
        model, tokenizer = load_backbone(name_or_path, trust_remote_code=trust_remote_code)
        if layers is not None:
            cut_layers(model, layers)
        base = cast("PreTrainedModel", to_accelerator(model.base_model.eval()))
        return cls(base, tokenizer, pooling=pooling, length=_length(None, base, tokenizer))

    @classmethod
    def from_sentence_encoder(cls, folder: str | Path) -> "TextEncoder":
        """Open a folder of sentence-transformers.

        Raises:
            ModelError: if a file is missing or damaged, or a step of the model is not supported.
        """
        folder = Path(folder)
        steps = _steps(folder)
        encoder = steps["Transformer"]
        check_folder(encoder)
        try:
            # False, not None: None asks on standard input whether code may run.
            source = {"trust_remote_code": False, "local_files_only": True}
            tokenizer = AutoTokenizer.from_pretrained(str(encoder), split_special_tokens=True, **source)
            model, loading = AutoModel.from_pretrained(
                str(encoder), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **source
            )
        except Exception as error:  # a damaged model fails in many ways, in transformers and in its layers
            if asks_for_code(encoder, "config.json") or asks_for_code(encoder, "tokenizer_config.json"):
                raise ModelError(
                    f"{folder} asks to run Python code of its own (auto_map), which is not allowed for a "
                    "sentence encoder; choose another one"
                ) from error
            raise ModelError(f"no sentence encoder at {folder}: {first_line(error)}") from error
        missing = sorted(name for name in map(str, loading["missing_keys"]) if not _is_pooler(name))
        if missing:
            raise ModelError(f"the weights of {encoder} lack {missing[0]}; copy or download them again")
        if tokenizer.pad_token_id is None:
            raise ModelError(f"the tokenizer of {folder} has no padding token; set one and save it again")
        return cls(
            cast("PreTrainedModel", to_accelerator(model.eval())),
            tokenizer,
            pooling=_pooling(steps["Pooling"]),
            length=_length(encoder, model, tokenizer),
        )

    def fingerprint(self) -> str:
        """Return a hash of everything that the vectors depend on."""
        weights = {name: weight for name, weight in self.model.named_parameters() if not _is_pooler(name)}
        return digest_of((self.pooling, self.length), self.model.config, self.tokenizer, weights)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return the pooled states of texts, (n, hidden) float32."""
        found = self.tokenizer(list(texts), truncation=True, max_length=self.length)["input_ids"]
        # An empty text has no token at all in some language models.
        ids = [row or [self.tokenizer.pad_token_id] for row in found]
        width = self.model.config.get_text_config().hidden_size
        vectors = np.empty((len(texts), width), dtype=np.float32)
        with progress_bar(total=len(ids), desc="embed", unit="note", disable=not progress) as bar:
            for rows, batch in length_batches(ids, self.tokenizer, self.model.device):
                mask = batch["attention_mask"]
                states = self.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
                vectors[rows] = self._pooled(states, mask).float().cpu().numpy()
                bar.update(len(rows))
        return vectors

    def _pooled(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return one state for each text, (n, hidden), of the states of its tokens."""
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "lasttoken":
            return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
        weight = mask[:, :, None].to(states.dtype)
        if self.pooling == "tail_mean":
            weight[:, 0] = weight[:, 0] * (mask.sum(dim=1) == 1)[:, None]
        return (states * weight).sum(dim=1) / weight.sum(dim=1)


def _is_pooler(name: str) -> bool:
    """Return whether a weight belongs to the pooler of BERT and its relatives, which nothing here reads."""
    return "pooler" in name


def _steps(folder: Path) -> dict[str, Path]:
    """Return the folders of the encoder and of its pooling by the names of their steps.

    Raises:
        ModelError: if ``modules.json`` is damaged, or names other steps.
    """
    file = folder / _MODULES
    try:
        listed = read_json(file)
        types = [str(step["type"]) for step in listed]
        paths = [str(step["path"]) for step in listed]
    except (NotellmError, DataError, KeyError, TypeError) as error:
        raise ModelError(f"{file} does not list the steps of a sentence encoder; copy it again") from error
    kinds = [each.rpartition(".")[2] if each.startswith(_PACKAGE) else each for each in types]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{folder} computes its vectors by {', '.join(kinds) or 'no step'}; only Transformer, Pooling "
            "and Normalize, in this order, are read here: choose another sentence encoder"
        )
    for path in paths:
        if path != Path(path).name or path == "..":
            raise ModelError(f"{file} names the folder {path!r}; only folders inside {folder} are opened")
    return {kind: folder / path for kind, path in zip(kinds, paths, strict=True)}


def _pooling(folder: Path) -> str:
    """Return the kind of pooling that a folder's ``config.json`` names.

    Raises:
        ModelError: if it is not exactly one of those that are read here.
    """
    settings = read_object(folder / "config.json")
    named = settings.get("pooling_mode")
    flags = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    chosen = [_POOLING.get(name, name) for name in flags] if named is None else [str(named)]
    if len(chosen) != 1 or chosen[0] not in _POOLING.values():
        raise ModelError(
            f"{folder / 'config.json'} pools by {' and '.join(chosen) or 'nothing'}; only one of "
            f"{', '.join(_POOLING.values())} is read here: choose another sentence encoder"
        )
    return chosen[0]


def _length(folder: Path | None, model: Any, tokenizer: Any) -> int:
    """Return the longest text in tokens: what a folder of sentence-transformers and the model allow."""
    file = None if folder is None else folder / "sentence_bert_config.json"
    asked = read_object(file).get("max_seq_length") if file is not None and is_file(file) else None
    limits = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length, asked]
    return min([_LENGTH, *(limit for limit in limits if isinstance(limit, int) and limit > 0)])
