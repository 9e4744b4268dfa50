"""Clicks under SIGKILL: none that was acknowledged is lost, and none is half written or there twice.

Each round starts a process that opens the log of a store and writes clicks in groups, now and then repeats a
group, forgets a user and tidies the log. It prints each group that was acknowledged, and is killed at a
random moment. The process of the next round opens the log, mends what the kill left, and checks everything
that was acknowledged so far.

    python -m benchmarks.kept_clicks --work DIR                  (it starts itself with --child)
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
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, arguments, write_results

_TOGETHER = 16  # clicks of a group
_REPEATED, _FORGOTTEN, _TIDIED = 0.2, 0.02, 0.05  # how often a group is followed by each of these


def child(store: Path, seed: int) -> None:
    """Check the log, print the ids that it has, then write until killed."""
    from notellm.store.clicks import Click, ClickLog  # noqa: PLC0415 - the parent needs no store
    from notellm.store.lance import lancedb  # noqa: PLC0415 - as above

    lancedb()  # else most kills would come while it is imported at the first write
    begun = time.perf_counter()
    log = ClickLog.open(store)
    opened = time.perf_counter() - begun
    rows = log.read()
    have = Counter(rows["click_id"].to_pylist())
    print(json.dumps({"have": have, "opened": opened, "report": log.report}), flush=True)
    rng = random.Random(seed)
    number = 0
    while True:
        group = f"{seed}-{number}"
        number += 1
        user = f"user-{group}"
        clicks = [
            Click(user, f"n{rng.randrange(1_000)}", "click", datetime.now(UTC), f"{group}-{i}")
            for i in range(_TOGETHER)
        ]
        print(json.dumps({"begins": group}), flush=True)
        log.append(clicks)
        print(json.dumps({"done": group}), flush=True)
        if rng.random() < _REPEATED:
            log.append(clicks)
        if rng.random() < _FORGOTTEN:
            print(json.dumps({"forgets": group}), flush=True)
            log.forget(user)
            print(json.dumps({"forgot": group}), flush=True)
        if rng.random() < _TIDIED:
            log.tidy()


def problems_of(groups: dict[str, str], have: dict[str, int]) -> list[str]:
    """Return the groups that are not as they must be.

    A group that is "done" is whole, one that is "forgot" is gone, and one between two states is either.
    """
    wrong = [f"{name} is there {count} times" for name, count in have.items() if count != 1]
    for group, state in groups.items():
        present = sum(f"{group}-{i}" in have for i in range(_TOGETHER))
        allowed = {"done": {_TOGETHER}, "forgot": {0}}.get(state, {0, _TOGETHER})
        if present not in allowed:
            wrong.append(f"{group} ({state}) has {present} of {_TOGETHER}")
    return wrong


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Run the rounds, each with one kill, and a last one that only checks."""
    rng = random.Random(asked.seed)
    groups: dict[str, str] = {}
    problems: list[str] = []
    opened: list[float] = []
    mended = 0
    for number in range(asked.rounds + 1):
        command = [sys.executable, "-m", "benchmarks.kept_clicks", "--work", str(asked.work)]
        process = subprocess.Popen(
            [*command, "--child", str(number)],
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
        opened.append(first["opened"])
        mended += bool(first["report"])
        wrong = problems_of(groups, first["have"])
        problems += [f"round {number}: {each}" for each in wrong]
        # What was between two states is settled by now.
        groups = {group: "done" if f"{group}-0" in first["have"] else "forgot" for group in groups}
        if number < asked.rounds:
            time.sleep(rng.uniform(0.0, asked.longest))
        process.send_signal(signal.SIGKILL)
        text = process.communicate()[0]
        for event in (json.loads(each) for each in text.splitlines(keepends=True) if each.endswith("\n")):
            for state, group in event.items():
                groups[group] = state
        print(f"{number}: {len(groups):,} groups, wrong {wrong}, mended {first['report']}", flush=True)
    whole = Counter(groups.values())
    return {
        "rounds": asked.rounds,
        "acknowledged_clicks": _TOGETHER * (whole["done"] + whole["forgot"]),
        "groups": dict(whole),
        "mended": mended,
        "problems": problems,
        "opened": opened,
    }


def main() -> None:
    parser = arguments("SIGKILL while clicks are written.")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "kept_clicks")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--longest", type=float, default=3.0, help="seconds of writing, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    store = asked.work / "store"
    if asked.child is not None:
        child(store, asked.child)
        return
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir(parents=True)
    results = run(asked)
    body = [
        (
            f"{results['rounds']} kills, {results['acknowledged_clicks']:,} acknowledged clicks in groups of "
            f"{_TOGETHER}, all checked after every kill; states at the end: {results['groups']}. Starts that "
            f"mended a torn version: {results['mended']}. Problems: {len(results['problems'])}."
        ),
        (
            f"Opening the log: median {statistics.median(results['opened']):.2f} s, longest "
            f"{max(results['opened']):.2f} s."
        ),
    ]
    write_results(asked.results, "kept_clicks", "SIGKILL while clicks are written", body, results)


if __name__ == "__main__":
    main()
