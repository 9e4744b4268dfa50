"""Training a NoteLLM as a job: a resolved configuration in, a model directory with its record out.

The run's working folder ``OUTPUT.run`` beside the model holds checkpoints and TensorBoard logs, and what
the run was started with; a killed run is resumed from there and ends with the weights an uninterrupted
one ends with. When the model is written the checkpoints go, the logs stay.
"""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import PrinterCallback

from notellm.artifacts import check_replaceable
from notellm.backbone.load import LoraOptions
from notellm.backbone.trainer import last_checkpoint
from notellm.files import json_text, write_json
from notellm.jobs.card import model_card
from notellm.jobs.runs import STARTED, check_resumable, check_run_folder, discard_unfinished
from notellm.options import filled, values_of
from notellm.recall.config import TINY, LossOptions, NoteLLMConfig, RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.tiny import TinyOptions
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation, validation_metrics
from notellm.record import RECORD, describe, make_record


def build_model(
    options: RecallOptions,
    notes: pa.Table,
    clicks: pa.Table | None = None,
    *,
    trust_remote_code: bool = False,
) -> NoteLLM:
    """The untrained model of a run: the tiny one from the notes, or a pretrained backbone.

    Args:
        options: the run's options.
        notes: notes to train on.
        clicks: the clicks on these notes; a pretrained backbone does not need them.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.

    Raises:
        ModelError: the backbone cannot be loaded.
        DataError: there are no notes, or no text in them.
    """
    chosen = options.resolved()
    topics, categories = _labels(notes)
    known = values_of(chosen, NoteLLMConfig) | {"typical_topics": topics, "categories": categories}
    if chosen.backbone == TINY:
        return NoteLLM.from_corpus(notes, clicks=clicks, tiny=TinyOptions(), seed=chosen.seed, **known)
    torch.manual_seed(chosen.seed)  # of the projection, the row of [EMB] and the adapters
    return NoteLLM.from_pretrained(
        chosen.backbone,
        lora=LoraOptions() if chosen.lora else None,
        trust_remote_code=trust_remote_code,
        # Tuned weights would not move by small steps in bfloat16; autocast computes in it anyway.
        dtype="bfloat16" if chosen.bf16 and chosen.lora else "float32",
        **known,
    )


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
    """Train a model and write its directory; the record and the model card go with it.

    Args:
        notes: notes to train on.
        pairs: related pairs among them; None trains category and topics alone.
        output: the model directory; a model that is there is replaced when the run is complete.
        clicks: the clicks on these notes, from which the tiny backbone starts, too; pretrained ones do not
            need them.
        validation: notes held out to choose the best checkpoint by; None takes the last.
        options: the run's options.
        resume: go on with the run that was cut off.
        force: as in ``artifacts.write_folder``.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show a progress bar with rate and remaining time.

    Returns:
        The trained model.

    Raises:
        ConfigError: an option is not allowed, there is an unfinished run and ``resume`` is false, or it
            was started with other options or data.
        DataError: the tables do not fit together.
        ModelError: the backbone cannot be loaded.
        StorageError: something cannot be written, or what is at ``output`` may not be replaced.
    """
    chosen = (options or RecallOptions()).resolved(pairs=pairs is not None)
    check_replaceable(output, "model", force=force)
    target = Path(output)
    run = target.with_name(f"{target.name}.run")
    check_run_folder(run)
    started = {
        "config": asdict(chosen),
        "data": {
            "notes": describe(notes),
            "pairs": None if pairs is None else describe(pairs),
            "clicks": None if clicks is None else describe(clicks),
            "validation": None
            if validation is None
            else {"notes": describe(validation.notes), "pairs": describe(validation.pairs)},
        },
    }
    checkpoint = _find_unfinished(run, started, resume=resume)
    model = build_model(chosen, notes, clicks, trust_remote_code=trust_remote_code)
    steps = _steps(chosen, notes, pairs)
    every = max(1, steps // chosen.evaluations)
    arguments = NoteLLMTrainingArguments(
        output_dir=str(run),
        max_steps=steps,
        per_device_train_batch_size=filled(chosen.batch_pairs),
        learning_rate=filled(chosen.learning_rate),
        **values_of(chosen, LossOptions),
        bf16=chosen.bf16,
        seed=chosen.seed,
        eval_strategy="no" if validation is None else "steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=validation is not None,
        metric_for_best_model="mean",
        greater_is_better=True,
        disable_tqdm=not progress,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="tensorboard" if find_spec("tensorboard") else "none",
    )
    trainer = NoteLLMTrainer(model, arguments, notes=notes, pairs=pairs, validation=validation)
    trainer.remove_callback(PrinterCallback)  # what a quiet run would print instead of a bar
    write_json(started, run / STARTED, replace=True)
    # Also where the run is resumed: the model holds its first weights until the trainer loads the checkpoint.
    before = {} if validation is None else validation_metrics(model, validation)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    metrics = {"steps": steps, "untrained": before, "history": _history(trainer.state.log_history)}
    if validation is not None:
        metrics["validation"] = validation_metrics(model, validation)
    record = make_record(
        kind="model",
        **started,
        seed=chosen.seed,
        metrics=metrics,
        # Adapters are merged when the model is saved: what is opened again has other weights than this.
        fingerprint=model.fingerprint(),
    )
    card = model_card(target.name, record)
    model.save_pretrained(target, extra={RECORD: json_text(record), "README.md": card}, force=force)
    discard_unfinished(run)
    return model


def _find_unfinished(run: Path, started: dict[str, Any], *, resume: bool) -> Path | None:
    """The checkpoint to resume from; None for a new run."""
    checkpoint = last_checkpoint(run)
    if checkpoint is None:
        return None
    check_resumable(run, checkpoint.name, started, resume=resume)
    return checkpoint


def _steps(options: RecallOptions, notes: pa.Table, pairs: pa.Table | None) -> int:
    if options.max_steps is not None:
        return options.max_steps
    items: int = notes.num_rows if pairs is None else pairs.num_rows
    return max(1, round(filled(options.epochs) * items / filled(options.batch_pairs)))


def _labels(notes: pa.Table) -> tuple[int, list[str]]:
    """The typical number of topics (median of the notes that have some) and the categories."""
    counts = sorted(len(topics) for topics in notes.column("topics").to_pylist() if topics)
    typical = counts[len(counts) // 2] if counts else 3
    return typical, sorted({name for name in notes.column("category").to_pylist() if name})


def _history(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The validation measurements of a run."""
    return [entry for entry in log if any(name.startswith("eval_") for name in entry)]
