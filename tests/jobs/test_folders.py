"""Folders between the stages, and the chain of their records."""

import pyarrow as pa
import pytest

from notellm.data.problems import Report
from notellm.data.sample_world import sample_world
from notellm.data.schema import PAIRS
from notellm.data.split import Part, split_by_note
from notellm.errors import DataError
from notellm.files import write_parquet
from notellm.jobs.folders import (
    PARTS,
    load_dataset,
    load_pairs,
    load_split,
    mine_folder,
    save_dataset,
    save_split,
    why_no_pairs,
)
from notellm.pairs.score import PairOptions
from notellm.record import describe, fingerprint, read_record


@pytest.fixture(scope="module")
def part():
    world = sample_world(notes=120, users=80, clicks=2_500, bots=0, seed=4)
    return Part(world.notes, world.clicks)


@pytest.fixture
def home(part, tmp_path):
    report = Report()
    report.add("empty id", "notes: note_id", 3, "", "rows dropped")
    save_dataset(tmp_path / "data", part.notes, part.clicks, report, config={"notes": "n.csv"})
    split = split_by_note(part.notes, part.clicks, seed=2)
    save_split(tmp_path / "split", split, part, config={"by": "note"}, seed=2)
    return tmp_path


def test_what_is_saved_is_loaded(home, part):
    loaded = load_dataset(home / "data")
    assert loaded.notes == part.notes
    assert loaded.clicks == part.clicks
    split = split_by_note(part.notes, part.clicks, seed=2)
    for name in PARTS:
        assert getattr(load_split(home / "split"), name).notes == getattr(split, name).notes
    assert load_pairs(home / "data") is None
    with pytest.raises(DataError, match="is not a split folder"):
        load_split(home / "data")
    with pytest.raises(DataError, match="is not a dataset folder"):
        load_dataset(home)


def test_records_name_what_the_stage_before_made(home, part):
    data, split = read_record(home / "data"), read_record(home / "split")
    assert (data["kind"], data["seed"], data["metrics"]) == ("dataset", None, {"empty id": 3})
    assert data["data"]["notes"] == {"rows": 120, "fingerprint": fingerprint(part.notes)}
    assert (split["kind"], split["seed"], split["config"]) == ("split", 2, {"by": "note"})
    assert split["data"]["source"] == data["data"]
    assert sum(split["data"][name]["notes"]["rows"] for name in PARTS) == 120
    options = PairOptions(top=3, min_users=1)
    counts = mine_folder(home / "split", options, progress=False)
    assert counts["train"].kept > 10
    for name in PARTS:
        pairs = load_pairs(home / "split" / name)
        assert pairs is not None
        record = read_record(home / "split" / name / "pairs.parquet")
        assert record["data"] == {"clicks": split["data"][name]["clicks"]}
        assert record["config"]["top"] == 3
        assert record["config"]["window_days"] is None
        assert record["metrics"]["pairs"] == counts[name].kept == pairs.num_rows
        assert record["metrics"]["sources"] == len(set(pairs["source"].to_pylist()))
        assert record["fingerprint"] == fingerprint(pairs)


def test_other_clicks_give_other_records(home, part):
    save_dataset(home / "less", part.notes, part.clicks.slice(1), Report(), config={})
    records = []
    for name in ("data", "less"):
        mine_folder(home / name, PairOptions(), progress=False)
        records.append(read_record(home / name / "pairs.parquet"))
    assert records[0]["data"] != records[1]["data"]
    assert records[1]["data"]["clicks"] == describe(part.clicks.slice(1))
    first, again = (home / "data" / "pairs.parquet", home / "again.parquet")
    first.rename(again)
    mine_folder(home / "data", PairOptions(), progress=False)
    assert first.read_bytes() == again.read_bytes()


def test_a_part_without_clicks_has_no_pairs_but_a_record(home, part):
    split = split_by_note(part.notes, part.clicks, valid=0, seed=2)
    save_split(home / "split", split, part, config={}, seed=2)
    assert mine_folder(home / "split", PairOptions(), progress=False)["valid"].kept == 0
    metrics = read_record(home / "split" / "valid" / "pairs.parquet")["metrics"]
    assert metrics == {"pairs": 0, "sources": 0, "same_time": "none"}
    assert why_no_pairs(home / "split" / "valid") == "the log has no rows"
    save_dataset(home / "silent", part.notes, part.clicks.slice(0, 0), Report(), config={})
    with pytest.raises(DataError, match="has no clicks"):
        mine_folder(home / "silent", PairOptions(), progress=False)
    assert isinstance(load_pairs(home / "split" / "valid"), pa.Table)


def test_why_there_are_no_pairs_is_told_by_the_options_of_the_file(home):
    mine_folder(home / "data", PairOptions(min_users=81), progress=False)
    assert "fewer users than min_users 81" in why_no_pairs(home / "data")
    mine_folder(home / "data", PairOptions(), progress=False)
    assert why_no_pairs(home / "data") == ""
    write_parquet(PAIRS.empty_table(), home / "data" / "pairs.parquet", force=True)
    assert why_no_pairs(home / "data").endswith("pairs.parquet holds none, and notellm did not write it")
