"""Pairs in DuckDB, and in a local Spark with `make spark`, are those of the local kernel."""

import importlib.util
import math
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.data.problems import Report
from notellm.data.sample_world import sample_world
from notellm.data.schema import PAIRS
from notellm.errors import ConfigError, DataError
from notellm.jobs.folders import save_dataset
from notellm.pairs.local import mine_counted_pairs
from notellm.pairs.score import PairOptions
from notellm.pairs.warehouse import connect, mine_there, open_log, without_secrets
from notellm.record import read_record
from tests.commands import run
from tests.pairs.test_local import ORDER_START, log, options_, rows

ibis = pytest.importorskip("ibis")
SPARK = pytest.param("local[2]", marks=pytest.mark.spark)


@pytest.fixture(scope="module", params=["duckdb", SPARK])
def engine(request):
    if request.param != "duckdb" and importlib.util.find_spec("pyspark") is None:
        pytest.skip("pyspark is not installed: make spark")
    return connect(request.param)


def assert_equal_pairs(found, expected):
    """The same pairs in the same order; scores to their nine decimals."""
    assert found.schema.remove_metadata().equals(PAIRS)
    names = ["source", "target", "users"]
    assert found.select(names).to_pylist() == expected.select(names).to_pylist()
    assert found["score"].to_pylist() == pytest.approx(expected["score"].to_pylist(), abs=1.5e-9)


@settings(max_examples=40, deadline=None)
@given(rows, options_)
def test_equals_the_local_kernel_in_memory(events, options):
    clicks = log(events)
    expected, counts = mine_counted_pairs(clicks, options, progress=False)
    found, told = mine_there(ibis.memtable(clicks), options)
    assert_equal_pairs(found, expected)
    assert (told.rows, told.same_time, told.kept) == (counts.rows, counts.same_time, counts.kept)
    if not counts.kept:
        assert told == counts


@settings(max_examples=15, deadline=None)
@given(rows, st.sampled_from([None, "none", "both"]))
def test_a_log_without_order(events, same_time):
    clicks = log([(user, note, 3, event) for user, note, _, event in events], ORDER_START)
    options = PairOptions(min_users=1, same_time=same_time)
    expected, counts = mine_counted_pairs(clicks, options, progress=False)
    found, told = mine_there(ibis.memtable(clicks), options)
    assert_equal_pairs(found, expected)
    assert told.same_time == counts.same_time


@pytest.mark.parametrize("options", [PairOptions(), PairOptions(min_users=1, top=3, window_days=9.5)])
def test_a_folder_of_files_in_an_engine(engine, tmp_path, options):
    clicks = sample_world(notes=400, users=150, clicks=6_000, bots=1).clicks
    expected, counts = mine_counted_pairs(clicks, options, progress=False)
    for part in range(4):
        (tmp_path / f"day={part}").mkdir()
        pq.write_table(clicks.slice(part * 2_000, 2_000), tmp_path / f"day={part}" / "part.parquet")
    found, told = mine_there(open_log(engine, str(tmp_path)), options)
    assert expected.num_rows > 100
    assert_equal_pairs(found, expected)
    assert (told.rows, told.in_window, told.clicks, told.users, told.able) == (
        counts.rows,
        counts.in_window,
        counts.clicks,
        counts.users,
        counts.able,
    )


def test_numbers_as_ids_and_no_events(engine, tmp_path):
    times = pa.array([datetime(2024, 1, 1, 0, 0, second, tzinfo=UTC) for second in range(4)])
    table = pa.table({"user_id": [7, 7, 8, 8], "note_id": [1, 2, 1, 2], "timestamp": times})
    pq.write_table(table, tmp_path / "log.parquet")
    options = PairOptions(min_users=2, upper=math.inf)
    found, _ = mine_there(open_log(engine, str(tmp_path / "log.parquet")), options)
    assert found.to_pylist() == [{"source": "1", "target": "2", "score": 1.0, "users": 2}]


@pytest.mark.parametrize(
    ("engine", "told"),
    [
        ("duckdb", "duckdb"),
        ("local[2]", "local[2]"),
        ("spark://host:7077", "spark://host:7077"),
        ("snowflake://me:p@ss@account/db/schema?warehouse=w&token=t", "snowflake://account/db/schema"),
    ],
)
def test_records_and_messages_have_no_passwords(engine, told):
    assert without_secrets(engine) == told


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="the engine 'postgres' is not known; allowed are duckdb"):
        connect("postgres")
    engine = connect("duckdb")
    with pytest.raises(DataError, match="absent cannot be read"):
        open_log(engine, "absent")
    with pytest.raises(DataError, match="has no Parquet files"):
        open_log(engine, str(tmp_path))
    pq.write_table(pa.table({"user_id": ["u"], "item": ["n"]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"no column note_id, timestamp \(it has user_id, item\)"):
        open_log(engine, str(tmp_path / "log.parquet"))
    table = pa.table({"user_id": ["u"], "note_id": ["n"], "timestamp": ["2024"]})
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"timestamp of .* is of type string; it must be a time"):
        open_log(engine, str(tmp_path / "log.parquet"))
    ordered = log([("u", "a", 1), ("u", "b", 2)], ORDER_START)
    with pytest.raises(DataError, match=r"window_days is 7.* keeps only the order"):
        mine_there(ibis.memtable(ordered), PairOptions(window_days=7))


def test_the_command_writes_the_same_pairs_as_without_an_engine(engine, tmp_path, capsys):
    name = "duckdb" if engine.name == "duckdb" else "local[2]"
    world = sample_world(notes=300, users=100, clicks=4_000, bots=0)
    save_dataset(tmp_path / "data", world.notes, world.clicks, Report(), config={})
    assert run("pairs", tmp_path / "data", "-q") == 0
    expected = pq.read_table(tmp_path / "data" / "pairs.parquet")
    assert run("pairs", tmp_path / "data", "--engine", name) == 0
    assert "related pairs" in capsys.readouterr().out
    assert_equal_pairs(pq.read_table(tmp_path / "data" / "pairs.parquet"), expected)
    record = read_record(tmp_path / "data" / "pairs.parquet")
    assert record["data"]["clicks"]["engine"] == name
    assert record["data"]["clicks"]["rows"] == world.clicks.num_rows
    # A log elsewhere, into a new folder.
    log = tmp_path / "data" / "clicks.parquet"
    assert run("pairs", tmp_path / "new", "--engine", name, "--log", log) == 0
    assert (tmp_path / "new" / "pairs.parquet").is_file()


def test_the_command_names_mistakes(tmp_path, capsys):
    assert run("pairs", tmp_path, "--log", "clicks") == 2
    assert "--log clicks belongs to --engine" in capsys.readouterr().err
    assert run("pairs", tmp_path, "--engine", "oracle") == 2
    assert "the engine 'oracle' is not known; allowed are duckdb" in capsys.readouterr().err
    (tmp_path / "pairs.parquet").write_text("mine")
    assert run("pairs", tmp_path, "--engine", "duckdb", "--log", "x.parquet") == 2
    assert (tmp_path / "pairs.parquet").read_text() == "mine"
