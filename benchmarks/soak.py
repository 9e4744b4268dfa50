"""`notellm serve` under mixed load for a long time: memory, open files, threads, latency, and what was lost.

    python -m benchmarks.soak --minutes 30

Clients publish, change and remove notes, so that their number stays about equal. They ask for related notes
by id and by text, for tags and recommendations, and report clicks. Every minute the service is looked at from
outside. In the end every acknowledged note has to be there as it was written last, and every removed one has
to be gone; once more after SIGKILL.
"""

import random
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import arguments, table, write_results
from benchmarks.service import Server, free_port
from notellm.client import Client, ServiceError
from notellm.data.impressions import impressions_from_clicks
from notellm.data.sample_world import SampleWorld, sample_world
from notellm.data.split import split_impressions
from notellm.jobs.build_store import build_store
from notellm.jobs.train_rank import train_rank
from notellm.rank.config import RankOptions
from notellm.recall.model import NoteLLM

_USERS, _OWN = 300, 60  # users who click; notes that each client has published at a time


def build(folder: Path, world: SampleWorld) -> list[str]:
    """Make a store, a model and a ranker; return the options of the service that name them."""
    model = NoteLLM.from_corpus(world.notes, clicks=world.clicks)
    model.fit_tagger(world.notes)
    model.save_pretrained(folder / "model")
    train, valid, _ = split_impressions(impressions_from_clicks(world.clicks))
    few = RankOptions(max_steps=2, evaluations=1, code_epochs=5, out_of_fold=0)
    train_rank(world.notes, train, valid, folder / "ranker", options=few, progress=False)
    model = NoteLLM.from_pretrained(folder / "model")
    build_store(folder / "store", model, world.notes, progress=False)
    return [str(folder / "store"), "--model", str(folder / "model"), "--ranker", str(folder / "ranker")]


class Worker(threading.Thread):
    """A client that goes on until it is told to stop.

    Attributes:
        seconds: of the requests since they were last taken.
        texts: title of each note that it has published, by id.
        removed: ids of the notes that it has removed.
        errors: what went wrong.
    """

    def __init__(self, number: int, url: str, world: SampleWorld, rate: float) -> None:
        super().__init__(daemon=True)
        self.number, self.url, self.rate = number, url, rate
        self.rows = world.notes.to_pylist()
        self.draw = random.Random(number)
        self.seconds: list[float] = []
        self.texts: dict[str, str] = {}
        self.removed: set[str] = set()
        self.errors: list[str] = []
        self.done = threading.Event()
        self.count = 0

    def run(self) -> None:
        """Send requests at a rate."""
        with Client(self.url, timeout=60) as client:
            while not self.done.is_set():
                start = time.perf_counter()
                try:
                    self.one(client)
                except ServiceError as error:
                    self.errors.append(str(error)[:200])
                self.seconds.append(time.perf_counter() - start)
                self.count += 1
                self.done.wait(max(0.0, 1 / self.rate - (time.perf_counter() - start)))

    def one(self, client: Client) -> None:
        """Send one request, of a random kind."""
        row, user = self.draw.choice(self.rows), f"soak-{self.draw.randrange(_USERS)}"
        kind = self.draw.random()
        if kind < 0.15:
            self.write(client, row)
        elif kind < 0.35:
            client.related(row["note_id"], k=10)
        elif kind < 0.45:
            client.related(title=row["title"], k=10)
        elif kind < 0.5:
            client.tags(title=row["title"], content=row["content"])
        elif kind < 0.75:
            found = client.recommend(user, k=10)
            clicked = self.draw.sample(found.notes, min(2, len(found.notes)))
            client.click(
                [
                    {"user_id": user, "note_id": note.note_id, "request_id": found.request_id}
                    for note in clicked
                ]
            )
        else:
            client.click([{"user_id": user, "note_id": row["note_id"], "event": "view"}])

    def write(self, client: Client, row: dict[str, Any]) -> None:
        """Publish, change or remove a note of one's own."""
        if len(self.texts) >= _OWN:
            gone = self.draw.choice(sorted(self.texts))
            client.remove(gone)
            del self.texts[gone]
            self.removed.add(gone)
            return
        new = self.draw.random() < 0.7 or not self.texts
        note_id = (
            f"soak-{self.number}-{self.draw.getrandbits(60):x}"
            if new
            else self.draw.choice(sorted(self.texts))
        )
        title = f"{row['title']} {self.draw.randrange(10_000)}"
        client.publish(note_id, title=title, content=row["content"], topics=row["topics"])
        self.texts[note_id] = title


