"""Results are computed once, and again only where what they are made of has changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from notellm.errors import StorageError
from notellm.experiment.cache import Cache, Task
from notellm.experiment.circumstances import code_fingerprint, model_state
from notellm.experiment.memory import reset_peak


def counting(calls, **made_of):
    def compute(folder):
        calls.append(folder)
        (folder / "kept").write_text("x")
        return {"value": len(calls)}

    return Task("A task: of a kind", "kind", made_of, compute)


def test_a_result_is_computed_once_and_then_read(tmp_path):
    calls: list[Path] = []
    first = Cache(tmp_path).computed(counting(calls, alpha=0.1))
    again = Cache(tmp_path).computed(counting(calls, alpha=0.1))
    assert first == again
    assert first.figures == {"value": 1}
    assert len(calls) == 1


def test_another_option_is_another_result_beside_the_first(tmp_path):
    calls: list[Path] = []
    cache = Cache(tmp_path)
    cache.computed(counting(calls, alpha=0.1))
    cache.computed(counting(calls, alpha=0.2))
    assert len(calls) == 2
    assert len({folder.name for folder in calls}) == 2
    assert cache.computed(counting(calls, alpha=0.1)).figures == {"value": 1}


def test_the_order_of_options_does_not_count():
    assert (
        Task("a", "k", {"x": 1, "y": 2}, lambda _: {}).digest()
        == Task("b", "k", {"y": 2, "x": 1}, lambda _: {}).digest()
    )


def test_a_killed_run_continues_in_its_folder(tmp_path):
    def killed(folder):
        (folder / "half").write_text("done")
        raise KeyboardInterrupt

    def continued(folder):
        return {"found": (folder / "half").read_text()}

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.computed(Task("name", "kind", {"a": 1}, killed))
    assert cache.result(Task("name", "kind", {"a": 1}, killed)) is None
    assert cache.computed(Task("name", "kind", {"a": 1}, continued)).figures == {"found": "done"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"figures": {}, "seconds": "long"}', '{"figures": 3}']
)
def test_a_damaged_result_is_an_error_that_names_it(tmp_path, content):
    cache = Cache(tmp_path)
    task = counting([], alpha=1)
    cache.computed(task)
    (cache.place(task) / "result.json").write_text(content)
    with pytest.raises(StorageError, match=r"result\.json is damaged; remove .* to compute it again"):
        cache.result(task)


def test_a_result_says_what_it_is_made_of(tmp_path):
    cache = Cache(tmp_path)
    task = counting([], alpha=1)
    cache.computed(task)
    found = json.loads((cache.place(task) / "result.json").read_text())
    assert found["task"] == "A task: of a kind"
    assert found["made_of"] == {"alpha": 1}
    assert found["seconds"] >= 0


def test_the_fingerprint_of_the_code_leaves_out_what_results_do_not_depend_on():
    assert code_fingerprint() == code_fingerprint()
    assert code_fingerprint() != code_fingerprint((), ())


def test_a_result_is_found_under_another_name_too(tmp_path):
    calls: list[Path] = []
    cache = Cache(tmp_path)
    first = counting(calls, alpha=1)
    cache.computed(first)
    renamed = Task("Another name of it", "kind", first.made_of, first.compute)
    assert cache.computed(renamed).figures == {"value": 1}
    assert len(calls) == 1


def test_the_state_of_a_model_changes_with_its_files(tmp_path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "weights"
    weights.write_bytes(b"1")
    before = model_state(str(tmp_path / "model"))
    (tmp_path / "model").rename(tmp_path / "moved")
    assert model_state(str(tmp_path / "moved")) == before
    (tmp_path / "moved" / "weights").write_bytes(b"22")
    assert model_state(str(tmp_path / "moved")) != before
    assert model_state("org/name") == "org/name"


def test_the_peak_of_memory_is_that_of_the_result_alone(tmp_path):
    if not reset_peak():
        pytest.skip("the system does not tell the peak of a part of a process")

    def task(name, size):
        return Task(name, "kind", {"name": name}, lambda _: {"sum": int(np.ones(size, np.uint8).sum())})

    cache = Cache(tmp_path)
    large = cache.computed(task("large", 200 << 20)).peak_memory_mib
    small = cache.computed(task("small", 1 << 20)).peak_memory_mib
    assert large is not None
    assert small is not None
    assert large - small > 150
    assert cache.computed(task("large", 200 << 20)).peak_memory_mib == large  # it is kept
