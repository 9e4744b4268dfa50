"""Questions that arrive together are computed together; each gets its own answer or error."""

import asyncio
import threading

import pytest

from notellm.serve.batching import Batcher, BusyError, Gatherer
from tests.serve.small import PATIENCE


class Worker:
    """Computes when the test allows it, and remembers its batches."""

    def __init__(self):
        self.batches = []
        self.free = threading.Event()
        self.free.set()
        self.begun = threading.Event()

    def __call__(self, questions):
        self.batches.append(list(questions))
        self.begun.set()
        assert self.free.wait(PATIENCE)
        return [question * 10 for question in questions]

    def hold(self):
        self.begun.clear()
        self.free.clear()

    async def at_work(self):
        assert await asyncio.to_thread(self.begun.wait, PATIENCE)


def batcher(worker, **options):
    return Batcher("numbers", worker, **{"most": 64, "waiting": 256, **options})


async def asked(batched, questions):
    """Start tasks, and wait until they have asked their questions."""
    tasks = [asyncio.create_task(batched.ask(question)) for question in questions]
    await asyncio.sleep(0)
    return tasks


def test_what_arrives_together_is_computed_together_and_answered_in_order():
    worker, seen = Worker(), []

    async def main():
        batched = batcher(worker, seen=lambda *what: seen.append(what))
        answers = await asyncio.gather(*(batched.ask(i) for i in range(10)))
        again = await batched.ask(7)
        await batched.close()
        return answers, again

    answers, again = asyncio.run(main())
    assert answers == [i * 10 for i in range(10)]
    assert again == 70
    assert worker.batches == [list(range(10)), [7]]
    assert seen == [("numbers", 10), ("numbers", 1)]


def test_what_arrives_during_a_batch_is_the_next_one_and_no_batch_is_above_its_most():
    worker = Worker()

    async def main():
        batched = batcher(worker, most=3)
        worker.hold()
        first = await asked(batched, [0])
        await worker.at_work()
        late = await asked(batched, range(1, 8))
        assert len(batched) == 7
        worker.free.set()
        answers = await asyncio.gather(*first, *late)
        assert len(batched) == 0
        await batched.close()
        return answers

    assert asyncio.run(main()) == [i * 10 for i in range(8)]
    assert worker.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_one_thread_computes_one_batch_at_a_time():
    names, now = set(), []

    def compute(questions):
        names.add(threading.current_thread().name)
        now.append(1)
        assert len(now) == 1
        now.pop()
        return questions

    async def main():
        batched = batcher(compute, most=2)
        await asyncio.gather(*(batched.ask(i) for i in range(20)))
        await batched.close()

    asyncio.run(main())
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_each_question_has_its_own_error():
    def compute(questions):
        return [ValueError(f"no {q}") if q % 2 else q for q in questions]

    async def main():
        batched = batcher(compute)
        found = await asyncio.gather(*(batched.ask(i) for i in range(4)), return_exceptions=True)
        await batched.close()
        return found

    found = asyncio.run(main())
    assert [str(answer) for answer in found] == ["0", "no 1", "2", "no 3"]


class Panic(BaseException):
    """A panic of a library in Rust raises something that is not an Exception."""


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_batch_that_fails_fails_for_all_of_it_and_the_next_one_works(kind):
    failing = [True, False]

    def compute(questions):
        if failing.pop(0):
            raise kind("broken")
        return questions

    async def main():
        batched = batcher(compute, most=3)
        found = await asyncio.wait_for(
            asyncio.gather(*(batched.ask(i) for i in range(5)), return_exceptions=True), PATIENCE
        )
        await batched.close()
        return found

    found = asyncio.run(main())
    assert all(isinstance(answer, RuntimeError) for answer in found[:3])
    assert found[3:] == [3, 4]


@pytest.mark.parametrize("answers", [[], [1, 2, 3, 4]])
def test_a_wrong_number_of_answers_leaves_nobody_waiting(answers):
    async def main():
        batched = batcher(lambda _: answers)
        found = await asyncio.wait_for(
            asyncio.gather(*(batched.ask(i) for i in range(2)), return_exceptions=True), PATIENCE
        )
        await batched.close()
        return found

    assert all(isinstance(answer, ValueError) for answer in asyncio.run(main()))


def test_more_than_may_wait_is_refused_at_once():
    worker = Worker()

    async def main():
        batched = batcher(worker, waiting=2)
        worker.hold()
        first = await asked(batched, [0])
        await worker.at_work()
        waiting = await asked(batched, [1, 2])
        with pytest.raises(BusyError, match="2 requests wait for numbers already") as refused:
            await batched.ask(3)
        assert refused.value.retry_after == 1
        worker.free.set()
        assert await asyncio.gather(*first, *waiting) == [0, 10, 20]
        assert await batched.ask(4) == 40
        await batched.close()

    asyncio.run(main())
    assert worker.batches == [[0], [1, 2], [4]]


