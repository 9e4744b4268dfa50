"""The kinds of collaborative models, and opening one that was saved."""

from inspect import signature
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors import SafetensorError
from safetensors.torch import load_file

from notellm.artifacts.manifest import check_whole
from notellm.errors import DataError, ModelError
from notellm.files import read_json, read_parquet
from notellm.rank.collaborative.base import CONFIG, ITEMS, USERS, WEIGHTS, CollaborativeModel
from notellm.rank.collaborative.lightgcn import LightGCN
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.sasrec import SASRec

_KINDS = {model.kind: model for model in (MatrixFactorization, LightGCN, SASRec)}


def load_collaborative(folder: str | Path) -> CollaborativeModel:
    """A model that was saved, ready to score.

    Args:
        folder: that :meth:`CollaborativeModel.save` wrote.

    Raises:
        StorageError: there is no ``config.json``.
        DataError: a file of ids or of options cannot be read.
        ModelError: the folder holds another kind of model, its weights do not fit, or a file is missing or is
            not the one that was saved.
    """
    source = Path(folder)
    description = read_json(source / CONFIG)
    kind = description.get("kind") if isinstance(description, dict) else description
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ModelError(
            f"{source / CONFIG} is of a model of kind {str(kind)[:40]!r}: it must be one of "
            f"{', '.join(_KINDS)}"
        )
    check_whole(source, besides=[CONFIG])
    options = description.get("config")
    if problem := _problem(_KINDS[kind], options):
        raise ModelError(f"{source} is not a whole {kind} model: {problem}; save it again")
    users, items = _read_ids(source / USERS, "user_id"), _read_ids(source / ITEMS, "note_id")
    try:
        model = _KINDS[kind](users, items, **options)
        model.load(load_file(source / WEIGHTS))
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{source} is not a whole {kind} model: {reason}; save it again") from error
    model.eval()
    return model


def _problem(kind: type[CollaborativeModel], options: Any) -> str | None:
    """What of the saved options is not what a kind of model takes."""
    if not isinstance(options, dict):
        return f"the config in {CONFIG} is {str(options)[:40]!r}"
    defaults = {name: each.default for name, each in signature(kind).parameters.items()}
    for name, value in options.items():
        usual = defaults.get(name)
        numbers = (int, float) if isinstance(usual, float) else (type(usual),)
        if name not in defaults or type(value) not in numbers:
            return f"{name} in {CONFIG} is {str(value)[:40]!r}"
    return None


def _read_ids(path: Path, column: str) -> pa.ChunkedArray:
    ids = read_parquet(path, [column])[column]
    if ids.type != pa.string():
        raise DataError(f"{path}: the column {column} is {ids.type} and must be string; save the model again")
    return ids
