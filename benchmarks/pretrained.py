"""What a pretrained language model knows, and what it costs: the same related notes found by many models.

MicroLens split by note as in `microlens` (seed 7), or MovieLens split by time as in `movielens`. All methods
have the same training pairs, queries and pool. Each is measured alone and together with the words of the
notes (BM25), with the share that the validation notes ask for.

Every method is computed by a process of its own, whose processor time and peak memory are those of the
method, on as many threads as OMP_NUM_THREADS says. Training is given a number of steps; the processor time it
took can be compared even on a machine that has other work. What is finished lies in the working folder, and
is computed again only where options, data or the library's code have changed. Rows of other methods that the
results hold for the same data stay, so that the table can be computed in several runs.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from benchmarks.microlens import split_microlens
from benchmarks.training import MIN_USERS, load, points, train
from notellm.backbone.encoder import TextEncoder
from notellm.data.split import Split, split_by_time
from notellm.evaluate.baselines import bm25_scorer, popularity, tfidf_matrix
from notellm.evaluate.bootstrap import Interval
from notellm.evaluate.retrieval import (
    RetrievalResult,
    Scorer,
    evaluate_related,
    hybrid_scorer,
    paired_difference,
    sparse_cosine_scorer,
    targets_from_pairs,
    vector_scorer,
)
from notellm.evaluate.tables import intervals_json
from notellm.experiment.recall.methods import EOL, MEAN, pooled_states
from notellm.experiment.recall.sentence import load_sentence_model, sentence_vectors, tune_sentence_model
from notellm.files import read_json, write_json
from notellm.jobs.recall_model import build_recall_model
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import TINY, RecallOptions
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.trainer import Validation
from notellm.record import RECORD, fingerprint

SPLITS: dict[str, Callable[[], Split]] = {
    "MicroLens": split_microlens,
    "MovieLens": lambda: split_by_time(*_tables("MovieLens"), test=0.2, valid=0.1),
}
TFIDF, BM25 = "TF-IDF", "BM25"


def _tables(name: str) -> tuple[pa.Table, pa.Table]:
    data = load(name)
    return data.notes, data.clicks


# -------------------------------------------------------------------- the methods


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the row's name.
        kind: "mean" or "eol" (a language model without training), "sentence" (sentence-transformers),
            "start" (NoteLLM before its first step), "notellm" (trained) or "taught" (the tiny backbone,
            trained, with the weights as its teacher).
        weights: which of the given weights it takes; "" for the tiny backbone.
        steps: of training; 0 for none, None for as many as the library's default.
        options: options of NoteLLM.
    """

    name: str
    kind: str
    weights: str = ""
    steps: int | None = 0
    options: Mapping[str, Any] | None = None


#: Eight layers of a small language model; adapters of the last two are trained on stored states.
_SMALL: dict[str, Any] = {"layers": 8, "train_layers": 2, "lora": True}
#: The same without writing, at rates chosen on validation notes (README, "Training a pretrained backbone").
_CONTRASTIVE: dict[str, Any] = {
    **_SMALL,
    "alpha": 0.0,
    "topic_share": 0.0,
    "learning_rate": 1e-3,
    "head_learning_rate": 2e-3,
    "evaluations": 6,
}