def looked_at(server: Server, workers: Sequence[Worker], store: Path, minute: float) -> dict[str, float]:
    """Return what the service looks like from outside, and the latencies since the last look."""
    seconds = sorted(second for worker in workers for second in _taken(worker))
    process = Path(f"/proc/{server.process.pid}")
    return {
        "minute": minute,
        "mib": server.memory(),
        "files": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
        "store_mib": sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 2**20,
        "requests": len(seconds),
        "p50_ms": 1e3 * statistics.median(seconds),
        "p99_ms": 1e3 * seconds[int(0.99 * len(seconds))],
    }


def _taken(worker: Worker) -> list[float]:
    taken, worker.seconds = worker.seconds, []
    return taken


def lost(url: str, workers: Sequence[Worker]) -> list[str]:
    """Return what is not as it was acknowledged."""
    wrong = []
    with Client(url, timeout=60) as client:
        for worker in workers:
            for note_id, title in worker.texts.items():
                found = client.note(note_id)
                if found["title"] != title:
                    wrong.append(f"{note_id} has the title {found['title']!r}, not {title!r}")
            for note_id in list(worker.removed)[-200:]:
                try:
                    client.note(note_id)
                    wrong.append(f"{note_id} was removed and is there")
                except ServiceError as error:
                    if error.status != 404:
                        raise
    return wrong


def report(looks: Sequence[dict[str, float]], facts: dict[str, Any]) -> Iterator[str]:
    """Return the table and what was found in the end."""
    names = ("minute", "mib", "files", "threads", "store_mib", "requests", "p50_ms", "p99_ms")
    head = ["minute", "MiB", "open files", "threads", "store, MiB", "requests", "p50 ms", "p99 ms"]
    step = max(1, len(looks) // 15)
    shown = [*looks[:-1:step], looks[-1]]
    yield table(head, [[f"{look[name]:,.0f}" for name in names] for look in shown], left=0)
    yield (
        f"{facts['requests']:,} requests, {len(facts['errors'])} errors. {facts['notes']:,} notes were "
        f"looked up in the end: {len(facts['lost'])} wrong; after SIGKILL and a new start: "
        f"{len(facts['lost_after_kill'])} wrong."
    )


def main() -> None:
    parser = arguments("The service under mixed load for a long time.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second of each worker")
    parser.add_argument("--every", type=float, default=1.0, help="minutes between two looks")
    chosen = parser.parse_args()
    world = sample_world(notes=2_000, users=400, clicks=12_000, bots=0)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        places = build(folder, world)
        port = free_port()
        command = [sys.executable, "-m", "notellm.cli", "serve", *places, "--port", str(port), "--no-keys"]
        server = Server(command, port, folder / "serve.log")
        url = f"http://127.0.0.1:{port}"
        workers = [Worker(number, url, world, chosen.rate) for number in range(chosen.workers)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        looks = []
        while (gone := (time.perf_counter() - start) / 60) < chosen.minutes:
            time.sleep(60 * min(chosen.every, chosen.minutes - gone) + 0.5)
            minute = (time.perf_counter() - start) / 60
            looks.append(looked_at(server, workers, folder / "store", minute))
            print(looks[-1], flush=True)
        for worker in workers:
            worker.done.set()
        for worker in workers:
            worker.join()
        facts: dict[str, Any] = {
            "requests": sum(worker.count for worker in workers),
            "errors": [error for worker in workers for error in worker.errors],
            "notes": sum(len(worker.texts) + min(200, len(worker.removed)) for worker in workers),
            "lost": lost(url, workers),
        }
        server.stop(signal.SIGKILL)
        server = Server(command, port, folder / "serve.log")
        facts["lost_after_kill"] = lost(url, workers)
        server.stop()
    write_results(
        chosen.results, "soak", "A long time under load", report(looks, facts), {"looks": looks, **facts}
    )


if __name__ == "__main__":
    main()
