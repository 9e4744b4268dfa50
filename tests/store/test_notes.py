"""The durable store: what was written is there, whole, and of one model; also after a kill."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb")

from notellm.data.schema import NOTES
from notellm.errors import DataError, StorageError
from notellm.files import write_json
from notellm.store import lance, notes, tables
from notellm.store.index import base
from notellm.store.index.filters import microseconds
from notellm.store.index.hnsw import HnswIndex
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, notes_of, rows_of, rows_of_table, rows_schema, visible_vectors
from notellm.store.tables import remove_store, versions
from notellm.vectors import vector_matrix
from tests.store import writer
from tests.store.index.contract import NOON, ODD, TICK, unit

DIM = 4
ONE, OTHER = "0123456789abcdef", "fedcba9876543210"


def numbered(count, start=0):
    return [StoredNote(note_id=f"n{i}", title=f"title {i}") for i in range(start, start + count)]


def batch(count, start=0, dim=DIM):
    return rows_of(numbered(count, start), unit(count, dim, seed=start))


def by_id(store):
    """Every note and its vector."""
    rows = store.read()
    vectors = vector_matrix(rows.column("vector"), store.dim)
    return {note.note_id: (note, vectors[i].tolist()) for i, note in enumerate(notes_of(rows))}


def is_stored(note_id):
    """Whether the rule allows an id."""
    return 1 <= len(note_id) <= 512 and not any(c < " " or c == "\x7f" for c in note_id)


def only_note(store, note_id):
    (note,) = notes_of(store.get([note_id]))
    return note


@pytest.fixture
def store(tmp_path):
    """A store of n0 to n9."""
    made = NoteStore.create(tmp_path / "store", ONE, [batch(10)], dim=DIM)
    yield made
    made.close()


# -------------------------------------------------------------------- writing and reading


def test_a_note_is_added_then_replaced_with_its_vector(store):
    before = by_id(store)
    changed = [StoredNote(note_id="n3", title="anew", topics=("a",)), StoredNote(note_id="x", content="new")]
    vectors = unit(2, DIM, seed=5)
    store.upsert(changed, vectors)
    wanted = before | {n.note_id: (n, v.tolist()) for n, v in zip(changed, vectors, strict=True)}
    assert by_id(store) == wanted
    assert len(store) == 11


def test_notes_are_deleted_hidden_and_expire_and_the_others_stay(store):
    before = by_id(store)
    store.delete(["n1", "not there"])
    store.hide(["n2", "n3", "not there"])
    store.hide(["n3"], hidden=False)
    at = datetime(2031, 5, 6, 7, 8, 9, 123_456, tzinfo=timezone(timedelta(hours=8)))
    store.expire(["n4", "n5"], at)
    store.expire(["n5"], None)
    after = by_id(store)
    assert after.keys() == before.keys() - {"n1"}
    assert after["n2"][0].hidden
    assert after["n4"][0].expires_at == at
    assert after["n2"][1] == before["n2"][1]
    assert after["n4"][1] == before["n4"][1]
    assert all(after[name] == before[name] for name in after.keys() - {"n2", "n4"})


def test_nothing_at_all_changes_nothing(store):
    before = by_id(store)
    store.write(batch(0))
    store.delete([])
    store.hide([])
    store.expire([], None)
    assert store.get([]).num_rows == 0
    assert by_id(store) == before


def test_odd_ids_mean_themselves_alone(store):
    store.upsert([StoredNote(note_id=name, title=name) for name in STORED], unit(len(STORED), DIM))
    assert len(store) == 10 + len(STORED)
    for name in STORED:
        assert [note.note_id for note in notes_of(store.get([name]))] == [name]
    store.hide(STORED[::2])
    store.expire(STORED[1::2], NOON)
    store.upsert([StoredNote(note_id=STORED[0], title="anew")], unit(1, DIM))
    found = {name: note for name, (note, _) in by_id(store).items()}
    assert len(found) == 10 + len(STORED)
    assert {name for name, note in found.items() if note.hidden} == set(STORED[2::2])
    assert {name for name, note in found.items() if note.expires_at == NOON} == set(STORED[1::2])
    for i, name in enumerate(STORED):
        store.delete([name])
        assert len(store) == 10 + len(STORED) - i - 1
    assert by_id(store).keys() == {f"n{i}" for i in range(10)}


@pytest.mark.parametrize("note_id", ["", "x" * 513, "a\nb", "a\x7f"])
def test_ids_that_no_request_could_name_are_refused(store, tmp_path, note_id):
    before = by_id(store)
    notes = [StoredNote(note_id="fine", title="t"), StoredNote(note_id=note_id, title="t")]
    with pytest.raises(DataError, match="an id is any text without control characters, of 1 to 512 charact"):
        store.upsert(notes, unit(2, DIM))
    assert by_id(store) == before
    with pytest.raises(DataError, match="cannot be used"):
        NoteStore.create(tmp_path / "other", ONE, [rows_of(notes, unit(2, DIM))], dim=DIM)


def test_more_ids_than_one_condition_holds(store, monkeypatch):
    monkeypatch.setattr(notes, "_BATCH", 3)
    names = [f"n{i}" for i in range(8)]
    assert sorted(store.get([*names, *names, "none"]).column("note_id").to_pylist()) == names
    store.hide(names)
    assert {name for name, (note, _) in by_id(store).items() if note.hidden} == set(names)
    store.delete(names)
    assert by_id(store).keys() == {"n8", "n9"}


def test_some_columns_are_read_alone(store):
    store.hide(["n2"])
    found = store.read(["note_id", "hidden"])
    assert found.column_names == ["note_id", "hidden"]
    assert dict(zip(*found.to_pydict().values(), strict=True)) == {f"n{i}": i == 2 for i in range(10)}
    assert store.read().schema.equals(rows_schema(DIM))
    assert store.get(["n1"]).schema.equals(rows_schema(DIM))


def test_a_write_is_all_or_nothing(store):
    before = by_id(store)
    twice = pa.concat_tables([batch(2), batch(1)])
    with pytest.raises(StorageError, match=r"cannot be used: .*n0"):
        store.write(twice)
    with pytest.raises(DataError, match="expected a fixed-size list of 4 float32: vectors of another model"):
        store.write(batch(2, dim=5))
    broken = unit(2, DIM)
    broken[1, 2] = np.nan
    with pytest.raises(DataError, match="vector 1 holds a number that is not finite"):
        store.upsert(numbered(2), broken)
    with pytest.raises(DataError, match=r"the time 2026-03-01T12:00:00 needs a time zone"):
        store.expire(["n1"], NOON.replace(tzinfo=None))
    assert by_id(store) == before


def test_vectors_of_another_length_than_one_are_refused(store, tmp_path):
    before = by_id(store)
    vectors = unit(2, DIM)
    vectors[1] *= 1.05
    with pytest.raises(
        DataError, match=r"the vector of the note 'n1' has the length 1.05; a store holds vect"
    ):
        store.upsert(numbered(2), vectors)
    assert by_id(store) == before
    with pytest.raises(DataError, match=r"the vector of the note 'n1' has the length 0; "):
        NoteStore.create(tmp_path / "other", ONE, [rows_of(numbered(2), vectors * [[1], [0]])], dim=DIM)
    assert versions(tmp_path / "other") == []


#: The odd ids that a store takes, unlike an index.
STORED = [note_id for note_id in ODD if is_stored(note_id)]
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(ODD)
any_time = st.none() | st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 - the bounds have none
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))]),
)
any_note = st.builds(
    StoredNote,
    title=any_text,
    content=any_text,
    topics=st.lists(any_text, max_size=3).map(tuple),
    category=any_text,
    note_id=any_text.filter(is_stored),
    published_at=any_time,
    hidden=st.booleans(),
    expires_at=any_time,
)
any_batch = st.lists(any_note, max_size=4, unique_by=lambda note: note.note_id)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store for many examples."""
    made = NoteStore.create(tmp_path_factory.mktemp("kept") / "store", ONE, [], dim=DIM)
    yield made
    made.close()


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_what_is_read_is_what_was_written(kept, data):
    kept.delete(kept.read(["note_id"]).column("note_id").to_pylist())
    wanted: dict[str, tuple[StoredNote, list[float]]] = {}
    for _ in range(data.draw(st.integers(1, 3))):
        own = data.draw(any_batch)
        vectors = unit(len(own), DIM, seed=data.draw(st.integers(0, 99)))
        kept.upsert(own, vectors)
        wanted.update({note.note_id: (note, v.tolist()) for note, v in zip(own, vectors, strict=True)})
        if wanted and data.draw(st.booleans()):
            gone = data.draw(st.lists(st.sampled_from(sorted(wanted)), max_size=2))
            kept.delete(gone)
            wanted = {name: kept_note for name, kept_note in wanted.items() if name not in gone}
    assert by_id(kept) == wanted
    again = kept.get(list(wanted))
    assert {note.note_id: note for note in notes_of(again)} == {k: note for k, (note, _) in wanted.items()}


