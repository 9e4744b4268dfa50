"""What NoteLLM and BinLLM have in common: a backbone that reads a prompt, and settings saved beside it.

A saved model is a folder of many files that belong together: they are compared with the folder's manifest
when the model is opened. Its settings file (``notellm.json``, ``binllm.json``) holds the fingerprint of the
whole model. Weights of more than 64 MiB are not read twice to open a model; whoever computes the fingerprint
anyway, as the service does, compares it with :meth:`PromptedModel.verified_fingerprint`.
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

from notellm.artifacts.manifest import check_whole
from notellm.backbone.source import is_file, read_object
from notellm.backbone.tokenizer import tokenizer_state
from notellm.errors import ConfigError, ModelError

#: Larger files of a saved model are not compared when it is opened: one of this size takes 0.1 to 0.4 s.
DIGESTED_BYTES = 64 * 2**20
#: Fields of a backbone's configuration that say nothing about what it computes.
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
        settings_file: the name of the file that makes a folder a saved model of this class.
        saved_fingerprint: the fingerprint written down when the model was saved, where it was opened just as
            it was saved; None for a new model, one opened with other options or in a narrower type, or one
            that was saved before fingerprints were written down.
        saved_at: the settings file that it was opened with, None for a new model.
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
        """The backbone's configuration, which transformers' Trainer looks at."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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
        """A saved model, or a fresh one on any causal language model."""

    @classmethod
    def from_saved(
        cls, path: str | Path, *, dtype: torch.dtype | str = torch.float32, trust_remote_code: bool = False
    ) -> Self:
        """A model that ``save_pretrained`` wrote, and nothing else: for whoever keeps what it computes.

        Args:
            path: the directory; a name on the hub is not looked up.
            dtype: of the backbone.
            trust_remote_code: as for :meth:`from_pretrained`.

        Raises:
            ModelError: the directory holds no whole model of this class.
        """
        if not is_file(Path(path) / cls.settings_file):
            raise ModelError(
                f"{path} is not a saved {cls.__name__}: there is no {cls.settings_file}; give a folder that "
                "save_pretrained, notellm train or notellm rank train wrote, and copy all of it"
            )
        return cls.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides what the model computes, 16 hexadecimal digits."""

    def verified_fingerprint(self) -> str:
        """The fingerprint of a model that was just opened, compared with what was written down at saving.

        Raises:
            ModelError: they differ: the folder holds files of two models, or a damaged file.
        """
        found = self.fingerprint()
        if self.saved_fingerprint not in (None, found):
            raise ModelError(
                f"{self.saved_at} belongs to the model {self.saved_fingerprint}, but the files beside it "
                f"make the model {found}; copy the whole folder again, or save the model again"
            )
        return found

    def opened_with(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Remember what a settings file says, where the weights in memory are exactly those on disk.

        Args:
            path: the settings file.
            saved: its content.
        """
        self.saved_at = path
        written, own = getattr(torch, str(saved.get("dtype")), None), self.backbone.dtype
        if not isinstance(written, torch.dtype):
            return
        # Whatever is no wider is held exactly by float32 and float64.
        wider = own in (torch.float32, torch.float64) and written.itemsize <= own.itemsize
        if written == own or wider:
            self.saved_fingerprint = saved.get("fingerprint")

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute activations twice rather than keep them; the Trainer calls this when asked to."""
        self.backbone.activation_checkpointing_enable(**options)


def digest_of(
    settings: object,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    weights: Mapping[str, Tensor],
) -> str:
    """SHA-256 of settings, a backbone's configuration, a tokenizer and weights, 16 hexadecimal digits.

    It does not depend on where the weights are or in which type they are kept, nor on the version of
    transformers, as far as that adds fields to a configuration.
    """
    digest = hashlib.sha256(repr(settings).encode())
    digest.update(json.dumps(_decisive(config), sort_keys=True, default=str).encode())
    digest.update(tokenizer_state(tokenizer).encode())
    for name, weight in weights.items():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _decisive(config: PretrainedConfig) -> Any:
    """What of a configuration decides what the model computes: fields that are not as its kind has them."""
    try:
        usual = type(config)().to_diff_dict()
    except Exception:  # noqa: BLE001 - a kind that has no defaults, or remote code
        usual = {}
    own = config.to_diff_dict()
    return {"model_type": own.get("model_type"), "fields": _differing(own, usual)}


def _differing(own: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    result = {}
    for name, value in own.items():
        if name in _VOLATILE or (name in usual and usual[name] == value):
            continue
        default = usual.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            result[name] = _differing(value, default)
        else:
            result[name] = value
    return result


def longest(backbone: PreTrainedModel, wanted: int) -> int:
    """The wanted length of a prompt in tokens, or the longest that the backbone reads.

    Raises:
        ModelError: the backbone's configuration does not say how long that is.
    """
    limit = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return wanted
    if not isinstance(limit, int) or limit < 1:
        raise ModelError(
            f"max_position_embeddings is {limit!r} in the backbone's config.json; it must be a whole number "
            "above 0"
        )
    return min(wanted, limit)


def check_known(options: Mapping[str, Any], config: type, model: str) -> None:
    """Refuse options that are no fields of a configuration.

    Raises:
        ConfigError: one is not.
    """
    if unknown := _unknown(options, config):
        names = ", ".join(field.name for field in fields(config))
        raise ConfigError(f"unknown option {unknown[0]!r}; {model} knows {names}")


def read_saved(path: Path, config: type, model: str) -> dict[str, Any]:
    """A model's settings file, once the files beside it have been compared with the folder's manifest.

    Args:
        path: the file, an object with "config" (fields of the model's configuration), "template", and what
            :func:`written_down` gave.
        config: the dataclass of its configuration.
        model: its name, for messages.

    Raises:
        ModelError: it is something else or was written by a newer version, or a file is missing or is not the
            one that was saved.
    """
    saved = read_object(path)
    if not all(isinstance(saved.get(name), dict) for name in ("config", "template")):
        raise ModelError(f"{path} is not a {model} configuration; save the model again")
    if unknown := _unknown(saved["config"], config):
        raise ModelError(f"{path} has the unknown field {unknown[0]!r}; it needs a newer notellm")
    for field in fields(config):
        usual: Any = field.default if field.default_factory is MISSING else field.default_factory()
        value = saved["config"].get(field.name, usual)
        listed = isinstance(usual, list)
        if type(value) is not type(usual) or (listed and not all(isinstance(each, str) for each in value)):
            wanted = "a list of texts" if listed else {int: "a whole number", str: "a text"}[type(usual)]
            raise ModelError(
                f"{path} is not a {model} configuration: {field.name} is {value!r} and must be {wanted}; "
                "save the model again"
            )
    for name in ("fingerprint", "dtype"):
        if not isinstance(saved.get(name), str | None):
            raise ModelError(f"{name} is {saved[name]!r} in {path}, which is no text; save the model again")
    check_whole(path.parent, besides=[path.name], most=DIGESTED_BYTES)
    return saved


@contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """Say in errors about settings which file they come from; None where a caller gave them.

    Raises:
        ModelError: in the place of a ConfigError.
    """
    try:
        yield
    except ConfigError as error:
        if path is None:
            raise
        raise ModelError(f"{path}: {error}; save the model again") from error


def written_down(fingerprint: str, dtype: torch.dtype) -> dict[str, Any]:
    """What the settings file says of the whole model.

    Args:
        fingerprint: of the model.
        dtype: that holds the saved weights exactly.
    """
    return {"fingerprint": fingerprint, "dtype": str(dtype).removeprefix("torch.")}


def _unknown(options: Mapping[str, Any], config: type) -> list[str]:
    return sorted(set(options) - {field.name for field in fields(config)})
