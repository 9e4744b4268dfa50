"""Exporting a store: whole, lossless, consistent while it is written to, and taken by the other commands."""

import shutil
import threading
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lancedb")

from notellm.data.schema import CLICKS, NOTES
from notellm.errors import ConfigError, StorageError
from notellm.files import read_parquet
from notellm.jobs import export_store as module
from notellm.jobs.build_store import build_store
from notellm.jobs.export_store import export_store
from notellm.jobs.folders import STATES, load_dataset, load_stored_notes
from notellm.recall.embed import embed_to_parquet
from notellm.recall.made_by import maker_of
from notellm.record import describe, fingerprint, read_record
from notellm.store.clicks import CLICK_LOG, Click, ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import rows_schema

NOW = datetime.now(UTC)
LATER = datetime(2033, 1, 1, 12, 30, 0, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny, notes):
    """A store with hidden and expiring notes, changed ones, and a log; tests must not write to it."""
    place = tmp_path_factory.mktemp("export") / "store"
    build_store(place, tiny, notes, progress=False)
    store = NoteStore.open(place, tiny.fingerprint())
    store.hide(["n1", "n2"])
    store.expire(["n2", "n3"], LATER)
    store.delete(["n59"])
    store.close()
    log = ClickLog.open(place)
    events = ("view", "click", "like", "dislike")
    for start in (20, 0, 10):  # written in another order than that of time
        log.append(
            [
                Click(f"u{i % 4}", f"n{i}", events[i % 4], NOW - timedelta(days=40 - i), request_id=f"r{i}")
                for i in range(start, start + 10)
            ]
        )
    log.append([Click("u1", "n59", timestamp=NOW)])
    log.close()
    return place


def export(place, folder, **options):
    return export_store(place, folder, progress=False, **options)


def test_it_is_a_dataset_that_the_record_describes(built, tmp_path, notes):
    exported = export(built, tmp_path / "out")
    part = load_dataset(tmp_path / "out")
    assert part.notes.schema == NOTES
    assert part.notes.sort_by("note_id") == notes.filter(pa.array([True] * 59 + [False])).sort_by("note_id")
    assert part.clicks.schema == CLICKS
    assert set(part.clicks["event"].to_pylist()) == {"view", "click"}
    assert part.clicks["timestamp"].to_pylist() == sorted(part.clicks["timestamp"].to_pylist())
    assert (exported.notes, exported.events, exported.clicks) == (59, 31, 30)
    assert {each.problem: each.count for each in exported.report.problems} == {
        "like": 7,
        "note that the user dislikes": 7,
        "click on an unknown note": 1,
    }
    record = read_record(tmp_path / "out")
    assert record["data"]["notes"] == describe(part.notes)
    assert record["data"]["clicks"] == describe(part.clicks)
    assert record["metrics"]["like"] == 7
    problems = read_parquet(tmp_path / "out" / "problems.parquet")
    assert problems == exported.report.table()


def test_the_vectors_are_those_of_embed(built, tmp_path, tiny, notes):
    export(built, tmp_path / "out")
    path = tmp_path / "out" / "vectors.parquet"
    record, table = read_record(path), read_parquet(path)
    assert maker_of(path) == tiny.fingerprint()
    assert record["kind"] == "vectors"
    assert record["fingerprint"] == fingerprint(table)
    exported = load_dataset(tmp_path / "out").notes
    assert table["note_id"].to_pylist() == exported["note_id"].to_pylist()
    schema = embed_to_parquet(tiny, notes, tmp_path / "v.parquet", progress=False)
    assert pq.read_schema(path).equals(schema)


def test_the_events_are_the_log_as_it_is(built, tmp_path):
    export(built, tmp_path / "out")
    events = read_parquet(tmp_path / "out" / "events.parquet")
    assert events.schema == CLICK_LOG
    log = ClickLog.for_reading(built).read()
    assert events == log.sort_by([("timestamp", "ascending"), ("click_id", "ascending")])


def test_only_the_clicks_of_the_last_days(built, tmp_path):
    exported = export(built, tmp_path / "out", days=20.5)
    times = read_parquet(tmp_path / "out" / "events.parquet")["timestamp"].to_pylist()
    assert min(times) == NOW - timedelta(days=20)
    assert exported.events == len(times) == 11
    assert exported.notes == 59
    for days in (0, float("nan"), 1e6, float("inf")):
        with pytest.raises(ConfigError, match="it must be above 0"):
            export(built, tmp_path / "other", days=days)


def test_a_store_that_is_built_from_an_export_exports_the_same(built, tmp_path, tiny):
    export(built, tmp_path / "first")
    table = load_stored_notes(tmp_path / "first")
    states = {row["note_id"]: (row["hidden"], row["expires_at"]) for row in table.to_pylist()}
    assert {name: state for name, state in states.items() if state != (False, None)} == {
        "n1": (True, None),
        "n2": (True, LATER),
        "n3": (False, LATER),
    }
    vectors = tmp_path / "first" / "vectors.parquet"
    assert build_store(tmp_path / "new", tiny, table, vectors=vectors, progress=False).embedded == 0
    export(tmp_path / "new", tmp_path / "second")
    for name in ("notes.parquet", "vectors.parquet"):
        first, second = (read_parquet(tmp_path / each / name) for each in ("first", "second"))
        assert first.sort_by("note_id") == second.sort_by("note_id")