def test_many_small_writes_keep_every_note(store, tmp_path, monkeypatch):
    done: list[None] = []
    optimize = NoteStore.optimize
    monkeypatch.setattr(NoteStore, "optimize", lambda self: done.append(optimize(self)))
    for i in range(10, 110):
        store.write(batch(1, start=i))
    assert len(done) == 1
    store.delete(["n50"])
    store.upsert([StoredNote(note_id="n51", title="anew")], unit(1, DIM))
    store.optimize()
    wanted = by_id(store)
    assert wanted.keys() == {f"n{i}" for i in range(110)} - {"n50"}
    assert wanted["n51"][0].title == "anew"
    assert all(wanted[f"n{i}"][0].title == f"title {i}" for i in range(110) if i not in (50, 51))
    assert notes_of(store.get(["n7", "n50", "n109"])) == [wanted["n7"][0], wanted["n109"][0]]
    store.close()
    assert by_id(NoteStore.open(tmp_path / "store", ONE)) == wanted


def test_visible_vectors_are_of_notes_neither_hidden_nor_expired(monkeypatch):
    now = microseconds(NOON)
    monkeypatch.setattr(base, "now", lambda: now)
    given_notes = [
        StoredNote(note_id="plain"),
        StoredNote(note_id="hidden", hidden=True),
        StoredNote(note_id="just expired", expires_at=NOON),
        StoredNote(note_id="expires next", expires_at=NOON + TICK),
        StoredNote(note_id="hidden and expired", hidden=True, expires_at=NOON - TICK),
    ]
    vectors = unit(5, DIM)
    ids, found = visible_vectors(rows_of(given_notes, vectors))
    assert ids == ["plain", "expires next"]
    np.testing.assert_array_equal(found, vectors[[0, 3]])
    nothing, none = visible_vectors(rows_of(given_notes[1:3], vectors[1:3]))
    assert (nothing, none.shape) == ([], (0, DIM))


