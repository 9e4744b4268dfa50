"""The evaluation compares like with like and leaks nothing."""

import pyarrow.compute as pc
import pytest

from notellm.data.sample_world import sample_world
from notellm.data.split import Part, Split, split_by_note, split_by_time
from notellm.errors import DataError
from notellm.jobs.evaluate_recall import evaluate_recall
from notellm.jobs.folders import PARTS, describe_split
from notellm.pairs.local import mine_pairs
from notellm.recall.model import NoteLLM
from notellm.record import describe, read_record
from tests.conftest import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=400, users=250, clicks=8_000, bots=0, seed=2)


@pytest.fixture(scope="module")
def categories(world):
    return sorted(set(world.notes.column("category").to_pylist()))


@pytest.fixture(scope="module")
def cold(world, categories):
    """A split by note, and a model of its train part."""
    split = split_by_note(world.notes, world.clicks)
    return split, with_tagger(split, categories)


def with_tagger(split, categories):
    model = NoteLLM.from_corpus(split.train.notes, categories=categories)
    model.fit_tagger(split.train.notes)
    return model


def test_by_note_popularity_is_said_to_be_of_the_test_clicks(cold):
    split, model = cold
    pairs = mine_pairs(split.test.clicks, progress=False)
    result = evaluate_recall(model, split, pairs, untrained=model, tagged_notes=20, progress=False)
    names = [item.name for item in result.related]
    assert names == [
        "popularity (of the test clicks)",
        *("TF-IDF", "BM25", "NoteLLM untrained", "NoteLLM", "NoteLLM, hybrid"),
    ]
    by_name = {item.name: item for item in result.related}
    assert by_name["NoteLLM untrained"].figures == by_name["NoteLLM"].figures  # the same model twice
    assert len({item.query_ids for item in result.related}) == 1
    assert result.categories["NoteLLM"].ill_formed == 0
    assert result.categories["NoteLLM"].notes == 20
    assert result.record["data"]["pairs"] == describe(pairs)
    assert result.record["data"]["model"] == {"fingerprint": model.fingerprint()}
    assert {name: result.record["data"][name] for name in PARTS} == describe_split(split)
    assert result.record["config"] == {"ks": [10, 100, 1000], "min_users": 2, "tagged_notes": 20}
    assert result.record["metrics"]["related"]["MRR"] == by_name["NoteLLM"].figures["MRR"].mean
    assert result.record["metrics"]["hybrid"]["MRR"] == by_name["NoteLLM, hybrid"].figures["MRR"].mean
    assert result.gains.keys() == {"NoteLLM", "NoteLLM, hybrid"}
    table = result.text()
    assert all(
        name in table for name in [*names, *result.categories, *result.topics, "nDCG@10", "ill-formed"]
    )


def test_a_report_is_saved_with_its_record(cold, tmp_path):
    split, model = cold
    result = evaluate_recall(model, split, None, tagged_notes=5, seed=3, progress=False)
    result.save(tmp_path / "report")
    record = read_record(tmp_path / "report")
    assert record == result.record
    assert (record["kind"], record["seed"], record["data"]["pairs"]) == ("report", 3, None)
    assert record["metrics"].keys() == {"category", "topics"}
    assert record["metrics"]["category"]["notes"] == 5
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "manifest.json",
        "record.json",
        "report.md",
        "results.json",
    }


def test_by_time_only_notes_unknown_to_training_are_tagged(world, categories):
    split = split_by_time(world.notes, world.clicks)
    model = with_tagger(split, categories)
    pairs = mine_pairs(split.test.clicks, progress=False)
    result = evaluate_recall(model, split, pairs, progress=False)
    assert {"popularity (train clicks)", "item co-occurrence"} <= {item.name for item in result.related}
    seen = set(split.train.notes.column("note_id").to_pylist())
    seen |= set(split.valid.notes.column("note_id").to_pylist())
    fresh = [note_id for note_id in split.test.notes.column("note_id").to_pylist() if note_id not in seen]
    assert 0 < result.categories["NoteLLM"].notes == len(fresh) < split.test.notes.num_rows


def test_a_model_without_a_tagger_has_no_figures_of_tags(cold):
    split, _ = cold
    bare = NoteLLM.from_corpus(split.train.notes, tiny=SMALL, dim=16, categories=["a"])
    result = evaluate_recall(bare, split, None, tagged_notes=3, progress=False)
    assert result.record["metrics"] == {}
    assert result.categories.keys() == {
        "most frequent category",
        "vote of 20 train notes",
        "linear classifier",
    }


def test_nothing_to_measure_is_said(cold):
    split, model = cold
    bare = split.test.notes.filter(pc.equal(split.test.notes.column("note_id"), "none"))
    empty = Split(split.train, split.valid, Part(bare, split.test.clicks))
    with pytest.raises(DataError, match="nothing can be measured"):
        evaluate_recall(model, empty, None, progress=False)
