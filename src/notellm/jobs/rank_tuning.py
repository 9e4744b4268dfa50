"""The tuning of a ranker's model, in one step or two.

    text step:  prompts of titles alone                         (first of two steps, or form "text_only")
    codes step: prompts with codes

Before a step the answers are fitted to its prompts (``rank/answers.py``). Every step keeps the weights with
the best validation AUC, including those before its first update. If two steps end with a lower AUC than the
untuned model had, both are undone.

Source: BinLLM, arXiv 2406.03210, section 3.3.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from notellm.artifacts.write import write_folder
from notellm.backbone.trainer import load_trained
from notellm.errors import DataError
from notellm.evaluate.ranking import evaluate_ranking
from notellm.files import read_json, write_json
from notellm.jobs.runs import FITTED_ANSWERS, TUNED, train_or_resume, training_options
from notellm.options import filled, values_of
from notellm.rank.answers import fit_answer_head, fit_answer_rows
from notellm.rank.batch import NoteTexts, RankRows, RowCodes, questions
from notellm.rank.config import TINY, RankOptions, TuningOptions
from notellm.rank.model import BinLLM
from notellm.rank.trainer import BinLLMTrainer, BinLLMTrainingArguments

#: Steps of tuning, and the folders of their checkpoints and logs.
TEXT_STEP, CODES_STEP = "text", "codes"
#: Largest standard error of the validation AUC with which a checkpoint is chosen: with a larger one a perfect
#: order, of AUC 1, is less than two errors from chance, 0.5.
MOST_ERROR = 0.25
#: Standard error from which the choice is called doubtful: an AUC that is higher by 0.1 may be so by chance.
DOUBTFUL_ERROR = 0.05


@dataclass(frozen=True)
class CodedRows:
    """Impressions with their codes.

    Attributes:
        table: impressions.
        codes: codes of their users and notes; None for prompts without codes.
    """

    table: pa.Table
    codes: RowCodes | None


def tune(
    model: BinLLM,
    folder: Path,
    notes: pa.Table,
    train: CodedRows,
    valid: CodedRows,
    options: RankOptions,
    *,
    progress: bool,
) -> dict[str, Any]:
    """Tune a model in place, in one step or two; finished steps of an unfinished run are loaded.

    Args:
        model: the untuned model.
        folder: working folder of the run.
        notes: notes table.
        train: rows to learn from.
        valid: rows that choose the checkpoint.
        options: resolved options of the run.
        progress: show a progress bar.

    Returns:
        The figures of the validation rows "untrained" and after tuning ("validation"), what happened in each
        "text_step" and "codes_step", and "prompt_tokens", the mean length of a prompt.
    """
    updates = _updates_of_steps(options, train)
    seen = _rows_seen(options, train.table.num_rows, max(updates.values()))
    train = CodedRows(
        train.table.filter(pa.array(seen)), None if train.codes is None else train.codes.filter(seen)
    )
    users = train.table["user_id"].to_pylist()
    texts = NoteTexts(model, notes)
    final_train, final_valid = (_prompts(model, texts, rows.table, rows.codes) for rows in (train, valid))
    _fit_answers(model, folder / FITTED_ANSWERS, final_train, users, options, progress=progress)
    metrics: dict[str, Any] = {}
    start: dict[str, torch.Tensor] = {}  # one step alone is undone by `_tune_step`
    if options.two_step:
        metrics["untrained"] = ranking_figures(valid.table, model.predict(final_valid.ids))
        start = _trained_weights(model)
    for name, count in updates.items():
        step_train, step_valid = final_train, final_valid
        if options.two_step and name == TEXT_STEP:
            step_train, step_valid = (_prompts(model, texts, rows.table, None) for rows in (train, valid))
        if options.two_step:  # the prompts of the steps differ, so their answers are fitted separately
            kept = folder / f"{FITTED_ANSWERS}_{name}"
            _fit_answers(model, kept, step_train, users, options, progress=progress)
        arguments = _arguments(folder / name, options, count, progress=progress)
        metrics[f"{name}_step"] = _tune_step(model, arguments, step_train, step_valid, valid.table)
    last = metrics[f"{[*updates][-1]}_step"]
    metrics = {"untrained": last["before"]} | metrics | {"validation": last["after"]}
    if metrics["validation"]["auc"] < metrics["untrained"]["auc"]:
        _set_weights(model, start)
        metrics["validation"] = metrics["untrained"]
    metrics["prompt_tokens"] = round(float(np.mean([len(ids) for ids in final_train.ids])), 1)
    return metrics


def auc_error(table: pa.Table) -> dict[str, float]:
    """Return how many rows are ``liked`` and ``not_liked``, and the standard error of their AUC, "auc_error".

    It is that of a ranking by chance, sqrt((m + n + 1) / (12 m n)) (Mann and Whitney 1947), which rows of the
    same users and notes exceed somewhat.

    Args:
        table: impressions of both labels, which choose the checkpoint.

    Raises:
        DataError: if the error is above ``MOST_ERROR``, so that no choice has a reason.
    """
    liked = int(pc.sum(table["label"]).as_py() or 0)
    others = table.num_rows - liked
    error = math.sqrt((table.num_rows + 1) / (12 * liked * others))
    if error > MOST_ERROR:
        raise DataError(
            f"there are {table.num_rows} validation rows ({liked} liked, {others} not), whose AUC has a "
            f"standard error of {error:.2f}: not even a perfect order differs from chance, so no checkpoint "
            "can be chosen by it; give more clicks, or a larger share for validation"
        )
    return {"liked": liked, "not_liked": others, "auc_error": round(error, 4)}


def ranking_figures(table: pa.Table, scores: npt.ArrayLike) -> dict[str, float]:
    """Return AUC and UAUC of impressions; UAUC only where a user has both labels."""
    figures = evaluate_ranking(table, scores, resamples=1).figures
    return {name.lower(): figures[name].mean for name in ("AUC", "UAUC") if name in figures}


def _updates_of_steps(options: RankOptions, train: CodedRows) -> dict[str, int]:
    """Return the steps of tuning in their order, and the number of updates of each."""

    def updates(epochs: float | None) -> int:
        rows = train.table.num_rows
        return options.max_steps or max(1, round(filled(epochs) * rows / options.batch))

    steps = {TEXT_STEP: updates(options.text_epochs)} if options.two_step else {}
    return steps | {TEXT_STEP if train.codes is None else CODES_STEP: updates(options.epochs)}


def _rows_seen(options: RankOptions, count: int, steps: int) -> npt.NDArray[np.bool_]:
    """Return which training rows the tuning can use, (count,); the others need no prompts, to save memory."""
    fitted = options.answer_rows if options.answers == "fitted" else 0
    drawn = np.random.default_rng(options.seed).permutation(count)[: max(steps * options.batch, fitted)]
    seen = np.zeros(count, np.bool_)
    seen[drawn] = True
    return seen


def _prompts(model: BinLLM, texts: NoteTexts, table: pa.Table, codes: RowCodes | None) -> RankRows:
    """Return the prompts of impressions with their labels."""
    labels = table["label"].to_numpy(zero_copy_only=False).astype(np.float32)
    return RankRows(model.tokenize(questions(model, texts, table, codes)), labels)


def _fit_answers(
    model: BinLLM,
    kept: Path,
    rows: RankRows,
    users: Sequence[str],
    options: RankOptions,
    *,
    progress: bool,
) -> None:
    """Fit the answers to the prompts of a step, if the options ask for it.

    A pretrained backbone takes minutes for the states, so its answer head is kept for a resumed run.

    Args:
        model: the model, changed in place.
        kept: folder of the fitted head.
        rows: training rows of the step.
        users: the user of each row.
        options: resolved options of the run.
        progress: show a progress bar while hidden states are computed.
    """
    drawn: dict[str, Any] = {"limit": options.answer_rows, "seed": options.seed, "progress": progress}
    if options.backbone == TINY:
        fit_answer_rows(model, rows, users, **drawn)
    elif options.answers == "fitted" and kept.is_dir():
        model.load_answer_head(kept)
    elif options.answers == "fitted":
        fit_answer_head(model, rows, users, **drawn)
        with write_folder(kept, "fitted answers") as aside:
            model.write_extra(aside)


def _arguments(folder: Path, options: RankOptions, steps: int, *, progress: bool) -> BinLLMTrainingArguments:
    """Return the trainer's arguments of one step."""
    tuning = values_of(options, TuningOptions)
    if folder.name == TEXT_STEP:
        tuning["embedding_learning_rate"] = options.text_embedding_learning_rate
    return BinLLMTrainingArguments(
        **training_options(folder, steps=steps, evaluations=filled(options.evaluations), progress=progress),
        **tuning,
        per_device_train_batch_size=options.batch,
        learning_rate=filled(options.learning_rate),
        bf16=options.bf16,
        seed=options.seed,
        metric_for_best_model="auc",
        restore_callback_states_from_checkpoint=True,  # the patience that is left
    )


