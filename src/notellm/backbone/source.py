"""From a model's name to a folder that is safe to open.

A model folder comes from somebody else. It may name Python code to run (``auto_map``), hold weights that are
pickles (``pytorch_model.bin``), or name files outside of itself. Whatever a model is called by, its files are
first brought into one local folder; that folder is looked through here, and only then are its weights and its
tokenizer opened. A name that looks like a path is never looked up on the Hugging Face Hub.
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

#: What a model's name on the hub looks like: ``name`` or ``owner/name``.
_HUB_NAME = re.compile(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)?")
#: Small files at the top of a repository that describe a model and its tokenizer.
_DESCRIPTIONS = ["*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt"]
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
#: Weights in formats that are not opened. All but the last three are, or may be, pickles.
_OTHER_WEIGHTS = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.bin.index.json",
    "*.h5",
    "*.msgpack",
    "*.gguf",
)
#: transformers opens these before any other weights, and all of them together.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def local_folder(name_or_path: str | Path, *, trust_remote_code: bool = False) -> Path:
    """The folder that holds a model: a local one, or the local copy of a repository of the hub.

    Files of the hub are downloaded where they are not there yet; of the weights only the safetensors.

    Args:
        name_or_path: a folder, or a name on the hub (``owner/name``).
        trust_remote_code: download Python files, too.

    Returns:
        The folder. That of a name on the hub is in the hub's cache, where files are symbolic links.

    Raises:
        ModelError: there is no such folder and it cannot be a name on the hub, or the hub does not give it.
    """
    path = Path(name_or_path)
    try:
        if path.is_dir():
            return path
        is_there = path.exists()
    except (OSError, ValueError) as error:  # no permission, a name that is too long or holds a zero
        raise ModelError(f"cannot open the model folder {path}: {first_line(error)}") from error
    if is_there:
        raise ModelError(f"{path} is a file; give the folder of a model")
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
    except Exception as error:
        raise ModelError(
            f"no causal language model at {name}: {first_line(error)} (give a local model directory, or a "
            "hub name with a network connection)"
        ) from error


def _download(name: str, code: list[str]) -> Path:
    """The local copy of a repository: its descriptions first, then the weights that they name."""
    # A pattern's * matches slashes, too: subfolders (ONNX, other formats) are left out by the second list.
    folder = Path(snapshot_download(name, allow_patterns=[*_DESCRIPTIONS, *code], ignore_patterns=["*/*"]))
    config = folder / "config.json"
    weights = list(_explicit_weights(read_object(config))) if config.is_file() else []
    weights = weights or [_INDEX if (folder / _INDEX).is_file() else _WEIGHTS]
    if weights[0].endswith(".json"):
        weights = _shards(folder / weights[0])
    # The folder is named by the commit, so weights and descriptions are of the same one.
    snapshot_download(name, revision=folder.name, allow_patterns=weights)
    return folder


def check_folder(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Refuse a folder that holds no model, or that asks for more than reading numbers and settings.

    Args:
        folder: from :func:`local_folder`. Nothing but JSON is opened.
        trust_remote_code: allow it to name attention kernels on the hub, which are code.

    Raises:
        ModelError: the folder has no ``config.json`` or no safetensors, a file in it names a file outside of
            it, or it is a LoRA adapter, whose backbone is somewhere else.
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
            f"{folder / 'config.json'} names other configuration files, which are not read; "
            "remove configuration_files from it"
        )
    check_tokenizer_files(folder)
    _check_weights(folder, list(_explicit_weights(config)))


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer whose settings name files elsewhere.

    Raises:
        ModelError: ``tokenizer_config.json`` does so, or is no JSON object.
    """
    path = folder / "tokenizer_config.json"
    if path.is_file():
        for name in _listed(read_object(path).get("fast_tokenizer_files")):
            _check_plain(path, name, ".json")


