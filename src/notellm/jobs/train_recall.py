"""Train a NoteLLM as a job: notes, related pairs and options in, a model directory with its record out.

The run's working folder is described in ``jobs/runs.py``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from notellm.backbone.load import LoraOptions
from notellm.jobs.card import model_card
from notellm.jobs.runs import Run, train_or_resume, training_options
from notellm.options import filled, values_of
from notellm.recall.config import TINY, LossOptions, NoteLLMConfig, RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.tiny import TinyOptions
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation, validation_metrics


def train_recall(
    notes: pa.Table,
    pairs: pa.Table | None,
    output: str | Path,
    *,
    clicks: pa.Table | None = None,
    validation: Validation | None = None,
    options: RecallOptions | None = None,
    resume: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> NoteLLM:
    """Train a model and write its directory with record and card.

    Args:
        notes: notes to train on.
        pairs: related pairs among the notes; None trains category and topics only.
        output: the model directory; an earlier model is replaced when the run is complete.
        clicks: clicks on the notes, from which the tiny backbone is initialised as well; pretrained backbones
            do not need them.
        validation: held-out notes by which the best checkpoint is chosen; None keeps the last checkpoint.
        options: options of the run.
        resume: continue a run that was cut off.
        force: as in ``artifacts.write_folder``.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show a progress bar with rate and remaining time.

    Returns:
        The trained model.

    Raises:
        ConfigError: if an option is not allowed, there is an unfinished run and ``resume`` is false, or that
            run was started with other options or data.
        DataError: if the tables do not fit together.
        ModelError: if the backbone cannot be loaded.
        StorageError: if something cannot be written, or ``output`` may not be replaced.
    """
    chosen = (options or RecallOptions()).resolved(pairs=pairs is not None)
    run = Run(output, "model", force=force)
    held_out = None if validation is None else {"notes": validation.notes, "pairs": validation.pairs}
    run.describe(chosen, {"notes": notes, "pairs": pairs, "clicks": clicks, "validation": held_out})
    run.check_unfinished(resume=resume)

    model = build_recall_model(chosen, notes, clicks, trust_remote_code=trust_remote_code)
    steps = _updates(chosen, notes, pairs)
    arguments = _arguments(run.folder, chosen, steps, measured=validation is not None, progress=progress)
    trainer = NoteLLMTrainer(model, arguments, notes=notes, pairs=pairs, validation=validation)
    run.start()
    # Measured also when the run is resumed, since the trainer loads the checkpoint only later.
    before = {} if validation is None else validation_metrics(model, validation)
    train_or_resume(trainer)

    metrics = {"steps": steps, "untrained": before, "history": _history(trainer.state.log_history)}
    if validation is not None:
        metrics["validation"] = validation_metrics(model, validation)
    # The fingerprint is taken before adapters are merged by saving, which changes the weights.
    run.save(model.save_pretrained, model_card, metrics=metrics, fingerprint=model.fingerprint())
    return model


def build_recall_model(
    options: RecallOptions,
    notes: pa.Table,
    clicks: pa.Table | None = None,
    *,
    trust_remote_code: bool = False,
) -> NoteLLM:
    """Build the untrained model of a run: a tiny one initialised from the notes, or a pretrained backbone.

    Args:
        options: options of the run.
        notes: notes to train on.
        clicks: clicks on the notes; a pretrained backbone does not need them.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.

    Raises:
        ConfigError: if an option is not allowed.
        ModelError: if the backbone cannot be loaded.
        DataError: if there are no notes, or they have no text.
    """
    chosen = options.resolved()
    typical_topics, categories = _labels(notes)
    config = values_of(chosen, NoteLLMConfig) | {"typical_topics": typical_topics, "categories": categories}
    if chosen.backbone == TINY:
        return NoteLLM.from_corpus(notes, clicks=clicks, tiny=TinyOptions(), seed=chosen.seed, **config)
    torch.manual_seed(chosen.seed)  # for the projection, the embedding of [EMB] and the adapters
    return NoteLLM.from_pretrained(
        chosen.backbone,
        lora=LoraOptions() if chosen.lora else None,
        trust_remote_code=trust_remote_code,
        # Small steps would not move trained weights in bfloat16; autocast computes in it anyway.
        dtype="bfloat16" if chosen.bf16 and chosen.lora else "float32",
        **config,
    )


def _labels(notes: pa.Table) -> tuple[int, list[str]]:
    """Return the median number of topics, of the notes that have topics, and the categories."""
    counts = sorted(len(topics) for topics in notes.column("topics").to_pylist() if topics)
    typical_topics = counts[len(counts) // 2] if counts else 3
    return typical_topics, sorted({name for name in notes.column("category").to_pylist() if name})


def _updates(options: RecallOptions, notes: pa.Table, pairs: pa.Table | None) -> int:
    """Return the number of training steps."""
    if options.max_steps is not None:
        return options.max_steps
    items: int = notes.num_rows if pairs is None else pairs.num_rows
    return max(1, round(filled(options.epochs) * items / filled(options.batch_pairs)))


def _arguments(
    folder: Path, options: RecallOptions, steps: int, *, measured: bool, progress: bool
) -> NoteLLMTrainingArguments:
    """Return the trainer's arguments."""
    return NoteLLMTrainingArguments(
        **training_options(
            folder, steps=steps, evaluations=options.evaluations, measured=measured, progress=progress
        ),
        **values_of(options, LossOptions),
        per_device_train_batch_size=filled(options.batch_pairs),
        learning_rate=filled(options.learning_rate),
        bf16=options.bf16,
        seed=options.seed,
        metric_for_best_model="mean",
    )


def _history(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the validation measurements of a training log."""
    return [entry for entry in log if any(name.startswith("eval_") for name in entry)]
