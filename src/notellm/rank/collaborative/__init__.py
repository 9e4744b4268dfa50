"""Collaborative models behind one interface: matrix factorisation, LightGCN, SASRec."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from notellm.errors import ModelError
from notellm.files import read_json, read_parquet
from notellm.rank.collaborative.base import CONFIG, ITEMS, USERS, WEIGHTS, CollaborativeModel
from notellm.rank.collaborative.lightgcn import LightGCN
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.sasrec import SASRec
from notellm.rank.collaborative.train import Training, TrainingOptions, train_collaborative

_KINDS = {model.kind: model for model in (MatrixFactorization, LightGCN, SASRec)}


def load_collaborative(folder: str | Path) -> CollaborativeModel:
    """A model that was saved, ready to score.

    Args:
        folder: that :meth:`CollaborativeModel.save` wrote.

    Raises:
        StorageError: a file is missing.
        DataError: a file of ids or of options cannot be read.
        ModelError: the folder holds another kind of model, or its weights do not fit.
    """
    source = Path(folder)
    description = read_json(source / CONFIG)
    kind = description.get("kind")
    if kind not in _KINDS:
        raise ModelError(f"{source} holds a model of kind {kind!r}: it must be one of {', '.join(_KINDS)}")
    users = read_parquet(source / USERS, ["user_id"])["user_id"]
    items = read_parquet(source / ITEMS, ["note_id"])["note_id"]
    try:
        model = _KINDS[kind](users, items, **description["config"])
        tensors = load_file(source / WEIGHTS)
        for name, _ in list(model.named_buffers()):  # the edges of a graph have no size of their own
            setattr(model, name, tensors[name])
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, RuntimeError, TypeError) as error:
        raise ModelError(f"{source} is not a whole {kind} model: {error}; save it again") from error
    model.eval()
    return model


__all__ = [
    "CollaborativeModel",
    "LightGCN",
    "MatrixFactorization",
    "SASRec",
    "Training",
    "TrainingOptions",
    "load_collaborative",
    "train_collaborative",
]