def is_file(path: Path) -> bool:
    """Whether a file is there; unlike ``Path.is_file`` without errors, whatever its name is."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def asks_for_code(folder: Path, file: str) -> bool:
    """Whether a JSON file of a model folder names Python code to run."""
    try:
        return "auto_map" in read_object(folder / file)
    except ModelError:
        return False


def code_message(folder: Path, file: str) -> str:
    """What to say about a folder that :func:`asks_for_code` and may not have it run."""
    return (
        f"{folder} asks to run Python code of its own (auto_map in {file}), which is not done; choose "
        "another backbone, or read the code and allow it with notellm --trust-remote-code (in Python: "
        "trust_remote_code=True)"
    )


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is something else, or cannot be read.
    """
    try:
        value = read_json(path)
    except (DataError, StorageError) as error:
        raise ModelError(f"{error}; copy or download the model again") from error
    if not isinstance(value, dict):
        found = json.dumps(value)[:40]
        raise ModelError(f"{path} is no JSON object ({found}); copy or download the model again")
    return value


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -------------------------------------------------------------------- weights


def _check_weights(folder: Path, explicit: list[str]) -> None:
    """Make sure that what transformers will open are safetensors of this folder, and that none is missing."""
    if any(_DISTRIBUTED.fullmatch(file.name) for file in folder.iterdir()):
        raise ModelError(
            f"{folder} holds a distributed checkpoint (shard-*.safetensors); load it with transformers and "
            "save it again with save_pretrained"
        )
    usual = [name for name in (_WEIGHTS, _INDEX) if (folder / name).is_file()][:1]
    names = explicit or usual
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
            "AutoTokenizer likewise"
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
    """The files that an index of weights names.

    Raises:
        ModelError: it is no index, or names what is no safetensors file beside it.
    """
    content = read_object(index)
    mapped, metadata = content.get("weight_map"), content.get("metadata", {})
    if not isinstance(mapped, dict) or not mapped or not isinstance(metadata, dict):
        raise ModelError(f"{index} is no index of weights (no weight_map); copy or download the model again")
    names = list(dict.fromkeys(mapped.values())) if all(isinstance(n, str) for n in mapped.values()) else []
    if not names:
        raise ModelError(f"{index} is no index of weights: a file name in weight_map is no text")
    for name in names:
        _check_plain(index, name, ".safetensors")
    return names


def _explicit_weights(config: dict[str, Any]) -> Iterator[str]:
    """Files of weights that a configuration names, in its parts too.

    Raises:
        ModelError: one is no safetensors file of the folder.
    """
    for key, value in _entries(config):
        if key == "transformers_weights" and value is not None:
            _check_plain(Path("config.json"), value, ".safetensors", ".safetensors.index.json")
            yield value


def _check_plain(source: Path, name: Any, *endings: str) -> None:
    """Refuse what is not the name of a file of some kind in the same folder."""
    inside = isinstance(name, str) and name == Path(name).name and "\\" not in name and ":" not in name
    if not inside or not name.endswith(endings):
        raise ModelError(
            f"{source} names the file {name!r}; only files of the model's own folder that end in "
            f"{' or '.join(endings)} are opened"
        )


# -------------------------------------------------------------------- settings


def _check_kernels(folder: Path, config: dict[str, Any]) -> None:
    """Refuse attention that would be fetched as code from the hub (``owner/kernel``)."""
    for key, value in _entries(config):
        if key.strip("_") in {"attn_implementation", "experts_implementation"} and "/" in str(value):
            raise ModelError(
                f"{folder / 'config.json'} asks for code from the hub ({key} is {value!r}); remove the "
                "entry, or allow it with notellm --trust-remote-code (in Python: trust_remote_code=True)"
            )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values of a JSON value, at any depth."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key, part
            yield from _entries(part)
    elif isinstance(value, list):
        for part in value:
            yield from _entries(part)


def _listed(value: Any) -> list[Any]:
    """A list as it is, nothing as an empty one, and anything else as its only element."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
