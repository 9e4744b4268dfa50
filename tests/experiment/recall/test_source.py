"""The data of the recall table: one split and its pairs, from either kind of folder."""

import dataclasses

import pyarrow.compute as pc
import pytest

from notellm.data.problems import Report
from notellm.data.sample_world import sample_world
from notellm.data.split import Part, split_by_time
from notellm.errors import DataError
from notellm.experiment.options import ExperimentOptions
from notellm.experiment.recall.source import load_recall_data
from notellm.jobs.folders import save_dataset, save_split
from notellm.pairs.local import mine_pairs
from notellm.pairs.score import PairOptions
from notellm.record import fingerprint


@pytest.fixture(scope="module")
def world():
    return sample_world(notes=300, users=200, clicks=6_000, bots=0, seed=3)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data"
    save_dataset(path, world.notes, world.clicks, Report(), config={})
    return path


def test_by_note_no_test_note_is_in_train_and_every_part_has_its_own_pairs(folder):
    data = load_recall_data(folder, ExperimentOptions(min_users=1))
    assert data.by == "note"
    train, test = (set(part.notes["note_id"].to_pylist()) for part in (data.split.train, data.split.test))
    assert not train & test
    for name, pairs in data.pairs.items():
        known = getattr(data.split, name).notes["note_id"].combine_chunks()
        assert pc.all(pc.is_in(pairs["source"], value_set=known)).as_py()
        assert pairs.equals(
            mine_pairs(getattr(data.split, name).clicks, PairOptions(min_users=1), progress=False)
        )


def test_the_seed_decides_the_split(folder):
    prints = [
        load_recall_data(folder, ExperimentOptions(seed=seed, min_users=1)).fingerprints()["test notes"]
        for seed in (0, 0, 1)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_split_folder_keeps_its_split(world, tmp_path):
    split = split_by_time(world.notes, world.clicks)
    source = Part(world.notes, world.clicks)
    save_split(tmp_path / "split", split, source, config={}, seed=None)
    data = load_recall_data(tmp_path / "split", ExperimentOptions(by="note", min_users=1))
    assert data.by == "time"
    assert fingerprint(data.split.test.clicks) == fingerprint(split.test.clicks)


def test_a_share_of_training_notes_leaves_the_other_parts_alone(folder):
    data = load_recall_data(folder, ExperimentOptions(min_users=1))
    half = data.with_training_share(0.5, seed=0)
    count = data.split.train.notes.num_rows
    assert half.split.train.notes.num_rows == round(count / 2)
    left = half.split.train.notes["note_id"].combine_chunks()
    assert pc.all(pc.is_in(half.split.train.clicks["note_id"], value_set=left)).as_py()
    assert pc.all(pc.is_in(half.pairs["train"]["target"], value_set=left)).as_py()
    assert half.pairs["train"].num_rows < data.pairs["train"].num_rows
    before, after = data.fingerprints(), half.fingerprints()
    assert {name for name in before if before[name] != after[name]} == {
        "train notes",
        "train clicks",
        "train pairs",
    }
    assert data.with_training_share(1.0, seed=0) is data


def test_other_options_of_the_pairs_change_the_training_pairs_alone(folder):
    data = load_recall_data(folder, ExperimentOptions(min_users=1))
    fewer = data.with_mining(dataclasses.replace(data.mining, top=1))
    assert pc.count_distinct(fewer.pairs["train"]["source"]).as_py() == fewer.pairs["train"].num_rows
    assert fewer.pairs["test"] is data.pairs["test"]


def test_without_clicks_there_is_nothing_to_compare(world, tmp_path):
    save_dataset(tmp_path / "data", world.notes, world.clicks.slice(0, 0), Report(), config={})
    with pytest.raises(DataError, match="has no clicks, so nothing says which notes are related"):
        load_recall_data(tmp_path / "data", ExperimentOptions())


def test_a_part_without_pairs_is_named(folder):
    with pytest.raises(DataError, match="the train part has no related pairs: "):
        load_recall_data(folder, ExperimentOptions(min_users=10_000))