def methods(steps: Mapping[str, int]) -> dict[str, Method]:
    """Return all methods by key; ``steps`` replaces the number of steps of some."""
    found = {
        "minilm": Method("all-MiniLM-L6-v2, zero-shot", "sentence", "minilm"),
        "minilm-tuned": Method("all-MiniLM-L6-v2, tuned on the pairs", "sentence", "minilm", 1_000),
        "tiny-start": Method("NoteLLM, tiny, before training", "start"),
        "tiny": Method("NoteLLM, tiny (default)", "notellm", steps=None),
        "tiny-minilm": Method("NoteLLM, tiny, taught by MiniLM", "taught", "minilm", None),
        "tiny-smollm2": Method("NoteLLM, tiny, taught by SmolLM2-135M", "taught", "smollm2", None),
    }
    for weights, name in (("smollm2", "SmolLM2-135M"), ("gemma", "Gemma 3 270M")):
        found |= {
            f"{weights}-mean": Method(f"{name}, mean of states", "mean", weights),
            f"{weights}-eol": Method(f"{name}, PromptEOL", "eol", weights),
            f"{weights}-start": Method(
                f"NoteLLM, {name}, 8 layers, before training", "start", weights, 0, _SMALL
            ),
            f"{weights}-notellm": Method(
                f"NoteLLM, {name}, 8 layers, trained", "notellm", weights, 600, _SMALL
            ),
            f"{weights}-contrastive": Method(
                f"NoteLLM, {name}, 8 layers, contrastive, higher rates",
                "notellm",
                weights,
                300,
                _CONTRASTIVE,
            ),
        }
    return {
        key: Method(each.name, each.kind, each.weights, steps.get(key, each.steps), each.options)
        for key, each in found.items()
    }


