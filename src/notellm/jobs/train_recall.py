"""Train a NoteLLM as a job: notes, related pairs and options in, a model directory with its record out.

The run's working folder is described in ``jobs/runs.py``.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.backbone.processes import is_main_process, process_count
from notellm.data.same_text import equal_texts
from notellm.jobs.card import model_card
from notellm.jobs.recall_model import build_recall_model, labels_of, made_with
from notellm.jobs.runs import START_FOLDER, Run, train_or_resume, training_options
from notellm.options import filled, values_of
from notellm.recall.config import TINY, LossOptions, RecallOptions
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.model import NoteLLM
from notellm.recall.start import START
from notellm.recall.trained_notes import TRAINED_NOTES, trained_notes_file
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation, validation_metrics
from notellm.record import RECORD, read_record

#: Folder of the checkpoints of the training of the output head.
WRITING = "writing"
_WRITING_DECAY = 0.3  # weight decay of that training (benchmarks/README.md)
#: Notes whose answers are held out to fit the tagger on, at least and at most.
_LEAST_HELD_OUT, _MOST_HELD_OUT = 50, 1_000


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

    Several processes can train together (``backbone/processes.py``): each has its own batches, and all notes
    of a step are each other's negatives.

    Args:
        notes: notes to train on.
        pairs: related pairs among the notes; None trains category and topics only.
        output: the model directory; an earlier model is replaced when the run is complete.
        clicks: clicks on the notes, from which the tiny backbone is initialised as well; pretrained backbones
            start their projection from them.
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
        ModelError: if the backbone or the teacher cannot be loaded.
        StorageError: if something cannot be written, or ``output`` may not be replaced.
    """
    progress = progress and is_main_process()
    chosen = (options or RecallOptions()).resolved(pairs=pairs is not None)
    run = Run(output, "model", force=force)
    measured = None if validation is None else {"notes": validation.notes, "pairs": validation.pairs}
    data: dict[str, Any] = {"notes": notes, "pairs": pairs, "clicks": clicks, "validation": measured}
    if chosen.warm_start is not None:
        start_model = NoteLLM.from_saved(chosen.warm_start, trust_remote_code=trust_remote_code)
        data["start"] = {"fingerprint": start_model.fingerprint()}
        if (Path(chosen.warm_start) / RECORD).is_file():
            before = made_with(read_record(chosen.warm_start))
            data["start"]["made_with"] = json.dumps(before, sort_keys=True)
    run.describe(chosen, data)
    run.check_unfinished(resume=resume, steps=(".", WRITING))

    held_out, taught = _hide_answers(notes, validation, chosen.seed)
    model = build_recall_model(
        chosen, taught, clicks, run=run, trust_remote_code=trust_remote_code, progress=progress
    )
    is_tiny = chosen.backbone == TINY
    run.start()
    metrics: dict[str, Any] = {
        "untrained": {} if validation is None else validation_metrics(model, validation)
    }
    if pairs is not None or not is_tiny:
        steps = _updates(chosen, taught, pairs)
        arguments = _arguments(run.folder, chosen, steps, measured=validation is not None, progress=progress)
        trainer = NoteLLMTrainer(model, arguments, notes=taught, pairs=pairs, validation=validation)
        train_or_resume(trainer)
        metrics |= {"steps": steps, "history": _history(trainer.state.log_history)}
    if is_tiny and (
        pairs is None or (chosen.alpha > 0 and chosen.writing_epochs > 0 and _labelled(taught).any())
    ):
        metrics["writing_steps"] = _learn_to_write(
            model,
            run.folder,
            taught,
            options or RecallOptions(),
            with_pairs=pairs is not None,
            progress=progress,
        )
    model.settings.categories = labels_of(notes)[1]
    model.fit_tagger(notes, held_out, seed=chosen.seed, progress=progress)
    if model.tagger is not None:
        metrics["tagger"] = model.tagger.to_json()
    if validation is not None:
        vectors = model.encode(validation.notes)
        metrics["validation"] = validation_metrics(model, validation, vectors)
        metrics["lexical"] = fit_lexical_share(validation, notes, vectors)
        model.lexical_share = metrics["lexical"]["share"]
    # The fingerprint is taken before adapters are merged by saving, which changes the weights.
    start = run.folder / START_FOLDER / START
    run.save(
        model.save_pretrained,
        model_card,
        metrics=metrics,
        fingerprint=model.fingerprint(),
        files={TRAINED_NOTES: trained_notes_file(notes)}
        | ({START: start.read_bytes()} if start.is_file() else {}),
    )
    return model


def _hide_answers(
    notes: pa.Table, validation: Validation | None, seed: int
) -> tuple[pa.Table | None, pa.Table]:
    """Return notes to fit the tagger on, and the notes to train on, which do not tell their answers.

    These are the validation notes. If there are none, or too few with answers, they are a tenth of the
    training notes, whose topics and categories are hidden from the training. Notes of equal text are kept
    together; those of a text that too many notes have are not hidden.
    """
    if validation is not None and _labelled(validation.notes).sum() >= _LEAST_HELD_OUT:
        return validation.notes, notes
    labelled = _labelled(notes)
    wanted = min(_MOST_HELD_OUT, int(labelled.sum()) // 10)
    if wanted < _LEAST_HELD_OUT:
        return None, notes
    groups = equal_texts(notes)
    sizes = np.bincount(groups)
    small = sizes[groups] <= wanted
    if labelled[small].sum() < wanted:
        return None, notes
    order = np.where(small, np.random.default_rng(seed).permutation(len(sizes))[groups], len(sizes))
    drawn = np.argsort(order, kind="stable")
    count = int(np.searchsorted(np.cumsum(labelled[drawn]), wanted)) + 1
    hidden = order <= order[drawn[count - 1]]  # whole groups
    mask = pa.array(hidden)
    taught = notes
    for name, empty in (("topics", []), ("category", "")):
        field = notes.schema.field(name)
        blank = pa.array([empty] * notes.num_rows, field.type)
        column = pc.if_else(mask, blank, notes.column(name).combine_chunks())
        taught = taught.set_column(notes.schema.get_field_index(name), field, column)
    return notes.filter(mask), taught


def _labelled(notes: pa.Table) -> np.ndarray:
    """Return which notes have topics or a category, (notes,) bool."""
    has_topics = pc.greater(pc.list_value_length(notes.column("topics")), 0)
    mask: np.ndarray = pc.or_(has_topics, pc.not_equal(notes.column("category"), "")).to_numpy()
    return mask


def _learn_to_write(
    model: NoteLLM, folder: Path, notes: pa.Table, options: RecallOptions, *, with_pairs: bool, progress: bool
) -> int:
    """Train the output head alone on topics and categories; return the number of steps."""
    if with_pairs:  # these are of the joint training
        options = replace(options, epochs=options.writing_epochs, batch_pairs=None, head_learning_rate=None)
    chosen = options.resolved(pairs=False)
    steps = _updates(chosen, notes, None)
    arguments = _arguments(folder / WRITING, chosen, steps, measured=False, progress=progress)
    arguments.only_head, arguments.weight_decay = True, _WRITING_DECAY
    trainer = NoteLLMTrainer(model, arguments, notes=notes, pairs=None)
    train_or_resume(trainer)
    return steps


def _updates(options: RecallOptions, notes: pa.Table, pairs: pa.Table | None) -> int:
    """Return the number of training steps."""
    if options.max_steps is not None:
        return options.max_steps
    items: int = notes.num_rows if pairs is None else pairs.num_rows
    per_step = filled(options.batch_pairs) * process_count()
    return max(1, round(filled(options.epochs) * items / per_step))


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
