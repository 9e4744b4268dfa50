"""The load of `benchmarks.service`, a separate process: a closed or an open loop over plain sockets.

    python -m benchmarks.load --port 8000 --seconds 20 --connections 16 --writes 0.05 --ids ids.txt

In a closed loop, each connection sends a request, waits for the answer, and sends the next one. In an open
loop (``--rate``), requests start at their time, whether earlier ones are answered or not. The result is
printed as one JSON object.
"""

import argparse
import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

HOST = "127.0.0.1"


class Load:
    """The requests and the answers of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.port: int = options.port
        self.path: str = options.path
        self.writes: float = options.writes
        self.texts: bool = options.texts
        self.run: str = options.run
        self.random = random.Random(options.seed)
        lines = [] if options.ids is None else Path(options.ids).read_text(encoding="utf-8").splitlines()
        self.notes = [json.loads(line) for line in lines]
        self.reads: list[float] = []
        self.writing: list[float] = []
        self.refusals: list[float] = []
        self.statuses: dict[str, int] = {}
        self.acknowledged: list[str] = []
        self.errors: list[str] = []
        self.bytes = 0

    def request(self) -> tuple[bytes, str | None]:
        """Return a request, and the id of the note that it publishes."""
        if not self.notes:
            return self._get(self.path), None
        if self.random.random() < self.writes:
            note = self.random.choice(self.notes)
            note_id = f"{self.run}/{self.random.getrandbits(60):x}"
            body = json.dumps({"title": note["text"], "topics": [], "category": ""})
            return self._send("PUT", f"/v1/notes/{quote(note_id, safe='')}", body), note_id
        if self.texts:
            body = json.dumps({"title": self.random.choice(self.notes)["text"], "k": 10})
            return self._send("POST", "/v1/related", body), None
        note_id = self.random.choice(self.notes)["note_id"]
        return self._get(f"/v1/related?k=10&note_id={quote(note_id, safe='')}"), None

    @staticmethod
    def _get(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

    @staticmethod
    def _send(method: str, path: str, body: str) -> bytes:
        data = body.encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        return head.encode() + f"Content-Length: {len(data)}\r\n\r\n".encode() + data

    async def ask(self, streams: Any, begin: float | None = None) -> None:
        """Send one request over a connection, and time it from ``begin``."""
        reader, writer = streams
        data, written = self.request()
        begin = time.perf_counter() if begin is None else begin
        writer.write(data)
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        seconds = time.perf_counter() - begin
        self.statuses[str(status)] = self.statuses.get(str(status), 0) + 1
        self.bytes += len(body)
        if status in (429, 503, 504):
            self.refusals.append(seconds)
        elif status != 200:
            self.errors.append(body.decode()[:200])
        elif written is None:
            self.reads.append(seconds)
        else:
            self.writing.append(seconds)
            self.acknowledged.append(written)

    async def closed(self, seconds: float, connections: int) -> None:
        """Send a request on every connection as soon as the one before is answered."""
        end = time.perf_counter() + seconds

        async def one() -> None:
            streams = await asyncio.open_connection(HOST, self.port)
            while time.perf_counter() < end:
                await self.ask(streams)
            streams[1].close()

        await asyncio.gather(*(one() for _ in range(connections)))

    async def open(self, seconds: float, rate: float) -> None:
        """Start requests at their time; each takes a free connection, or opens one."""
        free: list[tuple[float, Any]] = []  # connections and since when; the service closes idle ones
        running: set[asyncio.Task[None]] = set()
        begin = time.perf_counter()

        async def one(due: float) -> None:
            try:
                while free and time.perf_counter() - free[0][0] > 10:
                    free.pop(0)[1][1].close()
                streams = free.pop()[1] if free else await asyncio.open_connection(HOST, self.port)
                await self.ask(streams, due)
                free.append((time.perf_counter(), streams))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.errors.append(type(error).__name__)

        number = 0
        while (due := begin + number / rate) < begin + seconds:
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(due))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        while running:
            await asyncio.wait(running)


def main() -> None:
    """Run the load and print what came back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, help="requests a second: open loop")
    parser.add_argument("--writes", type=float, default=0.0)
    parser.add_argument("--texts", action="store_true", help="related by text instead of by id")
    parser.add_argument("--ids", type=Path, help="lines of JSON: note_id, text")
    parser.add_argument("--path", default="/constant", help="the path of requests without --ids")
    parser.add_argument("--run", default="load")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    load = Load(options)
    begin = time.perf_counter()
    if options.rate is None:
        asyncio.run(load.closed(options.seconds, options.connections))
    else:
        asyncio.run(load.open(options.seconds, options.rate))
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "seconds": seconds,
                "statuses": load.statuses,
                "bytes": load.bytes,
                "reads": load.reads,
                "writes": load.writing,
                "refusals": load.refusals,
                "acknowledged": load.acknowledged,
                "errors": load.errors[:20],
                "error_count": len(load.errors),
            }
        )
    )


if __name__ == "__main__":
    main()
