"""The base class of models that read a prompt: opening, saving and recognising them.

A saved model is a folder: a causal language model and its tokenizer as transformers saves them, the weights
that the subclass adds, and a settings file. The settings file holds the fingerprint of the whole model; the
folder's manifest holds the digests of its files. Opening compares the digests of all files of up to 64 MiB.
Larger weights are only compared by :meth:`PromptedModel.verified_fingerprint`, which reads every weight.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from notellm.artifacts.manifest import check_whole
from notellm.artifacts.write import write_folder
from notellm.backbone.fingerprint import digest_of
from notellm.backbone.layers import cut_layers
from notellm.backbone.load import (
    LoraOptions,
    add_lora,
    load_backbone,
    merged_state,
    save_backbone,
    to_accelerator,
)
from notellm.backbone.source import is_file, read_object
from notellm.errors import ConfigError, ModelError
from notellm.files import json_text
from notellm.options import unknown_names

#: Opening a saved model compares the digests of files up to this size.
DIGESTED_BYTES = 64 * 2**20


class Template(Protocol):
    """The wording of a prompt."""

    def to_dict(self) -> dict[str, Any]:
        """Return the wording as a JSON object."""
        ...


class Prompt(Protocol):
    """What a :class:`PromptedModel` expects of its prompt."""

    @property
    def template(self) -> Template:
        """The wording; its ``repr`` is a part of the fingerprint."""
        ...


class PromptedModel(nn.Module):
    """A causal language model with its tokenizer, its settings and its prompt.

    A subclass sets the class attributes below, implements :meth:`config_from_options`, and has a constructor
    with the parameters ``(backbone, tokenizer, config, *, template=None)`` that builds ``self.prompt``. If it
    has weights beside the backbone, it also overrides :meth:`extra_weights`, :meth:`extra_settings`,
    :meth:`write_extra` and :meth:`load_extra`.

    Args:
        backbone: the causal language model.
        tokenizer: its hardened tokenizer.
        config: the settings, a dataclass with the fields ``template`` and ``max_length``.

    Attributes:
        settings_file: name of the settings file, by which a folder is recognised as a saved model of this
            class.
        kind: what a saved model is called in the folder's manifest (see ``artifacts.write_folder``).
        config_type: the dataclass of the settings.
        new_tokens: special tokens that are added to every tokenizer.
        saved_fingerprint: the fingerprint in the settings file. None for a new model, and for a saved one
            that was opened with other options or in a narrower dtype.
        saved_at: path of the settings file that the model was opened with; None for a new model.
    """

    settings_file: ClassVar[str]
    kind: ClassVar[str]
    config_type: ClassVar[type]
    new_tokens: ClassVar[tuple[str, ...]] = ()

    settings: Any
    prompt: Prompt

    def __init__(self, backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.settings = config
        self.saved_fingerprint: str | None = None
        self.saved_at: Path | None = None

    @property
    def config(self) -> PretrainedConfig:
        """The backbone's configuration, which transformers' Trainer reads."""
        return self.backbone.config

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.backbone.device

    # ---------------------------------------------------------------- opening

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> Any:
        """Build the settings from a dict of options and check them; a subclass implements this."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        lora: LoraOptions | None = None,
        layers: int | None = None,
        dtype: torch.dtype | str = torch.float32,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """Open a saved model, or start a new one on any causal language model.

        The model is put on the accelerator if there is one. Use :meth:`from_saved` where a new model, whose
        added weights are untrained, must not be returned.

        Args:
            name_or_path: a folder that :meth:`save_pretrained` wrote, or a causal language model: a name on
                the hub, a folder, or a GGUF file.
            lora: train low-rank adapters only; None trains every weight.
            layers: keep the first layers of a new model's backbone, that many, and drop the rest; None keeps
                all.
            dtype: dtype of the backbone. Weights that a subclass adds are always float32.
            trust_remote_code: allow the backbone to be Python code that comes with it; that code then runs.
            options: fields of the settings that replace the saved ones (or the defaults).

        Raises:
            ModelError: if there is no usable model, its files do not belong together, or it needs code that
                is not allowed to run.
            MissingDependencyError: if it is a GGUF file and the package gguf is not installed.
            ConfigError: if an option is unknown or has a value that is not allowed.
        """
        path = Path(name_or_path)
        if layers is not None and cls.is_saved(path):
            raise ConfigError(
                f"layers is {layers}, but {path} is a saved {cls.__name__}, whose other weights fit all of "
                "its layers; give a causal language model, or leave layers out"
            )
        saved = cls.read_settings(path) if cls.is_saved(path) else {}
        if not saved:
            cls.check_new(path)
        settings_file = path / cls.settings_file if saved and not options else None
        with _errors_naming(settings_file):
            config = cls.config_from_options(saved.get("config", {}) | options)
        backbone, tokenizer = load_backbone(
            name_or_path,
            *cls.new_tokens,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            saved=bool(saved),
        )
        if layers is not None:
            cut_layers(backbone, layers)
        config = replace(config, max_length=_length_within(backbone, config.max_length))
        template = None if "template" in options else saved.get("template")
        build: Callable[..., Self] = cls
        with _errors_naming(settings_file):
            model = build(backbone, tokenizer, config, template=template)
        if saved:
            model.load_extra(path, saved)
        if settings_file is not None:
            model.opened_with(settings_file, saved)
        if lora is not None:
            add_lora(backbone, lora)
        return to_accelerator(model)

    @classmethod
    def from_saved(
        cls, path: str | Path, *, dtype: torch.dtype | str = torch.float32, trust_remote_code: bool = False
    ) -> Self:
        """Open a model that :meth:`save_pretrained` wrote, and nothing else.

        Callers that store what the model computes use this, so that they never store results of untrained
        weights.

        Args:
            path: the folder; it is never looked up as a name on the hub.
            dtype: dtype of the backbone.
            trust_remote_code: see :meth:`from_pretrained`.

        Raises:
            ModelError: if the folder holds no complete model of this class.
        """
        cls.check_saved(path)
        return cls.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)

    @classmethod
    def check_saved(cls, path: str | Path) -> None:
        """Refuse a folder that does not hold a saved model of this class, with a ModelError."""
        if not cls.is_saved(path):
            raise ModelError(
                f"{path} is not a saved {cls.__name__}: there is no {cls.settings_file}; give a folder that "
                "a training or save_pretrained wrote, and copy all of its files"
            )

    @classmethod
    def is_saved(cls, path: str | Path) -> bool:
        """Return whether a folder holds a saved model of this class, not only a causal language model."""
        return is_file(Path(path) / cls.settings_file)

    @classmethod
    def read_settings(cls, folder: Path) -> dict[str, Any]:
        """Read the settings file of a saved model and compare the folder's files with its manifest.

        Raises:
            ModelError: as :func:`read_saved`.
        """
        return read_saved(folder / cls.settings_file, cls.config_type, cls.__name__)

    @classmethod
    def check_new(cls, folder: Path) -> None:
        """Refuse a folder without settings file that is not a causal language model; allows all here."""

    def load_extra(self, folder: Path, saved: Mapping[str, Any]) -> None:
        """Load what :meth:`write_extra` and :meth:`extra_settings` saved; loads nothing here.

        Args:
            folder: the saved model.
            saved: the content of its settings file.
        """

    def opened_with(self, path: Path, saved: Mapping[str, Any]) -> None:
        """Remember the fingerprint in a settings file if the weights in memory equal those on disk.

        Args:
            path: the settings file.
            saved: its content.
        """
        self.saved_at = path
        saved_dtype, dtype = getattr(torch, str(saved.get("dtype")), None), self.backbone.dtype
        if not isinstance(saved_dtype, torch.dtype):
            return
        # float32 and float64 hold every value of a dtype that is no wider.
        holds_all = dtype in (torch.float32, torch.float64) and saved_dtype.itemsize <= dtype.itemsize
        if saved_dtype == dtype or holds_all:
            self.saved_fingerprint = saved.get("fingerprint")

    # ---------------------------------------------------------------- saving

    def save_pretrained(
        self, folder: str | Path, *, extra: Mapping[str, str | bytes] | None = None, force: bool = False
    ) -> None:
        """Save the model as one folder, completely or not at all; LoRA adapters are merged into the weights.

        Args:
            folder: the folder; a saved model of this class is replaced, anything else is refused.
            extra: texts or bytes of further files by name, such as the model card and the record.
            force: replace any folder, see ``artifacts.write_folder``.

        Raises:
            StorageError: if the folder cannot be written.
        """
        with write_folder(folder, self.kind, force=force) as aside:
            self.write(aside, extra=extra)

    def write(self, folder: Path, *, extra: Mapping[str, str | bytes] | None = None) -> None:
        """Write the model's files into an empty folder.

        Args:
            folder: the folder.
            extra: texts or bytes of further files by name.
        """
        dtype = save_backbone(self.backbone, folder)
        self.tokenizer.save_pretrained(folder)
        self.write_extra(folder)
        saved: dict[str, Any] = {"config": asdict(self.settings), "template": self.prompt.template.to_dict()}
        saved |= self.extra_settings()
        saved |= {"fingerprint": self.fingerprint(), "dtype": str(dtype).removeprefix("torch.")}
        for name, content in {self.settings_file: json_text(saved), **(extra or {})}.items():
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def write_extra(self, folder: Path) -> None:
        """Write the weights that the subclass adds to the backbone; writes nothing here."""

    def extra_settings(self) -> dict[str, Any]:
        """Return further entries of the settings file; none here."""
        return {}

    def extra_weights(self) -> dict[str, Tensor]:
        """Return the weights that the subclass adds to the backbone, by name; none here."""
        return {}

    # ---------------------------------------------------------------- recognising

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that decides what the model computes, as 16 hexadecimal digits.

        It covers settings, wording, tokenizer, configuration and weights. A saved model has the same one when
        it is opened.
        """
        return digest_of(
            (self.settings, self.prompt.template),
            self.backbone.config,
            self.tokenizer,
            merged_state(self.backbone) | self.extra_weights(),
        )

    def verified_fingerprint(self) -> str:
        """Return the fingerprint of a model that was just opened, once it equals the saved one.

        Raises:
            ModelError: if they differ, because the folder holds files of two models or a damaged file.
        """
        fingerprint = self.fingerprint()
        if self.saved_fingerprint not in (None, fingerprint):
            raise ModelError(
                f"{self.saved_at} belongs to the model {self.saved_fingerprint}, but the files beside it "
                f"make the model {fingerprint}; copy the whole folder again, or save the model again"
            )
        return fingerprint

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Compute activations twice instead of keeping them; the Trainer calls this on request."""
        self.backbone.activation_checkpointing_enable(**options)


