"""Building a store: what is embedded, what stays, and whose vectors they are."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

pytest.importorskip("lancedb")

from notellm.data.schema import NOTES
from notellm.errors import ConfigError, DataError, StorageError
from notellm.files import write_parquet
from notellm.jobs.build_store import Built, build_store
from notellm.recall.embed import embed_to_parquet
from notellm.recall.model import NoteLLM
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, notes_of
from notellm.store.tables import versions
from notellm.vectors import vector_matrix, vector_table
from tests.conftest import fresh

LATER = datetime(2033, 1, 1, tzinfo=UTC)


@pytest.fixture
def encoded(monkeypatch):
    """Ids of the notes that pass a model, in order, without those by which a new table is proven."""
    monkeypatch.setattr("notellm.store.tables._SAMPLE", 0)
    ids: list[str] = []
    encode = NoteLLM.encode

    def watched(self, notes, **options):
        if not isinstance(notes, pa.Table):  # a table is what embed_to_parquet gives
            ids.extend(note.note_id for note in notes)
        return encode(self, notes, **options)

    monkeypatch.setattr(NoteLLM, "encode", watched)
    return ids


@pytest.fixture(scope="session")
def another(notes):
    """A model with other weights and dimensions."""
    return fresh("tiny", {}, notes, dim=8)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "store"


def build(place, model, notes=None, **options):
    return build_store(place, model, notes, progress=False, **options)


def content(place, model):
    """Notes by id, and vectors by id."""
    store = NoteStore.open(place, model.fingerprint())
    rows = store.read()
    store.close()
    stored = notes_of(rows)
    vectors = vector_matrix(rows.column("vector"), store.dim)
    return {n.note_id: n for n in stored}, {n.note_id: v for n, v in zip(stored, vectors, strict=True)}


def has_vectors_of(vectors, model, stored):
    wanted = model.encode(list(stored.values()))
    np.testing.assert_allclose([vectors[name] for name in stored], wanted, atol=1e-5)


def edited(table, **texts):
    """A notes table in which some notes have another title."""
    titles = [
        texts.get(note_id, title)
        for note_id, title in zip(
            table.column("note_id").to_pylist(), table.column("title").to_pylist(), strict=True
        )
    ]
    return table.set_column(1, NOTES.field("title"), pa.array(titles, pa.string()))


def test_a_new_store_holds_every_note_with_its_vector(place, tiny, notes, encoded):
    assert build(place, tiny, notes) == Built(notes=60, embedded=60, kept=0)
    assert encoded == notes.column("note_id").to_pylist()
    stored, vectors = content(place, tiny)
    assert [
        {name: getattr(stored[row["note_id"]], name) for name in NOTES.names} for row in notes.to_pylist()
    ] == [row | {"topics": tuple(row["topics"])} for row in notes.to_pylist()]
    assert not any(note.hidden or note.expires_at for note in stored.values())
    has_vectors_of(vectors, tiny, stored)
    assert versions(place) == [tiny.fingerprint()]


def test_adding_embeds_what_is_new_or_changed(place, tiny, notes, encoded):
    build(place, tiny, notes.slice(0, 40))
    encoded.clear()
    table = edited(notes, n3="a new title", n5="another")
    assert build(place, tiny, table) == Built(notes=60, embedded=22, kept=38)
    assert sorted(encoded) == sorted(["n3", "n5", *(f"n{i}" for i in range(40, 60))])
    stored, vectors = content(place, tiny)
    assert (stored["n3"].title, stored["n5"].title) == ("a new title", "another")
    has_vectors_of(vectors, tiny, stored)
    encoded.clear()
    assert build(place, tiny, table) == Built(notes=60, embedded=0, kept=60)
    assert build(place, tiny) == Built(notes=60, embedded=0, kept=0)
    assert build(place, tiny, table.slice(7, 3)) == Built(notes=60, embedded=0, kept=3)
    assert encoded == []
    assert content(place, tiny)[0] == stored  # other notes stay


@pytest.mark.parametrize("other_model", [False, True])
def test_what_hides_or_expires_notes_stays(place, tiny, another, notes, other_model):
    build(place, tiny, notes)
    store = NoteStore.open(place, tiny.fingerprint())
    store.hide(["n1", "n2"])
    store.expire(["n2", "n3"], LATER)
    store.close()
    model = another if other_model else tiny
    table = edited(notes, n1="a new title", n3="another")
    build(place, model, table)
    stored, vectors = content(place, model)
    assert {name for name, note in stored.items() if note.hidden} == {"n1", "n2"}
    assert {name for name, note in stored.items() if note.expires_at == LATER} == {"n2", "n3"}
    assert (stored["n1"].title, stored["n3"].title) == ("a new title", "another")
    has_vectors_of(vectors, model, stored)


def test_another_model_gives_its_vectors_to_all_notes(place, tiny, another, notes, encoded):
    build(place, tiny, notes)
    store = NoteStore.open(place, tiny.fingerprint())
    store.upsert([StoredNote(note_id="own", title="only in the store")], tiny.encode([StoredNote(title="x")]))
    store.close()
    before, _ = content(place, tiny)
    encoded.clear()
    assert build(place, another) == Built(notes=61, embedded=61, kept=0)
    assert sorted(encoded) == sorted(before)
    assert versions(place) == [another.fingerprint()]
    stored, vectors = content(place, another)
    assert stored == before
    assert vectors["own"].shape == (8,)
    has_vectors_of(vectors, another, stored)


def test_another_model_together_with_notes(place, tiny, another, notes):
    build(place, tiny, notes.slice(0, 30))
    table = edited(notes, n20="a new title").slice(20)
    assert build(place, another, table) == Built(notes=60, embedded=60, kept=0)
    stored, vectors = content(place, another)
    assert stored["n20"].title == "a new title"
    assert stored["n19"].title == notes.column("title")[19].as_py()
    has_vectors_of(vectors, another, stored)


def test_many_notes_come_in_pieces(place, tiny, notes, monkeypatch, encoded):
    monkeypatch.setattr("notellm.jobs.build_store._BATCH_NOTES", 7)
    build(place, tiny, notes.slice(0, 30))
    build(place, tiny, notes)
    assert encoded == notes.column("note_id").to_pylist()
    has_vectors_of(content(place, tiny)[1], tiny, content(place, tiny)[0])


def test_no_notes_make_an_empty_store(place, tiny, notes):
    assert build(place, tiny, notes.slice(0, 0)) == Built(0, 0, 0)
    assert content(place, tiny) == ({}, {})
    assert build(place, tiny, notes).embedded == 60


class StoppedError(Exception):
    pass


def stop_at(monkeypatch, number):
    """The model fails at its n-th pass."""
    passes: list[None] = []
    encode = NoteLLM.encode

    def failing(self, notes, **options):
        passes.append(None)
        if len(passes) == number:
            raise StoppedError
        return encode(self, notes, **options)

    monkeypatch.setattr("notellm.jobs.build_store._BATCH_NOTES", 10)
    monkeypatch.setattr(NoteLLM, "encode", failing)


def test_a_first_build_that_fails_leaves_no_store(place, tiny, notes, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(StoppedError):
            build(place, tiny, notes)
    assert versions(place) == []
    with pytest.raises(ConfigError, match="is not a store yet"):
        build(place, tiny)
    assert build(place, tiny, notes) == Built(60, 60, 0)


def test_adding_that_fails_keeps_what_it_had_done(place, tiny, notes, monkeypatch):
    build(place, tiny, notes.slice(0, 20))
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(StoppedError):
            build(place, tiny, notes)
    assert build(place, tiny, notes) == Built(notes=60, embedded=20, kept=40)


def test_another_model_that_fails_leaves_the_former_vectors(place, tiny, another, notes, monkeypatch):
    build(place, tiny, notes)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(StoppedError):
            build(place, another)
    assert versions(place) == [tiny.fingerprint()]
    has_vectors_of(content(place, tiny)[1], tiny, content(place, tiny)[0])
    assert build(place, another).embedded == 60


def test_another_model_whose_vectors_are_not_right_leaves_the_former_ones(
    place, tiny, another, notes, monkeypatch
):
    build(place, tiny, notes)
    before = content(place, tiny)[0]
    encode = NoteLLM.encode
    passes: list[None] = []

    def astray(self, rows, **options):
        passes.append(None)
        vectors = encode(self, rows, **options)
        return np.roll(vectors, 1, axis=0) if len(passes) == 1 else vectors

    with monkeypatch.context() as patch:
        patch.setattr(NoteLLM, "encode", astray)
        with pytest.raises(
            StorageError, match=r"has another vector of the note 'n.*' than the model computes now"
        ):
            build(place, another)
    assert versions(place) == [tiny.fingerprint()]
    assert content(place, tiny)[0] == before
    assert build(place, another).embedded == 60


# -------------------------------------------------------------------- vectors from a file


def test_vectors_from_a_file_are_not_computed_again(place, tmp_path, tiny, notes, encoded):
    path = tmp_path / "vectors.parquet"
    embed_to_parquet(tiny, notes, path, progress=False)
    assert build(place, tiny, notes.slice(0, 50), vectors=path) == Built(50, 0, 0)
    assert build(place, tiny, notes, vectors=path) == Built(60, 0, 50)
    assert encoded == []
    stored, vectors = content(place, tiny)
    has_vectors_of(vectors, tiny, stored)


def test_another_model_with_vectors_of_some_notes(place, tmp_path, tiny, another, notes, encoded):
    path = tmp_path / "vectors.parquet"
    build(place, tiny, notes)
    embed_to_parquet(another, notes.slice(0, 45), path, progress=False)
    encoded.clear()
    assert build(place, another, notes.slice(0, 45), vectors=path) == Built(60, 15, 0)
    assert sorted(encoded) == sorted(f"n{i}" for i in range(45, 60))
    has_vectors_of(content(place, another)[1], another, content(place, another)[0])


def test_vectors_of_other_notes_or_of_another_model(place, tmp_path, tiny, another, notes):
    path = tmp_path / "vectors.parquet"
    embed_to_parquet(tiny, notes.slice(0, 45), path, progress=False)
    with pytest.raises(DataError, match="has no vector of the note 'n45'; embed the same notes"):
        build(place, tiny, notes, vectors=path)
    with pytest.raises(DataError, match=f"was made by the model {tiny.fingerprint()}, not by"):
        build(place, another, notes.slice(0, 45), vectors=path)
    write_parquet(vector_table(notes.column("note_id"), tiny.encode(notes)), path, force=True)
    with pytest.raises(DataError, match="carries no record of the model that made its vectors"):
        build(place, tiny, notes, vectors=path)
    with pytest.raises(StorageError, match="no such file"):
        build(place, tiny, notes, vectors=tmp_path / "none.parquet")
    assert not Path(place).exists()


# -------------------------------------------------------------------- mistakes


def test_what_cannot_be_built(place, tiny, notes, encoded):
    with pytest.raises(ConfigError, match="is not a store yet; give the notes that it is to hold"):
        build(place, tiny)
    with pytest.raises(DataError, match="the notes have no column 'topics'"):
        build(place, tiny, notes.drop_columns(["topics"]))
    encoded.clear()
    odd = notes.set_column(0, "note_id", pa.array(["tab\there", *notes["note_id"].to_pylist()[1:]]))
    with pytest.raises(DataError, match=r"the note id 'tab\\there' .* cannot be used"):
        build(place, tiny, odd)
    assert encoded == []  # refused before the long work
    assert not Path(place).exists()


def test_a_store_that_another_holds(place, tiny, another, notes):
    build(place, tiny, notes)
    from filelock import FileLock

    other = FileLock(place / ".writer.lock")  # as another process has it
    other.acquire()
    try:
        for model in (tiny, another):
            with pytest.raises(StorageError, match="another process writes to the store"):
                build(place, model, notes)
    finally:
        other.release()
    assert build(place, tiny, notes).kept == 60


def test_the_record_names_the_model(place, tiny, notes):
    import lancedb

    from notellm.artifacts.parquet import RECORD_KEY

    build(place, tiny, notes)
    metadata = lancedb.connect(str(place)).open_table(f"notes_{tiny.fingerprint()}").schema.metadata
    assert pc.match_substring(pa.array([metadata[RECORD_KEY].decode()]), tiny.fingerprint())[0].as_py()
