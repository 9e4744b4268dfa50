"""How time and peak memory of each stage grow with its input: three sizes, a factor of ten apart.

    python -m benchmarks.growth
    python -m benchmarks.growth --stages training --rounds 1

Every run is a process of its own on one thread. Time is that of the processor, from when the input is in
memory until the result is; memory is the peak meanwhile less what the process had before. A training step of
many pairs is computed by 64 notes at a time with cached gradients (`chunk_notes`): its loss is that of the
whole batch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.catalogue import make_notes
from benchmarks.collaborative import read
from benchmarks.common import arguments, exponent, table, write_results
from benchmarks.scale import log_of
from benchmarks.scoring import make_ranker
from benchmarks.stepwise import StepwiseTraining
from benchmarks.training import load
from notellm.experiment.memory import peak_mib, reset_peak
from notellm.options import filled
from notellm.pairs.local import mine_pairs
from notellm.recall.model import NoteLLM
from notellm.vectors import search

_CHUNK = 64  # notes computed at once of a large batch
_DIM, _NEAREST, _QUERIES = 128, 100, 1_000

Work = Callable[[], object]


def _pairs(clicks: int) -> Work:
    log = log_of(clicks)
    mine_pairs(log.slice(0, 1_000), progress=False)  # compiles the kernel
    return lambda: mine_pairs(log, progress=False)


def _training(pairs: int) -> Work:
    data, model = load("MicroLens"), _model()
    folder = Path(mkdtemp())  # nothing is written to it without checkpoints
    training = StepwiseTraining(
        model, data, folder, lora=False, upper=None, stored=False, pairs=pairs, steps=1, chunk=_CHUNK
    )
    return training.step


def _model() -> NoteLLM:
    data = load("MicroLens")
    return NoteLLM.from_corpus(data.notes, clicks=data.clicks)


def _embedding(count: int) -> Work:
    model, notes = _model(), make_notes(count)
    model.encode(notes.slice(0, 10))
    return lambda: model.encode(notes)


def _tagging(count: int) -> Work:
    data = load("MIND")
    model = NoteLLM.from_corpus(data.notes)
    model.tag(data.notes.slice(0, 10))  # the notes that speak for names are embedded at the first call
    notes = data.notes.slice(10, count)
    return lambda: model.tag(notes)


def _search(count: int) -> Work:
    draw = np.random.default_rng(0).standard_normal((count, _DIM)).astype(np.float32)
    vectors = draw / np.linalg.norm(draw, axis=1, keepdims=True)
    return lambda: search(vectors, vectors[:_QUERIES], _NEAREST)


def _ranking(count: int) -> Work:
    ranker = make_ranker(read())
    user = max(ranker.histories, key=lambda each: (len(ranker.histories[each]), each))
    candidates = ranker.texts.ids[:count]
    ranker.scores(user, candidates)  # keeps the candidates' tokens
    return lambda: ranker.scores(user, candidates)


#: By stage: what one of its sizes counts, the sizes, and how its work is prepared.
STAGES: dict[str, tuple[str, Sequence[int], Callable[[int], Work]]] = {
    "pairs": ("clicks", (100_000, 1_000_000, 10_000_000), _pairs),
    "training": ("pairs in a step", (64, 512, 4_096), _training),
    "embedding": ("notes", (200, 2_000, 20_000), _embedding),
    "tagging": ("notes", (20, 200, 2_000), _tagging),
    "search": (f"notes, {_QUERIES:,} queries", (2_000, 20_000, 200_000), _search),
    "ranking": ("candidates", (10, 100, 1_000), _ranking),
}


def print_one(stage: str, size: int) -> None:
    """Do the work once, and print its seconds and its MiB."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    work = STAGES[stage][2](size)
    if not reset_peak():
        sys.exit("the peak of memory is read from /proc, which this system does not have")
    before, start = filled(peak_mib()), time.process_time()
    work()
    print(json.dumps([time.process_time() - start, filled(peak_mib()) - before]))


def measure(stage: str, size: int, rounds: int) -> dict[str, Any]:
    """Run a size in processes of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--one", stage, str(size)]
    one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | one)
        if done.returncode:
            sys.exit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    seconds, mib = zip(*found, strict=True)
    return {"stage": stage, "size": size, "seconds": seconds, "mib": mib}


def report(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the table; growth is the exponent of the size that explains the time of the size before."""
    rows, former = [], None
    for run in runs:
        seconds = statistics.median(run["seconds"])
        growth = ""
        if former is not None and former["stage"] == run["stage"]:
            growth = exponent(seconds, run["size"], statistics.median(former["seconds"]), former["size"])
        rows.append(
            [
                run["stage"],
                f"{run['size']:,} {STAGES[run['stage']][0]}",
                f"{seconds:.3g}",
                growth,
                f"{statistics.median(run['mib']):,.0f}",
            ]
        )
        former = run
    yield table(["stage", "size", "seconds", "exponent of growth", "MiB added"], rows, left=2)


def main() -> None:
    parser = arguments("How time and peak memory of each stage grow.")
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print_one(chosen.one[0], int(chosen.one[1]))
        return
    runs = []
    for stage in chosen.stages:
        for size in STAGES[stage][1]:
            runs.append(measure(stage, size, chosen.rounds))
            print(runs[-1], flush=True)
    write_results(chosen.results, "growth", "How stages grow", report(runs), {"runs": runs})


if __name__ == "__main__":
    main()
