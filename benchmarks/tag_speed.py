"""Notes tagged a second by a saved model, on one thread.

It calls only what every version of notellm has (`write_topics`, `categorize`). So two versions are compared
by running it with each of them in turn on the same model and notes:

    PYTHONPATH=OTHER_VERSION/src python -m benchmarks.tag_speed MODEL NOTES.parquet
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import torch

import notellm
from notellm.recall.model import NoteLLM


def main() -> None:
    parser = argparse.ArgumentParser(description="Notes tagged a second, on one thread.")
    parser.add_argument("model", help="a saved model")
    parser.add_argument("notes", type=Path, help="a Parquet file of notes")
    parser.add_argument("--count", type=int, default=512, help="number of notes")
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    model = NoteLLM.from_saved(chosen.model)
    notes = pq.read_table(chosen.notes).slice(0, chosen.count)
    print(f"notellm at {Path(notellm.__file__).parent.parent.name}, {notes.num_rows} notes")
    ways: dict[str, Callable[[], object]] = {
        "topics": lambda: model.write_topics(notes),
        "category": lambda: model.categorize(notes),
    }
    for name, way in ways.items():
        way()
        seconds = []
        for _ in range(chosen.repeats):
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
        rates = sorted(notes.num_rows / value for value in seconds)
        every = ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"{name}: {statistics.median(rates):.0f} notes a second ({every})")


if __name__ == "__main__":
    main()