def test_rows_of_a_notes_table_are_visible_and_never_expire():
    rows = [
        {"note_id": "a", "title": "t", "content": "", "topics": ["x", "y"], "category": "c"},
        {"note_id": "b", "title": "", "content": "c", "topics": [], "category": "", "published_at": NOON},
    ]
    table = pa.Table.from_pylist(rows, schema=NOTES)
    vectors = unit(2, DIM)
    own = [
        StoredNote(note_id="a", title="t", topics=("x", "y"), category="c"),
        StoredNote(note_id="b", content="c", published_at=NOON),
    ]
    assert notes_of(rows_of_table(table, vectors)) == own
    assert rows_of_table(table, vectors).equals(rows_of(own, vectors))


# -------------------------------------------------------------------- making, opening, models


def test_there_is_no_store_until_one_is_made(tmp_path):
    place = tmp_path / "not" / "yet"
    assert versions(place) == []
    with pytest.raises(StorageError, match="is not a store of notes; make one: notellm store build"):
        NoteStore.open(place, ONE)
    assert not place.exists()
    NoteStore.create(place, ONE, [], dim=DIM).close()
    assert versions(place) == [ONE]
    again = NoteStore.open(place, ONE)
    assert (len(again), again.dim, again.model) == (0, DIM, ONE)
    again.close()


def test_a_store_is_opened_for_the_model_whose_vectors_it_has(store, tmp_path):
    store.close()
    with pytest.raises(DataError, match=f"has no vectors of the model {OTHER}, but of {ONE}; vectors of two"):
        NoteStore.open(tmp_path / "store", OTHER)
    assert len(NoteStore.open(tmp_path / "store", ONE)) == 10


