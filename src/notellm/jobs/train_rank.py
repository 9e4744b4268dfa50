"""Train a ranker as a job: notes, impressions and options in, a ranker directory with its record out.

    notes, impressions --> codes (out of fold) --> prompts --> [text step] --> codes step
                       --> [blend with recall] --> Ranker

The codes are made by ``jobs/rank_codes.py``, the model is tuned by ``jobs/rank_tuning.py``. The run's working
folder, described in ``jobs/runs.py``, holds the checkpoints and logs of the steps in ``text`` and ``codes``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from notellm.backbone.load import LoraOptions, add_lora
from notellm.backbone.processes import process_count
from notellm.data.validate_impressions import validate_impressions
from notellm.errors import ConfigError
from notellm.jobs.card import ranker_card
from notellm.jobs.rank_codes import codes_of_run
from notellm.jobs.rank_tuning import CODES_STEP, TEXT_STEP, CodedRows, auc_error, ranking_figures, tune
from notellm.jobs.runs import FITTED, Run
from notellm.options import values_of
from notellm.rank.batch import impression_codes
from notellm.rank.codes.codes import Codes
from notellm.rank.config import TINY, BinLLMConfig, RankOptions
from notellm.rank.model import BinLLM
from notellm.rank.scorer import Ranker, whole_notes
from notellm.recommend.candidates import CandidateList, Vectors, blend_for, candidate_lists, vectors_among
from notellm.vectors import vector_table

#: Weights that the paper adapts; for architectures without them peft's defaults are taken.
_LORA_TARGETS = ("q_proj", "v_proj")
#: The figures of a run, in their order in the record.
_METRICS = (
    *("untrained", "codes", "text_step", "codes_step", "validation"),
    *("validation_rows", "dropped", "prompt_tokens", "blend"),
)


def train_rank(
    notes: pa.Table,
    train: pa.Table,
    valid: pa.Table,
    output: str | Path,
    *,
    options: RankOptions | None = None,
    vectors: Vectors | None = None,
    vectors_model: str | None = None,
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
        valid: impressions that choose the epoch of the codes and the checkpoint.
        output: the ranker directory; an earlier ranker is replaced when the run is complete.
        options: options of the run.
        vectors: note ids and vectors of recall. The weights by which `Recommender` blends their similarities
            with P(enjoy) are fitted to clicks of ``valid``; None fits no blend.
        vectors_model: fingerprint of the model that made the vectors, which the ranker remembers, so that its
            blend is not used with vectors of another model.
        histories: notes that each user opened, oldest first, which the ranker remembers. None takes them from
            train and valid, which lack the clicks of a test part and those that recall missed.
        resume: continue a run that was cut off.
        force: as in ``artifacts.write_folder``.
        trust_remote_code: as in ``BinLLM.from_pretrained``.
        progress: show progress bars with rate and remaining time.

    Returns:
        The ranker.

    Raises:
        ConfigError: if an option is not allowed, several processes were started, there is an unfinished run
            and ``resume`` is false, or that run was started with other options or data.
        DataError: if the tables do not fit together or hold one label only, valid has too few rows to choose
            by (``auc_error``), or recall offers too few of its clicks.
        ModelError: if the backbone cannot be loaded.
        StorageError: if something cannot be written, or ``output`` may not be replaced.
    """
    chosen = (options or RankOptions()).resolved()
    if process_count() > 1:
        raise ConfigError(
            f"a ranker is trained by one process, but WORLD_SIZE is {process_count()}: start it without "
            "torchrun"
        )
    run = Run(output, "ranker", force=force)
    notes = whole_notes(notes)
    train, train_report = validate_impressions(train, notes)
    valid, valid_report = validate_impressions(valid, notes)
    lists: list[CandidateList] = []
    vectors_data = None
    if vectors is not None:  # made before the long work, so that too few lists are reported at once
        vectors = vectors_among(vectors, set(notes["note_id"].to_pylist()))
        lists = candidate_lists(valid, vectors)
        vectors_data = vector_table(pa.array(vectors[0]), vectors[1])
    validation_rows = auc_error(valid)
    run.describe(chosen, {"notes": notes, "train": train, "valid": valid, "vectors": vectors_data})
    run.check_unfinished(resume=resume, steps=(TEXT_STEP, CODES_STEP))

    # Before the codes are fitted, so that a backbone that cannot be loaded is reported at once.
    model = build_rank_model(chosen, notes, train, trust_remote_code=trust_remote_code)
    run.start()
    codes, metrics = fit_ranker(
        model, run.folder, run.folder / FITTED, notes, train, valid, chosen, progress=progress
    )
    metrics["validation_rows"] = validation_rows
    ranker = Ranker(model, codes, notes, liked_histories(train, valid) if histories is None else histories)
    if lists:
        ranker.blend = blend_for(ranker, lists, progress=progress)
        ranker.blend_model = vectors_model
        metrics["blend"] = ranker.blend.to_json()

    dropped = (train_report + valid_report).problems
    metrics["dropped"] = {problem.problem: problem.count for problem in dropped}
    metrics = {name: metrics[name] for name in _METRICS if name in metrics}
    # The fingerprint is taken before adapters are merged by saving, which changes the weights.
    run.save(ranker.save_pretrained, ranker_card, metrics=metrics, fingerprint=model.fingerprint())
    return ranker


