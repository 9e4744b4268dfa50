"""The methods of the recall table that take long to compute: each makes the vectors of the unseen notes.

Simple methods, which are computed anew every time, are in ``table.py``. The rows are those of NoteLLM
(arXiv 2403.01744, Table 2): a language model without training (mean of its hidden states, and PromptEOL,
arXiv 2307.16645), SentenceBERT, PromptEOL+CSE (the contrastive loss alone), RepLLaMA (arXiv 2310.08319) and
NoteLLM.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from notellm.backbone.encoder import TextEncoder
from notellm.backbone.tokenizer import cut_texts
from notellm.errors import StorageError
from notellm.experiment.circumstances import model_state
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.sentence import load_sentence_model, sentence_vectors, tune_sentence_model
from notellm.experiment.recall.source import RecallData
from notellm.jobs.evaluate_tagging import evaluate_tagging
from notellm.jobs.recall_model import build_untrained
from notellm.jobs.runs import unfinished_parts
from notellm.jobs.train_recall import train_recall
from notellm.lexical.terms import texts_of
from notellm.options import filled
from notellm.recall.config import TINY, RecallOptions
from notellm.recall.model import NoteLLM
from notellm.recall.trainer import Validation
from notellm.record import read_record

Kind = Literal["notellm", "states", "sentence", "tuned sentence"]

_VECTORS, _MODEL = "vectors.safetensors", "model"
_TOKENS = 128  # of a text that is read without training; the prompt of NoteLLM holds 100
#: What a language model without training reads: the text alone, or the prompt of PromptEOL.
MEAN, EOL = "{}", 'This sentence : "{}" means in one word:"'
#: Options of NoteLLM that leave the generation loss out: then no note is read without its topics, either.
CONTRASTIVE: Mapping[str, Any] = {"alpha": 0.0, "topic_share": 0.0}
#: Keys of the methods that others are compared with, and of those that are derived from them.
NOTELLM, UNTRAINED = "notellm", "untrained"


@dataclass(frozen=True)
class RecallMethod:
    """A method that makes vectors.

    Attributes:
        key: short name, as "notellm".
        name: name in tables.
        kind: how it is computed: a NoteLLM that is trained ("notellm"), pooled states of a language model
            ("states"), or a sentence-transformers model.
        options: options of NoteLLM that differ from those of the experiment; of "states" the pooling.
        mining: options of the training pairs that differ.
        pairs: whether it learns from pairs at all.
        part: of an ablation, the option that varies.
        setting: of an ablation, its value.
    """

    key: str
    name: str
    kind: Kind
    options: Mapping[str, Any] = field(default_factory=dict)
    mining: Mapping[str, Any] = field(default_factory=dict)
    pairs: bool = True
    part: str = ""
    setting: str = ""

    @property
    def writes(self) -> bool:
        """Whether it learns to write topics and categories."""
        return self.kind == "notellm" and self.options.get("alpha") != 0

    @property
    def is_seeded(self) -> bool:
        """Whether its result depends on a training seed."""
        return self.kind in ("notellm", "tuned sentence")

    def made_of(self, options: ExperimentOptions, seed: int) -> dict[str, Any]:
        """Return what its result depends on beside the data and the code, as JSON values."""
        made: dict[str, Any] = {"kind": self.kind, "pairs": self.pairs}
        if self.kind == "notellm":
            chosen = self.recall_options(options, seed).resolved(pairs=self.pairs)
            made |= {"options": asdict(chosen), "model": model_state(options.backbone)}
            if self.writes:
                made["tagged"] = [options.tagged_notes, options.seed]
        elif self.kind == "states":
            made |= {"options": dict(self.options), "layers": options.layers}
            made["model"] = model_state(options.backbone)
        else:
            made["model"] = model_state(options.sentence_encoder)
        if self.kind == "tuned sentence":
            made |= {"seed": seed, "max_steps": options.max_steps}
        return made

    def recall_options(self, options: ExperimentOptions, seed: int) -> RecallOptions:
        """Return the options of its NoteLLM."""
        return replace(options.recall_options(seed), **self.options)


def recall_methods(options: ExperimentOptions) -> dict[str, RecallMethod]:
    """Return the methods of the table by their keys, in the order of the paper's table."""
    pretrained = options.backbone != TINY
    found: list[RecallMethod] = []
    if pretrained:
        found += [
            RecallMethod(
                "mean", "language model, mean of states", "states", {"pooling": "mean", "wording": MEAN}
            ),
            RecallMethod(
                "prompteol", "language model, PromptEOL", "states", {"pooling": "lasttoken", "wording": EOL}
            ),
        ]
    if options.sentence_encoder is not None:
        found += [
            RecallMethod("sentence", "SentenceBERT, as it is", "sentence"),
            RecallMethod("tuned-sentence", "SentenceBERT, tuned", "tuned sentence"),
        ]
    # The tiny backbone reads no instruction well, so its contrastive baseline has NoteLLM's own prompt.
    contrastive = {**CONTRASTIVE, **({"template": "prompteol"} if pretrained else {})}
    found += [
        RecallMethod("contrastive", "PromptEOL+CSE (contrastive only)", "notellm", contrastive),
        RecallMethod("repllama", "RepLLaMA", "notellm", {**CONTRASTIVE, "template": "repllama"}),
        RecallMethod(NOTELLM, "NoteLLM", "notellm"),
    ]
    return {method.key: method for method in found}


