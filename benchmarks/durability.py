"""Durability: SIGKILL at random moments while notes are written to a store of 200,000 (`--notes`).

Each round starts a process that opens the engine (model, store, HNSW index), then publishes, changes and
removes notes in groups, and prints each group that was acknowledged. It is killed at a random moment. The
process of the next round first checks everything that was acknowledged: every written note has its text and
is in the index, every removed one is gone, and no group is half written. The start-up is timed.

    python -m benchmarks.durability --work DIR                  (it starts itself with --child)
"""

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.catalogue import COUNT, catalogue
from benchmarks.common import ROOT, arguments, write_results
from notellm.jobs.build_store import build_store
from notellm.recall.model import NoteLLM

_TOGETHER = 8  # notes of a group


def child(store: Path, model: Path, seed: int, state: Path) -> None:
    """Open the engine, check it, print the result, then write until killed."""
    begun = time.perf_counter()
    import lancedb  # noqa: F401, PLC0415 - timed

    from notellm.engine.engine import Engine  # noqa: PLC0415 - timed
    from notellm.engine.requests import Change, Publish, RelatedQuery, Remove  # noqa: PLC0415 - timed
    from notellm.store.rows import StoredNote  # noqa: PLC0415 - timed

    imported = time.perf_counter()
    engine = Engine.open(store, model, index="hnsw")
    opened = time.perf_counter()
    wrong = []
    groups = json.loads(state.read_text()) if state.is_file() else {}
    for name, expected in groups.items():
        present = [f"{name}/{i}" in engine.notes for i in range(_TOGETHER)]
        if expected is None:  # it was not acknowledged: all of it may be present, or nothing
            whole = not any(present) or all(present)
        else:
            texts = [engine.notes[f"{name}/{i}"].title if present[i] else None for i in range(_TOGETHER)]
            whole = texts == expected
        ids = [f"{name}/{i}" for i in range(_TOGETHER) if present[i]]
        indexed = engine.index.contains(ids).all() if ids else True
        if not whole or not indexed:
            wrong.append(name)
    consistent = len(engine.index) == len(engine.notes) == len(engine._state.live.store)  # noqa: SLF001 - the check
    first = {
        "imported": imported - begun,
        "opened": opened - imported,
        "wrong": wrong,
        "consistent": bool(consistent),
    }
    print(json.dumps(first), flush=True)
    rng = random.Random(seed)
    number = 0
    while True:
        name = f"kill/{seed}/{number}"
        number += 1
        print(json.dumps({"begins": name}), flush=True)
        titles: list[str | None] = [f"{name} note {i} {rng.random()}" for i in range(_TOGETHER)]
        engine.apply(
            [Publish(StoredNote(title=t or "", note_id=f"{name}/{i}")) for i, t in enumerate(titles)]
        )
        print(json.dumps({"done": name, "titles": titles}), flush=True)
        changed = rng.randrange(1, _TOGETHER)
        titles[changed] = f"{titles[changed]} changed"
        titles[0] = None
        print(json.dumps({"begins again": name, "after": titles}), flush=True)
        change = Change(f"{name}/{changed}", {"title": titles[changed]})
        engine.apply([change])
        engine.apply([Remove(f"{name}/0")])
        print(json.dumps({"done": name, "titles": titles}), flush=True)
        engine.related([RelatedQuery(note_id=f"{name}/1")])


def run(asked: argparse.Namespace, store: Path, model: Path, rounds: int) -> dict[str, Any]:
    """Run the rounds, each with one kill."""
    state = asked.work / "durability.json"
    state.unlink(missing_ok=True)
    groups: dict[str, list[str | None] | None] = {}
    rng = random.Random(asked.seed)
    starts, problems, acknowledged = [], [], 0
    for number in range(rounds + 1):
        state.write_text(json.dumps(groups))
        command = [
            sys.executable,
            "-m",
            "benchmarks.durability",
            "--work",
            str(asked.work),
            "--child",
            str(number),
        ]
        begun = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--store", str(store), "--model", str(model)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            sys.exit(f"round {number} did not start: {process.communicate()[1][-3_000:]}")
        first = json.loads(line)
        first["process"] = time.perf_counter() - begun
        starts.append(first)
        if first["wrong"] or not first["consistent"]:
            problems.append({"round": number, **first})
        if number < rounds:
            time.sleep(rng.uniform(0.0, asked.longest))
        process.send_signal(signal.SIGKILL)
        text = process.communicate()[0]
        for event in (json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")):
            if "done" in event:
                groups[event["done"]] = event["titles"]
                acknowledged += 1
            elif "begins" in event:
                groups[event["begins"]] = None
            else:
                # Between the two writes of a group each of its states is allowed, so it is not checked.
                del groups[event["begins again"]]
        print(
            f"{number}: {len(groups)} groups, opened in {first['opened']:.2f} s, wrong {first['wrong']}",
            flush=True,
        )
    return {
        "rounds": rounds,
        "acknowledged_writes": acknowledged,
        "groups_checked": len(groups),
        "problems": problems,
        "starts": starts,
    }


def options() -> argparse.Namespace:
    parser = arguments(__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=Path, required=True, help="where notes, vectors and store are kept")
    parser.add_argument("--notes", type=int, default=COUNT, help="notes of the store")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of writing, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    asked = options()
    if asked.child is not None:
        child(asked.store, asked.model, asked.child, asked.work / "durability.json")
        return
    model, notes, _ = catalogue(asked.work, asked.notes)
    store = asked.work / "durable"
    shutil.rmtree(store, ignore_errors=True)
    build_store(store, NoteLLM.from_pretrained(model), notes, vectors=asked.work / "vectors.parquet")
    results = run(asked, store, model, asked.rounds)
    opened = [start["opened"] for start in results["starts"][1:]]
    process = [start["process"] for start in results["starts"][1:]]
    checked = (
        f"{notes.num_rows:,} notes, HNSW; {results['rounds']} kills, {results['acknowledged_writes']:,} "
        f"acknowledged groups of writes, {results['groups_checked']:,} groups checked at the end; problems: "
        f"{len(results['problems'])}."
    )
    times = (
        f"Opening model, store and index: median {statistics.median(opened):.2f} s, longest "
        f"{max(opened):.2f} s. From the start of the process, imports and checks included: median "
        f"{statistics.median(process):.2f} s, longest {max(process):.2f} s."
    )
    body = [checked, times]
    write_results(asked.results, "durability", "SIGKILL while notes are written", body, results)


if __name__ == "__main__":
    main()
