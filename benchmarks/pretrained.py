"""What a pretrained language model knows, and what it costs: the same related notes found by many models.

MicroLens split by note as in `microlens` (seed 7), or MovieLens split by time as in `movielens`. All methods
have the same training pairs, queries and pool. Each is measured alone and together with the words of the
notes (BM25), with the share that the validation notes ask for.

Every method is computed by a process of its own, whose processor time and peak memory are those of the
method, on as many threads as OMP_NUM_THREADS says. Training is given a number of steps, so that the processor
time it took can be compared on a machine that has other work. What is finished lies in the working folder,
and is computed again only where options, data or the library's code have changed.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from benchmarks.microlens import split_microlens
from benchmarks.training import MIN_USERS, load, points, train
from benchmarks.zero_shot import (
    Pooling,
    sentence_model,
    sentence_vectors,
    tune_sentence_model,
    zero_shot_vectors,
)
from notellm.backbone.load import load_backbone
from notellm.data.split import Split, split_by_time
from notellm.evaluate.baselines import bm25_scorer, popularity, tfidf_matrix
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
from notellm.files import read_json, write_json
from notellm.jobs.train_recall import build_recall_model
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.recall.config import RecallOptions
from notellm.recall.lexical_share import fit_lexical_share
from notellm.recall.trainer import Validation
from notellm.record import fingerprint

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
            "start" (NoteLLM before its first step) or "notellm" (trained).
        weights: which of the given weights it takes; "" for the tiny backbone.
        steps: of training; 0 for none, None for as many as the library's default.
        options: options of NoteLLM.
    """

    name: str
    kind: str
    weights: str = ""
    steps: int | None = 0
    options: Mapping[str, Any] | None = None


#: Eight layers of a small language model, of which the last two are trained whole on stored states.
_SMALL: dict[str, Any] = {"layers": 8, "train_layers": 2, "lora": True, "batch_pairs": 32}


def methods(steps: Mapping[str, int]) -> dict[str, Method]:
    """Return all methods by key; ``steps`` replaces the number of steps of some."""
    found = {
        "minilm": Method("all-MiniLM-L6-v2, zero-shot", "sentence", "minilm"),
        "minilm-tuned": Method("all-MiniLM-L6-v2, tuned on the pairs", "sentence", "minilm", 1_000),
        "tiny-start": Method("NoteLLM, tiny, before training", "start"),
        "tiny": Method("NoteLLM, tiny (default)", "notellm", steps=None),
    }
    for weights, name in (("smollm2", "SmolLM2-135M"), ("gemma", "Gemma 3 270M")):
        found |= {
            f"{weights}-mean": Method(f"{name}, mean of states", "mean", weights),
            f"{weights}-eol": Method(f"{name}, PromptEOL", "eol", weights),
            f"{weights}-start": Method(
                f"NoteLLM, {name}, 8 layers, before training", "start", weights, 0, _SMALL
            ),
            f"{weights}-notellm": Method(
                f"NoteLLM, {name}, 8 layers, trained", "notellm", weights, 300, _SMALL
            ),
        }
    return {
        key: Method(each.name, each.kind, each.weights, steps.get(key, each.steps), each.options)
        for key, each in found.items()
    }