def fit_ranker(
    model: BinLLM,
    folder: Path,
    codes_folder: Path,
    notes: pa.Table,
    train: pa.Table,
    valid: pa.Table,
    options: RankOptions,
    *,
    progress: bool,
) -> tuple[Codes | None, dict[str, Any]]:
    """Fit the codes of a run and tune its model in place; what is finished in the folders is loaded.

    Args:
        model: the untuned model, from :func:`build_rank_model`.
        folder: working folder of the tuning.
        codes_folder: folder of the fitted codes, which runs with the same codes and rows may share.
        notes: notes table.
        train: training impressions.
        valid: impressions that choose the epoch of the codes and the checkpoint.
        options: resolved options of the run.
        progress: show progress bars.

    Returns:
        The codes (None for a model of text alone), and the figures of ``rank_tuning.tune`` with those of the
        "codes" alone.
    """
    codes, train_codes, valid_codes = None, None, None
    metrics: dict[str, Any] = {}
    if options.form != "text_only":
        codes, train_codes = codes_of_run(codes_folder, train, valid, options, progress=progress)
        valid_codes = impression_codes(valid, codes)
        scores = codes.scores(valid["user_id"], valid["note_id"], valid["history"])
        metrics["codes"] = ranking_figures(valid, scores)
    train_rows, valid_rows = CodedRows(train, train_codes), CodedRows(valid, valid_codes)
    metrics |= tune(model, folder, notes, train_rows, valid_rows, options, progress=progress)
    return codes, metrics


def build_rank_model(
    options: RankOptions, notes: pa.Table, train: pa.Table, *, trust_remote_code: bool = False
) -> BinLLM:
    """Build the untuned model of a run: a tiny one initialised from notes and likes, or a pretrained one.

    Args:
        options: options of the run.
        notes: notes table.
        train: training impressions.
        trust_remote_code: as in ``BinLLM.from_pretrained``.

    Raises:
        ConfigError: if an option is not allowed.
        ModelError: if the backbone cannot be loaded.
        DataError: if the notes have no text.
    """
    chosen = options.resolved()
    config = values_of(chosen, BinLLMConfig)
    if chosen.backbone == TINY:
        return BinLLM.from_corpus(notes, train, bits=chosen.bits, seed=chosen.seed, **config)
    # Small steps would not move trained weights in bfloat16; autocast computes in it anyway.
    dtype = "bfloat16" if chosen.bf16 and chosen.lora else "float32"
    model = BinLLM.from_pretrained(
        chosen.backbone,
        layers=chosen.layers,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        **config,
    )
    if chosen.answers == "words":
        model.answer_head = None  # of a saved ranker that is tuned on
    if chosen.lora:
        modules = {name.rsplit(".", 1)[-1] for name, _ in model.backbone.named_modules()}
        targets = _LORA_TARGETS if modules.issuperset(_LORA_TARGETS) else None
        torch.manual_seed(chosen.seed)  # for the adapters
        add_lora(model.backbone, LoraOptions(targets=targets))
    return model


def liked_histories(*impressions: pa.Table) -> dict[str, list[str]]:
    """Return the notes that each user of some impressions liked, oldest first.

    The history of a row comes before the row, and its note after the history if the label is positive. A note
    keeps its first place. A user who liked nothing has an empty list.

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
            user_history = liked[user_id]
            user_history.update(dict.fromkeys(history))
            if label:
                user_history[note_id] = None
    return {user_id: list(user_history) for user_id, user_history in liked.items()}
