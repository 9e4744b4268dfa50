"""Tuning a BinLLM as a job: impressions and a resolved configuration in, a ranker directory out.

    notes, impressions --> codes (out of fold) --> prompts --> [text step] --> codes step
                       --> [blend with recall] --> Ranker

The run's working folder ``OUTPUT.run`` beside the ranker holds the fitted codes, each step's checkpoints
and logs in ``text`` and ``codes``, and what the run was started with; a killed run is resumed from there
and ends with the weights an uninterrupted one ends with. When the ranker is written the codes and the
checkpoints go, the logs stay.

Every step keeps its best validation AUC, the one before its first update included: a step that only made
the model worse is undone, and so are two steps that end below where they began.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from transformers import PrinterCallback

from notellm.artifacts.replace import check_replaceable
from notellm.artifacts.write import write_folder
from notellm.backbone.load import LoraOptions, add_lora
from notellm.backbone.trainer import last_checkpoint, load_trained
from notellm.data.matrices import liked_notes
from notellm.data.note import notes_from_table
from notellm.data.validate_impressions import validate_impressions
from notellm.errors import ConfigError
from notellm.evaluate.ranking import evaluate_ranking
from notellm.files import json_text, read_json, read_parquet, write_json, write_parquet
from notellm.jobs.card import ranker_card
from notellm.jobs.runs import (
    FITTED,
    STARTED,
    TUNED,
    check_resumable,
    check_run_folder,
    discard_unfinished,
    unfinished_parts,
)
from notellm.rank.batch import NoteTexts, RankRows, RowCodes, impression_codes, questions
from notellm.rank.codes.codes import CodeOptions, Codes, Unknown, fit_codes, fit_out_of_fold, load_codes
from notellm.rank.codes.text import binary_text, parse_binary
from notellm.rank.config import CodeText, Form
from notellm.rank.model import BinLLM
from notellm.rank.prompt import load_template
from notellm.rank.scorer import Ranker, whole_notes
from notellm.rank.trainer import ANSWER_ROWS, BinLLMTrainer, BinLLMTrainingArguments, fit_answers
from notellm.recommend.candidates import CandidateList, Vectors, blend_for, candidate_lists, vectors_among
from notellm.record import RECORD, describe, make_record
from notellm.vectors import vector_table

TINY = "tiny"

#: Defaults by kind of backbone: tiny by measurement (benchmarks/README.md), pretrained by the paper.
_TINY: dict[str, Any] = {
    "template": "compact",
    "lora": False,
    "two_step": False,
    "epochs": 0.2,
    "text_epochs": 0.5,
    "learning_rate": 1e-5,
    "embedding_learning_rate": 1e-4,
    "text_embedding_learning_rate": 1e-3,
    "evaluations": 2,
}
_PRETRAINED: dict[str, Any] = {
    "template": "notes",
    "lora": True,
    "two_step": True,
    "epochs": 1.0,
    "text_epochs": 1.0,
    "learning_rate": 1e-4,
    "evaluations": 5,
}
_FULL_LEARNING_RATE = 1e-5  # of a pretrained backbone tuned whole, where the paper has adapters only
_LORA_TARGETS = ("q_proj", "v_proj")  # the paper's; other architectures: what peft knows for them

_TEXT, _CODES = "text", "codes"  # steps, by what their prompts hold


@dataclass(frozen=True)
class RankOptions:
    """Everything a run is made of. None means the default of the backbone's kind.

    Attributes:
        backbone: "tiny" (initialised from the notes), or a causal language model by name or path.
        template: the prompt's wording; tiny: "compact", pretrained: "notes".
        lora: tune low-rank adapters instead of every weight; the default for pretrained backbones.
        form: "with_codes" (titles and codes), "text_only" (no collaborative model) or "codes_only".
        two_step: tune on the text alone first, then with codes (paper; tiny: False).
        bits: of a code (paper: 32).
        code_text: how codes are written: "binary" or "decimal".
        unknown: code of users and notes without training row, see ``rank.codes.codes``.
        code_epochs: passes of the collaborative model, at most.
        out_of_fold: folds by which training rows get codes that have not seen them; 0: codes that have.
        epochs: passes over the training rows.
        text_epochs: passes of the first of two steps.
        max_steps: ends every step earlier (or later) than its epochs say, where given. Codes are fitted on
            all rows, whatever tuning comes to see.
        batch: rows in a batch.
        learning_rate: of the layers.
        embedding_learning_rate: of the token embeddings; as the layers' when None.
        text_embedding_learning_rate: the same where prompts hold no codes; as the layers' when None.
        history: how many of the last liked notes a prompt names (paper: 10).
        title_tokens: budget of a title.
        content_tokens: budget of the candidate's content, where the wording has it.
        evaluations: how often a step measures the validation AUC; the best checkpoint is kept.
        patience: measurements without a better AUC before a step ends; None never ends early.
        bf16: compute in bfloat16 (for GPUs).
        seed: of everything random.
    """

    backbone: str = TINY
    template: str | None = None
    lora: bool | None = None
    form: Form = "with_codes"
    two_step: bool | None = None
    bits: int = 32
    code_text: CodeText = "binary"
    unknown: Unknown = "average"
    code_epochs: int = 500
    out_of_fold: int = 5
    epochs: float | None = None
    text_epochs: float | None = None
    max_steps: int | None = None
    batch: int = 64
    learning_rate: float | None = None
    embedding_learning_rate: float | None = None
    text_embedding_learning_rate: float | None = None
    history: int = 10
    title_tokens: int = 20
    content_tokens: int = 40
    evaluations: int | None = None
    patience: int | None = None
    bf16: bool = False
    seed: int = 0

    def resolved(self) -> "RankOptions":
        """The options with every None filled in that has a default: tiny by measurement, others by the paper.

        Raises:
            ConfigError: with every problem found.
        """
        tiny = self.backbone == TINY
        defaults = dict(_TINY if tiny else _PRETRAINED)
        if not tiny and self.lora is False:
            defaults["learning_rate"] = _FULL_LEARNING_RATE
        if self.form != "with_codes":
            defaults["two_step"] = False
        if self.form == "text_only":
            defaults["epochs"] = defaults["text_epochs"]
        chosen = replace(self, **{name: v for name, v in defaults.items() if getattr(self, name) is None})
        problems = _option_problems(chosen)
        if problems:
            raise ConfigError("; ".join(problems))
        return chosen

    def code_options(self, *, progress: bool = True) -> CodeOptions:
        """How the codes of this run are fitted.

        Raises:
            ConfigError: with every problem found.
        """
        default = CodeOptions().training
        training = replace(default, epochs=self.code_epochs, seed=self.seed, progress=progress)
        return CodeOptions(bits=self.bits, unknown=self.unknown, training=training)


def train_rank(
    notes: pa.Table,
    train: pa.Table,
    valid: pa.Table,
    output: str | Path,
    *,
    options: RankOptions | None = None,
    vectors: Vectors | None = None,
    histories: Mapping[str, Sequence[str]] | None = None,
    resume: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> Ranker:
    """Fit codes, tune a BinLLM on impressions, and write the ranker's directory with record and card.

    Args:
        notes: every note that will be ranked or named in a history.
        train: impressions to learn from (schema ``data.schema.IMPRESSIONS``).
        valid: impressions that choose the codes' epoch and the checkpoint.
        output: the ranker directory; replaced when the run is complete.
        options: the run's options.
        vectors: of recall, whose similarities `Recommender` is then to blend with P(enjoy), by weights that
            are fitted to clicks of ``valid``; None blends nothing.
        histories: what each user opened, oldest first, for the ranker to remember; None takes it from train
            and valid, which may lack clicks: those of a test part, those that recall missed.
        resume: go on with the run that was cut off.
        force: as in ``artifacts.write_folder``.
        trust_remote_code: as in ``BinLLM.from_pretrained``.
        progress: show progress bars with rate and remaining time.

    Returns:
        The ranker.

    Raises:
        ConfigError: an option is not allowed, there is an unfinished run and ``resume`` is false, or it
            was started with other options or data.
        DataError: the tables do not fit together, or hold one label only; or recall offers too few clicks
            of valid.
        ModelError: the backbone cannot be loaded.
        StorageError: something cannot be written.
    """
    chosen = (options or RankOptions()).resolved()
    check_replaceable(output, "ranker", force=force)
    target = Path(output)
    run = target.with_name(f"{target.name}.run")
    check_run_folder(run)
    notes = whole_notes(notes)
    train, dropped = validate_impressions(train, notes)
    valid, more_dropped = validate_impressions(valid, notes)
    offered: list[CandidateList] = []
    if vectors is not None:  # too few of them are told at once
        vectors = vectors_among(vectors, set(notes["note_id"].to_pylist()))
        offered = candidate_lists(valid, vectors)
    started = {
        "config": asdict(chosen),
        "data": {
            "notes": describe(notes),
            "train": describe(train),
            "valid": describe(valid),
            "vectors": None if vectors is None else describe(vector_table(pa.array(vectors[0]), vectors[1])),
        },
    }
    for name in (_TEXT, _CODES):
        last_checkpoint(run / name)  # removes incomplete ones
    if unfinished := unfinished_parts(run):
        check_resumable(run, str(unfinished[-1].relative_to(run)), started, resume=resume)
    model = build_ranking_model(
        chosen, notes, train, trust_remote_code=trust_remote_code
    )  # a backbone that is not there is told at once
    write_json(started, run / STARTED, replace=True)
    codes, train_codes, valid_codes = None, None, None
    metrics: dict[str, Any] = {}
    if chosen.form != "text_only":
        codes, train_codes = _codes(run / FITTED, train, valid, chosen, progress=progress)
        valid_codes = impression_codes(valid, codes)
        alone = codes.scores(valid["user_id"], valid["note_id"], valid["history"])
        metrics["codes"] = _figures(valid, alone)

    # The steps of tuning, and how many updates each makes.
    steps = {_TEXT if codes is None else _CODES: _updates(chosen, len(train), _number(chosen.epochs))}
    if chosen.two_step:
        steps = {_TEXT: _updates(chosen, len(train), _number(chosen.text_epochs))} | steps
    seen = _rows_seen(chosen, len(train), max(steps.values()))
    tuned = train.filter(pa.array(seen))
    users = tuned["user_id"].to_pylist()
    texts = NoteTexts(model, notes)

    def rows(table: pa.Table, of: RowCodes | None) -> RankRows:
        labels = table["label"].to_numpy(zero_copy_only=False).astype(np.float32)
        return RankRows(model.encode(questions(model, texts, table, of)), labels)

    final = rows(tuned, None if train_codes is None else train_codes.filter(seen)), rows(valid, valid_codes)
    if chosen.backbone == TINY:
        fit_answers(model, final[0], users, seed=chosen.seed)
    if chosen.two_step:
        metrics["untrained"] = _figures(valid, model.predict(final[1].ids))
    start = _weights(model) if chosen.two_step else {}  # of one step `_tune` sees to it
    for name, updates in steps.items():
        own = final if name == _CODES or not chosen.two_step else (rows(tuned, None), rows(valid, None))
        if chosen.backbone == TINY and chosen.two_step:  # other prompts, other answers
            fit_answers(model, own[0], users, seed=chosen.seed)
        arguments = _arguments(run / name, chosen, updates, progress=progress)
        metrics[f"{name}_step"] = _tune(model, arguments, *own, valid)
    last = metrics[f"{[*steps][-1]}_step"]
    metrics = {"untrained": last["before"]} | metrics | {"validation": last["after"]}
    if metrics["validation"]["auc"] < metrics["untrained"]["auc"]:  # a text step may spoil what codes need
        _set_weights(model, start)
        metrics["validation"] = metrics["untrained"]
    metrics["dropped"] = {p.problem: p.count for p in (dropped + more_dropped).problems}
    metrics["prompt_tokens"] = round(float(np.mean([len(ids) for ids in final[0].ids])), 1)
    ranker = Ranker(model, codes, notes, liked_histories(train, valid) if histories is None else histories)
    if offered:
        ranker.blend = blend_for(ranker, offered, progress=progress)
        metrics["blend"] = ranker.blend.to_json()

    record = make_record(
        kind="ranker", **started, seed=chosen.seed, metrics=metrics, fingerprint=model.fingerprint()
    )
    card = ranker_card(target.name, record)
    ranker.save(target, extra={RECORD: json_text(record), "README.md": card}, force=force)
    discard_unfinished(run)
    return ranker


def build_ranking_model(
    options: RankOptions, notes: pa.Table, train: pa.Table, *, trust_remote_code: bool = False
) -> BinLLM:
    """The untuned model of a run: the tiny one from the notes and who liked them, or a pretrained backbone.

    Args:
        options: the run's options.
        notes: notes table.
        train: training impressions.
        trust_remote_code: as in ``BinLLM.from_pretrained``.

    Raises:
        ConfigError: an option is not allowed.
        ModelError: the backbone cannot be loaded.
        DataError: there is no text in the notes.
    """
    chosen = options.resolved()
    known: dict[str, Any] = {
        name: getattr(chosen, name)
        for name in ("template", "form", "code_text", "history", "title_tokens", "content_tokens")
    }
    if chosen.backbone == TINY:
        liked = liked_notes(notes["note_id"], train)
        return BinLLM.from_corpus(
            notes_from_table(notes), liked=liked, bits=chosen.bits, seed=chosen.seed, **known
        )
    # Tuned weights would not move by small steps in bfloat16; autocast computes in it anyway.
    dtype = "bfloat16" if chosen.bf16 and chosen.lora else "float32"
    model = BinLLM.from_pretrained(chosen.backbone, dtype=dtype, trust_remote_code=trust_remote_code, **known)
    if chosen.lora:
        there = {name.rsplit(".", 1)[-1] for name, _ in model.backbone.named_modules()}
        targets = _LORA_TARGETS if there.issuperset(_LORA_TARGETS) else None
        torch.manual_seed(chosen.seed)  # of the adapters
        add_lora(model.backbone, LoraOptions(targets=targets))
    return model


def liked_histories(*impressions: pa.Table) -> dict[str, list[str]]:
    """What each user of some impressions liked by their end, oldest first.

    A row's history comes before the row, its own note after it where the label says so; a note stands at
    its first place. A user who liked nothing has an empty list.

    Args:
        impressions: tables with the schema IMPRESSIONS, rows in any order.
    """
    table = pa.concat_tables(impressions)
    # Sorting joins the chunks of a column, and all histories may be too long for 32-bit offsets.
    wide = table["history"].cast(pa.large_list(pa.large_string()))
    table = table.set_column(table.column_names.index("history"), "history", wide)
    table = table.sort_by([("timestamp", "ascending")])
    liked: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for batch in table.to_batches(max_chunksize=1 << 14):
        columns = (batch[name].to_pylist() for name in ("user_id", "note_id", "label", "history"))
        for user_id, note_id, label, history in zip(*columns, strict=True):
            own = liked[user_id]
            own.update(dict.fromkeys(history))
            if label:
                own[note_id] = None
    return {user_id: list(own) for user_id, own in liked.items()}


def _updates(options: RankOptions, rows: int, epochs: float) -> int:
    return options.max_steps or max(1, round(epochs * rows / options.batch))


def _arguments(folder: Path, options: RankOptions, steps: int, *, progress: bool) -> BinLLMTrainingArguments:
    every = max(1, steps // int(_number(options.evaluations)))
    return BinLLMTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=options.batch,
        learning_rate=_number(options.learning_rate),
        embedding_learning_rate=(
            options.text_embedding_learning_rate if folder.name == _TEXT else options.embedding_learning_rate
        ),
        patience=options.patience,
        bf16=options.bf16,
        seed=options.seed,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="auc",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # how long the AUC has not risen
        disable_tqdm=not progress,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="tensorboard" if find_spec("tensorboard") else "none",
    )


def _tune(
    model: BinLLM,
    arguments: BinLLMTrainingArguments,
    train: RankRows,
    valid: RankRows,
    valid_table: pa.Table,
) -> dict[str, Any]:
    """One step of tuning, or the rest of it; the model ends with the best weights, first ones included.

    Returns:
        ``steps``, figures of the validation rows ``before`` and ``after``, whether the first weights were
        ``kept_start``, and the ``history`` of measurements.
    """
    folder = Path(cast("str", arguments.output_dir))
    tuned = folder / TUNED
    trainer = BinLLMTrainer(model, arguments, train=train, valid=valid)
    trainer.remove_callback(PrinterCallback)  # what a quiet run would print instead of a bar
    if tuned.is_dir():  # this step was finished before the run was cut off
        load_trained(model, tuned)
        done: dict[str, Any] = read_json(tuned / "metrics.json")
        return done
    start = _weights(model)
    before = _figures(valid_table, model.predict(valid.ids))
    checkpoint = last_checkpoint(folder)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    after = _figures(valid_table, model.predict(valid.ids))
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


def _weights(model: BinLLM) -> dict[str, torch.Tensor]:
    """A copy of what is trained."""
    return {name: w.detach().cpu().clone() for name, w in model.named_parameters() if w.requires_grad}


def _set_weights(model: BinLLM, weights: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def _rows_seen(options: RankOptions, count: int, steps: int) -> npt.NDArray[np.bool_]:
    """Which training rows tuning can come to, (count,): the others make no prompts, which take memory."""
    drawn = np.random.default_rng(options.seed).permutation(count)[: max(steps * options.batch, ANSWER_ROWS)]
    seen = np.zeros(count, np.bool_)
    seen[drawn] = True
    return seen


def _codes(
    folder: Path, train: pa.Table, valid: pa.Table, options: RankOptions, *, progress: bool
) -> tuple[Codes, RowCodes]:
    """The codes, and those of the training rows; fitted once for a run, then read from its folder."""
    if not folder.is_dir():
        how = options.code_options(progress=progress)
        if options.out_of_fold:
            fitted = fit_out_of_fold(train, valid, how, options.out_of_fold)
            codes, rows = fitted.codes, RowCodes.out_of_fold(fitted)
        else:
            codes = fit_codes(train, valid, how)
            rows = impression_codes(train, codes)
        table = pa.table(
            {"user": binary_text(rows.users), "item": binary_text(rows.items), "present": rows.present}
        )
        with write_folder(folder, "fitted codes") as aside:
            codes.save(aside / "codes")
            write_parquet(table, aside / "rows.parquet")
    table = read_parquet(folder / "rows.parquet", ["user", "item", "present"])
    users, items = (parse_binary(table[name].to_pylist()) for name in ("user", "item"))
    return load_codes(folder / "codes"), RowCodes(users, items, table["present"].to_numpy())


def _figures(table: pa.Table, scores: npt.ArrayLike) -> dict[str, float]:
    """AUC and UAUC of some rows; UAUC only where a user has both labels."""
    found = evaluate_ranking(table, scores, resamples=1).figures
    return {name.lower(): found[name].mean for name in ("AUC", "UAUC") if name in found}


def _option_problems(options: RankOptions) -> list[str]:
    """Everything that is wrong with resolved options."""
    problems = [
        f"{name} is {getattr(options, name)!r}; it must be one of {', '.join(get_args(allowed))}"
        for name, allowed in (("form", Form), ("code_text", CodeText))
        if getattr(options, name) not in get_args(allowed)
    ]
    at_least_one = ("batch", "title_tokens", "content_tokens", "evaluations", "max_steps", "patience")
    for name in at_least_one:
        value = getattr(options, name)
        if value is not None and value < 1:
            problems.append(f"{name} is {value}; it must be at least 1")
    rates = ("learning_rate", "embedding_learning_rate", "text_embedding_learning_rate")
    for name in ("epochs", "text_epochs", *rates):
        value = getattr(options, name)
        if value is not None and not value > 0:
            problems.append(f"{name} is {value}; it must be above 0")
    if options.history < 0:
        problems.append(f"history is {options.history}; it must be 0 or more")
    if options.out_of_fold < 0 or options.out_of_fold == 1:
        problems.append(f"out_of_fold is {options.out_of_fold}; it must be 0, or 2 folds or more")
    if options.backbone == TINY and options.lora:
        problems.append("the tiny backbone is tuned whole; LoRA is for pretrained backbones")
    if options.form != "with_codes" and options.two_step:
        problems.append(f"two_step is text first, then codes too; form {options.form} has only one of them")
    for check in (options.code_options, lambda: load_template(options.template or "notes")):
        try:
            check()
        except ConfigError as error:
            problems.append(str(error))
    return problems


def _number(value: float | None) -> float:
    if value is None:
        raise ConfigError("an option is not resolved")
    return value
