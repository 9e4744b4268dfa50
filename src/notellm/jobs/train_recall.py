"""Train a NoteLLM as a job: notes, related pairs and options in, a model directory with its record out.

The run's working folder is described in ``jobs/runs.py``.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from notellm.backbone.frozen import SplitModel
from notellm.backbone.load import LoraOptions
from notellm.backbone.processes import is_main_process, process_count
from notellm.data.same_text import equal_texts
from notellm.errors import ConfigError
from notellm.jobs.card import model_card
from notellm.jobs.runs import START_FOLDER, Run, train_or_resume, training_options
from notellm.options import filled, values_of
from notellm.recall.config import TINY, LossOptions, NoteLLMConfig, RecallOptions
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.model import NoteLLM
from notellm.recall.start import START, load_start, start_projection
from notellm.recall.teacher import FOLDER as TEACHER
from notellm.recall.teacher import teacher_vectors
from notellm.recall.tiny import TinyOptions
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments, Validation, validation_metrics
from notellm.record import read_record

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
    run.describe(chosen, {"notes": notes, "pairs": pairs, "clicks": clicks, "validation": measured})
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
    model.settings.categories = _labels(notes)[1]
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
        files={START: start.read_bytes()} if start.is_file() else None,
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
    typical_topics, categories = _labels(notes)
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
        DataError: if the directory has no record.
        ModelError: if the backbone cannot be loaded, or does not fit the start.
    """
    record = read_record(model)
    start = Path(model) / START
    return build_recall_model(
        RecallOptions(**record["config"]),
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
