"""The closed loop on a simulated feed: does renewing the models each day bring clicks?

The feed is the sample world, whose truth says what each user wants. Its log of four weeks has three quarters
of the concepts; the others come up during the simulated days, in new notes and in what users want. Every day
notes are published. Users visit: some search first, and open a note that they want, since a feed is
never the only way to notes; then they see ten notes and click. Five feeds see the same users on the same
days, and chance decides alike about the same visit and note:

- no renewal: `notellm serve` with the models of the log, which takes notes and clicks all along;
- exploring: the same, with `--explore 0.1`: a tenth of the places for fresh notes that few were shown;
- daily renewal: without exploring, and `notellm renew` after every day;
- popularity: unseen notes that most users clicked so far;
- knowing the interest: unseen notes of the main interest of the user on that day, which no recommender knows.
  It is a bound for what a feed can reach.

A simulated day is twelve hours of the log, so that all days lie within the service's seven fresh days. Notes,
clicks and recommendations go over HTTP, and renewals run beside the service.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from benchmarks.feed import Feed, K, Knowing, Outcome, Popularity, Shows, Visit, notes_at, simulate
from benchmarks.service import Server, free_port
from notellm.client import Client
from notellm.data.impressions import click_histories
from notellm.data.sample.truth import note_id, user_id
from notellm.data.split import split_impressions
from notellm.files import read_json, write_json
from notellm.jobs.build_store import build_store
from notellm.jobs.train_rank import train_rank
from notellm.jobs.train_recall import train_recall
from notellm.pairs.local import mine_pairs
from notellm.rank.config import RankOptions
from notellm.recall.config import RecallOptions
from notellm.recommend.candidates import impressions_from_candidates
from notellm.store.clicks import Click, ClickLog

_TOGETHER = 200  # notes published by one request

#: What is compared: its name, whether models are renewed, and further options of the service.
ARMS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("knowing the interest", False, ()),
    ("popularity", False, ()),
    ("no renewal", False, ()),
    ("exploring", False, ("--explore", "0.1")),
    ("daily renewal", True, ()),
)


class Served(Shows):
    """Shows what a real service recommends, and renews its models after each day if asked for."""

    def __init__(self, feed: Feed, client: Client, renew: Callable[[], dict[str, Any]] | None = None) -> None:
        self._feed = feed
        self._client = client
        self._renew = renew
        self._lists: dict[int, str | None] = {}  # the latest list of each user

    def begin_day(self, day: int, rows: np.ndarray) -> None:
        """Publish the notes of a day."""
        notes = notes_at(self._feed, rows, self._feed.time(day, 0)).to_pylist()
        for start in range(0, len(notes), _TOGETHER):
            self._client.publish_many(notes[start : start + _TOGETHER])

    def opened(self, visit: Visit, row: int) -> None:
        """Send a click on a note of no list."""
        self._client.click([_event(visit, row, "click")])

    def show(self, visit: Visit) -> list[int]:
        """Return what is recommended."""
        found = self._client.recommend(user_id(visit.user), k=K)
        self._lists[visit.user] = found.request_id
        return [int(note.note_id[1:]) for note in found.notes]

    def visited(self, visit: Visit, rows: Sequence[int], clicks: Sequence[bool]) -> None:
        """Send clicks and views."""
        named = {"request_id": self._lists[visit.user]}
        self._client.click(
            [
                _event(visit, row, "click" if is_click else "view") | named
                for row, is_click in zip(rows, clicks, strict=True)
            ]
        )

    def end_day(self) -> dict[str, Any] | None:
        """Renew the models."""
        return None if self._renew is None else self._renew()


def _event(visit: Visit, row: int, event: str) -> dict[str, Any]:
    return {
        "user_id": user_id(visit.user),
        "note_id": note_id(row),
        "event": event,
        "time": visit.at.isoformat(),
    }


def build(feed: Feed, folder: Path) -> None:
    """Train the models on the log before the days begin, and build the store with its log."""
    notes = notes_at(feed, feed.notes)
    log = feed.log
    recall = RecallOptions(seed=feed.seed, writing_epochs=0)
    model = train_recall(notes, mine_pairs(log, progress=False), folder / "model", clicks=log, options=recall)
    vectors = notes["note_id"].to_pylist(), model.encode(notes)
    train, _, valid = split_impressions(impressions_from_candidates(log, vectors), valid=0, test=0.1)
    train_rank(
        notes,
        train,
        valid,
        folder / "ranker",
        options=RankOptions(seed=feed.seed, max_steps=60, answer_rows=4_000),
        vectors=vectors,
        vectors_model=model.fingerprint(),
        histories=click_histories(log),
    )
    build_store(folder / "store", model, notes, progress=False)
    clicks = ClickLog.open(folder / "store")
    clicks.append(
        [Click(row["user_id"], row["note_id"], "click", row["timestamp"]) for row in log.to_pylist()]
    )
    clicks.close()


def served(
    feed: Feed,
    folder: Path,
    *,
    renews: bool,
    options: Sequence[str],
    serve: Sequence[str],
    after_day: Callable[[Outcome], None],
) -> Outcome:
    """Run the days with a real service, and renew its models after each day if asked for."""
    port = free_port()
    places = ["--model", str(folder / "model"), "--ranker", str(folder / "ranker")]
    command = [sys.executable, "-m", "notellm.cli", "serve", str(folder / "store"), *places]
    command += ["--port", str(port), "--no-keys", *serve]
    server = Server(command, port, folder / "serve.log")
    url = f"http://127.0.0.1:{port}"
    renew = partial(renewed, folder, places, url, options) if renews else None
    try:
        with Client(url, timeout=120) as client:
            return simulate(feed, Served(feed, client, renew), after_day)
    finally:
        server.stop()


def renewed(folder: Path, places: Sequence[str], url: str, options: Sequence[str]) -> dict[str, Any]:
    """Run `notellm renew` beside the service, and return its decision."""
    command = [
        sys.executable,
        "-m",
        "notellm.cli",
        "renew",
        str(folder / "store"),
        *places,
        "--url",
        url,
        "-q",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the renewal failed: {done.stderr[-2_000:]}")
    latest = max((folder / "model.renewal" / "decisions").iterdir())
    decision: dict[str, Any] = json.loads(latest.read_text())
    print(
        f"    {'takes over' if decision['takes_over'] else 'stays'}: {'; '.join(decision['reasons'])}",
        flush=True,
    )
    return decision


def report(seeds: Mapping[str, Mapping[str, Outcome]], options: Sequence[str]) -> Iterator[str]:
    """Return the tables: click-through by day, its gain from renewing, new notes, renewals."""
    names = [name for name, *_ in ARMS if any(name in each for each in seeds.values())]
    outcomes = {name: [each[name] for each in seeds.values() if name in each] for name in names}
    days = max(len(each.rates) for arm in outcomes.values() for each in arm)
    rows = []
    for name, arm in outcomes.items():
        by_day = [[each.rates[day] for each in arm if len(each.rates) > day] for day in range(days)]
        everything = [rate for each in arm for rate in each.rates]
        cells = [f"{100 * statistics.mean(rates):.1f}" if rates else "" for rates in by_day]
        rows.append([name, *cells, f"{100 * statistics.mean(everything):.2f}", f"{len(everything)}"])
    yield table(["click-through, %", *(f"day {day + 1}" for day in range(days)), "mean", "days"], rows)
    yield from _gains(seeds)
    rows = []
    for name, arm in outcomes.items():
        if waits := [
            wait for each in arm for wait in each.waits
        ]:  # those of an unfinished feed are not known
            shares = [
                sum(wait is not None and wait <= limit for wait in waits) / len(waits) for limit in (0, 1, 3)
            ]
            rows.append([name, *(f"{100 * share:.0f} %" for share in shares)])
    yield table(["new notes shown", "on their first day", "within 2 days", "within 4 days"], rows)
    renewed_arms = {seed: each["daily renewal"] for seed, each in seeds.items() if "daily renewal" in each}
    if any(each.seconds for each in renewed_arms.values()):
        took = ", ".join(
            f"{sum(decision['takes_over'] for decision in each.renewals)} of {len(each.renewals)}"
            for each in renewed_arms.values()
        )
        seconds = statistics.median(second for each in renewed_arms.values() for second in each.seconds)
        yield (
            f"Renewals that took over, by seed: {took}. A renewal took {seconds:.0f} s (median). "
            f"Options: {' '.join(options)}."
        )


def _gains(seeds: Mapping[str, Mapping[str, Outcome]]) -> Iterator[str]:
    """Return the gain of renewing on the days that both feeds have, by seed."""
    rows, every = [], []
    for seed, each in seeds.items():
        if "daily renewal" in each and "no renewal" in each:
            gains = [
                100 * (new - old)
                for new, old in zip(each["daily renewal"].rates, each["no renewal"].rates, strict=False)
            ]
            every += gains[1:]  # no renewal came before the first day
            rows.append([seed, " ".join(f"{gain:+.1f}" for gain in gains)])
    if len(every) > 1:
        yield table(["seed", "gain of daily renewal over none by day, points"], rows)
        error = statistics.stdev(every) / len(every) ** 0.5
        yield (
            f"Mean of {len(every)} days after the first renewal: {statistics.mean(every):+.2f} points, "
            f"standard error {error:.2f}."
        )


def run_seed(feed: Feed, work: Path, options: Sequence[str], record: Callable[[str, Outcome], None]) -> None:
    """Run every feed of a seed that is not finished; ``record`` is called after each day and each feed."""
    start = work / f"seed-{feed.seed}" / "start"
    for name, renews, serve in ARMS:
        folder = start.with_name(name.replace(" ", "-"))
        kept = folder / "outcome.json"
        if not kept.is_file():
            print(f"seed {feed.seed}, {name}", flush=True)
            if not (start / "store").is_dir():
                shutil.rmtree(start, ignore_errors=True)
                build(feed, start)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(start, folder)
            after_day = partial(record, name)
            if name == "popularity":
                outcome = simulate(feed, Popularity(feed), after_day)
            elif name == "knowing the interest":
                outcome = simulate(feed, Knowing(feed), after_day)
            else:
                outcome = served(
                    feed, folder, renews=renews, options=options, serve=serve, after_day=after_day
                )
            write_json(outcome.to_json(), kept)
        record(name, Outcome(**read_json(kept)))


def main() -> None:
    parser = arguments("Click-through of a simulated feed with and without daily renewal.")
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--visits", type=int, default=300, help="visits of a day")
    parser.add_argument("--notes", type=int, default=6_000, help="notes in all, with those published later")
    parser.add_argument("--published", type=int, default=300, help="notes published on a day")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "loop")
    parser.add_argument("--name", default="loop", help="name of the results")
    parser.add_argument("renew", nargs=argparse.REMAINDER, help="after --: further options of notellm renew")
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options = ["--test-days", "0.5", *(each for each in chosen.renew if each != "--")]

    sizes = {name: getattr(chosen, name) for name in ("days", "visits", "notes", "published")}
    settings = {**sizes, "options": options}
    work = chosen.work / "-".join([code_fingerprint(), *(str(size) for size in sizes.values())])
    seeds: dict[str, dict[str, Any]] = {}  # by seed: its code, and the outcome of each feed
    results = chosen.results / f"{chosen.name}.json"
    if results.is_file() and (former := read_json(results)).get("settings") == settings:
        seeds = former["seeds"]  # seeds of an earlier run stay

    def record(seed: int, arm: str, outcome: Outcome) -> None:
        """Write the results with what became of a feed so far."""
        one = seeds.setdefault(str(seed), {"code": code_fingerprint(), "feeds": {}})
        one["feeds"][arm] = outcome.to_json()
        known = {
            name: {arm: Outcome(**each) for arm, each in one["feeds"].items()} for name, one in seeds.items()
        }
        write_results(
            chosen.results,
            "loop",
            "The closed loop on a simulated feed",
            report(known, options),
            {"settings": settings, "seeds": seeds},
            name=chosen.name,
        )

    for seed in chosen.seeds:
        seeds.pop(str(seed), None)
        feed = Feed.make(
            days=chosen.days, visits=chosen.visits, per_day=chosen.published, notes=chosen.notes, seed=seed
        )
        run_seed(feed, work, options, partial(record, seed))


if __name__ == "__main__":
    main()
