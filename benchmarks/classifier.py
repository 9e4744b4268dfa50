"""Quality, seconds and peak memory of the baselines of categories and topics.

Quality is measured on MIND and KuaiRec, beside multinomial logistic regression of scikit-learn (C = 10,
30,000 terms), which the linear classifier replaced. The splits are those of `benchmarks.tagging`, but of
seeds 1 and 2, on which the classifier was chosen.

Time and memory are measured on 10,000 train and 1,000 test notes with 2,094 categories: captions of
MicroLens, whose category is the rarest of their words among the 2,094 most frequent ones. A quarter of the
train notes have another category, so that each occurs. Logistic regression is left out there: on as many
notes and categories it took more than nine minutes and 12.6 GiB.

Each run is a process of its own. The clock starts when the notes are in memory. The peak memory is that of
the process, VmHWM of Linux; the peak before the clock started is given beside it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import arguments, table, write_results
from notellm.data.schema import CLICKS
from notellm.data.split import split_by_note
from notellm.evaluate.tagging import Ranked
from notellm.evaluate.tagging_baselines import (
    copy_topics,
    majority_category,
    vote_categories,
    vote_topics,
    with_category,
)
from notellm.evaluate.tagging_categories import TOP, evaluate_categories
from notellm.evaluate.tagging_classifier import linear_categories
from notellm.evaluate.tagging_topics import evaluate_topics
from notellm.evaluate.tfidf import fitted_vectorizer
from notellm.files import read_parquet, write_parquet
from notellm.lexical.terms import terms, texts_of

SEEDS = (1, 2)
TRAIN, TEST, CATEGORIES = 10_000, 1_000, 2_094
DRAWN = 0.25  # share of the train notes whose category says nothing about them


def peak_mib() -> float:
    """Return the peak resident memory of this process.

    Getrusage would count that of the parent, too, whose memory a new process has until it loads its program.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def logistic_regression(train: pa.Table, notes: pa.Table) -> list[Ranked]:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - takes a second, outside the other clocks

    train = with_category(train)
    texts = texts_of(train)
    vectorizer = fitted_vectorizer(texts, max_features=30_000)
    model = LogisticRegression(C=10.0, max_iter=200)
    model.fit(vectorizer.transform(texts), train["category"].to_pylist())
    shares = model.predict_proba(vectorizer.transform(texts_of(notes)))
    best = np.argsort(-shares, axis=1)[:, :TOP]
    return [
        [(str(model.classes_[each]), float(row[each])) for each in order]
        for row, order in zip(shares, best, strict=True)
    ]


CATEGORY_METHODS: dict[str, Callable[[pa.Table, pa.Table], Sequence[Ranked]]] = {
    "most frequent category": majority_category,
    "vote of 20 train notes": lambda train, notes: vote_categories(train, notes, progress=False),
    "linear classifier": lambda train, notes: linear_categories(train, notes, progress=False),
    "logistic regression, C = 10": logistic_regression,
}
TOPIC_METHODS: dict[str, Callable[[pa.Table, pa.Table], tuple[Sequence[Ranked], Sequence[int]]]] = {
    "most similar train note": lambda train, notes: copy_topics(train, notes, progress=False),
    "vote of 20 train notes": lambda train, notes: vote_topics(train, notes, progress=False),
}
SLOW = "logistic regression, C = 10"


def made_up(seed: int) -> tuple[pa.Table, pa.Table]:
    """Return train and test notes of MicroLens with made-up categories."""
    from benchmarks.training import load  # noqa: PLC0415 - see `cases`

    draw = np.random.default_rng(seed)
    notes = load("MicroLens").notes
    notes = notes.take(draw.permutation(notes.num_rows)[: TRAIN + TEST])
    # Windows of characters begin with "#"; words of one or two letters say little.
    words = [
        [term for term in dict.fromkeys(terms(text)) if len(term) > 2 and term[0] != "#"]
        for text in texts_of(notes)
    ]
    frequent = Counter(word for each in words for word in each).most_common(CATEGORIES)
    rank = {word: place for place, (word, _) in enumerate(frequent)}
    categories = [
        max((word for word in each if word in rank), key=rank.__getitem__, default="") for each in words
    ]
    names = draw.permutation([word for word, _ in frequent])
    for place, row in enumerate(draw.permutation(TRAIN)[: round(DRAWN * TRAIN)]):
        categories[row] = str(names[place % CATEGORIES])
    column = notes.schema.get_field_index("category")
    notes = notes.set_column(column, notes.schema.field(column), pa.array(categories))
    return notes.slice(0, TRAIN), notes.slice(TRAIN)


