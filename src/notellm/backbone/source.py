"""From a model's name to a folder that is safe to open.

A model folder comes from a third party. It may name Python code to run (``auto_map``), contain weights that
are pickles (``pytorch_model.bin``), or name files outside the folder. Therefore the files are first brought
into one local folder, and the folder is checked, before its weights and its tokenizer are opened. A name that
looks like a path is never looked up on the Hugging Face Hub. A GGUF file holds no code and names no other
file; ``backbone/gguf.py`` opens it alone.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from notellm.errors import DataError, ModelError, StorageError
from notellm.files import read_json

#: A name on the hub: ``name`` or ``owner/name``.
_HUB_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")
#: Small files at the top of a repository that describe a model and its tokenizer.
_DESCRIPTIONS = ["*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt"]
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
#: Weights in formats that are never opened. All but the last two can be pickles.
_OTHER_WEIGHTS = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.bin.index.json",
    "*.h5",
    "*.msgpack",
)
#: Files of a distributed checkpoint, which transformers prefers to any other weights.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def local_folder(name_or_path: str | Path, *, trust_remote_code: bool = False) -> Path:
    """Return the folder of a model: a local folder, or the local copy of a repository on the hub.

    Missing files are downloaded from the hub; of the weights only safetensors.

    Args:
        name_or_path: a folder, or a name on the hub (``owner/name``).
        trust_remote_code: also download Python files.

    Returns:
        The folder. For a name on the hub it lies in the hub's cache, where files are symbolic links.

    Raises:
        ModelError: if there is no such folder and the name cannot be one on the hub, or the download fails.
    """
    path = Path(name_or_path)
    try:
        if path.is_dir():
            return path
        exists = path.exists()
    except (
        OSError,
        ValueError,
    ) as error:  # no permission, or a name that is too long or contains a zero byte
        raise ModelError(f"cannot open the model folder {path}: {first_line(error)}") from error
    if exists:
        raise ModelError(f"{path} is a file; give the folder of a model, or a file that ends in .gguf")
    name = str(name_or_path)
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"there is no model folder {name}; correct the path, or give a name on the Hugging Face Hub "
            "(owner/name)"
        )
    try:
        return _download(name, ["*.py"] if trust_remote_code else [])
    except ModelError:
        raise
    except Exception as error:  # the hub, the network and the disk fail in many ways
        raise ModelError(
            f"no causal language model at {name}: {first_line(error)} (give a local model directory, or a "
            "hub name with a network connection)"
        ) from error


def _download(name: str, code: list[str]) -> Path:
    """Download a repository and return its local copy: first the descriptions, then the weights they name."""
    # The * of a pattern also matches slashes; ignore_patterns leaves out subfolders (ONNX, other formats).
    folder = Path(snapshot_download(name, allow_patterns=[*_DESCRIPTIONS, *code], ignore_patterns=["*/*"]))
    config = folder / "config.json"
    weights = list(_explicit_weights(read_object(config))) if config.is_file() else []
    weights = weights or [_INDEX if (folder / _INDEX).is_file() else _WEIGHTS]
    if weights[0].endswith(".json"):
        weights = _shards(folder / weights[0])
    # The folder's name is the commit, so that weights and descriptions come from the same one.
    snapshot_download(name, revision=folder.name, allow_patterns=weights)
    return folder


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Refuse a folder that holds no model, or a model that needs code or files from elsewhere.

    Only JSON files are opened.

    Args:
        folder: a folder from :func:`local_folder`.
        trust_remote_code: allow the model to name attention kernels on the hub, which are code.

    Raises:
        ModelError: if the folder has no ``config.json`` or no safetensors, if a file in it names a file
            outside the folder, or if it is a LoRA adapter without its backbone.
    """
    if not is_file(folder / "config.json"):
        raise ModelError(f"{folder} is not a model directory: it has no config.json")
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            f"{folder} holds a LoRA adapter (adapter_config.json); merge it into its backbone with peft "
            "(merge_and_unload), save the result, and give that folder"
        )
    config = read_object(folder / "config.json")
    if not trust_remote_code:
        _check_kernels(folder, config)
    if "configuration_files" in config:
        raise ModelError(
            f"{folder / 'config.json'} names other configuration files, which notellm does not read; "
            "remove configuration_files from it"
        )
    check_tokenizer_files(folder)
    _check_weights(folder, list(_explicit_weights(config)))


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer whose settings name files outside the folder.

    Raises:
        ModelError: if ``tokenizer_config.json`` names such a file, or is not a JSON object.
    """
    path = folder / "tokenizer_config.json"
    if path.is_file():
        for name in _listed(read_object(path).get("fast_tokenizer_files")):
            _check_plain(path, name, ".json")


def is_file(path: Path) -> bool:
    """Return whether a path is a file; unlike ``Path.is_file`` it raises no error for malformed names."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def asks_for_code(folder: Path, file: str) -> bool:
    """Return whether a JSON file of a model folder names Python code to run."""
    try:
        return "auto_map" in read_object(folder / file)
    except ModelError:
        return False


