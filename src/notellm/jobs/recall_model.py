"""The model of a training run before it is trained: new, pretrained, or one that training goes on from."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from notellm.backbone.frozen import SplitModel
from notellm.backbone.load import LoraOptions
from notellm.errors import ConfigError, DataError
from notellm.jobs.runs import START_FOLDER, Run
from notellm.options import filled, values_of
from notellm.recall.config import (
    OF_A_NEW_MODEL,
    TINY,
    ModelOptions,
    NoteLLMConfig,
    RecallOptions,
    checked_config,
)
from notellm.recall.model import NoteLLM
from notellm.recall.start import START, load_start, start_projection
from notellm.recall.teacher import FOLDER as TEACHER
from notellm.recall.teacher import teacher_vectors
from notellm.recall.tiny import TinyOptions
from notellm.record import read_record


def build_recall_model(
    options: RecallOptions,
    notes: pa.Table,
    clicks: pa.Table | None = None,
    *,
    run: Run | None = None,
    start: Path | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> NoteLLM:
    """Build the untrained model of a run: a tiny one initialised from the notes, or a pretrained backbone.

    Args:
        options: options of the run.
        notes: notes to train on.
        clicks: clicks on the notes; the projection of a pretrained backbone starts from them, too.
        run: the run, in whose folder a teacher's vectors and the start of a projection are kept until its
            result is written. None keeps nothing.
        start: a file of the start of the projection, which is then not computed.
        progress: show a progress bar while hidden states or a teacher's vectors are computed.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.

    Raises:
        ConfigError: if an option is not allowed.
        ModelError: if the backbone or the teacher cannot be loaded, or ``start`` does not belong to it.
        DataError: if there are no notes, or they have no text.
        StorageError: if the start or a teacher's vectors cannot be kept.
    """
    chosen = options.resolved()
    if chosen.warm_start is not None:
        return _saved_model(chosen.warm_start, chosen, trust_remote_code=trust_remote_code)
    typical_topics, categories = labels_of(notes)
    config = values_of(chosen, NoteLLMConfig) | {"typical_topics": typical_topics, "categories": categories}
    if chosen.backbone == TINY:
        said = None
        if chosen.teacher is not None:
            said = _said_by_teacher(
                chosen, notes, run, trust_remote_code=trust_remote_code, progress=progress
            )
        return NoteLLM.from_corpus(
            notes, clicks=clicks, taught=said, tiny=_tiny_size(chosen), seed=chosen.seed, **config
        )
    if is_saved := NoteLLM.is_saved(chosen.backbone):
        _check_keeps_projection(chosen)
    torch.manual_seed(chosen.seed)  # for the projection, the embedding of [EMB] and the adapters
    model = NoteLLM.from_pretrained(
        chosen.backbone,
        lora=LoraOptions(last_layers=chosen.train_layers) if chosen.lora else None,
        layers=chosen.layers,
        trust_remote_code=trust_remote_code,
        # Small steps would not move trained weights in bfloat16; autocast computes in it anyway.
        dtype="bfloat16" if chosen.bf16 and chosen.lora else "float32",
        **config,
    )
    if chosen.train_layers is not None:
        SplitModel(model.backbone, chosen.train_layers)  # refuses what it cannot split, before long work
    if is_saved:
        return model
    if start is not None:
        load_start(model.projection, start)
        return model
    kept = None if run is None else run.keep()
    file = None if kept is None else kept / START_FOLDER / START
    start_projection(
        model, notes, chosen.projection, clicks=clicks, seed=chosen.seed, file=file, progress=progress
    )
    return model


def _saved_model(path: str, options: RecallOptions, *, trust_remote_code: bool) -> NoteLLM:
    """Open the model that a training goes on from.

    Raises:
        ConfigError: if the options ask for another size than it has.
        ModelError: if it is not a saved NoteLLM.
    """
    settings = saved_config(path)
    for name, value in values_of(options, ModelOptions).items():
        if (had := getattr(settings, name)) != value:
            raise ConfigError(
                f"{name} is {value}, but {path}, from which the training goes on, has {had}; give "
                f"{name} {had}"
            )
    torch.manual_seed(options.seed)  # for the adapters
    return NoteLLM.from_pretrained(
        path,
        lora=LoraOptions(last_layers=options.train_layers) if options.lora else None,
        dtype="bfloat16" if options.bf16 and options.lora else "float32",
        trust_remote_code=trust_remote_code,
    )


def saved_config(path: str | Path) -> NoteLLMConfig:
    """Return what a saved model is besides its weights, which are not loaded.

    Raises:
        ModelError: if it is not a saved NoteLLM, or its files do not belong together.
    """
    NoteLLM.check_saved(path)
    return checked_config(NoteLLM.read_settings(Path(path))["config"])


def _tiny_size(options: RecallOptions) -> TinyOptions:
    """Return the size of the tiny backbone of a run."""
    size = TinyOptions()
    hidden = options.tiny_hidden or size.hidden
    return replace(
        size,
        layers=options.tiny_layers or size.layers,
        hidden=hidden,
        intermediate=size.intermediate * hidden // size.hidden,
    )


def _said_by_teacher(
    options: RecallOptions, notes: pa.Table, run: Run | None, *, trust_remote_code: bool, progress: bool
) -> np.ndarray:
    """Return the teacher's vectors of notes, (n, k) float32; they are kept with the run."""
    kept = None if run is None else run.keep()
    with TemporaryDirectory() if kept is None else nullcontext(kept) as folder:
        return teacher_vectors(
            filled(options.teacher),
            notes,
            Path(folder) / TEACHER,
            layers=options.teacher_layers,
            seed=options.seed,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )


