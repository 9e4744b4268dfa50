"""The closed loop on a simulated feed: does renewing the models each day bring clicks?

The feed is the sample world, whose truth says what each user wants. Its log of four weeks has three quarters
of the concepts; the others come up during the simulated days, in new notes and in what users want. Every day
notes are published, users open the feed, see ten notes and click. Four feeds see the same users on the same
days, and chance decides alike about the same visit and note:

- no renewal: `notellm serve` with the models of the log, which takes notes and clicks all along;
- exploring: the same, with `--explore 0.1`: a tenth of the places for fresh notes that few were shown;
- daily renewal: without exploring, and `notellm renew` after every day;
- popularity: the notes most clicked so far that the user has not seen.

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
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.common import ROOT, arguments, code_fingerprint, table, write_results
from benchmarks.service import Server, free_port
from notellm.client import Client, ServiceError
from notellm.data.impressions import click_histories
from notellm.data.sample.truth import note_id, user_id
from notellm.data.sample_world import SampleWorld, sample_world
from notellm.data.schema import NOTES, TIME
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

K = 10
DAY = timedelta(hours=12)  # of the log
_EXAMINED = 0.9  # of those who look at a place, how many look at the next one
_WANTED, _UNWANTED = 0.5, 0.03  # probability that a note that is looked at is clicked
_MAIN = 0.7  # share of the visits that follow the main interest of the day
_NEW_CONCEPTS = 16
#: What is compared: its name, whether models are renewed, and further options of the service.
ARMS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("popularity", False, ()),
    ("no renewal", False, ()),
    ("daily renewal", True, ()),
    ("exploring", False, ("--explore", "0.1")),
)


@dataclass
class Feed:
    """A simulated feed: what there is before the days begin, and what happens on each of them.

    Attributes:
        world: the sample world.
        days: number of days.
        notes: rows of the notes that are there from the start.
        published: rows of the notes published on each day.
        log: the clicks before, schema CLICKS, times shifted.
        begin: when the first day begins.
        main: (days, users) main interest of each user on each day.
        visits: users who open the feed on each day, in order.
        seed: seed of everything that is drawn.
    """

    world: SampleWorld
    days: int
    notes: np.ndarray
    published: list[np.ndarray]
    log: pa.Table
    begin: datetime
    main: np.ndarray
    visits: list[np.ndarray]
    seed: int

    @classmethod
    def make(cls, *, days: int, visits: int, per_day: int, seed: int) -> "Feed":
        """Draw a feed."""
        rng = np.random.default_rng(seed + 1_000)
        world = sample_world(notes=2_400, users=600, clicks=24_000, bots=0, seed=seed)
        truth = world.truth
        pairs = {tuple(sorted((concept, int(other)))) for concept, other in enumerate(truth.complement)}
        chosen = rng.permutation(sorted(pairs))[: _NEW_CONCEPTS // 2]
        is_new = np.isin(truth.note_concept, chosen.ravel())
        late = rng.permutation(np.flatnonzero(is_new))[: per_day * days // 2]
        others = rng.permutation(np.flatnonzero(~is_new))
        early, more = np.split(others, [len(others) - (per_day * days - len(late))])
        published = np.array_split(rng.permutation(np.concatenate([late, more])), days)
        begin = datetime.now(UTC).replace(microsecond=0) - days * DAY
        log = world.clicks.filter(pc.is_in(world.clicks["note_id"], pa.array([note_id(i) for i in early])))
        shift = begin - pc.max(log["timestamp"]).as_py() - timedelta(minutes=1)
        times = pc.add(log["timestamp"], pa.scalar(shift)).cast(TIME)
        log = log.set_column(log.column_names.index("timestamp"), log.schema.field("timestamp"), times)

        users = len(truth.bots)
        turns = rng.integers(0, 2 * days, users)  # half of the users turn to something new within these days
        newly = rng.choice(chosen.ravel(), users)
        old = np.array(
            [next((i for i in row[::-1] if i not in chosen), row[0]) for row in truth.user_interests]
        )
        main = np.where(turns[None, :] <= np.arange(days)[:, None], newly[None, :], old[None, :])
        activity = rng.lognormal(0, 1.0, users)
        drawn = [rng.choice(users, visits, p=activity / activity.sum()) for _ in range(days)]
        return cls(world, days, early, published, log, begin, main, drawn, seed)

    def wants(self, day: int, user: int, visit: int) -> set[int]:
        """Return the concepts that a user wants at a visit."""
        draw = np.random.default_rng([self.seed, day, user, visit])
        truth = self.world.truth
        base = (
            int(self.main[day, user])
            if draw.random() < _MAIN
            else int(draw.choice(truth.user_interests[user]))
        )
        return {base, int(truth.complement[base])}

    def clicked(self, day: int, user: int, visit: int, shown: Sequence[int]) -> list[bool]:
        """Return which of the shown notes the user clicks."""
        truth, wanted = self.world.truth, self.wants(day, user, visit)
        clicks = []
        for place, row in enumerate(shown):
            same = truth.note_language[row] == truth.user_language[user]
            chance = _EXAMINED**place * (_WANTED if truth.note_concept[row] in wanted else _UNWANTED) * same
            clicks.append(bool(np.random.default_rng([self.seed, day, user, visit, row]).random() < chance))
        return clicks

    def time(self, day: int, part: float) -> datetime:
        """Return a moment of a day; part is 0 to 1."""
        return self.begin + (day + part) * DAY


@dataclass
class Outcome:
    """What became of one feed.

    Attributes:
        rates: click-through of each day.
        waits: for each note published, after how many days it was first shown; None if it never was.
        renewals: the decision of each renewal.
        seconds: how long each took.
    """

    rates: list[float] = field(default_factory=list)
    waits: list[int | None] = field(default_factory=list)
    renewals: list[dict[str, Any]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return {"rates": self.rates, "waits": self.waits, "renewals": self.renewals, "seconds": self.seconds}


def simulate(feed: Feed, shown_to: Any, after_visit: Any, begin_day: Any, end_day: Any) -> Outcome:
    """Run the days of a feed.

    Args:
        feed: the feed.
        shown_to: returns the rows of the notes shown to a user.
        after_visit: is told user, rows, clicks and time of a visit.
        begin_day: is told the rows published on a day.
        end_day: is called after each day; returns the decision of a renewal, or None.
    """
    outcome = Outcome()
    first: dict[int, int] = {}  # the day on which a note was first shown
    for day in range(feed.days):
        begin_day(day, feed.published[day])
        shown_count = clicks_count = 0
        for visit, user in enumerate(feed.visits[day].tolist()):
            rows = shown_to(user)
            clicks = feed.clicked(day, user, visit, rows)
            for row in rows:
                first.setdefault(row, day)
            shown_count += len(rows)
            clicks_count += sum(clicks)
            after_visit(user, rows, clicks, feed.time(day, (visit + 1) / (len(feed.visits[day]) + 1)))
        outcome.rates.append(clicks_count / max(1, shown_count))
        start = time.perf_counter()
        if (decision := end_day(day)) is not None:
            outcome.renewals.append(decision)
            outcome.seconds.append(time.perf_counter() - start)
        print(f"  day {day + 1}: click-through {100 * outcome.rates[-1]:.2f} %", flush=True)
    for day, rows in enumerate(feed.published):
        outcome.waits += [first[row] - day if row in first else None for row in rows.tolist()]
    return outcome


def popularity(feed: Feed) -> Outcome:
    """Show the notes that were clicked most so far, which the user has not seen."""
    counts: Counter[int] = Counter(int(each[1:]) for each in feed.log["note_id"].to_pylist())
    seen: dict[int, set[int]] = {}
    for user, opened in click_histories(feed.log).items():
        seen[int(user[1:])] = {int(each[1:]) for each in opened}

    def shown_to(user: int) -> list[int]:
        known = seen.get(user, set())
        return [row for row, _ in counts.most_common(K + len(known)) if row not in known][:K]

    def after_visit(user: int, rows: Sequence[int], clicks: Sequence[bool], _: datetime) -> None:
        seen.setdefault(user, set()).update(rows)
        counts.update(row for row, is_click in zip(rows, clicks, strict=True) if is_click)

    return simulate(feed, shown_to, after_visit, lambda *_: None, lambda _: None)


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


def notes_at(feed: Feed, rows: np.ndarray, published: datetime | None = None) -> pa.Table:
    """Return notes of the world; those from before the first day have no time of publication."""
    some = feed.world.notes.take(pa.array(np.sort(rows)))
    place = NOTES.get_field_index("published_at")
    times = pa.array([published] * len(rows), TIME)
    return some.set_column(place, NOTES.field(place), times)


def served(
    feed: Feed, folder: Path, *, renews: bool, options: Sequence[str], serve: Sequence[str] = ()
) -> Outcome:
    """Run the days with a real service, and renew its models after each day if asked for."""
    port = free_port()
    places = ["--model", str(folder / "model"), "--ranker", str(folder / "ranker")]
    command = [sys.executable, "-m", "notellm.cli", "serve", str(folder / "store"), *places]
    command += ["--port", str(port), "--no-keys", *serve]
    server = Server(command, port, folder / "serve.log")
    url = f"http://127.0.0.1:{port}"
    try:
        with Client(url, timeout=120) as client:
            lists: dict[int, str | None] = {}  # the latest list of each user

            def shown_to(user: int) -> list[int]:
                try:
                    found = client.recommend(user_id(user), k=K)
                except ServiceError:
                    return []
                lists[user] = found.request_id
                return [int(note.note_id[1:]) for note in found.notes]

            def after_visit(user: int, rows: Sequence[int], clicks: Sequence[bool], at: datetime) -> None:
                client.click(
                    [
                        {
                            "user_id": user_id(user),
                            "note_id": note_id(row),
                            "event": "click" if is_click else "view",
                            "time": at.isoformat(),
                            "request_id": lists[user],
                        }
                        for row, is_click in zip(rows, clicks, strict=True)
                    ]
                )

            def begin_day(day: int, rows: np.ndarray) -> None:
                published = notes_at(feed, rows, feed.time(day, 0)).to_pylist()
                client.publish_many([{**row, "published_at": row["published_at"]} for row in published])

            def end_day(_: int) -> dict[str, Any] | None:
                return renewed(folder, places, url, options) if renews else None

            return simulate(feed, shown_to, after_visit, begin_day, end_day)
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


def told(outcome: Outcome) -> str:
    """Return what became of the renewals, in words."""
    count = sum(decision["takes_over"] for decision in outcome.renewals)
    return f"{count} of {len(outcome.renewals)}"


def summary(outcomes: Mapping[str, Sequence[Outcome]]) -> list[str]:
    """Return the table of click-through by day, and what became of new notes."""
    days = len(next(iter(outcomes.values()))[0].rates)
    rows = []
    for name, each in outcomes.items():
        by_day = np.array([outcome.rates for outcome in each])
        seeds = by_day.mean(axis=1)
        spread = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
        rows.append(
            [
                name,
                *(f"{100 * rate:.1f}" for rate in by_day.mean(axis=0)),
                f"{100 * seeds.mean():.2f} ± {100 * spread:.2f}",
            ]
        )
    body = [table(["click-through, %", *(f"day {day + 1}" for day in range(days)), "all days"], rows)]
    rows = []
    for name, each in outcomes.items():
        waits = [wait for outcome in each for wait in outcome.waits]
        within = [
            sum(wait is not None and wait <= limit for wait in waits) / len(waits) for limit in (0, 1, 3)
        ]
        rows.append([name, *(f"{100 * share:.0f} %" for share in within)])
    body.append(table(["new notes shown", "on their first day", "within 2 days", "within 4 days"], rows))
    return body


def main() -> None:
    parser = arguments("Click-through of a simulated feed with and without daily renewal.")
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--visits", type=int, default=300, help="visits of a day")
    parser.add_argument("--published", type=int, default=60, help="notes published on a day")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks" / "loop")
    parser.add_argument("--name", default="loop", help="name of the results")
    parser.add_argument("renew", nargs=argparse.REMAINDER, help="after --: further options of notellm renew")
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    options = ["--test-days", "0.5", *(each for each in chosen.renew if each != "--")]

    work = chosen.work / f"{code_fingerprint()}-{chosen.days}-{chosen.visits}-{chosen.published}"
    outcomes: dict[str, list[Outcome]] = {}
    for seed in chosen.seeds:
        feed = Feed.make(days=chosen.days, visits=chosen.visits, per_day=chosen.published, seed=seed)
        start = work / f"seed-{seed}" / "start"
        for name, renews, serve in ARMS:
            folder = start.with_name(name.replace(" ", "-"))
            kept = folder / "outcome.json"
            if not kept.is_file():
                print(f"seed {seed}, {name}", flush=True)
                if not (start / "store").is_dir():
                    shutil.rmtree(start, ignore_errors=True)
                    build(feed, start)
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(start, folder)
                if name == "popularity":
                    outcome = popularity(feed)
                else:
                    outcome = served(feed, folder, renews=renews, options=options, serve=serve)
                write_json(outcome.to_json(), kept)
            outcomes.setdefault(name, []).append(Outcome(**read_json(kept)))
    seconds = [each for outcome in outcomes["daily renewal"] for each in outcome.seconds]
    took = ", ".join(told(outcome) for outcome in outcomes["daily renewal"])
    body = [
        *summary(outcomes),
        (
            f"Renewals that took over, by seed: {took}. A renewal took {statistics.median(seconds):.0f} s "
            f"(median). Options: {' '.join(options)}."
        ),
    ]
    values = {name: [outcome.to_json() for outcome in each] for name, each in outcomes.items()}
    write_results(
        chosen.results, "loop", "The closed loop on a simulated feed", body, values, name=chosen.name
    )


if __name__ == "__main__":
    main()
