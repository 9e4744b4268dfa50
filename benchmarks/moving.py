"""Time and peak memory of exporting a store, and of importing its log into another one.

    python -m benchmarks.moving                      # 200,000 notes of 128 dimensions, 2 million clicks
    python -m benchmarks.moving --sizes 1 3          # also three times as many of both

Stores are made by a seed: random unit vectors, texts of 60 words, clicks whose times rise within three days.
Each command is a separate process, whose seconds count from its start to its end and whose peak memory is
that of getrusage; "opening it" only imports the packages and opens the store.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.common import arguments, table, write_results
from benchmarks.prepare import run
from notellm.data.schema import TIME
from notellm.store.clicks import CLICK_LOG, ClickLog
from notellm.store.lance import connect
from notellm.store.notes import NoteStore
from notellm.store.rows import rows_schema
from notellm.vectors import vector_table

NOTES, CLICKS, USERS, DIM, MODEL = 200_000, 2_000_000, 50_000, 128, "0123456789abcdef"
STEP, DAY = 8_192, 86_400_000_000
EVENTS, SHARES = ("view", "click", "like", "dislike"), (0.6, 0.35, 0.04, 0.01)
OPEN = "import sys, notellm.jobs.export_store as e; e.ClickLog.for_reading(sys.argv[1]); "
OPEN += "e.NoteStore.for_reading(sys.argv[1])"


def note_rows(count: int) -> Iterator[pa.Table]:
    """Yield the notes of a store with their vectors."""
    generator = np.random.default_rng(0)
    words = np.array([f"w{i:05}" for i in range(5_000)])
    for start in range(0, count, STEP):
        size = min(STEP, count - start)
        vectors = generator.standard_normal((size, DIM)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        texts = [" ".join(row) for row in words[generator.integers(0, len(words), (size, 60))]]
        ids = pa.array([f"n{start + i:07}" for i in range(size)])
        columns = {
            "note_id": ids,
            "title": [text[:30] for text in texts],
            "content": texts,
            "topics": [["a topic", "another one"]] * size,
            "category": ["a category"] * size,
            "published_at": pa.nulls(size, TIME),
            "hidden": [False] * size,
            "expires_at": pa.nulls(size, TIME),
            "vector": vector_table(ids, vectors).column("vector"),
        }
        yield pa.table(columns, schema=rows_schema(DIM))


def make(place: Path, notes: int, clicks: int) -> None:
    """Make a store."""
    NoteStore.create(place, MODEL, note_rows(notes), dim=DIM).close()
    generator = np.random.default_rng(1)
    end = time.time_ns() // 1_000

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, clicks, 32 * STEP):
            size = min(32 * STEP, clicks - start)
            first = end - 80 * DAY + 75 * DAY * start // clicks
            moments = np.sort(first + generator.integers(0, 3 * DAY, size))
            columns = {
                "click_id": [f"{i:032x}" for i in generator.integers(0, 2**62, size)],
                "user_id": [f"u{i}" for i in generator.integers(0, USERS, size)],
                "note_id": [f"n{i:07}" for i in generator.integers(0, notes, size)],
                "timestamp": pa.array(moments).cast(TIME),
                "event": np.array(EVENTS)[generator.choice(len(EVENTS), size, p=SHARES)],
                "request_id": [""] * size,
            }
            yield from pa.table(columns, schema=CLICK_LOG).to_batches()

    # Not by ClickLog, which takes clicks one by one; it flushes and checks the table when it opens it.
    connect(str(place)).create_table(
        ClickLog.NAME, pa.RecordBatchReader.from_batches(CLICK_LOG, batches()), schema=CLICK_LOG
    )
    ClickLog.open(place, max_age=None).close()


def measure(folder: Path, notes: int, clicks: int) -> list[list[str]]:
    """Return the rows of the table for one size."""
    store, other, exported = folder / "store", folder / "other", folder / "exported"
    python = [sys.executable, "-m", "benchmarks.moving", "--make"]
    run([*python, str(store), str(notes), str(clicks)])
    run([*python, str(other), "1", "1"])
    bring = [sys.executable, "-m", "notellm.cli", "store", "import", str(other), "--quiet"]
    bring += ["--clicks", str(exported)]
    commands = {
        "opening it": [sys.executable, "-c", OPEN, str(store)],
        "export": [
            *(sys.executable, "-m", "notellm.cli", "store", "export", str(store)),
            *("-o", str(exported), "--quiet"),
        ],
        "import of the events into another store": bring,
        "the same once more": bring,
    }
    sizes = [f"{notes:,}", f"{clicks:,}"]
    rows = []
    for name, command in commands.items():
        found = run(command)
        rows.append([*sizes, name, f"{found['seconds']:.0f}", f"{1_024 * found['peak']:.0f}"])
        sizes = ["", ""]
    return rows


def main() -> None:
    parser: argparse.ArgumentParser = arguments("Exporting a store, and importing its log.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1], help="multiples of the sizes")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.make is not None:
        make(Path(chosen.make[0]), int(chosen.make[1]), int(chosen.make[2]))
        return
    rows = []
    for size in chosen.sizes:
        with tempfile.TemporaryDirectory() as name:
            rows += measure(Path(name), size * NOTES, size * CLICKS)
    head = ["notes", "clicks", "command", "seconds", "peak MiB"]
    text = f"Vectors of {DIM} dimensions; one run each, {datetime.now(UTC):%Y-%m-%d}."
    write_results(chosen.results, "moving", "Moving data", [text, table(head, rows, left=3)], {"rows": rows})


if __name__ == "__main__":
    main()