def test_pieces_of_any_size_make_one_store(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_BATCH", 3)
    pieces = (batch(count, start) for count, start in ((5, 0), (0, 5), (1, 5), (9, 6)))
    made = NoteStore.create(tmp_path / "store", ONE, pieces, dim=DIM)
    assert by_id(made).keys() == {f"n{i}" for i in range(15)}
    made.close()


class StoppedError(Exception):
    pass


def test_a_new_table_is_proven_by_what_is_on_the_disk(store):
    vectors = {name: vector for name, (_, vector) in by_id(store).items()}

    def encode(own):
        return np.array([vectors[note.note_id] for note in own], dtype=np.float32)

    store.prove(10, encode)
    with pytest.raises(
        StorageError, match=f"the new table of the model {ONE} .* has 10 notes, not 11; it is"
    ):
        store.prove(11, encode)
    vectors["n9"] = vectors["n8"]
    with pytest.raises(StorageError, match="has another vector of the note 'n9' than the model computes now"):
        store.prove(10, encode)
    (file,) = (Path(store.uri) / f"notes_{ONE}.lance" / "data").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match=f"{file.name} has the checksum"):
        store.prove(10, encode)


def test_a_table_that_is_not_right_is_discarded(store, tmp_path):
    made = NoteStore.create(tmp_path / "store", OTHER, [batch(4)], dim=DIM)
    made.discard()
    assert versions(tmp_path / "store") == [ONE]
    store.write(batch(1, start=20))
    assert len(store) == 11


def stopping(pieces):
    """Rows that end in an error, after more of them than are held together."""
    for piece in range(pieces):
        yield batch(10, start=10 * piece)
    raise StoppedError("half-way")


@pytest.mark.parametrize("pieces", [0, 3])
def test_a_store_that_is_half_made_is_none(tmp_path, pieces):
    place = tmp_path / "store"
    with pytest.raises(StoppedError, match="half-way"):  # what stopped it, not what LanceDB makes of it
        NoteStore.create(place, ONE, stopping(pieces), dim=DIM)
    assert versions(place) == []
    with pytest.raises(StorageError, match="is not a store of notes"):
        NoteStore.open(place, ONE)
    made = NoteStore.create(place, ONE, [batch(2)], dim=DIM)  # nothing is left in the way, no lock either
    assert by_id(made).keys() == {"n0", "n1"}
    made.close()


@pytest.mark.parametrize("model", [ONE, OTHER])
def test_a_replacement_that_is_half_made_leaves_the_former_store(store, tmp_path, model):
    before = by_id(store)
    store.close()
    with pytest.raises(StoppedError):
        NoteStore.create(tmp_path / "store", model, stopping(3), dim=DIM)
    assert versions(tmp_path / "store") == [ONE]
    again = NoteStore.open(tmp_path / "store", ONE)
    assert by_id(again) == before
    again.write(batch(1, start=10))
    assert len(again) == 11
    assert sorted(p.name for p in (tmp_path / "store").glob("*.lance")) == [f"notes_{ONE}.lance"]
    again.close()


def test_the_same_model_again_replaces_its_table(store, tmp_path):
    store.close()
    made = NoteStore.create(tmp_path / "store", ONE, [batch(3, start=100, dim=6)], dim=6)
    assert by_id(made).keys() == {"n100", "n101", "n102"}
    made.close()
    assert NoteStore.open(tmp_path / "store", ONE).dim == 6


def test_two_models_stand_side_by_side_until_one_is_written_to(store, tmp_path):
    place = tmp_path / "store"
    other = NoteStore.create(place, OTHER, [batch(4, dim=6)], dim=6)
    assert versions(place) == sorted([ONE, OTHER])
    assert (len(store), len(other)) == (10, 4)
    with pytest.raises(DataError, match="of another model"):
        other.write(batch(1))
    other.close()
    store.close()
    again = NoteStore.open(place, OTHER)
    assert versions(place) == sorted([ONE, OTHER])
    assert (len(again), again.dim) == (4, 6)
    again.write(batch(1, start=9, dim=6))  # the other table would miss this
    assert versions(place) == [OTHER]
    assert len(again) == 5
    again.close()


def test_drop_others_leaves_the_own_table(store, tmp_path):
    NoteStore.create(tmp_path / "store", OTHER, [batch(4)], dim=DIM).close()
    store.drop_others()
    assert versions(tmp_path / "store") == [ONE]
    assert len(store) == 10


def test_a_store_that_cannot_be_read_is_told_and_not_taken_for_none(store, tmp_path):
    store.close()
    for path in (tmp_path / "store" / f"notes_{ONE}.lance" / "_versions").iterdir():
        path.write_bytes(b"damaged")
    for opening in (
        lambda: NoteStore.open(tmp_path / "store", ONE),
        lambda: NoteStore.for_reading(store.uri),
    ):
        with pytest.raises(
            StorageError, match=r"\.manifest has 7 bytes, not .*: the store is damaged; restore"
        ):
            opening()
    assert versions(tmp_path / "store") == [ONE]