def mined_for(method: RecallMethod, data: RecallData) -> RecallData:
    """Return the data with the training pairs of a method.

    Raises:
        DataError: if its options leave no pair.
    """
    return data.with_mining(replace(data.mining, **method.mining)) if method.mining else data


def compute_vectors(
    method: RecallMethod,
    data: RecallData,
    options: ExperimentOptions,
    seed: int,
    folder: Path,
    *,
    seconds: float | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Compute the vectors of a method for the valid and test notes, and write them into a folder.

    Args:
        method: the method.
        data: the data of the table.
        options: options of the experiment.
        seed: training seed.
        folder: the folder; a training that was killed there goes on.
        seconds: how long a sentence encoder is tuned, where ``max_steps`` does not say it.
        trust_remote_code: as in ``NoteLLM.from_pretrained``.
        progress: show progress bars.

    Returns:
        "seconds" by what they were spent on, "steps", "history" of the validation figures, and what was
        written ("categories", "topics", "reliability"), where there is any.
    """
    data = mined_for(method, data)
    parts = {"valid": data.split.valid.notes, "test": data.split.test.notes}
    figures: dict[str, Any] = {}
    if method.kind == "notellm":
        vectors, figures = _train(
            method,
            data,
            options,
            seed,
            folder,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    elif method.kind == "states":
        encoder = TextEncoder.from_language_model(
            options.backbone,
            layers=options.layers,
            pooling=str(method.options["pooling"]),
            trust_remote_code=trust_remote_code,
        )
        begin = time.monotonic()
        wording = str(method.options["wording"])
        vectors = {
            name: pooled_states(encoder, notes, wording, progress=progress) for name, notes in parts.items()
        }
        figures["seconds"] = {"embed": time.monotonic() - begin}
    else:
        model = load_sentence_model(filled(options.sentence_encoder))
        begin, trained = time.monotonic(), 0.0
        if method.kind == "tuned sentence":
            train_notes, pairs = data.split.train.notes, data.pairs["train"]
            figures["steps"] = tune_sentence_model(
                model,
                train_notes,
                pairs,
                steps=options.max_steps,
                seconds=seconds,
                seed=seed,
                progress=progress,
            )
            trained = time.monotonic() - begin
        vectors = {name: sentence_vectors(model, notes, progress=progress) for name, notes in parts.items()}
        figures["seconds"] = {"train": trained, "embed": time.monotonic() - begin - trained}
    save_file({name: np.ascontiguousarray(array) for name, array in vectors.items()}, folder / _VECTORS)
    # An experiment trains many models, and pretrained ones are large.
    shutil.rmtree(folder / _MODEL, ignore_errors=True)
    return figures


def pooled_states(
    encoder: TextEncoder, notes: pa.Table, wording: str = MEAN, *, progress: bool = False
) -> np.ndarray:
    """Return the pooled states of notes by a language model that has learnt from no click.

    Args:
        encoder: the language model, with its pooling.
        notes: notes table; of each text the first 128 tokens are read.
        wording: what the model reads, with the text in the place of "{}": ``MEAN`` or ``EOL``.
        progress: show a progress bar.

    Returns:
        (n, hidden) float32.
    """
    texts = cut_texts(encoder.tokenizer, texts_of(notes), _TOKENS)
    return encoder.encode([wording.replace("{}", text) for text in texts], progress=progress)


def read_vectors(folder: Path) -> dict[str, np.ndarray]:
    """Return the vectors that :func:`compute_vectors` wrote.

    Returns:
        "valid" and "test", float32 (notes, dim); of a NoteLLM also "untrained test", which it had before its
        training.

    Raises:
        StorageError: if they are missing or damaged.
    """
    try:
        return dict(load_file(folder / _VECTORS))
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{folder / _VECTORS} is missing or damaged; remove {folder} to compute it again"
        ) from error


def _train(
    method: RecallMethod,
    data: RecallData,
    options: ExperimentOptions,
    seed: int,
    folder: Path,
    *,
    trust_remote_code: bool,
    progress: bool,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Train a NoteLLM; return its vectors before and after training, and its figures."""
    train, valid, test = data.split.train, data.split.valid, data.split.test
    output = folder / _MODEL
    begin = time.monotonic()
    resumed = output.is_dir() or bool(unfinished_parts(output.with_name(f"{output.name}.run")))
    if output.is_dir():  # the process was killed after the training
        model = NoteLLM.from_saved(output, trust_remote_code=trust_remote_code)
    else:
        has_pairs = method.pairs and data.pairs["valid"].num_rows > 0
        model = train_recall(
            train.notes,
            data.pairs["train"] if method.pairs else None,
            output,
            clicks=train.clicks,
            validation=Validation(valid.notes, data.pairs["valid"]) if has_pairs else None,
            options=method.recall_options(options, seed),
            resume=resumed,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    trained = time.monotonic() - begin
    metrics = read_record(output)["metrics"]
    vectors = {
        "valid": model.encode(valid.notes, progress=progress) if valid.notes.num_rows else _no_vectors(model),
        "test": model.encode(test.notes, progress=progress),
    }
    embedded = time.monotonic() - begin - trained
    figures: dict[str, Any] = {
        # A training that went on after a kill does not know how long it took before.
        "seconds": {"train": None if resumed else trained, "embed": embedded},
        "steps": metrics.get("steps"),
        "history": metrics.get("history", []),
        "lexical_share": model.lexical_share,
    }
    if options.tagged_notes and method.writes:
        figures |= _written(model, data, options, baselines=method.key == NOTELLM, progress=progress)
    if method.key == NOTELLM:
        before = build_untrained(
            output, train.notes, train.clicks, trust_remote_code=trust_remote_code, progress=progress
        )
        vectors[f"{UNTRAINED} test"] = before.encode(test.notes, progress=progress)
    return vectors, figures


def _written(
    model: NoteLLM, data: RecallData, options: ExperimentOptions, *, baselines: bool, progress: bool
) -> dict[str, Any]:
    """Return the figures of written topics and categories, and how reliable their probabilities are."""
    written = evaluate_tagging(
        model,
        data.split,
        tagged_notes=options.tagged_notes,
        seed=options.seed,
        baselines=baselines,
        progress=progress,
    )
    return {
        "categories": {name: result.to_json() for name, result in written.categories.items()},
        "topics": {name: result.to_json() for name, result in written.topics.items()},
        "remarks": written.remarks,
        "reliability": written.reliability,
    }


def _no_vectors(model: NoteLLM) -> np.ndarray:
    return np.empty((0, model.settings.dim), np.float32)