def code_message(folder: Path, file: str) -> str:
    """Return the error message for a folder that :func:`asks_for_code` without permission."""
    return (
        f"{folder} asks to run Python code of its own (auto_map in {file}), which is not allowed; choose "
        "another backbone, or read the code and allow it with notellm --trust-remote-code (in Python: "
        "trust_remote_code=True)"
    )


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ModelError: if the file holds something else, or cannot be read.
    """
    try:
        value = read_json(path)
    except (DataError, StorageError) as error:
        raise ModelError(f"{error}; copy or download the model again") from error
    if not isinstance(value, dict):
        content = json.dumps(value)[:40]
        raise ModelError(f"{path} is not a JSON object ({content}); copy or download the model again")
    return value


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -------------------------------------------------------------------- weights


def _check_weights(folder: Path, explicit: list[str]) -> None:
    """Check that transformers will open safetensors of this folder only, and that none of them is missing."""
    if any(_DISTRIBUTED.fullmatch(file.name) for file in folder.iterdir()):
        raise ModelError(
            f"{folder} holds a distributed checkpoint (shard-*.safetensors); load it with transformers and "
            "save it again with save_pretrained"
        )
    default = [name for name in (_WEIGHTS, _INDEX) if (folder / name).is_file()][:1]
    names = explicit or default
    if not names:
        others = sorted({file.name for pattern in _OTHER_WEIGHTS for file in folder.glob(pattern)})
        if not others:
            raise ModelError(
                f"no causal language model at {folder}: it has no {_WEIGHTS} (weights in other formats are "
                "not opened)"
            )
        raise ModelError(
            f"{folder} has its weights in {others[0]}, but only safetensors are opened, since reading other "
            "formats can run code. If you trust the file, convert it once with transformers: "
            f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(NEW_FOLDER), and "
            "do the same with AutoTokenizer"
        )
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks its weights {name}; copy or download the model again")
        if name.endswith(".json"):
            missing = [shard for shard in _shards(folder / name) if not (folder / shard).is_file()]
            if missing:
                raise ModelError(
                    f"{folder} lacks {missing[0]}, which {name} names; copy or download the model again"
                )


def _shards(index: Path) -> list[str]:
    """Return the files that an index of weights names.

    Raises:
        ModelError: if it is not an index, or names anything but safetensors files of its folder.
    """
    content = read_object(index)
    mapped, metadata = content.get("weight_map"), content.get("metadata", {})
    if not isinstance(mapped, dict) or not mapped or not isinstance(metadata, dict):
        raise ModelError(
            f"{index} is not an index of weights (no weight_map); copy or download the model again"
        )
    names = list(dict.fromkeys(mapped.values())) if all(isinstance(n, str) for n in mapped.values()) else []
    if not names:
        raise ModelError(f"{index} is not an index of weights: a file name in weight_map is not a text")
    for name in names:
        _check_plain(index, name, ".safetensors")
    return names


def _explicit_weights(config: dict[str, Any]) -> Iterator[str]:
    """Yield the files of weights that a configuration names at any depth.

    Raises:
        ModelError: if one is not a safetensors file of the folder.
    """
    for key, value in _entries(config):
        if key == "transformers_weights" and value is not None:
            _check_plain(Path("config.json"), value, ".safetensors", ".safetensors.index.json")
            yield value


def _check_plain(source: Path, name: Any, *endings: str) -> None:
    """Refuse anything but the name of a file of the same folder with one of the endings."""
    inside = isinstance(name, str) and name == Path(name).name and "\\" not in name and ":" not in name
    if not inside or not name.endswith(endings):
        raise ModelError(
            f"{source} names the file {name!r}; only files of the model's own folder that end in "
            f"{' or '.join(endings)} are opened"
        )


# -------------------------------------------------------------------- settings


def _check_kernels(folder: Path, config: dict[str, Any]) -> None:
    """Refuse attention kernels, which are code from the hub (``owner/kernel``)."""
    for key, value in _entries(config):
        if key.strip("_") in {"attn_implementation", "experts_implementation"} and "/" in str(value):
            raise ModelError(
                f"{folder / 'config.json'} asks for code from the hub ({key} is {value!r}); remove the "
                "entry, or allow it with notellm --trust-remote-code (in Python: trust_remote_code=True)"
            )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys of a JSON value with their values, at any depth."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, part
            yield from _entries(part)
    elif isinstance(value, list):
        for part in value:
            yield from _entries(part)


def _listed(value: Any) -> list[Any]:
    """Return a list unchanged, None as an empty list, and anything else as a list of one element."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