def vectors_of(
    method: Method, weights: Path, split: Split, pairs: dict[str, pa.Table], work: Path, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Compute a method's vectors of the valid and test notes, and what it took."""
    parts = {"valid": split.valid.notes, "test": split.test.notes}
    start = time.process_time()
    if method.kind == "sentence":
        model = load_sentence_model(str(weights))
        if method.steps:
            tune_sentence_model(
                model, split.train.notes, pairs["train"], steps=method.steps, seed=seed, progress=True
            )
        embed = partial(sentence_vectors, model, progress=True)
    elif method.kind in ("mean", "eol"):
        pooling, wording = ("mean", MEAN) if method.kind == "mean" else ("lasttoken", EOL)
        encoder = TextEncoder.from_language_model(weights, pooling=pooling)
        embed = partial(pooled_states, encoder, wording=wording, progress=True)
    else:
        role = "teacher" if method.kind == "taught" else "backbone"
        more = {role: str(weights), **(method.options or {})}
        options = RecallOptions(seed=seed, max_steps=method.steps or None, **more)
        train_part = split.train
        if method.kind == "start":
            note_model = build_recall_model(options, train_part.notes, train_part.clicks, progress=True)
        else:
            validation = Validation(split.valid.notes, pairs["valid"])
            note_model, _ = train(
                train_part.notes, pairs["train"], work / "model", options, train_part.clicks, validation
            )
        embed = partial(note_model.encode, progress=True)
    prepared = time.process_time()
    vectors = {name: embed(notes) for name, notes in parts.items()}
    embedded = time.process_time() - prepared
    count = sum(notes.num_rows for notes in parts.values())
    return vectors, {
        "training_cpu_seconds": prepared - start if method.kind not in ("mean", "eol") else 0.0,
        "embedding_cpu_seconds": embedded,
        "notes_per_cpu_second": count / embedded,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


# -------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Bench:
    """The data of all rows, and what they are compared with."""

    name: str
    split: Split
    pairs: dict[str, pa.Table]

    @classmethod
    def load(cls, name: str) -> "Bench":
        """Split a data set and mine its pairs."""
        split = SPLITS[name]()
        mining = PairOptions(min_users=MIN_USERS)
        return cls(
            name,
            split,
            {
                part: mine_pairs(getattr(split, part).clicks, mining, progress=False)
                for part in ("train", "valid", "test")
            },
        )

    def fingerprints(self) -> list[str]:
        """Return fingerprints of all that the rows of one table must share."""
        return [fingerprint(self.split.train.notes), *(fingerprint(each) for each in self.pairs.values())]

    @cached_property
    def words(self) -> Scorer:
        """BM25 over the test notes."""
        return bm25_scorer(self.split.test.notes, self.split.train.notes)

    @cached_property
    def base(self) -> RetrievalResult:
        """The result of TF-IDF."""
        matrix = tfidf_matrix(self.split.test.notes, self.split.train.notes)
        return self.result(sparse_cosine_scorer(matrix))

    def result(self, scorer: Scorer) -> RetrievalResult:
        """Measure a scorer on the test notes."""
        test = self.split.test
        queries, targets = targets_from_pairs(self.pairs["test"], min_users=MIN_USERS)
        exposure = popularity(test.notes["note_id"], test.clicks)
        return evaluate_related(
            scorer, test.notes["note_id"], queries, targets, exposure=exposure, progress=False
        )

    def row(self, scorer: Scorer, vectors: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        """Measure a method, and with vectors also the hybrid of them and the words."""
        found = {"alone": self.figures(self.result(scorer))}
        if vectors is None:
            return found
        validation = Validation(self.split.valid.notes, self.pairs["valid"])
        fitted = fit_lexical_share(validation, self.split.train.notes, vectors["valid"])
        hybrid = self.result(hybrid_scorer(scorer, self.words, fitted["share"]))
        return found | {"with_words": self.figures(hybrid), "lexical": fitted}

    def figures(self, result: RetrievalResult) -> dict[str, Any]:
        """Return the figures of a result, of its groups, and less those of TF-IDF."""
        return {
            "all": intervals_json(result.figures),
            "less_tfidf": intervals_json(paired_difference(result, self.base)),
            **{group: intervals_json(part.figures) for group, part in result.by_exposure.items()},
        }


def report(bench: Bench, rows: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    base = bench.base
    parts = ", ".join(
        f"{getattr(bench.split, part).notes.num_rows:,} {part}" for part in ("train", "valid", "test")
    )
    yield (
        f"{bench.name}: {parts} notes, {bench.pairs['train'].num_rows:,} training pairs; {base.queries:,} "
        f"queries in a pool of {base.pool:,}. Figures in %."
    )
    names = list(base.figures)
    yield table(
        ["method", *names, *(f"{each} with words" for each in names), "share of words"],
        [
            [
                row["name"],
                *_percent(row["alone"]["all"]),
                *(_percent(row["with_words"]["all"]) if "with_words" in row else [""] * len(names)),
                f"{row['lexical']['share']:g}" if "lexical" in row else "",
            ]
            for row in rows.values()
        ],
    )
    yield "## What it costs"
    yield (
        "Processor time, so that other work on the machine counts little. Before the first vector: opening "
        "the weights, the start of the projection, training, measuring the validation notes."
    )
    yield table(
        ["method", "steps", "before the first vector, s", "embedded notes/s", "peak memory, MiB", "code"],
        [
            [
                row["name"],
                str(row["costs"]["steps"] or ""),
                f"{row['costs']['training_cpu_seconds']:,.0f}",
                f"{row['costs']['notes_per_cpu_second']:,.0f}",
                f"{row['costs']['peak_memory_mib']:,.0f}" if row["costs"]["peak_memory_mib"] else "",
                row["code"],
            ]
            for row in rows.values()
            if "costs" in row
        ],
    )
    yield "## Less TF-IDF"
    yield "In points on the same queries, with the paired 95 % bootstrap interval."
    yield table(
        ["method", *names],
        [
            [label, *(points(Interval(**value)) for value in figures["less_tfidf"].values())]
            for key, row in rows.items()
            for label, figures in [
                *([] if key == TFIDF else [(row["name"], row["alone"])]),
                *([(f"{row['name']}, with words", row["with_words"])] if "with_words" in row else []),
            ]
        ],
    )
    for group in ("low", "high"):
        yield f"## Queries of {group} exposure"
        yield table(
            ["method", *names, *(f"{each} with words" for each in names)],
            [
                [
                    row["name"],
                    *_percent(row["alone"][group]),
                    *(_percent(row["with_words"][group]) if "with_words" in row else [""] * len(names)),
                ]
                for row in rows.values()
            ],
        )


def _percent(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    return [f"{100 * value['mean']:.1f}" for value in figures.values()]


# -------------------------------------------------------------------- running


def compute(method: Method, bench: Bench, weights: Path, work: Path, seed: int) -> None:
    """Compute the vectors of one method in this process, and keep them with what they took."""
    started = time.perf_counter()
    vectors, costs = vectors_of(method, weights, bench.split, bench.pairs, work, seed)
    record = work / "model" / RECORD
    steps = read_json(record)["metrics"].get("steps") if record.is_file() else None
    costs |= {
        "seconds": time.perf_counter() - started,
        "threads": torch.get_num_threads(),
        "steps": steps or method.steps,
    }
    np.savez(work / "vectors.npz", valid=vectors["valid"], test=vectors["test"])
    done = {"made_of": made_of(method, bench, seed), "costs": costs}
    write_json(done, work / "done.json", replace=True)


def made_of(method: Method, bench: Bench, seed: int) -> dict[str, Any]:
    return {
        "method": asdict(method),
        "seed": seed,
        "data": bench.fingerprints(),
        "code": code_fingerprint(),
    }


def is_finished(folder: Path, wanted: Mapping[str, Any], *, keep: bool) -> bool:
    """Return whether a folder holds what is wanted; with ``keep``, also from other code."""
    if not (folder / "done.json").is_file():
        return False
    found = read_json(folder / "done.json")["made_of"]
    return all(found[name] == wanted[name] for name in wanted if not (keep and name == "code"))


def main() -> None:
    parser = arguments("Pretrained language models as recall, beside simple methods.")
    parser.add_argument("--data", choices=SPLITS, default="MicroLens")
    parser.add_argument("--methods", nargs="+", help="methods to compute; default: those whose weights exist")
    parser.add_argument("--smollm2", type=Path, help="GGUF file of SmolLM2-135M")
    parser.add_argument("--gemma", type=Path, help="GGUF file of Gemma 3 270M")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--steps", type=json.loads, default={}, help='training steps by method: {"tiny": 9}')
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "pretrained")
    parser.add_argument("--keep", action="store_true", help="also take vectors that other code computed")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the process of one method
    chosen = parser.parse_args()
    given = {"": Path(TINY), **{name: getattr(chosen, name) for name in ("smollm2", "gemma", "minilm")}}
    weights = {name: path for name, path in given.items() if path is not None}
    known = methods(chosen.steps)
    work = chosen.work / chosen.data
    bench = Bench.load(chosen.data)
    if chosen.only:
        method = known[chosen.only]
        folder = work / chosen.only
        folder.mkdir(parents=True, exist_ok=True)
        compute(method, bench, weights[method.weights], folder, chosen.seed)
        return
    wanted = chosen.methods or [key for key, each in known.items() if each.weights in weights]
    name = f"pretrained-{chosen.data.lower()}"
    rows = _earlier_rows(chosen.results / f"{name}.json", bench)
    rows[TFIDF] = {"name": TFIDF, "alone": bench.figures(bench.base)}
    rows[BM25] = {"name": BM25, **bench.row(bench.words)}
    for key in wanted:
        folder = work / key
        if not is_finished(folder, made_of(known[key], bench, chosen.seed), keep=chosen.keep):
            if known[key].weights not in weights:
                parser.error(f"{key} needs weights: give --{known[key].weights} PATH")
            print(f"{known[key].name}: computing", flush=True)
            command = [sys.executable, "-m", "benchmarks.pretrained", *sys.argv[1:], "--only", key]
            subprocess.run(command, check=True)
        finished = read_json(folder / "done.json")
        with np.load(folder / "vectors.npz") as kept:
            vectors = {part: kept[part] for part in kept.files}
        rows[key] = {
            "name": known[key].name,
            **bench.row(vector_scorer(vectors["test"]), vectors),
            "costs": finished["costs"],
            "code": finished["made_of"]["code"],
        }
        ordered = {each: rows[each] for each in (TFIDF, BM25, *known) if each in rows}
        write_results(
            chosen.results,
            "pretrained",
            f"Pretrained language models on {chosen.data}",
            report(bench, ordered),
            {"data": bench.fingerprints(), "rows": ordered},
            name=name,
        )


def _earlier_rows(path: Path, bench: Bench) -> dict[str, Any]:
    """Return the rows of earlier results, if they are of the same data."""
    if not path.is_file():
        return {}
    found = read_json(path)
    return dict(found["rows"]) if found["data"] == bench.fingerprints() else {}


if __name__ == "__main__":
    main()
