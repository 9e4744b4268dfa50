"""Training a NoteLLM as a job: a resolved configuration in, a model directory with its record out.

The run's working folder ``OUTPUT.run`` beside the model holds checkpoints and TensorBoard logs, and what
the run was started with; a killed run is resumed from there and ends with the weights an uninterrupted
one ends with. When the model is written the checkpoints go, the logs stay.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import PrinterCallback

from notellm.artifacts.replace import check_replaceable
from notellm.backbone.load import LoraOptions
from notellm.backbone.trainer import last_checkpoint
from notellm.errors import ConfigError, DataError
from notellm.files import json_text, write_json
from notellm.jobs.card import model_card
from notellm.jobs.runs import STARTED, check_resumable, check_run_folder, discard_unfinished
from notellm.recall.model import NoteLLM
from notellm.recall.tiny import TinyOptions
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation, validation_metrics
from notellm.record import RECORD, describe, make_record

TINY = "tiny"


#: Defaults by kind of backbone: tiny by measurement (benchmarks/README.md), pretrained by the papers.
_TINY: dict[str, Any] = {
    "template": "compact",
    "lora": False,
    "epochs": 1.0,
    "batch_pairs": 128,
    "topic_share": 0.2,
    "learning_rate": 2e-5,
    "embedding_learning_rate": 8e-4,
    "head_learning_rate": 2e-3,
    "tau": 2.0,
}
_TINY_WITHOUT_PAIRS: dict[str, Any] = {"epochs": 10.0, "topic_share": 0.4, "learning_rate": 5e-4}
_PRETRAINED: dict[str, Any] = {
    "template": "english",
    "lora": True,
    "epochs": 1.0,
    "batch_pairs": 64,
    "topic_share": 0.4,
    "learning_rate": 1e-4,
    "tau": 3.0,
}


@dataclass(frozen=True)
class RecallOptions:
    """Everything a training run is made of. None means the default of the backbone's kind.

    Attributes:
        backbone: "tiny" (initialised from the notes), or a causal language model by name or path.
        template: the prompt's wording; tiny: "compact", pretrained: "english".
        lora: train low-rank adapters instead of every weight; the default for pretrained backbones.
        epochs: passes over the related pairs.
        max_steps: ends the run earlier (or later) than ``epochs`` says, where given.
        batch_pairs: pairs in a batch, B (paper: 64; the tiny backbone affords more).
        learning_rate: of the transformer's layers.
        embedding_learning_rate: of the token embeddings.
        head_learning_rate: of the projection, tau and the output head.
        alpha: weight of the generation loss (paper: 0.01).
        topic_share: share r of notes that do the topics task (paper: 0.4; tiny: 0.2, as its vectors lean
            on the topics that this task hides).
        tau: starting value of the log inverse temperature (paper: 3).
        sampling_correction: correct in-batch negatives for popularity (not in the paper).
        dim: dimensions of the vector (paper: 128).
        title_tokens: budget of the title (paper: 20).
        content_tokens: budget of the content (paper: 80).
        chunk_notes: notes per forward pass, by gradient caching, where a batch outgrows memory.
        evaluations: how often the validation Recall is measured; the best checkpoint is kept.
        bf16: compute in bfloat16 (for GPUs).
        seed: of everything random.
    """

    backbone: str = TINY
    template: str | None = None
    lora: bool | None = None
    epochs: float | None = None
    max_steps: int | None = None
    batch_pairs: int | None = None
    learning_rate: float | None = None
    embedding_learning_rate: float | None = None
    head_learning_rate: float | None = None
    alpha: float = 0.01
    topic_share: float | None = None
    tau: float | None = None
    sampling_correction: bool = True
    dim: int = 128
    title_tokens: int = 20
    content_tokens: int = 80
    chunk_notes: int | None = None
    evaluations: int = 5
    bf16: bool = False
    seed: int = 0

    def resolved(self, *, pairs: bool = True) -> "RecallOptions":
        """The options with every None filled in: tiny by measurement, pretrained by the papers.

        Args:
            pairs: whether there are related pairs; the tiny backbone learns category and topics alone
                with more passes and without holding its layers back.

        Raises:
            ConfigError: options that do not go together.
        """
        tiny = self.backbone == TINY
        defaults = dict(_TINY if tiny else _PRETRAINED)
        if tiny and not pairs:
            defaults |= _TINY_WITHOUT_PAIRS
        if not tiny and self.lora is False:
            defaults["learning_rate"] = 3e-6  # the authors' script, every weight
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        resolved = replace(self, **filled)
        if resolved.evaluations < 1:
            raise ConfigError(f"evaluations is {resolved.evaluations}; measure at least once")
        if tiny and resolved.lora:
            raise ConfigError("the tiny backbone is trained whole; LoRA is for pretrained backbones")
        return resolved


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
    known: dict[str, Any] = {
        "template": chosen.template,
        "dim": chosen.dim,
        "title_tokens": chosen.title_tokens,
        "content_tokens": chosen.content_tokens,
        "typical_topics": topics,
        "categories": categories,
    }
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
        per_device_train_batch_size=int(_number(chosen.batch_pairs)),
        learning_rate=_number(chosen.learning_rate),
        embedding_learning_rate=chosen.embedding_learning_rate,
        head_learning_rate=chosen.head_learning_rate,
        alpha=chosen.alpha,
        topic_share=_number(chosen.topic_share),
        tau=chosen.tau,
        sampling_correction=chosen.sampling_correction,
        chunk_notes=chosen.chunk_notes,
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
        if options.max_steps < 1:
            raise ConfigError(f"max_steps is {options.max_steps}; it must be at least 1")
        return options.max_steps
    items: int = notes.num_rows if pairs is None else pairs.num_rows
    return max(1, round(_number(options.epochs) * items / _number(options.batch_pairs)))


def _labels(notes: pa.Table) -> tuple[int, list[str]]:
    """The typical number of topics (median of the notes that have some) and the categories."""
    counts = sorted(len(topics) for topics in notes.column("topics").to_pylist() if topics)
    typical = counts[len(counts) // 2] if counts else 3
    return typical, sorted({name for name in notes.column("category").to_pylist() if name})


def _history(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The validation measurements of a run."""
    return [entry for entry in log if any(name.startswith("eval_") for name in entry)]


def _number(value: float | None) -> float:
    if value is None:
        raise DataError("an option is not resolved")
    return value
