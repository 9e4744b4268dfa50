"""Micro-batching: requests that arrive together are computed together.

    batcher = Batcher("related", compute, most=64, waiting=256)     # compute: list of questions -> answers
    answer = await batcher.ask(question)

One thread computes one batch at a time. Questions that arrive meanwhile form the next batch, so no question
waits for a batch to fill, and the longer the queue, the larger the batches. A question that finds `waiting`
questions in the queue is refused immediately, since its answer would come too late.
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
    """The service has more to do than it can do in time; ask again in ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Gatherer(Generic[Q, A]):
    """Computes in the event loop itself, for questions that take less time than handing them to a thread.

    Questions that arrive in one turn of the loop are computed together at the end of that turn.

    Args:
        name: the name in the metrics.
        compute: as in :class:`Batcher`. It must be quick, since everything else waits for it.
        seen: is called with the name and the size of every batch.
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
        """Return a future of the answer to a question."""
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
        except BaseException as error:  # noqa: BLE001 - it is passed on to those who asked
            answered = [(asked, _failure(error)) for asked in batch]
        _deliver(answered)


def _failure(error: BaseException) -> Exception:
    """Return an error as an Exception; a panic of a library in Rust raises something that is none."""
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _deliver(answered: Sequence[tuple[tuple[Q, "asyncio.Future[A]"], A | Exception]]) -> None:
    for (_, future), answer in answered:
        if future.done():
            continue  # the one who asked has gone
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Batcher(Generic[Q, A]):
    """A queue in front of a function that answers many questions at once.

    Args:
        name: the name in messages and metrics.
        compute: answers a list of questions in order, each with a result or an error. It runs in a thread
            that belongs to this batcher alone.
        most: the most questions of one batch.
        waiting: the most questions that wait for their batch.
        pause: the least seconds from one batch to the next, in which questions gather. This is worth it if a
            batch costs much and a single question little. A question that comes alone does not wait.
        seen: is called with the name and the size of every batch.
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
        self._rested = 0.0  # the time at which the next batch may begin
        self._seen = seen
        self._queue: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"notellm-{name}")

    def __len__(self) -> int:
        """Return how many questions wait."""
        return len(self._queue)

    async def ask(self, question: Q) -> A:
        """Return the answer to a question.

        Raises:
            BusyError: if too many questions wait already, or the service is about to stop.
            Exception: if `compute` gave or raised this error for the question.
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
        """Answer the questions that wait, and accept no others."""
        self._closed = True
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        """Compute one batch after the other until no question waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                wait = self._rested - loop.time()
                if wait > 0 and len(self._queue) < self._most and not self._closed:
                    await asyncio.sleep(wait)
                batch: list[tuple[Q, asyncio.Future[A]]] = []
                while self._queue and len(batch) < self._most:
                    question, future = self._queue.popleft()
                    if not future.done():  # it is done if the one who asked has gone
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
                except BaseException as error:  # noqa: BLE001 - it is passed on to those who asked
                    answered = [(asked, _failure(error)) for asked in batch]
                _deliver(answered)
                self._rested = loop.time() + self._pause
        finally:
            self._worker = None