def test_exported_states_replace_those_of_a_store(built, tmp_path, tiny, notes):
    export(built, tmp_path / "out")
    place = tmp_path / "store"
    build_store(place, tiny, notes, progress=False)
    store = NoteStore.open(place, tiny.fingerprint())
    store.hide(["n5"])
    store.close()
    table = load_stored_notes(tmp_path / "out")
    added = build_store(place, tiny, table, vectors=tmp_path / "out" / "vectors.parquet", progress=False)
    assert added.kept == 59 - 4
    hidden = NoteStore.for_reading(place).read(["note_id", "hidden"]).filter(pa.compute.field("hidden"))
    assert sorted(hidden["note_id"].to_pylist()) == ["n1", "n2"]
    assert set(STATES) <= set(table.column_names)


def test_a_store_without_clicks_or_notes_is_exported(tmp_path, tiny):
    build_store(tmp_path / "store", tiny, NOTES.empty_table(), progress=False)
    exported = export(tmp_path / "store", tmp_path / "out")
    assert (exported.notes, exported.events, exported.clicks) == (0, 0, 0)
    assert load_dataset(tmp_path / "out").clicks.schema == CLICKS


def test_it_replaces_only_a_former_dataset(built, tmp_path):
    folder = tmp_path / "out"
    export(built, folder)
    export(built, folder)
    (folder / "mine.txt").write_text("not notellm's")
    with pytest.raises(StorageError, match=r"mine\.txt"):
        export(built, folder, force=True)
    with pytest.raises(StorageError, match="is not a store of notes"):
        export(tmp_path / "nothing", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_files_that_go_meanwhile_are_an_error_that_says_why_and_leave_nothing(built, tmp_path, monkeypatch):
    place = tmp_path / "store"
    shutil.copytree(built, place)
    write_vectors = module._write_vectors

    def too_late(store, *others):
        for path in place.glob("notes_*.lance/data/*"):
            path.unlink()
        write_vectors(store, *others)

    monkeypatch.setattr(module, "_write_vectors", too_late)
    with pytest.raises(StorageError, match=r"after five minutes.*export again"):
        export(place, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_an_export_is_one_state_while_the_store_is_written_to(tmp_path, tiny, notes):
    """A writer adds notes in batches of three and clicks each of them; no export has a part of a batch."""
    place = tmp_path / "store"
    build_store(place, tiny, notes.slice(0, 3), progress=False)
    acknowledged = [0]
    stop = threading.Event()

    def write():
        store, log = NoteStore.open(place, tiny.fingerprint()), ClickLog.open(place)
        template = store.read()
        while not stop.is_set():
            batch = acknowledged[0] + 1
            ids = [f"b{batch}-{i}" for i in range(3)]
            store.write(
                template.set_column(0, NOTES.field("note_id"), pa.array(ids)).cast(rows_schema(store.dim))
            )
            log.append([Click("u1", note_id, timestamp=datetime.now(UTC)) for note_id in ids])
            acknowledged[0] = batch
        log.close()
        store.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while acknowledged[0] < 3:
            assert writer.is_alive()
            time.sleep(0.01)
        for number in range(5):
            before = acknowledged[0]
            exported = export(place, tmp_path / f"out{number}")
            part = load_dataset(tmp_path / f"out{number}")
            names = part.notes["note_id"].to_pylist()
            assert exported.notes == len(names) == len(set(names))
            table = read_parquet(tmp_path / f"out{number}" / "vectors.parquet")
            assert table["note_id"].to_pylist() == names  # every note with its vector
            by_note = dict(zip(names, table["vector"].to_pylist(), strict=True))
            assert all(by_note[f"b1-{i}"] == by_note[f"b{before}-{i}"] for i in range(3))
            batches = {int(name[1:].split("-")[0]) for name in names if name.startswith("b")}
            assert batches == set(range(1, max(batches) + 1))
            assert len(names) == 3 + 3 * len(batches)  # no part of a batch
            assert max(batches) >= before  # what was acknowledged before the start
            clicked = set(part.clicks["note_id"].to_pylist())
            assert len(clicked) == exported.events  # no click on a note that is not there
            assert clicked >= {f"b{batch}-{i}" for batch in range(1, before + 1) for i in range(3)}
    finally:
        stop.set()
        writer.join()


def test_no_file_is_written_into_the_store(built):
    before = sorted(built.rglob("*"))
    with pytest.raises(StorageError, match=r"lies in the store .* name a folder outside of it"):
        export(built, built / "deep" / "exported")
    assert sorted(built.rglob("*")) == before