def vectors_of(
    method: Method, weights: Path | None, split: Split, pairs: dict[str, pa.Table], work: Path, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Compute a method's vectors of the valid and test notes, and what it took."""
    parts = {"valid": split.valid.notes, "test": split.test.notes}
    start = time.process_time()
    if method.kind == "sentence":
        model = sentence_model(_given(method, weights))
        if method.steps:
            tune_sentence_model(model, split.train.notes, pairs["train"], method.steps, seed)
        embed = partial(sentence_vectors, model)
    elif method.kind in ("mean", "eol"):
        backbone, tokenizer = load_backbone(_given(method, weights))
        pooling: Pooling = "mean" if method.kind == "mean" else "eol"
        embed = partial(zero_shot_vectors, backbone, tokenizer, pooling=pooling)
    else:
        more = {} if method.options is None else dict(method.options)
        if method.weights:
            more["backbone"] = str(_given(method, weights))
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


def _given(method: Method, weights: Path | None) -> Path:
    if weights is None:
        sys.exit(f"{method.name} needs weights: give --{method.weights} PATH")
    return weights


# -------------------------------------------------------------------- measuring


def measure(
    split: Split, pairs: dict[str, pa.Table], vectors: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[dict[str, RetrievalResult], dict[str, RetrievalResult], dict[str, float]]:
    """Return the results of each method alone, with words, and the shares of the words."""
    test = split.test
    ids = test.notes["note_id"]
    queries, targets = targets_from_pairs(pairs["test"], min_users=MIN_USERS)
    exposure = popularity(ids, test.clicks)

    def result(scorer: Scorer, name: str) -> RetrievalResult:
        return evaluate_related(scorer, ids, queries, targets, name=name, exposure=exposure, progress=False)

    words = bm25_scorer(test.notes, split.train.notes)
    alone = {
        TFIDF: result(sparse_cosine_scorer(tfidf_matrix(test.notes, split.train.notes)), TFIDF),
        BM25: result(words, BM25),
    }
    validation = Validation(split.valid.notes, pairs["valid"])
    hybrid, shares = {}, {}
    for key, each in vectors.items():
        alone[key] = result(vector_scorer(each["test"]), key)
        shares[key] = fit_lexical_share(validation, split.train.notes, each["valid"])["share"]
        hybrid[key] = result(hybrid_scorer(vector_scorer(each["test"]), words, shares[key]), key)
    return alone, hybrid, shares


def report(
    name: str,
    split: Split,
    chosen: dict[str, Method],
    costs: Mapping[str, Mapping[str, Any]],
    measured: tuple[dict[str, RetrievalResult], dict[str, RetrievalResult], dict[str, float]],
) -> Iterable[str]:
    alone, hybrid, shares = measured
    base = alone[TFIDF]
    parts = ", ".join(
        f"{getattr(split, part).notes.num_rows:,} {part}" for part in ("train", "valid", "test")
    )
    yield (
        f"{name}: {parts} notes; {base.queries:,} queries in a pool of {base.pool:,}. R@k and MRR in %; "
        "processor seconds, so that other work on the machine does not count: training is everything before "
        "the first vector (opening the weights, hidden states for the start of the projection, steps, "
        "validation), notes a second are those of embedding."
    )
    rows = []
    for key, result in alone.items():
        cost = costs.get(key)
        figures = [f"{100 * value.mean:.1f}" for value in result.figures.values()]
        with_words = (
            [f"{100 * value.mean:.1f}" for value in hybrid[key].figures.values()] + [f"{shares[key]:g}"]
            if key in hybrid
            else [""] * (len(figures) + 1)
        )
        spent = (
            ["", "", "", ""]
            if cost is None
            else [
                "" if chosen[key].steps == 0 else str(cost["steps"]),
                f"{cost['training_cpu_seconds']:,.0f}",
                f"{cost['notes_per_cpu_second']:,.0f}",
                f"{cost['peak_memory_mib']:,.0f}",
            ]
        )
        rows.append([chosen[key].name if key in chosen else key, *figures, *with_words, *spent])
    names = list(base.figures)
    yield table(
        [
            "method",
            *names,
            *(f"{each} with words" for each in names),
            "share",
            "steps",
            "training s",
            "notes/s",
            "MiB",
        ],
        rows,
    )
    yield "## Less TF-IDF, in points on the same queries, 95 % interval"
    yield table(
        ["method", *names],
        [
            [label, *(points(value) for value in paired_difference(result, base).values())]
            for label, result in [
                *((chosen[key].name if key in chosen else key, alone[key]) for key in alone if key != TFIDF),
                *((f"{chosen[key].name}, with words", hybrid[key]) for key in hybrid),
            ]
        ],
    )
    for group in ("low", "high"):
        yield f"## Queries of {group} exposure"
        parts_of = {key: result.by_exposure[group] for key, result in alone.items()}
        yield table(
            ["method", *names],
            [
                [
                    chosen[key].name if key in chosen else key,
                    *(f"{100 * value.mean:.1f}" for value in part.figures.values()),
                ]
                for key, part in parts_of.items()
            ],
        )


# -------------------------------------------------------------------- running


def compute(key: str, method: Method, name: str, weights: Path | None, work: Path, seed: int) -> None:
    """Compute one method in this process and keep it in its folder."""
    split = SPLITS[name]()
    pairs = _pairs(split)
    made_of = _made_of(method, split, pairs, seed)
    started = time.perf_counter()
    vectors, costs = vectors_of(method, weights, split, pairs, work, seed)
    record = work / "model" / "record.json"
    steps = read_json(record)["metrics"].get("steps") if record.is_file() else None
    costs |= {
        "seconds": time.perf_counter() - started,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")),
        "steps": steps or method.steps,
    }
    np.savez(work / "vectors.npz", valid=vectors["valid"], test=vectors["test"])
    write_json({"key": key, "made_of": made_of, "costs": costs}, work / "done.json", replace=True)


def _pairs(split: Split) -> dict[str, pa.Table]:
    mining = PairOptions(min_users=MIN_USERS)
    return {
        part: mine_pairs(getattr(split, part).clicks, mining, progress=False)
        for part in ("train", "valid", "test")
    }


def _made_of(method: Method, split: Split, pairs: dict[str, pa.Table], seed: int) -> dict[str, Any]:
    return {
        "method": asdict(method),
        "seed": seed,
        "data": [fingerprint(split.train.notes), *(fingerprint(each) for each in pairs.values())],
        "code": code_fingerprint(),
    }


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
    parser.add_argument("--name", default="pretrained", help="name of the results")
    parser.add_argument("--keep", action="store_true", help="also take what other code computed")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a process of one method
    chosen = parser.parse_args()
    weights = {"": None, "smollm2": chosen.smollm2, "gemma": chosen.gemma, "minilm": chosen.minilm}
    known = methods(chosen.steps)
    work = chosen.work / chosen.data
    if chosen.only:
        method = known[chosen.only]
        folder = work / chosen.only
        folder.mkdir(parents=True, exist_ok=True)
        compute(chosen.only, method, chosen.data, weights[method.weights], folder, chosen.seed)
        return
    wanted = chosen.methods or [
        key for key, each in known.items() if not each.weights or weights[each.weights] is not None
    ]
    split = SPLITS[chosen.data]()
    pairs = _pairs(split)
    vectors, costs, codes = {}, {}, set()
    for key in wanted:
        made_of = _made_of(known[key], split, pairs, chosen.seed)
        done = work / key / "done.json"
        if not (done.is_file() and _same(read_json(done)["made_of"], made_of, keep=chosen.keep)):
            print(f"{known[key].name}: computing", flush=True)
            subprocess.run(
                [sys.executable, "-m", "benchmarks.pretrained", *sys.argv[1:], "--only", key], check=True
            )
        finished = read_json(done)
        codes.add(finished["made_of"]["code"])
        costs[key] = finished["costs"]
        kept = np.load(work / key / "vectors.npz")
        vectors[key] = {part: kept[part] for part in kept.files}
    measured = measure(split, pairs, vectors)
    body = list(report(chosen.data, split, known, costs, measured))
    if others := codes - {code_fingerprint()}:
        body.append(f"Vectors of some methods were computed by the code {', '.join(sorted(others))}.")
    values = {
        "data": chosen.data,
        "costs": costs,
        "shares": measured[2],
        "alone": {key: intervals_json(each.figures) for key, each in measured[0].items()},
        "with_words": {key: intervals_json(each.figures) for key, each in measured[1].items()},
    }
    write_results(chosen.results, "pretrained", "Pretrained language models", body, values, name=chosen.name)


def _same(old: Mapping[str, Any], new: Mapping[str, Any], *, keep: bool) -> bool:
    return all(old[name] == new[name] for name in new if not (keep and name == "code"))


if __name__ == "__main__":
    main()
