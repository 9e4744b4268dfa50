"""The service under load at 200,000 notes (`--notes`); server, bare FastAPI and load are separate processes.

1. Closed loop: related notes by id, with 5 % writes among the reads, alternating with a bare FastAPI
   application that answers a constant of the same size; requests per second and latencies. A second server,
   on a copy of the store, writes without flushing to disk (``--no-sync``). It gets the same mixture, and
   writes alone.
2. Publish to visible: a new text is published and then searched for; seconds until both are answered.
3. Overload: related notes by text at three times the rate of a closed loop; refusals, memory, recovery.

Every acknowledged write is looked up at the end, and again after the server was killed and restarted.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.catalogue import COUNT, catalogue
from benchmarks.common import ROOT, arguments, table, write_results
from notellm.client import Client, ServiceError
from notellm.jobs.build_store import build_store
from notellm.recall.model import NoteLLM

_BARE = """
import sys, uvicorn
from fastapi import FastAPI, Response
answer = b"x" * int(sys.argv[2])
api = FastAPI()
@api.get("/constant")
async def constant():
    return Response(answer, media_type="application/json")
@api.get("/constant/json")
async def constant_json():
    return RELATED
RELATED = {"related": [{"note_id": "x" * 20, "title": "x" * (int(sys.argv[2]) // 10 - 90), "category": "",
                        "score": 0.123456}] * 10}
uvicorn.run(api, host="127.0.0.1", port=int(sys.argv[1]), log_config=None, access_log=False)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process."""

    def __init__(self, command: list[str], port: int, log: Path) -> None:
        self.port = port
        start = time.perf_counter()
        self._log = log.open("ab")
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=self._log, stderr=self._log, env=environment
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"the server ended: {log.read_text()[-2_000:]}")
                time.sleep(0.05)
        self.started = time.perf_counter() - start

    def memory(self) -> float:
        """Resident memory in MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Stop the process."""
        self.process.send_signal(how)
        self.process.wait(60)
        self._log.close()


def serve(asked: argparse.Namespace, store: Path, model: Path, log: Path, *more: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "notellm.cli", "serve", str(store), "--model", str(model)]
    command += ["--index", asked.index, "--no-keys", "--port", str(port), "-q", *more]
    return Server(command, port, log)


def load(port: int, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(port), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """Summarize a run without its single times."""
    figures: dict[str, Any] = {"seconds": run["seconds"], "statuses": run["statuses"]}
    answered = len(run["reads"]) + len(run["writes"])
    figures["per_second"] = answered / run["seconds"]
    figures["bytes_each"] = run["bytes"] / max(1, sum(run["statuses"].values()))
    for kind in ("reads", "writes", "refusals"):
        times = np.array(run[kind]) * 1e3
        if len(times):
            points = np.percentile(times, [50, 95, 99])
            figures[kind] = {
                "count": len(times),
                **dict(zip(("p50", "p95", "p99"), points.tolist(), strict=True)),
            }
    figures["errors"] = run["error_count"]
    figures["first_errors"] = run["errors"][:3]
    return figures


def merged(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Merge several runs into one."""
    whole: dict[str, Any] = {name: [] for name in ("reads", "writes", "refusals", "acknowledged", "errors")}
    for name in whole:
        whole[name] = [value for run in runs for value in run[name]]
    for name in ("seconds", "bytes", "error_count"):
        whole[name] = sum(run[name] for run in runs)
    statuses: dict[str, int] = {}
    for run in runs:
        for status, count in run["statuses"].items():
            statuses[status] = statuses.get(status, 0) + count
    return {**whole, "statuses": statuses}


def lost(client: Client, note_ids: list[str]) -> int:
    """Count the acknowledged notes that are missing."""
    missing = 0
    for note_id in note_ids:
        try:
            client.note(note_id)
        except ServiceError as error:
            if error.status != 404:
                raise
            missing += 1
    return missing


def throughput(
    server: Server, unsynced: Server, asked: argparse.Namespace, ids: Path, log: Path
) -> dict[str, Any]:
    """Part 1: alternate with the bare endpoint, and with a server that does not flush its writes."""
    common = ["--connections", str(asked.connections)]
    seconds = ["--seconds", str(asked.seconds / asked.rounds)]
    reading = ["--ids", str(ids), *common]
    warm = load(server.port, *reading, "--seconds", "5")
    size = round(warm["bytes"] / sum(warm["statuses"].values()))
    port = free_port()
    bare = Server([sys.executable, "-c", _BARE, str(port), str(size)], port, log)
    load(port, *common, "--seconds", "3")
    names = ("bare", "bare_json", "reads", "mixed", "mixed_unsynced", "writes", "writes_unsynced")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    load(unsynced.port, *reading, "--seconds", "5")
    for turn in range(asked.rounds):
        runs["bare"].append(load(port, *common, *seconds))
        for name, share in (("mixed", "0.05"), ("writes", "1.0")):
            writing = [*reading, *seconds, "--writes", share, "--run", f"{name}{turn}", "--seed", str(turn)]
            runs[name].append(load(server.port, *writing))
            runs[f"{name}_unsynced"].append(load(unsynced.port, *writing))
        runs["reads"].append(load(server.port, *reading, *seconds, "--seed", str(100 + turn)))
        runs["bare_json"].append(load(port, *common, *seconds, "--path", "/constant/json"))
        each = {name: summary(turns[-1])["per_second"] for name, turns in runs.items()}
        print({name: round(value) for name, value in each.items()}, flush=True)
    bare.stop()
    rates = {name: [summary(run)["per_second"] for run in turns] for name, turns in runs.items()}
    return {
        "answer_bytes": size,
        **{name: summary(merged(turns)) for name, turns in runs.items()},
        "per_second_by_round": rates,
        "acknowledged": [
            note_id for name in ("mixed", "writes") for run in runs[name] for note_id in run["acknowledged"]
        ],
        "ratio_by_round": [m / b for m, b in zip(rates["mixed"], rates["bare"], strict=True)],
        "ratio_json_by_round": [m / b for m, b in zip(rates["mixed"], rates["bare_json"], strict=True)],
        "ratio_sync_by_round": {
            name: [a / b for a, b in zip(rates[name], rates[f"{name}_unsynced"], strict=True)]
            for name in ("mixed", "writes")
        },
    }


def visible(client: Client, texts: list[str], count: int) -> dict[str, Any]:
    """Part 2: measure the seconds from sending a note until a search for its text has answered."""
    seconds, unseen = [], 0
    for number in range(count):
        note_id, text = f"visible/{number}", f"{texts[number % len(texts)]} {number}"
        start = time.perf_counter()
        client.publish(note_id, title=text)
        related = client.related(title=text, k=50)
        seconds.append(time.perf_counter() - start)
        unseen += note_id not in {note.note_id for note in related}
    points = np.percentile(np.array(seconds) * 1e3, [50, 95, 99])
    return {
        "notes": count,
        "not_found_at_once": unseen,
        "ms": dict(zip(("p50", "p95", "p99"), points.tolist(), strict=True)),
    }


def overload(server: Server, asked: argparse.Namespace, ids: Path) -> dict[str, Any]:
    """Part 3: send three times the rate that a closed loop reaches."""
    texts = ["--ids", str(ids), "--texts"]
    capacity = summary(load(server.port, *texts, "--seconds", "10", "--connections", "32"))["per_second"]
    before = server.memory()
    command = [sys.executable, "-m", "benchmarks.load", "--port", str(server.port), *texts]
    command += ["--seconds", str(asked.overload), "--rate", str(3 * capacity)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    peak = before
    health: list[float] = []
    with Client(f"http://127.0.0.1:{server.port}", retries=0, timeout=10) as client:
        end = time.perf_counter() + asked.overload
        while time.perf_counter() < end:
            peak = max(peak, server.memory())
            start = time.perf_counter()
            client._ask("GET", "/health/live")  # noqa: SLF001 - the client has no method for it
            health.append(time.perf_counter() - start)
            time.sleep(0.5)
    run = json.loads(child.communicate()[0])
    ended = time.perf_counter()
    recovered = None
    with Client(f"http://127.0.0.1:{server.port}", retries=0, timeout=10) as client:
        quick = 0
        while time.perf_counter() - ended < 60:
            start = time.perf_counter()
            try:
                client.related(title="recovery", k=10)
                quick = quick + 1 if time.perf_counter() - start < 0.1 else 0
            except ServiceError:
                quick = 0
            if quick == 5:
                recovered = time.perf_counter() - ended
                break
    return {
        "capacity_per_second": capacity,
        "offered_per_second": 3 * capacity,
        **summary(run),
        "memory_before_mib": before,
        "memory_peak_mib": peak,
        "health_p99_ms": float(np.percentile(health, 99) * 1e3),
        "recovered_seconds": recovered,
    }


def options() -> argparse.Namespace:
    parser = arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where notes, vectors and store are kept")
    parser.add_argument("--notes", type=int, default=COUNT, help="notes of the store")
    parser.add_argument("--index", default="hnsw")
    parser.add_argument("--seconds", type=float, default=60, help="of each kind of load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--overload", type=float, default=60)
    parser.add_argument("--visible", type=int, default=500)
    return parser.parse_args()


def main() -> None:
    asked = options()
    model, notes, _ = catalogue(asked.work, asked.notes)
    store, log = asked.work / "store", asked.work / "service.log"
    if not store.is_dir():
        build_store(store, NoteLLM.from_pretrained(model), notes, vectors=asked.work / "vectors.parquet")
    served = asked.work / "served"
    index = next(store.glob("index_*"), None)
    if index is None:  # the first start builds and saves the graph
        serve(asked, store, model, log).stop()
    copies = served, asked.work / "served-unsynced"
    for copy in copies:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(store, copy)
    ids = asked.work / "ids.jsonl"
    columns = (notes[name].to_pylist() for name in ("note_id", "title", "content"))
    texts = [(note_id, (title or content)[:300]) for note_id, title, content in zip(*columns, strict=True)]
    ids.write_text("".join(json.dumps({"note_id": i, "text": t}) + "\n" for i, t in texts), encoding="utf-8")

    server = serve(asked, served, model, log)
    unsynced = serve(asked, copies[1], model, log, "--no-sync")
    started = server.started
    results: dict[str, Any] = {"notes": notes.num_rows, "index": asked.index, "start_seconds": started}
    with Client(f"http://127.0.0.1:{server.port}") as client:
        results["memory_mib"] = server.memory()
        results["throughput"] = part = throughput(server, unsynced, asked, ids, log)
        unsynced.stop()
        results["visible"] = visible(client, [text for _, text in texts[:5_000]], asked.visible)
        print(results["visible"], flush=True)
        results["lost_writes"] = lost(client, part["acknowledged"])
    results["overload"] = overload(server, asked, ids)
    print(results["overload"], flush=True)
    server.stop(signal.SIGKILL)
    server = serve(asked, served, model, log)
    results["start_seconds_after_kill"] = server.started
    with Client(f"http://127.0.0.1:{server.port}") as client:
        results["lost_writes_after_kill"] = lost(client, part["acknowledged"])
    server.stop()
    results["throughput"]["acknowledged"] = len(part["acknowledged"])
    write_results(asked.results, "service", "The service under load", report(results), results)


def report(results: dict[str, Any]) -> list[str]:
    part, over = results["throughput"], results["overload"]
    names = {
        "bare": "bare FastAPI, a constant of as many bytes",
        "bare_json": "bare FastAPI, a constant of as many bytes as JSON",
        "reads": "related by id",
        "mixed": "**related by id, 5 % writes**",
        "mixed_unsynced": "the same, writes not flushed (`--no-sync`)",
        "writes": "**writes alone**",
        "writes_unsynced": "the same, not flushed (`--no-sync`)",
    }
    rows = []
    for name, text in names.items():
        figures = part[name]
        cells = [text, f"{figures['per_second']:,.0f}"]
        cells += [f"{figures['reads'][p]:.1f}" if "reads" in figures else "" for p in ("p50", "p95", "p99")]
        cells.append(
            ""
            if "writes" not in figures
            else " / ".join(f"{figures['writes'][p]:.0f}" for p in ("p50", "p95", "p99"))
        )
        cells.append(str(figures["errors"]))
        rows.append(cells)
    rounds = ", ".join(f"{value:.2f}" for value in part["ratio_by_round"])
    rounds_json = ", ".join(f"{value:.2f}" for value in part["ratio_json_by_round"])
    sync = part["ratio_sync_by_round"]
    flushed = " ".join(
        f"{text}, flushed as a share of not flushed, by round: {', '.join(f'{v:.2f}' for v in sync[name])} "
        f"(median {statistics.median(sync[name]):.2f})."
        for name, text in (("mixed", "Reads with 5 % writes"), ("writes", "Writes alone"))
    )
    shown = results["visible"]
    ms, refused = shown["ms"], over.get("refusals", {"p50": 0.0, "p99": 0.0})
    recovered = over["recovered_seconds"] or float("nan")
    setting = (
        f"{results['notes']:,} notes, index {results['index']}, answers of {part['answer_bytes']:,} bytes; "
        "server and load are separate processes on the same cores and alternate."
    )
    shares = (
        f"With writes, as a share of the bare endpoint, by round: {rounds} (median "
        f"{statistics.median(part['ratio_by_round']):.2f}); of the endpoint that writes JSON: {rounds_json}."
    )
    writes = (
        f"{part['acknowledged']:,} writes acknowledged; lost: {results['lost_writes']}, after SIGKILL and a "
        f"restart: {results['lost_writes_after_kill']}. Started in {results['start_seconds']:.1f} s, after "
        f"the kill in {results['start_seconds_after_kill']:.1f} s; {results['memory_mib']:,.0f} MiB."
    )
    publish = (
        f"Publish to visible, {shown['notes']} notes, both requests, ms: p50 {ms['p50']:.0f}, p95 "
        f"{ms['p95']:.0f}, p99 {ms['p99']:.0f}; not found at once: {shown['not_found_at_once']}."
    )
    overloaded = (
        f"Overload, related by text: {over['offered_per_second']:.0f} requests a second where "
        f"{over['capacity_per_second']:.0f} are answered, {over['seconds']:.0f} s: statuses "
        f"{over['statuses']}, errors {over['errors']}; refusals p50 / p99 {refused['p50']:.1f} / "
        f"{refused['p99']:.1f} ms; answered p50 / p99 {over['reads']['p50']:.0f} / "
        f"{over['reads']['p99']:.0f} ms; memory {over['memory_before_mib']:,.0f} to "
        f"{over['memory_peak_mib']:,.0f} MiB; health p99 {over['health_p99_ms']:.0f} ms; "
        f"recovered in {recovered:.2f} s."
    )
    head = ["closed loop", "requests/s", "p50 ms", "p95", "p99", "writes p50 / p95 / p99 ms", "errors"]
    return [setting, table(head, rows), shares, flushed, writes, publish, overloaded]


if __name__ == "__main__":
    main()
