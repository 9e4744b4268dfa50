"""All methods are measured on the same queries; combinations are fitted on validation notes."""

import numpy as np
import pytest

from notellm.data.sample_world import sample_world
from notellm.data.split import Part, split_by_time
from notellm.evaluate.baselines import CO_OCCURRENCE
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.ablations import ablations
from notellm.experiment.recall.examples import examples_of, map_of
from notellm.experiment.recall.methods import recall_methods
from notellm.experiment.recall.source import load_recall_data
from notellm.experiment.recall.table import HYBRID, WARM, Bench
from notellm.jobs.folders import save_split

METHOD = recall_methods(ExperimentOptions())["notellm"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    world = sample_world(notes=400, users=250, clicks=9_000, bots=0, seed=6)
    folder = tmp_path_factory.mktemp("split") / "split"
    split = split_by_time(world.notes, world.clicks)
    save_split(folder, split, Part(world.notes, world.clicks), config={}, seed=None)
    return load_recall_data(folder, ExperimentOptions(min_users=1))


@pytest.fixture(scope="module")
def bench(data):
    return Bench(data, min_users=1)


def vectors_of(data, seed):
    draw = np.random.default_rng(seed)
    valid, test = (
        draw.normal(size=(part.notes.num_rows, 16)).astype(np.float32)
        for part in (data.split.valid, data.split.test)
    )
    return {"valid": valid, "test": test, "untrained test": test[::-1].copy()}


@pytest.fixture(scope="module")
def table(data, bench):
    return bench.table([(METHOD, [vectors_of(data, 0), vectors_of(data, 1)])])


def test_every_method_has_the_same_queries_and_each_seed_its_run(table):
    assert len({run.query_ids for each in table.methods for run in each.runs}) == 1
    assert [len(table.named(name).runs) for name in ("NoteLLM", HYBRID, WARM, "TF-IDF")] == [2, 2, 2, 1]


def test_without_co_occurrence_the_combination_ranks_as_the_vectors(data, bench, table):
    ids = bench.ids.to_pylist()
    clicked = set(data.split.train.clicks["note_id"].to_pylist())
    cold = [row for row, query in enumerate(table.queries) if query not in clicked]
    warm = [row for row, query in enumerate(table.queries) if query in clicked]
    alone, together = (table.named(name).runs[0].per_query["MRR"] for name in ("NoteLLM", WARM))
    assert cold
    assert np.array_equal(alone[cold], together[cold])
    assert together[warm].mean() > alone[warm].mean()  # the vectors are noise, the log is not
    assert len(ids) == data.split.test.notes.num_rows


def test_few_validation_queries_choose_nothing(data, bench, monkeypatch):
    monkeypatch.setattr("notellm.experiment.recall.table._LEAST_QUERIES", 10_000)
    table = bench.table([(METHOD, [vectors_of(data, 0)])])
    (note,) = [each for each in table.notes if each.startswith(WARM)]
    assert "co-occurrence 1, the default, since the validation part has" in note


def test_noise_is_not_preferred_to_the_log(table):
    (note,) = [each for each in table.notes if each.startswith(WARM)]
    assert "co-occurrence 4, fitted on the validation notes" in note
    assert table.named(WARM).mean("R@10") > table.named("NoteLLM").mean("R@10")
    assert table.named(CO_OCCURRENCE) is not None


def test_a_variant_is_no_row_of_the_table(data, bench):
    variant = ablations(ExperimentOptions())[0]
    found = bench.table([(variant, [vectors_of(data, 0)])])
    assert [each.setting for each in found.variants] == [variant.setting]
    assert found.named("NoteLLM") is None


def test_examples_show_what_was_found_and_what_was_not(data, table):
    result = table.named(CO_OCCURRENCE).runs[0]
    scorer = Bench(data, 1).simple[CO_OCCURRENCE]
    examples = examples_of(result, scorer, data.split.test.notes, data.pairs["test"], seed=0)
    assert examples["found"]
    assert all(each.rank <= 10 for each in examples["found"])
    assert all(each.rank > 10 for each in examples["missed"])
    for each in [*examples["found"], *examples["missed"]]:
        scores = [near.score for near in each.neighbours]
        assert scores == sorted(scores, reverse=True)
        assert len(each.neighbours) == 6
    again = examples_of(result, scorer, data.split.test.notes, data.pairs["test"], seed=0)
    assert again == examples


def test_the_map_holds_each_note_once(data):
    notes = data.split.test.notes
    found = map_of(vectors_of(data, 0)["test"], notes, seed=0)
    assert found["note_id"].to_list() == notes["note_id"].to_pylist()
    assert found["x"].is_finite().all()
    assert map_of(np.zeros((2, 3), np.float32), notes.slice(0, 2), seed=0).is_empty()