def test_who_has_gone_away_is_not_computed():
    worker = Worker()

    async def main():
        batched = batcher(worker)
        worker.hold()
        (first,) = await asked(batched, [0])
        await worker.at_work()
        waiting = await asked(batched, [1, 2, 3])
        for gone in (first, waiting[0], waiting[2]):
            gone.cancel()
        await asyncio.sleep(0)
        worker.free.set()
        found = await asyncio.gather(first, *waiting, return_exceptions=True)
        await batched.close()
        return found

    found = asyncio.run(main())
    assert found[2] == 20
    assert all(isinstance(found[i], asyncio.CancelledError) for i in (0, 1, 3))
    assert worker.batches == [[0], [2]]


def test_a_queue_of_those_who_have_gone_computes_nothing():
    worker = Worker()

    async def main():
        batched = batcher(worker, pause=0.001)
        assert await batched.ask(0) == 0
        for gone in await asked(batched, [1, 2]):  # they wait for the pause to end
            gone.cancel()
        await batched.close()

    asyncio.run(main())
    assert worker.batches == [[0]]


def test_closing_answers_what_waits_and_takes_nothing_more():
    worker = Worker()

    async def main():
        batched = batcher(worker, most=1)
        worker.hold()
        waiting = await asked(batched, [1, 2, 3])
        await worker.at_work()
        closing = asyncio.create_task(batched.close())
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="about to stop") as refused:
            await batched.ask(4)
        assert refused.value.retry_after > 1
        assert not closing.done()
        worker.free.set()
        await closing
        assert await asyncio.gather(*waiting) == [10, 20, 30]
        with pytest.raises(BusyError):
            await batched.ask(5)
        await batched.close()  # once more changes nothing

    asyncio.run(main())
    assert worker.batches == [[1], [2], [3]]


def test_between_two_batches_questions_gather_and_the_first_waits_for_nothing(monkeypatch):
    worker = Worker()
    company = asyncio.Event()
    waits = []
    sleep = asyncio.sleep

    async def rest(seconds):
        if not seconds:
            await sleep(0)
            return
        waits.append(seconds)
        await company.wait()

    async def main():
        batched = batcher(worker, pause=1_000, most=4)
        monkeypatch.setattr(asyncio, "sleep", rest)
        assert await batched.ask(0) == 0
        assert waits == []
        early = await asked(batched, [1])
        await sleep(0)
        assert worker.batches == [[0]]
        late = await asked(batched, [2])
        company.set()
        assert await asyncio.gather(*early, *late) == [10, 20]
        full = await asked(batched, [3, 4, 5, 6])  # nobody is missed: no waiting
        assert await asyncio.gather(*full) == [30, 40, 50, 60]
        await batched.close()

    asyncio.run(main())
    assert worker.batches == [[0], [1, 2], [3, 4, 5, 6]]
    assert len(waits) == 1
    assert 0 < waits[0] <= 1_000


def test_a_gatherer_computes_in_the_loop_what_arrives_in_one_turn():
    worker, seen, threads = Worker(), [], set()

    def compute(questions):
        threads.add(threading.current_thread())
        return worker(questions)

    async def main():
        gatherer = Gatherer("numbers", compute, seen=lambda *what: seen.append(what))
        together = await asyncio.gather(*(gatherer.ask(i) for i in range(5)))
        alone = await gatherer.ask(9)
        return together, alone

    assert asyncio.run(main()) == ([0, 10, 20, 30, 40], 90)
    assert worker.batches == [[0, 1, 2, 3, 4], [9]]
    assert seen == [("numbers", 5), ("numbers", 1)]
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("kind", [RuntimeError, Panic])
def test_a_gatherer_that_fails_fails_for_its_turn_alone(kind):
    failing = [True, False]

    def compute(questions):
        if failing.pop(0):
            raise kind("broken")
        return [ValueError("no 3") if question == 3 else question for question in questions]

    async def main():
        gatherer = Gatherer("numbers", compute)
        first = await asyncio.wait_for(
            asyncio.gather(*(gatherer.ask(i) for i in range(2)), return_exceptions=True), PATIENCE
        )
        second = gatherer.ask(2), gatherer.ask(3), gatherer.ask(4)
        second[2].cancel()  # who has gone away is no error of the others
        return first, await asyncio.gather(*second, return_exceptions=True)

    first, second = asyncio.run(main())
    assert all(isinstance(answer, RuntimeError) for answer in first)
    assert second[0] == 2
    assert str(second[1]) == "no 3"
    assert isinstance(second[2], asyncio.CancelledError)