def made_with(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return with which options a model was made anew, however many trainings have gone on from it since.

    Args:
        record: the record of the model.

    Returns:
        The options by name; empty if a record does not say them.
    """
    config, start = record.get("config") or {}, (record.get("data") or {}).get("start")
    if config.get("warm_start") is not None:
        return dict(json.loads((start or {}).get("made_with", "{}")))
    return {name: config[name] for name in (*OF_A_NEW_MODEL, "tau") if name in config}


def build_untrained(
    model: str | Path,
    notes: pa.Table,
    clicks: pa.Table,
    *,
    trust_remote_code: bool = False,
    progress: bool = False,
) -> NoteLLM:
    """Build what a saved model was before its training, as a baseline.

    The start of its projection is read from the model's folder. Models without that file (of an older
    notellm, with the tiny backbone, or with a random projection) are built again from the notes.

    Args:
        model: the directory that :func:`train_recall` wrote.
        notes: the notes that it was trained on.
        clicks: the clicks on these notes; not used if it was trained without clicks.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show a progress bar while hidden states are computed.

    Raises:
        DataError: if the directory has no record, or the model that it was started from has been replaced.
        ModelError: if the backbone cannot be loaded, or does not fit the start.
    """
    record = read_record(model)
    options = RecallOptions(**record["config"])
    if options.warm_start is not None:
        saved = NoteLLM.from_saved(options.warm_start, trust_remote_code=trust_remote_code)
        if saved.fingerprint() != record["data"]["start"]["fingerprint"]:
            raise DataError(
                f"the model that the training of {model} went on from is no longer in {options.warm_start}; "
                "there is nothing to compare it with before its training"
            )
    start = Path(model) / START
    return build_recall_model(
        options,
        notes,
        clicks if record["data"].get("clicks") else None,
        start=start if start.is_file() else None,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )


def _check_keeps_projection(options: RecallOptions) -> None:
    """Refuse to start the projection of a saved model anew.

    Raises:
        ConfigError: if a start is asked for.
    """
    if options.projection is not None:
        raise ConfigError(
            f"projection is {options.projection!r}, but {options.backbone} is a saved NoteLLM, which keeps "
            "its own; leave projection out, or name a causal language model"
        )


def labels_of(notes: pa.Table) -> tuple[int, list[str]]:
    """Return the median number of topics, of the notes that have topics, and the categories."""
    counts = sorted(len(topics) for topics in notes.column("topics").to_pylist() if topics)
    typical_topics = counts[len(counts) // 2] if counts else 3
    return typical_topics, sorted({name for name in notes.column("category").to_pylist() if name})
