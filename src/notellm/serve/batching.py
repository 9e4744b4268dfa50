"""Requests that arrive together are computed together (micro-batching).

    batcher = Batcher("related", compute, most=64, waiting=256)     # compute: list of questions -> answers
    answer = await batcher.ask(question)

One thread computes one batch at a time; what arrives meanwhile is the next batch, so nobody waits for a batch
to fill, and the fuller the queue, the more is computed at once. A question beyond `waiting` is refused at
once: a queue that cannot be answered in time is worth nothing to anybody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from notellm.errors import NotellmError

Q = TypeVar("Q")
A = TypeVar("A")


class BusyError(NotellmError):
    """There is more to do than can be done in time; ask again in ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Batcher(Generic[Q, A]):
    """A queue before a function that answers many questions at once.

    Args:
        name: for messages and metrics.
        compute: answers questions in their order, each by a result or an error of its own; runs in a thread
            of this batcher alone.
        most: questions of a batch.
        waiting: questions that may wait for their batch.
        linger: seconds to wait for company before a batch; worth it where a batch costs much and a question
            little.
        seen: called with the size of every batch.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[list[Q]], Sequence[A | Exception]],
        *,
        most: int,
        waiting: int,
        linger: float = 0.0,
        seen: Callable[[str, int], None] | None = None,
    ) -> None:
        self.name = name
        self._compute = compute
        self._most = most
        self._waiting = waiting
        self._linger = linger
        self._seen = seen
        self._queue: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"notellm-{name}")

    def __len__(self) -> int:
        """Questions that wait."""
        return len(self._queue)

    async def ask(self, question: Q) -> A:
        """The answer to a question.

        Raises:
            BusyError: too many wait already, or the service is about to stop.
            Exception: what `compute` gave or raised for it.
        """
        if self._closed:
            raise BusyError("the service is about to stop; ask again in a moment", retry_after=5)
        if len(self._queue) >= self._waiting:
            raise BusyError(
                f"{len(self._queue)} requests wait for {self.name} already; ask again in a moment"
            )
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._queue.append((question, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        """Answer what waits, take nothing more."""
        self._closed = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Compute batch by batch until nobody waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                if self._linger and len(self._queue) < self._most:
                    await asyncio.sleep(self._linger)
                batch: list[tuple[Q, asyncio.Future[A]]] = []
                while self._queue and len(batch) < self._most:
                    question, future = self._queue.popleft()
                    if not future.done():  # who asked has gone away
                        batch.append((question, future))
                if not batch:
                    continue
                if self._seen is not None:
                    self._seen(self.name, len(batch))
                questions = [question for question, _ in batch]
                try:
                    answers = await loop.run_in_executor(self._thread, self._compute, questions)
                except Exception as error:  # noqa: BLE001 - it belongs to those who asked
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._worker = None
