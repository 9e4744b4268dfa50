"""Related pairs of up to 100 million clicks and 2 million notes: our kernel, DuckDB, a local Spark.

    python -m benchmarks.scale
    python -m benchmarks.scale --local 100000000 --duckdb --spark
    python -m benchmarks.scale --local --duckdb --spark 1000000      # needs Java and notellm[spark]

A log is that of the sample world without bots, 50 clicks a note and 25 a user. It is written once, in a
process of its own. Each run is a process, too. The clock of the kernel starts when the log is in memory and
the kernel is compiled. The engines read the file themselves while the clock runs, and are started before.
Memory is the largest resident one of the process until the pairs are there, for Spark that of the Java
process.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from benchmarks.common import CORES, ROOT, arguments, exponent, table, write_results
from notellm.data.sample_world import sample_log
from notellm.data.schema import CLICKS
from notellm.experiment.memory import peak_mib, reset_peak
from notellm.files import read_parquet, write_parquet
from notellm.options import filled
from notellm.pairs.counts import PairCounts
from notellm.pairs.local import mine_counted_pairs
from notellm.pairs.score import PairOptions
from notellm.pairs.warehouse import connect, mine_there, open_log

_CLICKS_PER_NOTE, _CLICKS_PER_USER = 50, 25
_MIB = 2**20

#: By name of a method: the engine, None for the kernel, and the sizes of its logs.
METHODS: dict[str, tuple[str | None, Sequence[int]]] = {
    "local": (None, (100_000, 1_000_000, 10_000_000, 100_000_000)),
    "duckdb": ("duckdb", (100_000, 1_000_000)),
    "spark": (f"local[{CORES}]", (100_000, 1_000_000)),
}


def log_of(clicks: int) -> pa.Table:
    """Return a log of some clicks."""
    return sample_log(clicks // _CLICKS_PER_NOTE, clicks // _CLICKS_PER_USER, clicks, bots=0)


def mine(path: Path, method: str) -> dict[str, Any]:
    """Mine the pairs of a log, and return what it took."""
    if not reset_peak():
        sys.exit("the peak of memory is read from /proc, which this system does not have")
    engine = METHODS[method][0]
    if engine is None:
        log = read_parquet(path, list(CLICKS.names))
        mine_counted_pairs(log.slice(0, 1_000), progress=False)  # compiles the kernel
        reset_peak()
        before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
        pairs, counts = mine_counted_pairs(log, progress=False)
        more = {"cpu": time.process_time() - cpu, "before": before, "log": log.nbytes / _MIB}
    else:
        connection = connect(engine)
        start = time.perf_counter()
        pairs, counts = mine_there(open_log(connection, str(path)), PairOptions())
        more = {}
    seconds = time.perf_counter() - start
    peak = filled(peak_mib()) if method != "spark" else _peak_of_spark()
    frame = pl.DataFrame(pl.from_arrow(pairs))
    return {"seconds": seconds, "peak": peak, "pairs": len(pairs), "hash": int(frame.hash_rows().sum())} | {
        **more,
        **_found(counts),
    }


def _found(counts: PairCounts) -> dict[str, int]:
    """Return the number of directed pairs before the best are chosen; an engine does not count them."""
    return {"found": counts.found} if counts.found else {}


def _peak_of_spark() -> float:
    """Return the largest resident memory of the Java process, in MiB."""
    from pyspark import SparkContext  # noqa: PLC0415 - an extra

    gateway: Any = SparkContext._gateway  # noqa: SLF001 - nothing else knows the process
    status = Path(f"/proc/{gateway.proc.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def run(step: str, *words: str) -> str:
    """Run a step of this module in a process of its own, and return what it printed."""
    command = [sys.executable, "-m", "benchmarks.scale", "--step", step, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4_000:])
    return done.stdout


def report(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Return the table; growth is the exponent of the size that explains the time of the size before."""
    rows, former = [], None
    for one in runs:
        growth = ""
        if former is not None and former["method"] == one["method"]:
            growth = exponent(one["seconds"], one["clicks"], former["seconds"], former["clicks"])
        of_this_log = [other["hash"] for other in runs if other["clicks"] == one["clicks"]]
        same = "yes" if len(set(of_this_log)) == 1 else "NO"
        rows.append(
            [
                one["method"],
                f"{one['clicks']:,}",
                f"{one['clicks'] // _CLICKS_PER_NOTE:,}",
                f"{one['seconds']:.3g}",
                growth,
                f"{one['cpu']:.3g}" if "cpu" in one else "",
                f"{one['peak']:,.0f}" + (f" ({one['before']:,.0f})" if "before" in one else ""),
                f"{one['log']:,.0f}" if "log" in one else "",
                f"{one['pairs']:,}",
                f"{one['found']:,}" if "found" in one else "",
                same if len(of_this_log) > 1 else "",
            ]
        )
        former = one
    head = ["method", "clicks", "notes", "s", "exponent", "processor s", "peak MiB (before the clock)"]
    yield table([*head, "log MiB", "pairs", "chosen from", "same pairs"], rows)


def main() -> None:
    parser = arguments("Related pairs of large logs.")
    for name, (_, sizes) in METHODS.items():
        parser.add_argument(f"--{name}", type=int, nargs="*", default=sizes, help="clicks of its logs")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "scale")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.step:
        step, *words = chosen.step
        if step == "write":
            path = Path(words[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            write_parquet(log_of(int(words[0])), path)
        else:
            print(json.dumps(mine(Path(words[0]), words[1])))
        return
    runs = []
    for method in METHODS:
        for clicks in getattr(chosen, method):
            path = chosen.work / f"{clicks}.parquet"
            if not path.is_file():
                run("write", str(clicks), str(path))
            found = json.loads(run("mine", str(path), method).splitlines()[-1])
            runs.append({"method": method, "clicks": clicks, **found})
            print(runs[-1], flush=True)
            write_results(
                chosen.results, "scale", "Related pairs of large logs", report(runs), {"runs": runs}
            )


if __name__ == "__main__":
    main()
