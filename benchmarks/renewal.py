"""A renewal beside a service under constant load: failed requests, latencies, memory.

The store, its log and its models are those of a simulated feed (`benchmarks.loop`, seed 0, before its days).
Related notes by id are asked for at a constant rate, with 5 % writes: before a renewal, while `notellm renew`
runs with the lowest priority and the service switches to the new models, and afterwards.

    python -m benchmarks.renewal
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, arguments, table, write_results
from benchmarks.feed import Feed
from benchmarks.loop import build
from benchmarks.service import Server, free_port, load, merged, summary


def main() -> None:
    parser = arguments("A renewal beside a service under constant load.")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "renewal")
    parser.add_argument(
        "--start", type=Path, help="store, model and ranker of an earlier run of benchmarks.loop"
    )
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a piece of the load")
    parser.add_argument("--pieces", type=int, default=3, help="pieces before, and after")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    feed = Feed.make(days=6, visits=500, per_day=60, notes=2_400, seed=0)
    folder = asked.work / "feed"
    shutil.rmtree(folder, ignore_errors=True)
    if asked.start is None:
        build(feed, folder)
    else:
        shutil.copytree(asked.start, folder)
    ids = asked.work / "ids.txt"
    notes = feed.world.notes.take(feed.notes).to_pylist()
    ids.write_text("".join(json.dumps({"note_id": n["note_id"], "text": n["title"]}) + "\n" for n in notes))

    port = free_port()
    models = ["--model", str(folder / "model"), "--ranker", str(folder / "ranker")]
    store = str(folder / "store")
    command = [sys.executable, "-m", "notellm.cli", "serve", store, *models, "--port", str(port)]
    server = Server([*command, "--no-keys", "-q"], port, asked.work / "serve.log")
    reading = [
        "--ids",
        str(ids),
        "--rate",
        str(asked.rate),
        "--seconds",
        str(asked.seconds),
        "--writes",
        "0.05",
    ]
    load(port, *reading)  # the first requests load what is loaded when it is needed
    phases: dict[str, dict[str, Any]] = {}
    phases["before"] = merged([load(port, *reading, "--run", f"before{i}") for i in range(asked.pieces)])
    memory = {"before": server.memory()}

    told: dict[str, Any] = {}
    renewing = threading.Thread(target=lambda: told.update(renewed(store, models, port)))
    renewing.start()
    pieces: list[dict[str, Any]] = []
    peak = 0.0
    while renewing.is_alive():
        pieces.append(load(port, *reading, "--run", f"during{len(pieces)}"))
        peak = max(peak, server.memory())
    renewing.join()
    phases["during"] = merged(pieces)
    memory["during, largest seen"] = peak
    phases["after"] = merged([load(port, *reading, "--run", f"after{i}") for i in range(asked.pieces)])
    memory["after"] = server.memory()
    server.stop()

    figures = {name: summary(run) for name, run in phases.items()}
    rows = [
        [
            name,
            f"{each['seconds']:.0f}",
            f"{sum(each['statuses'].values()):,}",
            f"{sum(n for status, n in each['statuses'].items() if status != '200') + each['errors']:,}",
            *(f"{each[kind][point]:.1f}" for kind in ("reads", "writes") for point in ("p50", "p99")),
        ]
        for name, each in figures.items()
    ]
    ratio = figures["during"]["reads"]["p99"] / figures["before"]["reads"]["p99"]
    head = ["", "s", "requests", "failed", "read p50, ms", "read p99", "write p50", "write p99"]
    body = [
        f"{len(notes):,} notes, {asked.rate:g} requests a second, 5 % writes.",
        table(head, rows),
        (
            f"p99 of reads during the renewal is {ratio:.2f} times that before. The renewal took "
            f"{told['seconds']:.0f} s and at most {told['peak_mib']:,.0f} MiB; "
            f"{'the new models took over' if told['takes_over'] else 'the former models stayed'}. Memory of "
            f"the service in MiB: {', '.join(f'{name} {mib:,.0f}' for name, mib in memory.items())}."
        ),
    ]
    values = {"phases": figures, "renewal": told, "memory_mib": memory}
    write_results(asked.results, "renewal", "A renewal beside a service under load", body, values)


def renewed(store: str, models: list[str], port: int) -> dict[str, Any]:
    """Renew with the lowest priority; return its decision, its seconds, and its largest memory."""
    options = ["--test-days", "2", "--margin", "1", "--url", f"http://127.0.0.1:{port}", "-q"]
    command = ["nice", "-n", "19", sys.executable, "-m", "notellm.cli", "renew", store, *models, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the renewal failed: {done.stderr[-2_000:]}")
    (kept,) = (Path(models[1]).with_name("model.renewal") / "decisions").iterdir()
    decision: dict[str, Any] = json.loads(kept.read_text())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        **decision,
        "steps": decision["seconds"],
        "seconds": sum(decision["seconds"].values()),
        "peak_mib": peak,
    }


if __name__ == "__main__":
    main()
