"""The schedule computes by priority, says what is left, and keeps to its budget."""

import itertools
from dataclasses import replace

import pytest

from notellm.errors import DataError
from notellm.experiment.cache import Cache, Task
from notellm.experiment.schedule import SHARES, Schedule, chosen_share, in_words


class Clock:
    """A clock that tasks move on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def said():
    return []


def tasks(clock, names, seconds=100.0, kind="kind"):
    def compute(name):
        def run(_folder):
            clock.now += seconds
            return {"name": name}

        return run

    return [Task(name, kind, {"name": name}, compute(name)) for name in names]


def schedule(tmp_path, clock, said, monkeypatch, **options):
    monkeypatch.setattr("notellm.experiment.cache.time.monotonic", clock)
    return Schedule(Cache(tmp_path), said.append, clock=clock, **options)


def test_without_a_budget_everything_is_computed_in_order(tmp_path, clock, said, monkeypatch):
    done = schedule(tmp_path, clock, said, monkeypatch).run(tasks(clock, "abc"))
    assert list(done) == ["a", "b", "c"]
    assert [each.figures["name"] for each in done.values()] == ["a", "b", "c"]
    assert said[0].startswith("[1/3] a; 0 s gone; how much is left is known after")
    assert said[1].startswith("[2/3] b; 2 min gone, about 3 min left, done about ")


def test_a_second_run_computes_only_what_is_missing(tmp_path, clock, said, monkeypatch):
    schedule(tmp_path, clock, said, monkeypatch).run(tasks(clock, "ab"))
    said.clear()
    before = clock.now
    done = schedule(tmp_path, clock, said, monkeypatch).run(tasks(clock, "abc"))
    assert list(done) == ["a", "b", "c"]
    assert clock.now - before == 100
    assert said[0] == "2 of 3 results were computed before"
    assert "about 2 min left" in said[1]  # known from the earlier results


def test_what_would_not_be_finished_within_the_budget_is_left_out(tmp_path, clock, said, monkeypatch):
    plan = schedule(tmp_path, clock, said, monkeypatch, budget=250)
    long, short = tasks(clock, "abc"), tasks(clock, ["d"], seconds=10, kind="short")
    done = plan.run([*long, *short])
    assert list(done) == ["a", "b", "d"]  # c does not fit, the shorter d does
    assert plan.left_out == ["Did not fit into the budget (1, about 2 min more): c."]
    assert said[-1] == "1 of 4 results did not fit into the budget, about 2 min more"


def test_after_the_budget_nothing_is_begun(tmp_path, clock, said, monkeypatch):
    plan = schedule(tmp_path, clock, said, monkeypatch, budget=100)
    assert list(plan.run(tasks(clock, "abc"))) == ["a"]
    assert plan.left_out == ["Did not fit into the budget (2, about 3 min more): b; c."]


def test_results_that_are_there_need_no_budget(tmp_path, clock, said, monkeypatch):
    schedule(tmp_path, clock, said, monkeypatch).run(tasks(clock, "ab"))
    plan = schedule(tmp_path, clock, said, monkeypatch, budget=1)
    clock.now += 5
    assert list(plan.run(tasks(clock, "ab"))) == ["a", "b"]
    assert plan.left_out == []


def test_what_cannot_be_computed_is_left_out_with_its_reason(tmp_path, clock, said, monkeypatch):
    plan = schedule(tmp_path, clock, said, monkeypatch)
    task = Task("a", "kind", {}, lambda _: {}, why_not=lambda: "the moon is full")
    assert plan.run([task]) == {}
    assert plan.left_out == ["a was left out: the moon is full."]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (3_540, "59 min"),
        (3_599, "1 h 00 min"),
        (7_500, "2 h 05 min"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_longer_budget_never_takes_fewer_notes():
    pairs = dict(zip(SHARES, [1_000, 480, 200, 60, 10], strict=True))
    shares = [
        chosen_share(budget, fixed=20, trained=4, pairs=pairs, count=4)
        for budget in (1, 100, 300, 1_000, 3_000, 10_000)
    ]
    assert all(first <= second for first, second in itertools.pairwise(shares))
    assert (shares[0], shares[-1]) == (SHARES[-1], 1.0)


def test_one_result_that_fails_for_its_data_does_not_end_the_others(tmp_path, clock, said, monkeypatch):
    def fails(_folder):
        raise DataError("the train part has no related pairs")

    plan = schedule(tmp_path, clock, said, monkeypatch)
    done = plan.run([Task("bad", "kind", {"bad": 1}, fails), *tasks(clock, "ab")])
    assert list(done) == ["a", "b"]
    assert plan.left_out == ["bad was left out: the train part has no related pairs."]


def test_results_come_in_the_order_of_the_tasks_whatever_was_computed_first(
    tmp_path, clock, said, monkeypatch
):
    first, second, third = tasks(clock, "abc")
    schedule(tmp_path, clock, said, monkeypatch).run([second])
    done = schedule(tmp_path, clock, said, monkeypatch).run([first, second, third])
    assert list(done) == ["a", "b", "c"]


def interrupting(task):
    def interrupt(_folder):
        raise KeyboardInterrupt

    return replace(task, compute=interrupt)


def test_an_interrupt_ends_the_computing_and_keeps_what_is_finished(tmp_path, clock, said, monkeypatch):
    first, second, third = tasks(clock, "abc")
    plan = schedule(tmp_path, clock, said, monkeypatch)
    assert list(plan.run([first, interrupting(second), third])) == ["a"]
    assert plan.left_out == ["Not computed before the interrupt (2, about 3 min more): b; c."]
    assert said[-1] == "interrupted: the report is of 1 of 3 results; once more ends it"


def test_an_interrupt_before_anything_is_finished_ends_the_experiment(tmp_path, clock, said, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        schedule(tmp_path, clock, said, monkeypatch).run([interrupting(tasks(clock, "a")[0])])
