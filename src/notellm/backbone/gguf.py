"""Backbones in one GGUF file, the format of llama.cpp: metadata and tensors, numbers and texts without code.

transformers rebuilds configuration and tokenizer from the metadata and unpacks quantized tensors, so that the
model is a plain one of the wanted dtype, which is trained, saved (as safetensors) and opened again like any
other. It is given an empty folder beside the file's path: of a folder that holds a GGUF file nothing else is
read, so that no ``auto_map``, adapter or tokenizer beside it has an effect.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.gguf.gguf_conversion_mapping import GGUF_ARCHS
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

from notellm.backbone.source import first_line
from notellm.errors import MissingDependencyError, ModelError

SUFFIX = ".gguf"
#: The end of the name of one part of a file that llama.cpp has split.
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf", re.IGNORECASE)


def gguf_file(name_or_path: str | Path) -> Path | None:
    """Return the GGUF file that a path means; None if it means something else.

    Args:
        name_or_path: a file that ends in .gguf, or a folder that holds exactly one and no safetensors.

    Raises:
        ModelError: if a file that ends in .gguf is not there, or a folder holds several.
    """
    path = Path(name_or_path)
    try:
        names = sorted(each.name for each in path.iterdir()) if path.is_dir() else None
        is_there = path.is_file()
    except (OSError, ValueError):  # no permission, or a name that is no path: `local_folder` says so
        return None
    if names is None:
        if path.suffix.lower() != SUFFIX:
            return None
        if not is_there:
            raise ModelError(f"there is no file {path}; correct the path")
        return path
    found = [name for name in names if name.lower().endswith(SUFFIX)]
    if not found or any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return None
    if len(found) > 1:
        if all(_PART.search(name) for name in found):
            raise ModelError(_split_message(path / found[0]))
        raise ModelError(
            f"{path} holds {len(found)} GGUF files ({', '.join(found)}); give one of them, for instance "
            f"{path / found[0]}"
        )
    return path / found[0]


def gguf_tokenizer(file: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer that a GGUF file describes.

    Raises:
        MissingDependencyError: if the package gguf is not installed.
        ModelError: if the file is damaged, or transformers cannot read it.
    """
    check_gguf(file)
    with _only(file) as source:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            **source, split_special_tokens=True, trust_remote_code=False
        )
    tokenizer.name_or_path = str(file)
    return _without_foreign_tokens(tokenizer)


def gguf_model(
    file: Path, *, dtype: torch.dtype | str, generation_config: GenerationConfig
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Return the model of a GGUF file with unpacked weights, and what transformers says about loading it.

    Args:
        file: the file.
        dtype: dtype of the weights; "auto" takes that of a file without quantized tensors, else float32.
        generation_config: the model's generation settings.

    Raises:
        MissingDependencyError: if the package gguf is not installed.
        ModelError: if the file is damaged, or transformers cannot read it.
    """
    check_gguf(file)
    with _only(file) as source:
        config = AutoConfig.from_pretrained(**source, trust_remote_code=False)
        vars(config).pop("_model_name_or_path", None)  # a name without a meaning for transformers
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            **source,
            config=config,
            dtype=dtype,
            # Packed weights cannot be trained or saved, and would fetch kernels (code) from the hub.
            # Unpacking also takes quantization_config out of the configuration.
            quantization_config=GgufConfig(dequantize=True),
            generation_config=generation_config,
            output_loading_info=True,
            trust_remote_code=False,
        )
    model = cast("PreTrainedModel", loaded[0])
    model.config.name_or_path = model.name_or_path = str(file)
    return model, loaded[1]


def check_gguf(file: Path) -> None:
    """Refuse a GGUF file that cannot be opened for a reason that its header shows.

    Raises:
        MissingDependencyError: if the package gguf is not installed.
        ModelError: if the file is no GGUF file, is shorter than its header says, is a part of several files,
            or would make transformers fetch code.
    """
    try:
        import gguf  # noqa: F401, PLC0415 - an optional package, which transformers imports
    except ImportError as error:
        raise MissingDependencyError("GGUF files need gguf: pip install 'notellm[gguf]'") from error
    try:
        metadata, _ = read_gguf_metadata(str(file))
        count = int(metadata.get("split.count", 1))
        architecture = metadata["general.architecture"]
    except Exception as error:  # a damaged file fails in many ways
        raise ModelError(
            f"{file} is not a whole GGUF file: {first_line(error)}; copy or download it again"
        ) from error
    if _PART.search(file.name) or count > 1:
        raise ModelError(_split_message(file))
    if architecture in GGUF_ARCHS and find_spec("kernels") is not None:
        raise ModelError(
            f"{file} has the architecture {architecture}, for which transformers fetches code from the hub "
            "where the package kernels is installed; uninstall kernels, or give the model as safetensors"
        )
    size, wanted = file.stat().st_size, _length(file)
    if size < wanted:
        raise ModelError(
            f"{file} has {size:,} bytes, but its header describes {wanted:,}; copy or download it again"
        )


def gguf_message(file: Path, error: Exception) -> str:
    """Return the message for a file that transformers cannot open though its header is whole."""
    return (
        f"no causal language model at {file}: {first_line(error)} (give a GGUF file of an architecture that "
        "transformers reads, or the model as safetensors)"
    )


def _without_foreign_tokens(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Remove the tokens that transformers adds to those of the file.

    It builds a byte-level tokenizer as one of GPT-2, whose ``<|endoftext|>`` few vocabularies have; the
    embedding would get a random row for it.
    """
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    size = len(state["model"]["vocab"])
    own = [token for token in state["added_tokens"] if token["id"] < size]
    if len(own) < len(state["added_tokens"]):
        state["added_tokens"] = own
        changed: Any = tokenizer
        changed._tokenizer = Tokenizer.from_str(json.dumps(state))  # noqa: SLF001 - it has no setter
    return tokenizer


def _length(file: Path) -> int:
    """Return how many bytes a file needs for its tensors; 0 if it has types that are not known here."""
    try:
        header = GgufHeader.from_file(str(file))
    except ValueError:
        return 0
    return header.data_start + max((each.offset + each.nbytes for each in header.tensors), default=0)


def _split_message(file: Path) -> str:
    return (
        f"{file} is one of several parts of a model; join them with llama.cpp "
        "(llama-gguf-split --merge FIRST_PART WHOLE.gguf) and give the whole file"
    )


@contextmanager
def _only(file: Path) -> Iterator[dict[str, Any]]:
    """Yield what makes transformers read this file and nothing else."""
    with TemporaryDirectory(prefix="notellm-") as empty:
        # An absolute path, since a relative one is looked for in the working directory first.
        yield {
            "pretrained_model_name_or_path": empty,
            "gguf_file": str(file.absolute()),
            "local_files_only": True,
        }