# -------------------------------------------------------------------- other processes


def other_process(place):
    """What a lock in another process says of the store's lock: "free" or "held"."""
    code = (
        "import sys\nfrom filelock import FileLock, Timeout\ntry:\n"
        "    FileLock(sys.argv[1] + '/.writer.lock').acquire(timeout=0); print('free')\n"
        "except Timeout: print('held')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_others_may_write_when_it_is_closed_and_not_before(store, tmp_path):
    place = tmp_path / "store"
    assert other_process(place) == "held"
    second = NoteStore.create(place, OTHER, [], dim=DIM)
    second.close()
    assert other_process(place) == "held"
    with pytest.raises(StoppedError):
        NoteStore.create(place, OTHER, stopping(1), dim=DIM)
    assert other_process(place) == "held"
    store.close()
    store.close()
    assert other_process(place) == "free"


@pytest.fixture(scope="module")
def writers():
    """A process that forks one that writes, at each line."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.writer"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.communicate(timeout=60)


def start(writers, place, first=0):
    """Let a process write; returns its id once a batch was acknowledged."""
    writers.stdin.write(f"{first} {place}\n")
    writers.stdin.flush()
    return int(writers.stdout.readline())


def test_a_second_process_is_refused(tmp_path, writers):
    place = tmp_path / "store"
    NoteStore.create(place, writer.MODEL, [], dim=writer.DIM).close()
    pid = start(writers, place)
    assert writers.stdout.readline() == "0\n"
    try:
        with pytest.raises(StorageError, match=r"another process writes to the store .*; stop it first"):
            NoteStore.open(place, writer.MODEL)
        with pytest.raises(StorageError, match="another process writes"):
            NoteStore.create(place, OTHER, [], dim=DIM)
    finally:
        os.kill(pid, signal.SIGKILL)
        while writers.stdout.readline() != "dead\n":
            pass
    NoteStore.open(place, writer.MODEL).close()  # a killed process holds nothing


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path, writers):
    place = tmp_path / "store"
    NoteStore.create(place, writer.MODEL, [], dim=writer.DIM).close()
    draw = random.Random(time.time_ns())
    acknowledged = []
    first = 0
    for _ in range(8):
        pid = start(writers, place, first)
        acknowledged += [int(writers.stdout.readline()) for _ in range(draw.randint(1, 12))]
        time.sleep(draw.random() * 0.04)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        acknowledged += [int(line) for line in iter(writers.stdout.readline, "dead\n")]
        store = NoteStore.open(place, writer.MODEL)
        found = by_id(store)
        store.close()
        own = Counter(int(name.split()[1]) for name in found if name.startswith("own"))
        assert set(own) >= set(acknowledged)
        assert set(own.values()) == {writer.BATCH // 2}  # no batch is half there
        assert all(vector == writer.vector_of(int(note.title))[0].tolist() for note, vector in found.values())
        for name, (note, _) in found.items():
            wanted = max(own) if name.startswith("all") else int(name.split()[1])
            assert int(note.title) == wanted
        assert sum(name.startswith("all") for name in found) == writer.BATCH - writer.BATCH // 2
        first = max(own) + 1


# -------------------------------------------------------------------- reading beside a writer


def test_a_store_is_read_beside_its_writer_and_not_written(store):
    beside = NoteStore.for_reading(store.uri)
    assert (beside.model, beside.dim, len(beside)) == (ONE, DIM, 10)
    store.delete(["n0"])
    assert len(NoteStore.for_reading(store.uri)) == 9
    for write in (
        lambda: beside.write(batch(1, start=50)),
        lambda: beside.delete(["n1"]),
        lambda: beside.hide(["n1"]),
        lambda: beside.expire(["n1"], NOON),
    ):
        with pytest.raises(StorageError, match="was opened for reading; open it with"):
            write()
    assert len(store) == 9
    assert not only_note(store, "n1").hidden


def test_what_a_write_left_in_the_store_although_it_failed_is_found(store):
    import lancedb

    aside = lancedb.connect(store.uri).open_table(f"notes_{ONE}")  # the store's own table knows nothing of it
    aside.add(batch(1, start=20))
    assert notes_of(store.get(["n20"])) == numbered(1, 20)


def test_there_is_nothing_to_read(tmp_path):
    with pytest.raises(StorageError, match="is not a store of notes; make one: notellm store build"):
        NoteStore.for_reading(tmp_path)


def test_notes_known_to_be_new_are_appended(store):
    store.write(batch(3, start=20), new=True)
    store.write(batch(2, start=30))
    assert len(store) == 15
    assert by_id(store)["n21"] == by_id(NoteStore.for_reading(store.uri))["n21"]
    store.write(batch(3, start=20))  # replaced, not added again
    assert len(store) == 15


# -------------------------------------------------------------------- memory


def test_what_lancedb_keeps_in_memory_is_limited(store, monkeypatch):
    import lancedb

    sessions = []
    connect = lancedb.connect

    def watched(uri, *, session):
        sessions.append(session)
        return connect(uri, session=session)

    monkeypatch.setattr(lancedb, "connect", watched)
    again = NoteStore.for_reading(store.uri)
    again.read()
    (session,) = set(sessions)  # one for the whole process
    most = lance._INDEX_CACHE + lance._MANIFEST_CACHE
    assert most <= 128 << 20
    for i in range(20):
        store.write(batch(1, start=20 + i))
    assert 0 < session.size_bytes <= most


# -------------------------------------------------------------------- removing


def test_a_store_is_removed_with_all_that_it_holds(store, tmp_path):
    place = tmp_path / "store"
    store.upsert(numbered(3), unit(3, DIM))
    store.delete(["n1"])
    store.optimize()
    NoteStore.create(place, OTHER, [batch(2)], dim=DIM).close()
    index = HnswIndex(DIM)
    index.upsert(store.read())
    index.write_graph(place / f"index_{ONE}")
    write_json({"collection": "x"}, place / f"milvus_{ONE}.json")
    (place / f"torn_{ONE}").mkdir()
    (place / f"torn_{ONE}" / "18446744073709551610.manifest.1").touch()
    (place / f"notes_{ONE}.lance" / "data" / ".tmpX1").touch()
    (place / f"dropped_{OTHER}" / "data").mkdir(parents=True)
    (place / f"dropped_{OTHER}" / "data" / "01.lance").touch()
    store.close()
    remove_store(place)
    assert not place.exists()
    remove_store(place)  # there is nothing to do


@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        ".env",
        f"notes_{ONE}.lance/thesis.txt",
        f"notes_{ONE}.lance/data/thesis.txt",
        f"index_{ONE}/thesis.txt",
        "photos/one.lance",
        "checksums.jsonl",
        f"torn_{ONE}/thesis.txt",
    ],
)
def test_a_store_with_a_foreign_file_is_not_removed(store, tmp_path, name):
    store.close()
    path = tmp_path / "store" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(
        StorageError, match=f"is not removed: {name} in it is not notellm's; move it elsewhere"
    ):
        remove_store(tmp_path / "store")
    assert path.read_text() == "mine"
    assert len(NoteStore.open(tmp_path / "store", ONE)) == 10


def test_what_is_no_folder_of_a_store_is_not_removed(store, tmp_path):
    store.close()
    place = tmp_path / "store"
    (tmp_path / "link").symlink_to(place)
    (tmp_path / "file").touch()
    for path in (tmp_path / "link", tmp_path / "file"):
        with pytest.raises(StorageError, match="is not the folder of a store"):
            remove_store(path)
    with pytest.raises(StorageError, match="is in object storage"):
        remove_store("s3://bucket/store")
    (place / f"notes_{ONE}.lance" / "data" / "01.lance").symlink_to(tmp_path / "file")
    with pytest.raises(StorageError, match=r"data/01\.lance in it is not notellm's"):
        remove_store(place)
    assert len(NoteStore.for_reading(place)) == 10


def test_a_store_that_is_written_to_is_not_removed(tmp_path, writers):
    place = tmp_path / "store"
    NoteStore.create(place, writer.MODEL, [], dim=writer.DIM).close()
    pid = start(writers, place)
    assert writers.stdout.readline() == "0\n"
    try:
        with pytest.raises(StorageError, match="another process writes to the store"):
            remove_store(place)
    finally:
        os.kill(pid, signal.SIGKILL)
        while writers.stdout.readline() != "dead\n":
            pass
    assert len(NoteStore.for_reading(place))
