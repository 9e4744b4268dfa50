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


class Gatherer(Generic[Q, A]):
    """Computes in the event loop itself what takes less time than handing it to a thread.

    What arrives in one turn of the loop is computed together at the end of that turn.

    Args:
        name: for metrics.
        compute: as of a :class:`Batcher`; it must be quick, since all else waits.
        seen: called with the size of every batch.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[list[Q]], Sequence[A | Exception]],
        *,
        seen: Callable[[str, int], None] | None = None,
    ) -> None:
        self.name = name
        self._compute = compute
        self._seen = seen
        self._queue: list[tuple[Q, asyncio.Future[A]]] = []

    def ask(self, question: Q) -> "asyncio.Future[A]":
        """The answer to a question, in a moment."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        if not self._queue:
            loop.call_soon(self._work)
        self._queue.append((question, future))
        return future

    def _work(self) -> None:
        batch, self._queue = self._queue, []
        if self._seen is not None:
            self._seen(self.name, len(batch))
        try:
            answers = self._compute([question for question, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        except BaseException as error:  # noqa: BLE001 - it belongs to those who asked
            answered = [(asked, _failure(error)) for asked in batch]
        _deliver(answered)


def _failure(error: BaseException) -> Exception:
    """What those who asked are told; a library in Rust that panics raises what is no Exception."""
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _deliver(answered: Sequence[tuple[tuple[Q, "asyncio.Future[A]"], A | Exception]]) -> None:
    for (_, future), answer in answered:
        if future.done():
            continue  # who asked has gone away
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Batcher(Generic[Q, A]):
    """A queue before a function that answers many questions at once.

    Args:
        name: for messages and metrics.
        compute: answers questions in their order, each by a result or an error of its own; runs in a thread
            of this batcher alone.
        most: questions of a batch.
        waiting: questions that may wait for their batch.
        pause: seconds from one batch to the next, in which questions gather; worth it where a batch costs
            much and a question little. A question that comes alone waits for nothing.
        seen: called with the size of every batch.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[list[Q]], Sequence[A | Exception]],
        *,
        most: int,
        waiting: int,
        pause: float = 0.0,
        seen: Callable[[str, int], None] | None = None,
    ) -> None:
        self.name = name
        self._compute = compute
        self._most = most
        self._waiting = waiting
        self._pause = pause
        self._rested = 0.0  # when the next batch may begin
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
                wait = self._rested - loop.time()
                if wait > 0 and len(self._queue) < self._most and not self._closed:
                    await asyncio.sleep(wait)
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
                    answered = list(zip(batch, answers, strict=True))
                except asyncio.CancelledError:
                    raise
                except BaseException as error:  # noqa: BLE001 - it belongs to those who asked
                    answered = [(asked, _failure(error)) for asked in batch]
                _deliver(answered)
                self._rested = loop.time() + self._pause
        finally:
            self._worker = None