def cases() -> Iterator[tuple[str, pa.Table, pa.Table]]:
    """Yield the name, train notes and test notes of each case."""
    # It imports torch, which the measured processes have no use for.
    from benchmarks.training import load  # noqa: PLC0415

    for name in ("MIND", "KuaiRec"):
        notes = load(name).notes
        for seed in SEEDS:
            split = split_by_note(notes, CLICKS.empty_table(), test=0.2, valid=0.0, seed=seed)
            yield f"{name}, split {seed}", split.train.notes, split.test.notes
    yield f"MicroLens, {CATEGORIES:,} categories", *made_up(0)


def measure(kind: str, method: str, folder: Path) -> dict[str, Any]:
    """Measure one run in this process."""
    train, test = (read_parquet(folder / f"{part}.parquet") for part in ("train", "test"))
    before, start = peak_mib(), time.perf_counter()
    if kind == "category":
        ranked = CATEGORY_METHODS[method](train, test)
    else:
        ranked, written = TOPIC_METHODS[method](train, test)
    seconds, peak = time.perf_counter() - start, peak_mib()
    if kind == "category":
        known = set(train["category"].to_pylist())
        figures = evaluate_categories(ranked, test["category"].to_pylist(), known).to_json()
    else:
        carried = {topic for each in train["topics"].to_pylist() for topic in each}
        figures = evaluate_topics(ranked, written, test["topics"].to_pylist(), known=carried).to_json()
    return {"seconds": seconds, "peak_mib": peak, "before_mib": before, **figures}


def child(kind: str, method: str, folder: Path) -> dict[str, Any]:
    """Run a step of this script in its own process and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.classifier", "--step", kind, method, str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    values: dict[str, Any] = json.loads(done.stdout)
    return values


SHOWN = {
    "category": {"accuracy": "accuracy", "macro_f1": "macro-F1", "top5": "top-5", "calibration_error": "ECE"},
    "topics": {"f1": "F1", "precision_at_1": "P@1", "ndcg_at_10": "nDCG@10"},
}


def report(runs: dict[str, dict[str, Any]]) -> Iterable[str]:
    yield (
        "Figures in %. Each run is a process of its own; the clock starts with the notes in memory. How the "
        "categories of MicroLens are made, and why logistic regression is not measured there, is in the head "
        "of `benchmarks/classifier.py`."
    )
    for kind, title in ("category", "Category"), ("topics", "Topics"):
        yield f"## {title}"
        for case, run in runs.items():
            yield (
                f"{case}: {run['train_notes']:,} train and {run['test_notes']:,} test notes, "
                f"{run['categories']:,} categories."
            )
            head = ["method", "notes", *SHOWN[kind].values(), "seconds", "peak MiB (before)"]
            rows = [
                [
                    method,
                    f"{each['notes']:,}",
                    *(f"{100 * each[figure]:.1f}" for figure in SHOWN[kind]),
                    f"{each['seconds']:.1f}",
                    f"{each['peak_mib']:,.0f} ({each['before_mib']:,.0f})",
                ]
                for method, each in run[kind].items()
            ]
            yield table(head, rows)


def main() -> None:
    parser = arguments("Quality, seconds and peak memory of the baselines of categories and topics.")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        kind, method, folder = chosen.step
        print(json.dumps(measure(kind, method, Path(folder))))
        return
    runs: dict[str, dict[str, Any]] = {}
    for case, train, test in cases():
        known = set(train["category"].to_pylist()) - {""}
        runs[case] = {
            "train_notes": train.num_rows,
            "test_notes": test.num_rows,
            "categories": len(known),
            "category": {},
            "topics": {},
        }
        with tempfile.TemporaryDirectory() as folder:
            for part, notes in ("train", train), ("test", test):
                write_parquet(notes, Path(folder) / f"{part}.parquet", force=True)
            for kind, methods in ("category", CATEGORY_METHODS), ("topics", TOPIC_METHODS):
                for method in methods:
                    if method == SLOW and len(known) == CATEGORIES:
                        continue
                    runs[case][kind][method] = child(kind, method, Path(folder))
                    print(case, kind, method, runs[case][kind][method], flush=True)
    write_results(
        chosen.results, "classifier", "Baselines of categories and topics", report(runs), {"runs": runs}
    )


if __name__ == "__main__":
    main()
