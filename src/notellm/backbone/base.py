"""The base class of models that read a prompt with a backbone, and the settings file saved beside them.

A saved model is a folder of files that belong together. Opening it compares them with the folder's
manifest, except for files of more than 64 MiB, which would have to be read twice. The settings file
(``settings_file`` of the class) holds the fingerprint of the whole model; a caller that computes the
fingerprint anyway, as the service does, compares the two with :meth:`PromptedModel.verified_fingerprint`.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from notellm.artifacts import check_whole
from notellm.backbone.source import is_file, read_object
from notellm.backbone.tokenizer import tokenizer_state
from notellm.errors import ConfigError, ModelError
from notellm.options import unknown_names

#: Files of a saved model that are larger than this are not compared with the manifest at opening: hashing
#: them would make opening slow.
DIGESTED_BYTES = 64 * 2**20
#: Fields of a backbone's configuration that do not affect what it computes.
_VOLATILE = {
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


class PromptedModel(nn.Module, ABC):
    """A causal language model and its tokenizer.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer.

    Attributes:
        settings_file: the name of the settings file, which marks a folder as a saved model of this class.
        saved_fingerprint: the fingerprint that was stored when the model was saved. None for a new model, a
            model opened with other options or in a narrower dtype, or a settings file without a fingerprint.
        saved_at: the settings file that the model was opened with; None for a new model.
    """

    settings_file: ClassVar[str]

    def __init__(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.saved_fingerprint: str | None = None
        self.saved_at: Path | None = None

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration, which transformers' ``Trainer`` reads."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.backbone.device

    @classmethod
    @abstractmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        dtype: torch.dtype | str = torch.float32,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """Open a saved model, or make a new one from any causal language model."""

    @classmethod
    def from_saved(
        cls, path: str | Path, *, dtype: torch.dtype | str = torch.float32, trust_remote_code: bool = False
    ) -> Self:
        """Open a model that ``save_pretrained`` wrote; refuse anything else.

        Use this where results are stored and must come from the same model every time.

        Args:
            path: the model's folder; names on the hub are not looked up.
            dtype: dtype of the backbone.
            trust_remote_code: as for :meth:`from_pretrained`.

        Raises:
            ModelError: if the folder does not hold a complete model of this class.
        """
        if not is_file(Path(path) / cls.settings_file):
            raise ModelError(
                f"{path} is not a saved {cls.__name__}: there is no {cls.settings_file} in it; give a folder "
                "that save_pretrained, notellm train or notellm rank train wrote, with all of its files"
            )
        return cls.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 of everything that determines what the model computes, in 16 hex digits."""

    def verified_fingerprint(self) -> str:
        """Return the fingerprint of a newly opened model after comparing it with the saved one.

        Raises:
            ModelError: if they differ, because a file is damaged or the folder mixes the files of two models.
        """
        fingerprint = self.fingerprint()
        if self.saved_fingerprint not in (None, fingerprint):
            raise ModelError(
                f"{self.saved_at} belongs to the model {self.saved_fingerprint}, but the files beside it "
                f"make the model {fingerprint}; copy the whole folder again, or save the model again"
            )
        return fingerprint

    def opened_with(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Store the saved fingerprint if the weights in memory equal those on disk exactly.

        Args:
            path: the settings file.
            saved: its content.
        """
        self.saved_at = path
        saved_dtype, dtype = getattr(torch, str(saved.get("dtype")), None), self.backbone.dtype
        if not isinstance(saved_dtype, torch.dtype):
            return
        # float32 and float64 hold the values of every narrower dtype exactly.
        wider = dtype in (torch.float32, torch.float64) and saved_dtype.itemsize <= dtype.itemsize
        if saved_dtype == dtype or wider:
            self.saved_fingerprint = saved.get("fingerprint")

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass instead of storing them; ``Trainer`` calls this."""
        self.backbone.activation_checkpointing_enable(**options)


def digest_of(
    settings: object,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Tensor],
) -> str:
    """Return a SHA-256 of settings, configuration, tokenizer and weights, as 16 hexadecimal digits.

    The digest depends neither on the device nor on the dtype of the weights as long as their values are
    equal, nor on fields with default values that another version of transformers adds to the configuration.
    """
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(json.dumps(_decisive(config), sort_keys=True, default=str).encode())
    digest.update(tokenizer_state(tokenizer).encode())
    for name, weight in weights.items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _decisive(config: PretrainedConfig) -> Any:
    """Return the part of a configuration that affects what the model computes: all non-default fields."""
    try:
        defaults = type(config)().to_diff_dict()
    except Exception:  # noqa: BLE001 - an architecture without defaults, or remote code
        defaults = {}
    values = config.to_diff_dict()
    return {"model_type": values.get("model_type"), "fields": _differing(values, defaults)}


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that differ from the defaults, at any depth, without the volatile fields."""
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


def longest_prompt(backbone: PreTrainedModel, max_length: int) -> int:
    """Return ``max_length``, or the longest prompt in tokens that the backbone can read if that is less.

    Raises:
        ModelError: if max_position_embeddings of the backbone's configuration is not a positive integer.
    """
    limit = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return max_length
    if not isinstance(limit, int) or limit < 1:
        raise ModelError(
            f"max_position_embeddings is {limit!r} in the backbone's config.json; correct it to a whole "
            "number above 0"
        )
    return min(max_length, limit)


def read_saved(path: Path, config: type, model: str) -> dict[str, Any]:
    """Read a model's settings file and compare the files beside it with the folder's manifest.

    Args:
        path: the settings file, a JSON object with "config" (fields of the model's configuration),
            "template", and the entries of :func:`identity_entries`.
        config: the dataclass of the model's configuration.
        model: the model's name, for error messages.

    Raises:
        ModelError: if the file is not a settings file or was written by a newer version, or if a file of the
            folder is missing or has changed since it was saved.
    """
    saved = read_object(path)
    if not all(isinstance(saved.get(name), dict) for name in ("config", "template")):
        raise ModelError(f"{path} is not a {model} configuration; save the model again")
    if unknown := unknown_names(saved["config"], config):
        raise ModelError(f"{path} has the unknown field {unknown[0]!r}; it needs a newer notellm")
    for field in fields(config):
        default: Any = field.default if field.default_factory is MISSING else field.default_factory()
        value = saved["config"].get(field.name, default)
        is_list = isinstance(default, list)
        if type(value) is not type(default) or (is_list and not all(isinstance(each, str) for each in value)):
            allowed = "a list of texts" if is_list else {int: "a whole number", str: "a text"}[type(default)]
            raise ModelError(
                f"{path} is not a {model} configuration: {field.name} is {value!r} and must be {allowed}; "
                "save the model again"
            )
    for name in ("fingerprint", "dtype"):
        if not isinstance(saved.get(name), str | None):
            raise ModelError(f"{name} is {saved[name]!r} in {path} and must be a text; save the model again")
    check_whole(path.parent, besides=[path.name], most=DIGESTED_BYTES)
    return saved


@contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """Add the path of the settings file to configuration errors raised inside the block.

    Args:
        path: the file that the settings come from; None if a caller gave them, which changes no error.

    Raises:
        ModelError: instead of a ConfigError that is raised in the block, if ``path`` is not None.
    """
    try:
        yield
    except ConfigError as error:
        if path is None:
            raise
        raise ModelError(f"{path}: {error}; save the model again") from error


def identity_entries(fingerprint: str, dtype: torch.dtype) -> dict[str, Any]:
    """Return the entries of the settings file that identify the whole model.

    Args:
        fingerprint: the model's fingerprint.
        dtype: a dtype that holds all saved weights exactly.
    """
    return {"fingerprint": fingerprint, "dtype": str(dtype).removeprefix("torch.")}
