"""Computing the results of an experiment one after the other, within a budget.

How long a result takes is known from finished ones of its kind. With a budget, a result that would not be
finished in time is left out, and the next one is tried. An interrupt (Ctrl-C) ends the computing, and what is
finished is reported.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from notellm.errors import DataError
from notellm.experiment.cache import Cache, Finished, Task


@dataclass
class Schedule:
    """Computes tasks in their order, says what runs and what is left, and keeps to a budget.

    Attributes:
        cache: where results are kept.
        say: prints a line.
        budget: seconds from the start of the experiment; None for no limit.
        clock: the seconds that have passed on some clock.
        spent: seconds that finished results of each kind took.
        left_out: what was not computed, and why, in sentences.
    """

    cache: Cache
    say: Callable[[str], None]
    budget: float | None = None
    clock: Callable[[], float] = time.monotonic
    spent: dict[str, list[float]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def gone(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def expect(self, kind: str, seconds: float) -> None:
        """Say how long a result of a kind takes, before the first is finished."""
        self.spent.setdefault(kind, []).append(seconds)

    def estimate(self, task: Task) -> float | None:
        """Return the seconds that a task will take; None if nothing is known about its kind."""
        known = self.spent.get(task.kind)
        return sum(known) / len(known) if known else None

    def run(self, tasks: Sequence[Task]) -> dict[str, Finished]:
        """Compute the tasks.

        Returns:
            Every finished task by its name, in the order of the tasks.

        Raises:
            KeyboardInterrupt: if it is interrupted before any task is finished.
        """
        done: dict[str, Finished] = {}
        waiting = []
        for task in tasks:
            if (finished := self.cache.result(task)) is not None:
                done[task.name] = finished
                self.expect(task.kind, finished.seconds)
            else:
                waiting.append(task)
        late: list[Task] = []
        if done:
            self.say(f"{len(done)} of {len(tasks)} results were computed before")
        for number, task in enumerate(waiting):
            if (reason := task.why_not()) is not None:
                self.left_out.append(f"{task.name} was left out: {reason}.")
                continue
            expected = self.estimate(task)
            if self.budget is not None:
                time_left = self.budget - self.gone
                if time_left <= 0 or (expected is not None and expected > time_left):
                    late.append(task)
                    continue
            place = f"[{len(tasks) - len(waiting) + number + 1}/{len(tasks)}]"
            self.say(f"{place} {task.name}; {self._outlook(waiting[number:])}")
            try:
                done[task.name] = self.cache.computed(task)
            except DataError as error:  # other results need not suffer from it
                self.left_out.append(f"{task.name} was left out: {error}.")
                self.say(self.left_out[-1])
                continue
            except KeyboardInterrupt:
                if not done:
                    raise
                self._leave_out(waiting[number:], "Not computed before the interrupt")
                self.say(
                    f"interrupted: the report is of {len(done)} of {len(tasks)} results; once more ends it"
                )
                break
            self.expect(task.kind, done[task.name].seconds)
        if late:
            more = self._leave_out(late, "Did not fit into the budget")
            self.say(f"{len(late)} of {len(tasks)} results did not fit into the budget{more}")
        return {task.name: done[task.name] for task in tasks if task.name in done}

    def _leave_out(self, tasks: Sequence[Task], why: str) -> str:
        """Name tasks that are not computed; return how long they would take, as ", about 12 min more"."""
        known = sum(each for task in tasks if (each := self.estimate(task)) is not None)
        more = f", about {in_words(known)} more" if known else ""
        names = "; ".join(task.name for task in tasks)
        self.left_out.append(f"{why} ({len(tasks)}{more}): {names}.")
        return more

    def _outlook(self, waiting: Sequence[Task]) -> str:
        """Return how much time has gone, how much is left, and when all will be done."""
        expected = [self.estimate(task) for task in waiting]
        gone = f"{in_words(self.gone)} gone"
        known = [each for each in expected if each is not None]
        if not known:
            return f"{gone}; how much is left is known after the first result of its kind"
        seconds = sum(known) + (len(expected) - len(known)) * sum(known) / len(known)
        if self.budget is not None:
            seconds = min(seconds, max(0.0, self.budget - self.gone))
        done = datetime.now().astimezone() + timedelta(seconds=seconds)
        return f"{gone}, about {in_words(seconds)} left, done about {done:%H:%M}"


def in_words(seconds: float) -> str:
    """Return a time as "1 h 05 min", "12 min" or "40 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


#: Shares of the training notes that a budget may choose, and of the smallest that is tried first.
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)
#: Share of the budget that the tables with the first seed may take.
_FIRST = 0.5


def chosen_share(
    budget: float, fixed: float, trained: float, pairs: Mapping[float, int], count: int
) -> float:
    """Return the largest share of the training notes with which the first results fit into half of a budget.

    The time of a training grows with the number of its pairs; the rest, such as embedding the pool, does not.

    Args:
        budget: seconds.
        fixed: seconds of a result that do not depend on the share.
        trained: seconds of a training with the smallest share.
        pairs: numbers of training pairs by share, the largest share first.
        count: number of trained methods in the tables with the first seed.

    Returns:
        One of the shares; the smallest, if none fits.
    """
    smallest = min(pairs)
    for share, number in pairs.items():
        if count * (fixed + trained * number / max(1, pairs[smallest])) <= _FIRST * budget:
            return share
    return smallest
