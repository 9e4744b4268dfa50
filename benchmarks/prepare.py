"""Time and peak memory of `notellm prepare` on a long log, beside Polars reading the same file.

    python -m benchmarks.prepare                     # 50 million clicks, as CSV and as Parquet
    python -m benchmarks.prepare --clicks 2000000

The log is made by a seed: users at random, notes by a skewed popularity, times that rise but for every sixth
row. Each run is a separate process, whose seconds count from its start to its end and whose peak memory is
that of getrusage. Polars only reads the file into a table; `prepare` cleans it, sorts it by user and time,
takes its fingerprint and writes it. Both files must become the same Parquet.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from benchmarks.common import arguments, table, write_results

USERS, NOTES, STEP = 1_000_000, 200_000, 5_000_000
READ = "import polars, sys; polars.read_{kind}(sys.argv[1])"


def make(folder: Path, clicks: int) -> dict[str, Path]:
    """Write the notes, and the log in both formats."""
    generator = np.random.default_rng(0)
    ids = [f"n{i}" for i in range(NOTES)]
    pl.DataFrame({"note_id": ids, "title": [f"note {i}" for i in range(NOTES)]}).write_csv(
        folder / "notes.csv"
    )
    files = {"csv": folder / "clicks.csv", "parquet": folder / "clicks.parquet"}
    writer = None
    with files["csv"].open("wb") as text:
        for start in range(0, clicks, STEP):
            size = min(STEP, clicks - start)
            moment = np.sort(generator.integers(0, 6_000_000, size)) + 1_600_000_000 + start // 10
            part = pl.DataFrame(
                {
                    "user": generator.integers(0, USERS, size),
                    "note": (NOTES * generator.random(size) ** 2).astype(np.int64),
                    "timestamp": moment,
                }
            ).select(
                user_id=pl.format("u{}", "user"), note_id=pl.format("n{}", "note"), timestamp="timestamp"
            )
            part.write_csv(text, include_header=not start)
            rows = part.to_arrow()
            writer = writer or pq.ParquetWriter(files["parquet"], rows.schema)
            writer.write_table(rows)
    if writer is not None:
        writer.close()
    return files


def run(command: list[str]) -> dict[str, float]:
    """Run a command; return its seconds and its peak memory in GiB."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            errors = process.stderr.read().decode() if process.stderr else ""
            sys.exit(f"{' '.join(command)} ended with {status}: {errors}")
    return {"seconds": time.perf_counter() - begin, "peak": usage.ru_maxrss / 2**20}


def main() -> None:
    parser: argparse.ArgumentParser = arguments("notellm prepare on a long log.")
    parser.add_argument("--clicks", type=int, default=50_000_000, help="rows of the log")
    chosen = parser.parse_args()
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, path in make(folder, chosen.clicks).items():
            size = path.stat().st_size / 2**30
            output = folder / f"data-{kind}"
            prepare = [sys.executable, "-m", "notellm.cli", "prepare", "--notes", str(folder / "notes.csv")]
            prepare += ["--clicks", str(path), "--user-limit", "0", "-o", str(output)]
            runs[kind] = {
                "size": size,
                "prepare": run(prepare),
                "polars": run([sys.executable, "-c", READ.format(kind=kind), str(path)]),
            }
        first, second = ((folder / f"data-{kind}" / "clicks.parquet").read_bytes() for kind in runs)
        if first != second:
            sys.exit("the two files became different tables")
    rows = [
        [
            kind,
            f"{found['size']:.2f}",
            *(f"{found[who][what]:.{digits}f}" for who in ("prepare", "polars") for what, digits in FIGURES),
        ]
        for kind, found in runs.items()
    ]
    head = ["file", "GiB", "prepare: seconds", "peak GiB", "Polars reading: seconds", "peak GiB"]
    text = f"{chosen.clicks:,} clicks of {USERS:,} users on {NOTES:,} notes; one run each."
    write_results(
        chosen.results, "prepare", "prepare on a long log", [text, table(head, rows)], {"runs": runs}
    )


FIGURES = (("seconds", 0), ("peak", 2))

if __name__ == "__main__":
    main()
