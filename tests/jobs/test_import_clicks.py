"""Importing clicks: each once, also after a kill; what the log refuses is left out and counted."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("lancedb")

from notellm.data.schema import CLICKS
from notellm.errors import ConfigError, DataError, StorageError
from notellm.files import read_parquet, write_parquet
from notellm.jobs import import_clicks as module
from notellm.jobs.export_store import export_store
from notellm.jobs.import_clicks import Written, import_clicks, log_of
from notellm.jobs.prepare_options import LogOptions
from notellm.store.clicks import CLICK_LOG, Click, ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, rows_of

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def place(tmp_path):
    """A store with the notes n0 to n9, and no clicks."""
    vectors = np.eye(10, dtype=np.float32)
    rows = rows_of([StoredNote(f"note {i}", "text", note_id=f"n{i}") for i in range(10)], vectors)
    NoteStore.create(tmp_path / "store", "0123abcd", [rows], dim=10).close()
    return tmp_path / "store"


def csv_of(path, *rows, header="user_id,note_id,timestamp,event"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def ago(**how_long):
    return (NOW - timedelta(**how_long)).isoformat()


def bring(place, path, **options):
    with log_of(place) as write:
        return import_clicks(path, write, progress=False, **options)


def found(imported):
    return {each.problem: (each.count, each.example) for each in imported.report.problems}


def rows_in(place):
    log = ClickLog.for_reading(place).read()
    return [(row["user_id"], row["note_id"], row["event"]) for row in log.to_pylist()]


def test_a_click_file_is_read_and_cleaned_and_likes_stay_likes(place, tmp_path):
    path = csv_of(
        tmp_path / "c.csv",
        f"u1,n1,{ago(days=3)},view",
        f"u1,n1,{ago(days=2)},like",
        f"u1,n1,{ago(days=2)},like",
        f"u2,n2,{ago(days=1)},Dislike",
        f"u2,,{ago(days=1)},click",
        f"u3,elsewhere,{ago(hours=1)},open",
        f"u3,elsewhere,{ago(hours=2)},click",
        f"u3,n3,{ago(hours=1)},bought",
    )
    imported = bring(place, path, options=LogOptions(event=["open=click"]))
    assert rows_in(place) == [
        ("u1", "n1", "view"),
        ("u1", "n1", "like"),
        ("u2", "n2", "dislike"),
        ("u3", "elsewhere", "click"),
        ("u3", "elsewhere", "click"),
    ]
    assert (imported.written, imported.repeated) == (5, 0)
    report = found(imported)
    assert report["click twice"][0] == report["empty id"][0] == 1
    assert report["unknown event"] == (1, "bought (1)")
    assert report["click on an unknown note"] == (2, "user_id u3, note_id elsewhere")


def test_what_the_log_refuses_is_left_out_with_an_example(place, tmp_path):
    path = csv_of(
        tmp_path / "c.csv",
        f"u1,n1,{ago(days=91)},click",
        f"u2,n2,{ago(days=200)},click",
        f"u1,n1,{ago(days=89)},click",
        f"u1,{'n' * 600},{ago(days=1)},click",
    )
    imported = bring(place, path)
    assert rows_in(place) == [("u1", "n1", "click")]
    report = found(imported)
    assert report["older than 90 days"][0] == 2
    assert report["older than 90 days"][1].startswith("user_id u1, note_id n1, timestamp 20")
    assert report["id that is not allowed"][0] == 1
    assert bring(place, path, max_age=timedelta(days=365)).written == 2
    with pytest.raises(ConfigError, match="click_days is 0; it must be above 0"):
        bring(place, path, max_age=timedelta(0))
    with pytest.raises(ConfigError, match="at most 36,500"):
        bring(place, path, max_age=timedelta.max)


def test_older_clicks_of_the_log_stay(place, tmp_path):
    """How long a store keeps its clicks is for its service to say, not for an import."""
    log = ClickLog.open(place, max_age=None)
    log.append([Click("u1", "n1", timestamp=NOW - timedelta(days=300))])
    log.close()
    bring(place, csv_of(tmp_path / "c.csv", f"u2,n2,{ago(days=1)},click"))
    assert len(rows_in(place)) == 2


@pytest.mark.parametrize("batch", [1, 7, 1_000])
def test_an_import_may_be_repeated(place, tmp_path, batch):
    path = csv_of(tmp_path / "c.csv", *(f"u{i % 5},n{i % 10},{ago(minutes=i)},click" for i in range(30)))
    first = bring(place, path, batch=batch)
    assert (first.written, first.repeated) == (30, 0)
    more = csv_of(tmp_path / "more.csv", *path.read_text().splitlines()[11:], f"u9,n9,{ago(days=1)},view")
    second = bring(place, more, batch=5)
    assert (second.written, second.repeated) == (1, 20)
    assert len(rows_in(place)) == 31


def test_a_click_that_a_client_sent_is_the_same(place, tmp_path):
    log = ClickLog.open(place)
    log.append([Click("u1", "n1", "click", NOW - timedelta(days=2))])
    log.close()
    imported = bring(place, csv_of(tmp_path / "c.csv", f"u1,n1,{ago(days=2)},click"))
    assert (imported.written, imported.repeated) == (0, 1)


def test_exported_events_come_back_as_they_were(place, tmp_path):
    log = ClickLog.open(place)
    events = ("view", "click", "like", "dislike")
    log.append([Click(f"u{i % 3}", f"n{i}", events[i % 4], request_id=f"r{i % 2 or ''}") for i in range(9)])
    log.append([Click("u1", "n9", click_id="mine")])
    log.close()
    export_store(place, tmp_path / "out", progress=False)
    vectors = np.eye(10, dtype=np.float32)[:1]
    rows = rows_of([StoredNote("another store", "text", note_id="n0")], vectors)
    NoteStore.create(tmp_path / "new", "0123abcd", [rows], dim=10).close()
    imported = bring(tmp_path / "new", tmp_path / "out", batch=4)
    assert (imported.written, imported.repeated) == (10, 0)
    assert {problem: count for problem, (count, _) in found(imported).items()} == {
        "click on an unknown note": 9
    }
    assert bring(tmp_path / "new", tmp_path / "out" / "events.parquet").repeated == 10
    export_store(tmp_path / "new", tmp_path / "again", progress=False)
    first, second = (read_parquet(tmp_path / name / "events.parquet") for name in ("out", "again"))
    assert first == second
    with pytest.raises(ConfigError, match="read as it is; leave out options"):
        bring(place, tmp_path / "out", options=LogOptions(user_limit=3))
    with pytest.raises(ConfigError, match="read as it is; leave out options"):
        bring(place, tmp_path / "out", columns={"user_id": "who"})


def test_events_that_others_wrote_are_checked(place, tmp_path):
    good = {"click_id": "c1", "user_id": "u1", "note_id": "n1", "timestamp": NOW, "event": "click"}
    rows = [
        good | {"request_id": ""},
        good | {"click_id": "c2", "event": "bought", "request_id": ""},
        good | {"click_id": "c3", "timestamp": NOW + timedelta(days=3), "request_id": ""},
        good | {"click_id": "c\n4", "request_id": ""},
        good | {"click_id": "c5", "request_id": "r\t5"},
    ]
    write_parquet(pa.Table.from_pylist(rows, schema=CLICK_LOG), tmp_path / "e.parquet")
    imported = bring(place, tmp_path / "e.parquet")
    assert imported.written == 1
    assert {problem: count for problem, (count, _) in found(imported).items()} == {
        "unknown event": 1,
        "time in the future": 1,
        "id that is not allowed": 2,
    }
    nullable = pa.schema([each.with_nullable(True) for each in CLICK_LOG])
    write_parquet(pa.Table.from_pylist([good], schema=nullable), tmp_path / "n.parquet")
    with pytest.raises(DataError, match="a row without request_id"):
        bring(place, tmp_path / "n.parquet")


def test_damaged_events_are_named(place, tmp_path):
    path = tmp_path / "events.parquet"
    rows = [(f"c{i}", f"u{i}", f"n{i % 10}", NOW, "click", "") for i in range(2_000)]
    columns = zip(*rows, strict=True)
    write_parquet(pa.table(dict(zip(CLICK_LOG.names, columns, strict=True)), schema=CLICK_LOG), path)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"events\.parquet is not a readable Parquet file, or is damaged"):
        bring(place, path)
    assert rows_in(place) == []


def test_a_file_without_times_is_refused(place, tmp_path):
    path = csv_of(tmp_path / "c.csv", "u1,n1", "u1,n2", "u2,n1", header="user_id,note_id")
    with pytest.raises(DataError, match=r"only their order.*--column timestamp="):
        bring(place, path)
    with pytest.raises(StorageError, match="no such file"):
        bring(place, tmp_path / "absent.csv")
    assert rows_in(place) == []


def test_a_dataset_of_prepare_is_a_click_file(place, tmp_path):
    table = {"user_id": ["u1"], "note_id": ["n1"], "timestamp": [NOW], "event": ["click"]}
    write_parquet(pa.table(table, schema=CLICKS), tmp_path / "clicks.parquet")
    assert bring(place, tmp_path / "clicks.parquet").written == 1


def test_while_another_process_writes_it_is_refused_and_names_the_way(place, tmp_path):
    from filelock import FileLock

    path = csv_of(tmp_path / "c.csv", f"u1,n1,{ago(days=2)},click")
    with FileLock(place / ".writer.lock"), pytest.raises(StorageError, match=r"another process .* --url"):
        bring(place, path)
    assert bring(place, path).written == 1
    with pytest.raises(StorageError, match="is not a store"):
        bring(tmp_path / "nothing", path)
    assert not (tmp_path / "nothing").exists()


def test_the_time_that_writing_takes_makes_no_click_too_old(tmp_path):
    """A click that is about to become too old is left out, so that the service does not refuse its batch."""
    path = csv_of(tmp_path / "c.csv", f"u1,n1,{ago(days=90, minutes=-1)},click", f"u1,n1,{ago(days=1)},click")
    written: list[Click] = []

    def write(clicks):
        written.extend(clicks)
        return Written(len(clicks), frozenset())

    assert import_clicks(path, write, progress=False).written == 1
    assert [click.timestamp for click in written] == [NOW - timedelta(days=1)]


@pytest.mark.slow
def test_after_a_kill_it_is_repeated_and_each_click_is_there_once(place, tmp_path):
    path = csv_of(tmp_path / "c.csv", *(f"u{i % 9},n{i % 10},{ago(seconds=i)},click" for i in range(1_000)))
    program = f"""
from notellm.jobs.import_clicks import Written, import_clicks, log_of
with log_of({str(place)!r}) as write:
    def told(clicks):
        result = write(clicks)
        print(result.new, flush=True)
        return result
    import_clicks({str(path)!r}, told, batch=10, progress=False)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = sum(int(process.stdout.readline()) for _ in range(3))
        process.kill()
    before = len(rows_in(place))
    assert told == 30
    assert told <= before < 1_000
    assert before % 10 == 0  # no part of a batch
    imported = bring(place, path)
    assert (imported.written, imported.repeated) == (1_000 - before, before)
    assert len(rows_in(place)) == 1_000
    assert module.BATCH > 10