def _length_within(backbone: PreTrainedModel, wanted: int) -> int:
    """Return the wanted length of a prompt in tokens, or the backbone's limit where that is smaller.

    Raises:
        ModelError: if the limit in the backbone's configuration is not a positive whole number.
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


def read_saved(path: Path, config: type, model: str) -> dict[str, Any]:
    """Read a settings file and compare the files beside it with the folder's manifest.

    Args:
        path: the file: a JSON object with "config" (fields of the settings), "template", "fingerprint" and
            "dtype" (a dtype that holds the saved weights exactly).
        config: the dataclass of the settings.
        model: name of the model class, for messages.

    Raises:
        ModelError: if it is something else or was written by a newer version, or if a file is missing or is
            not the one that was saved.
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
        if type(value) is not type(default) or (is_list and not all(isinstance(e, str) for e in value)):
            allowed = "a list of texts" if is_list else {int: "a whole number", str: "a text"}[type(default)]
            raise ModelError(
                f"{path} is not a {model} configuration: {field.name} is {value!r} and must be {allowed}; "
                "save the model again"
            )
    for name in ("fingerprint", "dtype"):
        if not isinstance(saved.get(name), str | None):
            raise ModelError(f"{name} is {saved[name]!r} in {path}; it must be a text. Save the model again")
    check_whole(path.parent, besides=[path.name], most=DIGESTED_BYTES)
    return saved


@contextmanager
def _errors_naming(path: Path | None) -> Iterator[None]:
    """Name the settings file in errors about settings; None where a caller gave the settings.

    Raises:
        ModelError: instead of a ConfigError.
    """
    try:
        yield
    except ConfigError as error:
        if path is None:
            raise
        raise ModelError(f"{path}: {error}; save the model again") from error