def _tune_step(
    model: BinLLM,
    arguments: BinLLMTrainingArguments,
    train: RankRows,
    valid: RankRows,
    valid_table: pa.Table,
) -> dict[str, Any]:
    """Run or resume one step of tuning; the model ends with the best weights, if need be the first ones.

    Returns:
        The number of ``steps``, the figures of the validation rows ``before`` and ``after``, whether the
        first weights were kept (``kept_start``), and the ``history`` of measurements.
    """
    tuned = Path(cast("str", arguments.output_dir)) / TUNED
    trainer = BinLLMTrainer(model, arguments, train=train, valid=valid)
    if tuned.is_dir():  # the step was finished before the run was cut off
        load_trained(model, tuned)
        saved: dict[str, Any] = read_json(tuned / "metrics.json")
        return saved
    start = _trained_weights(model)
    before = ranking_figures(valid_table, model.predict(valid.ids))
    train_or_resume(trainer)
    after = ranking_figures(valid_table, model.predict(valid.ids))
    worse = after["auc"] < before["auc"]
    if worse:
        _set_weights(model, start)
        after = before
    metrics = {
        "steps": trainer.state.global_step,
        "before": before,
        "after": after,
        "kept_start": worse,
        "history": [
            {"step": entry["step"], "auc": entry["eval_auc"]}
            for entry in trainer.state.log_history
            if "eval_auc" in entry
        ],
    }
    with write_folder(tuned, "tuning step") as aside:
        trainer.save_model(str(aside), _internal_call=True)
        write_json(metrics, aside / "metrics.json")
    return metrics


def _trained_weights(model: BinLLM) -> dict[str, torch.Tensor]:
    """Return a copy of the trainable weights by name."""
    return {name: w.detach().cpu().clone() for name, w in model.named_parameters() if w.requires_grad}


def _set_weights(model: BinLLM, weights: Mapping[str, torch.Tensor]) -> None:
    """Set the weights of a model by name."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
