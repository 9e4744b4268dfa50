"""Records and fingerprints."""

import pyarrow as pa
import pytest

from notellm.data import sample_world
from notellm.files import read_json, read_parquet, write_parquet
from notellm.record import RECORD, fingerprint, write_record

BASE = {"a": ["x", None, "yy"], "t": [["p", "q"], [], ["r"]], "n": [1.0, 2.0, None]}


def test_chunks_and_a_trip_to_disk_do_not_count(tmp_path):
    notes = sample_world(notes=200, users=50, clicks=500, seed=3).notes
    write_parquet(notes, tmp_path / "notes.parquet")
    cut = pa.concat_tables([notes.slice(0, 7), notes.slice(7, 100), notes.slice(107)])
    assert cut.column("title").num_chunks == 3
    assert fingerprint(notes) == fingerprint(cut) == fingerprint(read_parquet(tmp_path / "notes.parquet"))


@pytest.mark.parametrize(
    "change",
    [
        {"a": ["x", "", "yy"]},
        {"a": ["xy", None, "y"]},
        {"t": [["p"], ["q"], ["r"]]},
        {"t": [["pq"], [], ["r"]]},
        {"n": [1.0, 2.0, 0.0]},
        {"n": [2.0, 1.0, None]},
    ],
)
def test_any_change_of_a_value_counts(change):
    assert fingerprint(pa.table(BASE)) != fingerprint(pa.table(BASE | change))


def test_a_record_says_what_made_the_artifact(tmp_path):
    record = make_record(kind="dataset", config={"x": 1}, data={"notes": 2}, seed=3, metrics={"m": 0.5})
    assert (record["kind"], record["seed"], record["config"]["x"]) == ("dataset", 3, 1)
    assert {"notellm", "python", "torch", "transformers"} <= record["versions"].keys()
