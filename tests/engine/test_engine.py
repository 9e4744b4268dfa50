"""The engine: what is written is found at once and outlives it, and reads go on while parts are replaced."""

import shutil
import threading
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("faiss")
pytest.importorskip("lancedb")

from notellm.data.impressions import impressions_from_clicks
from notellm.data.note import Note
from notellm.data.sample_world import sample_world
from notellm.data.split import split_impressions
from notellm.engine import health, searching, writing
from notellm.engine.engine import Engine
from notellm.engine.requests import Change, Publish, Related, RelatedQuery, Remove, Tags, Written
from notellm.errors import ConfigError, DataError, ModelError, NotellmError, NotFoundError, StorageError
from notellm.jobs.build_store import build_store
from notellm.jobs.train_rank import train_rank
from notellm.rank.blend import Blend
from notellm.rank.config import RankOptions
from notellm.rank.scorer import Ranker
from notellm.recall.model import NoteLLM
from notellm.recommend import popular
from notellm.store.clicks import Click
from notellm.store.index.exact import ExactIndex
from notellm.store.index.filters import Filter
from notellm.store.index.hnsw import HnswIndex
from notellm.store.index.home import IndexHome
from notellm.store.index.select import select
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, notes_of
from notellm.store.tables import versions
from notellm.vectors import vector_matrix
from tests.conftest import SMALL

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime.now(UTC) + timedelta(days=9)


@dataclass(frozen=True)
class Parts:
    """Folders, and the models in two of them."""

    folder: Path
    models: dict[str, NoteLLM]

    def copy(self, name, target):
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(self.folder / name, target)
        return target


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A ranker, two models, and a store of the first one's vectors."""
    folder = tmp_path_factory.mktemp("engine")
    made = sample_world(notes=120, users=40, clicks=900, bots=0, seed=4)
    train, valid, _ = split_impressions(impressions_from_clicks(made.clicks))
    options = RankOptions(max_steps=2, batch=8, evaluations=1, code_epochs=2, out_of_fold=0)
    train_rank(made.notes, train, valid, folder / "ranker", options=options, progress=False)
    models = {
        "one": NoteLLM.from_corpus(made.notes, tiny=SMALL, dim=16),
        "other": NoteLLM.from_corpus(made.notes, tiny=SMALL, dim=12, seed=5),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    build_store(folder / "store", models["one"], made.notes, progress=False)
    return Parts(folder, models)


@pytest.fixture(scope="module")
def lite(tmp_path_factory):
    """One Milvus Lite for all tests."""
    pytest.importorskip("milvus_lite")
    from milvus_lite.server_manager import server_manager_instance

    path = str(tmp_path_factory.mktemp("milvus") / "lite.db")
    yield path
    server_manager_instance.release_server(path)


@pytest.fixture
def opened(parts, tmp_path, request):
    """A function that opens an engine on copies, where an earlier one was; all are closed at the end."""
    engines = []

    def new(kind="exact", *, ranker=True, again=False):
        if not again:
            parts.copy("store", tmp_path / "store")
            parts.copy("one", tmp_path / "model")
            parts.copy("ranker", tmp_path / "ranker")
        index = request.getfixturevalue("lite") if kind == "milvus" else kind
        paths = (tmp_path / "store", tmp_path / "model")
        engines.append(Engine.open(*paths, ranker=tmp_path / "ranker" if ranker else None, index=index))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture(params=["exact", "milvus"])
def engine(request, opened):
    """With an index of either implementation, and a ranker."""
    return opened(request.param)


@pytest.fixture
def plain(opened):
    """Exact search, no ranker."""
    return opened(ranker=False)


def ask(engine, **query):
    """Related notes by a query, which must be answered: ids and scores."""
    (answer,) = engine.related([RelatedQuery(**query)])
    assert isinstance(answer, Related), answer
    assert len(answer.notes) == len(answer.scores)
    return [note.note_id for note in answer.notes], answer.scores


def text_of(engine, note_id):
    note = engine.note(note_id)
    return Note(note.title, note.content, note.topics)


def everywhere(engine, note_id, *, near):
    """The ways in which a note is found, of all by which it might; ``near`` is a note with its text."""
    text = text_of(engine, near)
    ways = {
        "by id": ask(engine, note_id=near, k=500)[0],
        "by text": ask(engine, note=text, k=500)[0],
        "without copies": ask(engine, note=text, k=500, diversity=0.2)[0],
        "recommended": engine.recommend(history=[near], k=10, recall_k=10).note_ids,
        "popular": engine.recommend(k=500, recall_k=500, rerank=False).note_ids,
    }
    return {way for way, ids in ways.items() if note_id in ids}


ALL_WAYS = {"by id", "by text", "without copies", "recommended", "popular"}


def related_to_all(engine):
    return [ask(engine, note_id=name, k=7) for name in sorted(engine.notes)]


def answers(engine):
    """What an engine says of everything, as lists of ids and scores."""
    names = sorted(engine.notes)
    found = [ask(engine, note_id=name, k=7) for name in names[::2]]
    found += [ask(engine, note=text_of(engine, name), k=7) for name in names[::10]]
    found += [ask(engine, note_id=name, k=5, near_duplicates=0.9, diversity=0.3) for name in names[::10]]
    for user in (None, engine.users()[0][0]):
        recommended = engine.recommend(user, k=9, recall_k=20)
        found.append((recommended.note_ids, recommended.scores))
    return found


def alike(own, wanted):
    """Whether answers are the same but for the order of equal scores."""
    assert len(own) == len(wanted)
    for (ids, scores), (wanted_ids, wanted_scores) in zip(own, wanted, strict=True):
        np.testing.assert_allclose(scores, wanted_scores, atol=1e-5)
        for i, (name, wanted_name) in enumerate(zip(ids, wanted_ids, strict=True)):
            equal = np.abs(np.asarray(wanted_scores) - wanted_scores[i]) < 2e-5
            assert name == wanted_name or equal.sum() > 1 or equal[-1]


def is_whole(engine, model):
    """Whether store, notes and index hold the same, and vectors of this model alone."""
    place = engine._state.live.store.uri
    assert versions(place) == [model.fingerprint()] == [engine.fingerprint]
    rows = engine._state.live.store.read()
    stored = {note.note_id: note for note in notes_of(rows)}
    assert stored == dict(engine.notes)
    names = list(stored)
    assert len(engine.index) == len(names)
    wanted = model.encode(list(stored.values()))
    np.testing.assert_allclose(engine.index.vectors(names), wanted, atol=1e-5)
    np.testing.assert_allclose(vector_matrix(rows.column("vector"), wanted.shape[1]), wanted, atol=1e-5)


def copy_of(engine, note_id, name="new", **fields):
    return replace(engine.note(note_id), note_id=name, **fields)


@pytest.fixture
def encoded(monkeypatch):
    """Ids of the notes that pass a model."""
    ids: list[str] = []
    encode = NoteLLM.encode

    def watched(self, notes, **options):
        ids.extend(getattr(note, "note_id", "a text") for note in notes)
        return encode(self, notes, **options)

    monkeypatch.setattr(NoteLLM, "encode", watched)
    return ids


# -------------------------------------------------------------------- writing


def test_what_is_published_is_found_at_once(engine):
    first = next(iter(engine.notes))
    assert engine.apply([Publish(copy_of(engine, first))]) == [Written("new", existed=False)]
    assert everywhere(engine, "new", near=first) == ALL_WAYS
    ids, scores = ask(engine, note_id=first, k=120)
    assert "new" in ids
    assert scores[ids.index("new")] == pytest.approx(scores[0], abs=1e-5)
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert first in ask(engine, note_id="new", k=120)[0]
    assert "new" not in ask(engine, note_id="new", k=500)[0]
    assert engine.note("new").title == engine.note(first).title


def test_a_text_is_related_as_its_stored_note_is(engine):
    for name in list(engine.notes)[:5]:
        ids, scores = ask(engine, note_id=name, k=8)
        by_text, text_scores = ask(engine, note=text_of(engine, name), k=120)
        assert name in by_text
        i = by_text.index(name)
        assert text_scores[i] == pytest.approx(1, abs=1e-5)
        alike(
            [(ids, scores)],
            [((by_text[:i] + by_text[i + 1 :])[:8], (text_scores[:i] + text_scores[i + 1 :])[:8])],
        )


def test_a_changed_text_moves_a_note_and_a_changed_attribute_does_not(engine, encoded):
    first, second, *_ = engine.notes
    engine.apply([Publish(copy_of(engine, first))])
    encoded.clear()
    text = engine.note(second)
    fields = {"title": text.title, "content": text.content, "topics": text.topics}
    assert engine.apply([Change("new", fields)]) == [Written("new", existed=True)]
    assert encoded == ["new"]
    ids, scores = ask(engine, note_id=second, k=120)
    assert scores[ids.index("new")] == pytest.approx(1, abs=1e-5)
    ids, scores = ask(engine, note_id=first, k=120)
    assert scores[ids.index("new")] < 0.999
    encoded.clear()
    before = engine.index.vectors(["new"])
    engine.apply([Change("new", {"category": "Elsewhere", "published_at": PAST})])
    assert encoded == []
    np.testing.assert_array_equal(engine.index.vectors(["new"]), before)
    assert ask(engine, note_id=first, where=Filter(categories=["Elsewhere"]))[0] == ["new"]
    assert engine.note("new").published_at == PAST


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ({"hidden": True}, {"hidden": False}),
        ({"expires_at": PAST}, {"expires_at": FUTURE}),
    ],
)
def test_what_is_hidden_or_expired_is_out_at_once_and_comes_back(engine, encoded, away, back):
    first = next(iter(engine.notes))
    engine.apply([Publish(copy_of(engine, first))])
    encoded.clear()
    engine.apply([Change("new", away)])
    assert encoded == []
    assert everywhere(engine, "new", near=first) == set()
    assert engine.note("new").title == engine.note(first).title  # it can be read, and asked about
    assert first in ask(engine, note_id="new", k=120)[0]
    engine.apply([Change("new", back)])
    assert everywhere(engine, "new", near=first) == ALL_WAYS


def test_what_is_removed_is_gone(engine):
    first = next(iter(engine.notes))
    engine.apply([Publish(copy_of(engine, first))])
    done = engine.apply([Remove("new"), Remove("never there")])
    assert done == [Written("new", existed=True), Written("never there", existed=False)]
    assert everywhere(engine, "new", near=first) == set()
    assert "new" not in engine.notes
    with pytest.raises(NotFoundError, match="there is no note 'new' among the 120 notes; publish it first"):
        engine.note("new")
    (answer,) = engine.related([RelatedQuery(note_id="new")])
    assert isinstance(answer, NotFoundError)
    assert engine.apply([Remove("new")]) == [Written("new", existed=False)]
    engine.apply([Publish(copy_of(engine, first))])
    assert everywhere(engine, "new", near=first) == ALL_WAYS


def test_a_bad_write_fails_alone(engine):
    names = list(engine.notes)
    done: list[Any] = engine.apply(
        [
            Publish(copy_of(engine, names[0], "a")),
            Change("never there", {"title": "x"}),
            Publish(StoredNote(note_id="b", title=" \n ")),
            Change(names[1], {"title": "", "content": ""}),
            Change(names[2], {"titel": "misspelt"}),
            Change(names[2], {"note_id": "another"}),
            Change("a", {"category": "Elsewhere"}),
            Remove(names[3]),
            Publish(copy_of(engine, names[0], "two\nlines")),
            Remove("two\nlines"),
        ]
    )
    assert [type(outcome) for outcome in done] == [
        Written, NotFoundError, DataError, DataError, DataError, DataError, Written, Written,
        DataError, Written,
    ]  # fmt: skip
    assert "the note id 'two\\nlines' (9 characters) cannot be used" in str(done[8])
    assert str(done[1]) == "there is no note 'never there' to change; publish it first"
    assert str(done[2]) == "the note 'b' has no text; give it a title or content"
    assert "no field 'titel' to change; the fields are title, content, topics, category" in str(done[4])
    assert engine.note("a").category == "Elsewhere"
    assert engine.notes.keys() == {*names, "a"} - {names[3]}
    assert engine.note(names[1]).title
    is_whole(engine, engine.model)


def test_of_several_writes_to_a_note_the_last_one_wins(opened, encoded):
    engine = opened()
    first, second, third, *_ = engine.notes
    done = engine.apply(
        [
            Publish(copy_of(engine, first, title="one")),
            Publish(copy_of(engine, second, title="two")),
            Change("new", {"category": "Elsewhere"}),
            Remove(first),
            Publish(copy_of(engine, first, first, title="again")),
            Publish(copy_of(engine, second, "short-lived")),
            Remove("short-lived"),
            Change(second, {"hidden": True}),
            Change(second, {"hidden": False}),
            Remove(third),
            Change(third, {"title": "x"}),
        ]
    )
    assert [write.existed for write in done[:-1] if isinstance(write, Written)] == [
        False, True, True, True, False, False, True, True, True, True,
    ]  # fmt: skip
    assert isinstance(done[-1], NotFoundError)
    assert sorted(encoded) == sorted(["new", first])
    assert (engine.note("new").title, engine.note("new").category) == ("two", "Elsewhere")
    assert engine.note(first).title == "again"
    assert "short-lived" not in engine.notes
    assert third not in engine.notes
    is_whole(engine, engine.model)


def test_nothing_to_write(plain, encoded):
    assert plain.apply([]) == []
    assert encoded == []


def test_a_store_that_refuses_changes_nothing(plain, monkeypatch):
    first, second, *_ = plain.notes
    before = related_to_all(plain)

    def full(*_, **__):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "write", full)
        with pytest.raises(StorageError, match="the disk is full"):
            plain.apply([Publish(copy_of(plain, first)), Remove(second)])
    alike(related_to_all(plain), before)
    assert "new" not in plain.notes
    is_whole(plain, plain.model)
    plain.apply([Publish(copy_of(plain, first))])
    assert "new" in ask(plain, note_id=first, k=120)[0]


def test_an_index_that_missed_a_write_is_not_trusted_again(opened, parts, monkeypatch):
    engine = opened("milvus", ranker=False)
    first, second, *_ = engine.notes

    def down(*_):
        raise StorageError("Milvus does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.index), "upsert", down)
        patch.setattr(type(engine.index), "remove", down)
        for write in (Change(first, {"title": "anew"}), Remove(second)):
            with pytest.raises(StorageError, match="Milvus does not answer"):
                engine.apply([write])
    assert engine.apply([Remove(second)]) == [Written(second, existed=True)]  # once more, as a client does
    assert second not in ask(engine, note_id=first, k=500)[0]
    engine.close()
    again = opened("milvus", ranker=False, again=True)
    assert again.note(first).title == "anew"
    assert second not in again.notes
    is_whole(again, parts.models["one"])


def test_a_note_that_only_the_store_got_is_replaced_after_a_reload_not_added_again(
    opened, parts, monkeypatch
):
    engine = opened("exact", ranker=False)
    note = StoredNote(note_id="half", title="only the store has it")

    def down(*_):
        raise StorageError("the index does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.index), "upsert", down)
        with pytest.raises(StorageError, match="the index does not answer"):
            engine.apply([Publish(note)])
    engine.reload()
    assert engine.note("half").title == note.title
    assert engine.apply([Publish(replace(note, title="once more"))]) == [Written("half", existed=True)]
    stored = engine._state.live.store.read()["note_id"].to_pylist()
    assert len(stored) == len(set(stored)) == len(engine.notes) == len(engine.index)
    is_whole(engine, parts.models["one"])


def test_why_a_write_would_fail_is_known_without_writing(plain, monkeypatch):
    assert plain.writable() is None
    first = next(iter(plain.notes))

    def full(*_, **__):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "write", full)
        with pytest.raises(StorageError):
            plain.apply([Publish(copy_of(plain, first))])
    assert plain.writable() == "the last write failed: the disk is full"
    plain.apply([])
    plain.apply([Remove("not there")])
    assert plain.writable() == "the last write failed: the disk is full"  # nothing was written
    plain.apply([Publish(copy_of(plain, first))])
    assert plain.writable() is None
    with monkeypatch.context() as patch:
        patch.setattr(health, "_RESERVE", 1 << 62)
        assert "MiB left; it needs" in str(plain.writable())
    shutil.move(plain._state.paths.store, f"{plain._state.paths.store}-away")
    assert "cannot be found: No such file or directory" in str(plain.writable())
    shutil.move(f"{plain._state.paths.store}-away", plain._state.paths.store)


def test_writable_follows_what_becomes_of_the_disk(plain, monkeypatch):
    first = next(iter(plain.notes))

    def full(*_, **__):
        raise StorageError("the disk is full")

    monkeypatch.setattr(health, "_CHECK_INTERVAL", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "write", full)
        patch.setattr(NoteStore, "check_disk", full)
        with pytest.raises(StorageError):
            plain.apply([Publish(copy_of(plain, first))])
        assert plain.writable() == plain.writable() == "the last write failed: the disk is full"
    assert plain.writable() is None  # without a write


def test_after_a_write_that_could_not_be_flushed_notes_and_index_are_those_of_the_store(plain, monkeypatch):
    first, second, third, *_ = plain.notes
    writes = [
        Publish(copy_of(plain, first)),
        Change(second, {"title": "another title"}),
        Remove(third),
    ]
    keep = NoteStore._keep
    for count in (1, 2):  # the commit of what is added and changed, and then that of what is removed

        def failing(self, calls=[], count=count):  # noqa: B006 - counts
            calls.append(None)
            if len(calls) == count:
                raise StorageError("the disk failed")
            keep(self)

        with monkeypatch.context() as patch:
            patch.setattr(NoteStore, "_keep", failing)
            with pytest.raises(StorageError, match="the disk failed"):
                plain.apply(writes)
        assert "new" in plain.notes  # the store has it, though nobody was promised it
        assert plain.note(second).title == "another title"
        assert (third in plain.notes) == (count == 1)
        assert "new" in ask(plain, note_id=first, k=500)[0]
        is_whole(plain, plain.model)
    assert plain.apply([Publish(copy_of(plain, first))]) == [Written("new", existed=True)]
    is_whole(plain, plain.model)


def test_while_a_failed_write_cannot_be_looked_up_nothing_is_written(plain, monkeypatch):
    first, second, *_ = plain.notes

    def gone(*_, **__):
        raise StorageError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "_keep", gone)  # so the store has it
        patch.setattr(NoteStore, "get", gone)
        for _ in range(2):
            with pytest.raises(StorageError, match="the disk is gone"):
                plain.apply([Publish(copy_of(plain, first))])
    assert plain.apply([Remove(second)]) == [Written(second, existed=True)]
    assert "new" in plain.notes
    assert plain.apply([Publish(copy_of(plain, first))]) == [Written("new", existed=True)]
    is_whole(plain, plain.model)


def test_maintenance_that_fails_is_no_part_of_a_write(opened, monkeypatch, caplog):
    engine = opened("hnsw", ranker=False)
    first = next(iter(engine.notes))

    def full(*_, **__):
        raise StorageError("the disk is nearly full")

    monkeypatch.setattr(writing, "_SAVED_EVERY", 2)
    engine._state.live.store._tidied_at = 2
    with monkeypatch.context() as patch, caplog.at_level("WARNING", "notellm"):
        patch.setattr(NoteStore, "optimize", full)
        patch.setattr(HnswIndex, "save", full)
        for i in range(6):
            done = engine.apply([Publish(copy_of(engine, first, f"new {i}"))])
            assert done == [Written(f"new {i}", existed=False)]
        engine.reload()
    assert "the next start builds it: the disk is nearly full" in caplog.text
    assert "the store was not tidied, which will be tried again later: the disk is nearly full" in caplog.text
    assert engine.writable() is None
    is_whole(engine, engine.model)


@pytest.mark.parametrize("sync", [True, False])
def test_whether_writes_are_flushed_is_an_option(parts, tmp_path, monkeypatch, sync):
    store, model = parts.copy("store", tmp_path / "store"), parts.copy("one", tmp_path / "model")
    engine = Engine.open(store, model, sync=sync)
    flushed: list[int] = []
    monkeypatch.setattr("os.fsync", flushed.append)
    engine.apply([Publish(copy_of(engine, next(iter(engine.notes))))])
    assert bool(flushed) == sync
    parts.copy("other", model)
    engine.reload()
    flushed.clear()
    engine.apply([Publish(copy_of(engine, next(iter(engine.notes)), "another"))])
    assert bool(flushed) == sync
    monkeypatch.undo()
    engine.close()


def test_what_opening_mended_is_told(opened, tmp_path):
    engine = opened(ranker=False)
    assert list(engine.report) == []
    engine.apply([Publish(copy_of(engine, next(iter(engine.notes))))])
    engine._state.live.store._untidy = 0
    engine.close()
    manifests = sorted((tmp_path / "store").glob("*.lance/_versions/*.manifest"))
    manifests[0].write_bytes(b"")
    again = opened(ranker=False, again=True)
    (said,) = again.report
    assert f"{manifests[0].name} has 0 bytes" in said
    assert "new" not in again.notes
    is_whole(again, again.model)


def test_vectors_that_mean_nothing_are_not_served(opened, tmp_path, parts, monkeypatch):
    engine = opened(ranker=False)
    first = next(iter(engine.notes))
    with monkeypatch.context() as patch:
        patch.setattr("notellm.store.notes.check_new_rows", lambda *_: None)
        engine._state.live.store.upsert([engine.note(first)], 3 * engine.index.vectors([first]))
    engine.close()
    with pytest.raises(
        StorageError, match=f"is damaged: the vector of the note '{first}' has the length 3, not 1; "
    ):
        opened(ranker=False, again=True)
    assert versions(tmp_path / "store") == [parts.models["one"].fingerprint()]


def writes_of_all_kinds(engine, seed=0):
    """Writes to some of the notes, of each kind, one group after the other."""
    draw = np.random.default_rng(seed)
    names = sorted(engine.notes)
    draw.shuffle(names)
    for i, name in enumerate(names[:12]):
        engine.apply(
            [
                Publish(
                    copy_of(engine, names[-1 - i], f"new {seed} {i}", title=f"{engine.note(name).title} {i}")
                ),
                [
                    Remove(name),
                    Change(name, {"hidden": True}),
                    Change(name, {"expires_at": PAST}),
                    Change(name, {"title": f"another {i}"}),
                    Change(name, {"topics": ("a", "b"), "category": "Elsewhere"}),
                    Publish(copy_of(engine, names[30 + i], name)),
                ][i % 6],
            ]
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "killed"),
    [("exact", True), ("hnsw", False), ("hnsw", True), ("milvus", False)],
)
def test_an_engine_opened_afterwards_answers_the_same(opened, parts, kind, killed):
    engine = opened(kind)
    writes_of_all_kinds(engine)
    is_whole(engine, parts.models["one"])
    before = answers(engine)
    if killed:
        engine._state.live.store.close()  # all that the system does for a process that ends
    else:
        engine.close()
    again = opened(kind, again=True)
    assert dict(again.notes) == dict(engine.notes)
    is_whole(again, parts.models["one"])
    alike(answers(again), before)
    again.close()
    exact = opened("exact", again=True)
    alike(answers(exact), before)


def test_a_graph_is_saved_now_and_then(opened, monkeypatch):
    monkeypatch.setattr(writing, "_SAVED_EVERY", 3)
    engine = opened("hnsw")
    saved: list[None] = []
    monkeypatch.setattr(IndexHome, "save", lambda *_: saved.append(None))
    first = next(iter(engine.notes))
    for i in range(7):
        engine.apply([Publish(copy_of(engine, first, f"new {i}"))])
    assert len(saved) == 2


# -------------------------------------------------------------------- reading


def test_many_queries_are_answered_each_as_alone(engine):
    first, second, third, *_ = engine.notes
    queries = [
        RelatedQuery(note_id=first),
        RelatedQuery(note=Note("coffee at a lake"), k=3),
        RelatedQuery(note_id="never there"),
        RelatedQuery(note_id=second, k=3, where=Filter(deny=[first])),
        RelatedQuery(note_id=third, near_duplicates=2.0),
        RelatedQuery(note=Note("coffee at a lake"), k=0),
        RelatedQuery(note_id=first, diversity=0.5, near_duplicates=0.95),
        RelatedQuery(note_id=third, k=3, where=Filter(deny=[first])),
    ]
    together = engine.related(queries)
    assert [type(answer) for answer in together] == [
        Related, Related, NotFoundError, Related, ConfigError, ConfigError, Related, Related,
    ]  # fmt: skip
    for query, answer in zip(queries, together, strict=True):
        (alone,) = engine.related([query])
        if isinstance(alone, Related) and isinstance(answer, Related):
            alike(
                [([n.note_id for n in answer.notes], answer.scores)],
                [([n.note_id for n in alone.notes], alone.scores)],
            )
        else:
            assert str(alone) == str(answer)
    assert str(together[2]) == "there is no note 'never there' among the 120 notes; publish it first"
    assert str(together[4]) == "near_duplicates is 2.0; it must be a cosine above 0 and at most 1, or none"
    assert engine.related([]) == []


def test_filters_hold(engine):
    first = next(iter(engine.notes))
    categories = sorted({note.category for note in engine.notes.values()})
    for where in (
        Filter(categories=categories[:1]),
        Filter(topics=engine.note(first).topics[:1]),
        Filter(allow=list(engine.notes)[:9], deny=list(engine.notes)[5:7]),
    ):
        wanted = {
            name
            for name, note in engine.notes.items()
            if (not where.categories or note.category in where.categories)
            and (not where.topics or set(where.topics) & set(note.topics))
            and (where.allow is None or name in where.allow)
            and name not in where.deny
        }
        assert 0 < len(wanted) < 120
        assert set(ask(engine, note_id=first, k=200, where=where)[0]) == wanted - {first}
        assert set(ask(engine, note_id=first, k=200, where=where, diversity=0.1)[0]) == wanted - {first}
        options: dict[str, Any] = {"k": 200, "recall_k": 200, "where": where, "rerank": False}
        assert set(engine.recommend(history=[first], **options).note_ids) == wanted - {first}
        assert set(engine.recommend(**options).note_ids) == wanted


@pytest.mark.parametrize(("near_duplicates", "diversity"), [(0.8, 0.0), (None, 0.4), (0.7, 0.4)])
def test_near_duplicates_and_diversity_are_those_of_select(plain, near_duplicates, diversity):
    engine = plain
    for name in list(engine.notes)[:6]:
        ids, scores = ask(engine, note_id=name, k=500)
        for k in (3, 40):
            looked_at = ids[: 4 * k]
            own = engine.index.vectors(looked_at)
            query = engine.index.vectors([name])[0]
            options = {"near_duplicates": near_duplicates, "diversity": diversity}
            rows = select(query, np.array(scores[: 4 * k]), own, k, **options)
            if len(rows) < k:  # not enough is left: more are looked at
                continue
            found = ask(engine, note_id=name, k=k, **options)[0]
            assert found == [looked_at[row] for row in rows]


def test_words_count_at_once_and_as_much_as_asked_for(opened):
    engine = opened(ranker=False)
    rare = Note("zyzzyva qwertz")
    engine.apply([Publish(StoredNote(note_id="new", title="a zyzzyva in the garden"))])
    ids, scores = ask(engine, note=rare, lexical=1.0)
    assert ids[0] == "new"
    assert scores[0] > 3 * scores[1]
    (answer,) = engine.related([RelatedQuery(note=rare, k=200)])
    share = engine.model.lexical_share
    assert 0 < share < 1
    both = (1 - share) * np.array(answer.cosines) + share * np.array(answer.lexical)
    assert answer.scores == pytest.approx(both, abs=1e-5)
    (vectors_only,) = engine.related([RelatedQuery(note=rare, k=200, lexical=0.0)])
    assert vectors_only.lexical is None
    assert vectors_only.scores == vectors_only.cosines
    engine.reload(index="hnsw")
    assert ask(engine, note=rare, lexical=1.0)[0][0] == "new"
    engine.close()
    engine = opened(ranker=False, again=True)
    assert ask(engine, note=rare, lexical=1.0)[0][0] == "new"
    engine.apply([Change("new", {"title": "a wasp in the garden"})])
    assert ask(engine, note=Note("zyzzyva"), lexical=1.0)[0][0] != "new"
    engine.apply([Change("new", {"title": "a zyzzyva", "hidden": True})])
    assert "new" not in ask(engine, note=rare, k=500, lexical=1.0)[0]
    engine.apply([Change("new", {"hidden": False})])
    assert ask(engine, note=rare, lexical=1.0)[0][0] == "new"
    engine.apply([Remove("new")])
    assert "new" not in ask(engine, note=rare, k=500, lexical=1.0)[0]
    (refused,) = engine.related([RelatedQuery(note=rare, lexical=1.5)])
    assert str(refused).startswith("the lexical share is 1.5; it must be a number from 0")


def test_reposts_leave_their_places_to_others(plain):
    engine = plain
    first, second, *_ = engine.notes
    engine.apply([Publish(copy_of(engine, first, f"copy {i}")) for i in range(60)])
    # All that is nearest is the same text; the search goes on behind it.
    ids, _ = ask(engine, note_id=first, k=5, near_duplicates=0.9999)
    assert len(ids) == 5
    assert not any(name.startswith("copy") for name in ids)
    ids, _ = ask(engine, note_id=second, k=500, near_duplicates=0.9999)
    assert sum(name.startswith("copy") or name == first for name in ids) == 1


def test_a_search_goes_no_further_than_any_index_does(plain, monkeypatch):
    engine = plain
    asked: list[int] = []
    search = ExactIndex.search

    def watched(self, queries, k, **options):
        asked.append(k)
        return search(self, queries, k, **options)

    monkeypatch.setattr(ExactIndex, "search", watched)
    first = next(iter(engine.notes))
    with monkeypatch.context() as patch:
        patch.setattr(ExactIndex, "most_results", 50)
        ask(engine, note_id=first, k=3, near_duplicates=0.0001, lexical=0.0)
    assert asked == [12, 48, 50]
    asked.clear()
    monkeypatch.setattr(searching, "_MOST_FETCHED", 50)
    ask(engine, note_id=first, k=3, near_duplicates=0.0001, lexical=0.0)
    assert asked == [12, 48, 50]
    asked.clear()
    ask(engine, note_id=first, k=70, near_duplicates=0.0001, lexical=0.0)
    assert asked == [70]


def test_a_note_removed_while_it_is_asked_about_is_passed_over(opened, monkeypatch):
    engine = opened()
    first, second, third, *_ = engine.notes
    vectors = ExactIndex.vectors
    gone = [second]

    def removing(self, note_ids):
        if gone and gone[0] in note_ids:
            engine.apply([Remove(gone.pop())])
        return vectors(self, note_ids)

    monkeypatch.setattr(ExactIndex, "vectors", removing)
    named = engine.related([RelatedQuery(note_id=second), RelatedQuery(note_id=first)])
    assert isinstance(named[0], NotFoundError)
    assert isinstance(named[1], Related)
    assert gone == []
    gone.append(third)
    assert third not in ask(engine, note_id=first, k=500, diversity=0.1)[0]
    assert gone == []


def test_a_note_removed_while_it_is_recommended_is_passed_over(opened, monkeypatch):
    engine = opened()
    first = next(iter(engine.notes))
    gone = engine.recommend(history=[first], k=5).note_ids[2]
    ranker = engine.ranker
    scores = type(ranker).scores

    def removing(self, user_id, candidates, **options):
        if gone in engine.notes:
            engine.apply([Remove(gone)])
        return scores(self, user_id, candidates, **options)

    monkeypatch.setattr(type(ranker), "scores", removing)
    found = engine.recommend(history=[first], k=5)
    assert len(found.note_ids) == 5
    assert gone not in found.note_ids
    assert engine.recommend("nobody").basis.startswith("popular notes")


@pytest.mark.parametrize("asks", ["recommend", "rank"])
def test_an_opened_note_removed_meanwhile_is_passed_over(opened, monkeypatch, asks):
    engine = opened()
    gone, kept, *others = engine.notes
    (answer,) = engine.click([[Click("reader", gone), Click("reader", kept)]])
    assert not isinstance(answer, NotellmError)
    scores = type(engine.ranker).scores

    def removing(self, user_id, candidates, **options):
        if gone in engine.notes:
            engine.apply([Remove(gone)])
        return scores(self, user_id, candidates, **options)

    monkeypatch.setattr(type(engine.ranker), "scores", removing)
    if asks == "recommend":
        found = engine.recommend("reader", k=5)
        assert set(found.reasons) <= {kept, None}
    else:
        found = engine.rank("reader", others[:5])
    assert len(found.note_ids) == 5
    assert gone not in engine.notes


def test_a_new_user_gets_what_others_open_now(opened, monkeypatch):
    monkeypatch.setattr(popular, "_KEPT_FOR", 0.0)
    engine = opened()
    before = engine.recommend("nobody", k=3, rerank=False)
    last = engine.recommend("nobody", k=500, recall_k=500, rerank=False).note_ids[-1]
    most = int(before.scores.max()) + 1
    (answer,) = engine.click([[Click(f"new {i}", last) for i in range(most)]])
    assert not isinstance(answer, NotellmError)
    assert engine.recommend("nobody", k=3, rerank=False).note_ids[0] == last
    engine.reload()
    assert engine.recommend("nobody", k=3, rerank=False).note_ids[0] == last
    for i in range(most):
        engine.forget_user(f"new {i}")
    assert engine.recommend("nobody", k=3, rerank=False).note_ids == before.note_ids


def test_find_by_a_part_of_the_title_newest_first(plain):
    plain.apply(
        [
            Publish(StoredNote(note_id="a", title="The Quokka sleeps", published_at=PAST)),
            Publish(StoredNote(note_id="b", content="no title, but a QUOKKA", published_at=FUTURE)),
            Publish(StoredNote(note_id="c", title="quokka, undated")),
            Publish(StoredNote(note_id="d", title="another", content="a quokka in the content alone")),
            Publish(StoredNote(note_id="e", title="later: quokka 旅行", hidden=True)),
        ]
    )
    assert [note.note_id for note in plain.find(" quokka ")] == ["b", "a", "e", "c"]
    assert [note.note_id for note in plain.find("quokka", limit=2)] == ["b", "a"]
    assert [note.note_id for note in plain.find("旅行")] == ["e"]
    assert plain.find("no such title at all") == []
    assert len(plain.find("", limit=7)) == 7


def test_users_and_what_they_opened(opened):
    engine = opened()
    histories = engine.ranker.histories
    assert dict(engine.users(limit=1_000)) == {user: len(own) for user, own in histories.items()}
    assert len(engine.users(limit=3)) == 3
    user = max(histories, key=lambda name: len(histories[name]))
    assert (user, len(histories[user])) in engine.users(user.upper(), limit=1_000)
    assert engine.users("no such user") == []
    latest = list(dict.fromkeys(reversed(histories[user])))
    assert [note.note_id for note in engine.opened(user, limit=4)] == latest[:4]
    engine.apply([Remove(latest[0])])
    assert [note.note_id for note in engine.opened(user, limit=4)] == latest[1:5]
    with pytest.raises(NotFoundError, match=f"the user 'x' is not among the {len(histories)} users"):
        engine.opened("x")


def test_ranking_knows_new_notes_and_new_texts(opened):
    engine = opened()
    first, second, *_ = engine.notes
    candidates = ["new", "as first", "as second"]  # none of which has a code
    texts = zip(candidates, (first, first, second), strict=True)
    engine.apply([Publish(copy_of(engine, source, name)) for name, source in texts])

    def scores():
        ranking = engine.rank(None, candidates, history=[second])
        return [float(ranking.scores[ranking.note_ids.index(name)]) for name in candidates]

    new, as_first, as_second = scores()
    assert new == pytest.approx(as_first, abs=1e-7)
    assert abs(as_first - as_second) > 1e-6
    text = engine.note(second)
    engine.apply([Change("new", {"title": text.title, "content": text.content, "topics": text.topics})])
    new, _, as_second = scores()
    assert new == pytest.approx(as_second, abs=1e-7)
    engine.apply([Remove("new")])
    with pytest.raises(DataError, match="there is no note 'new'"):
        engine.rank(None, ["new"])


def test_without_a_ranker(plain):
    assert plain.ranker is None
    for call in (plain.recommend, plain.users, lambda: plain.opened("u"), lambda: plain.rank(None, ["n"])):
        with pytest.raises(NotFoundError, match="there is no ranker here; start with one"):
            call()


def test_tags_that_the_model_has_not_learnt_are_none(plain):
    plain.model.learnt = frozenset({"category"})
    (found,) = plain.tags([Note("bread")])
    assert (found.topics, found.not_learnt) == ([], ["topics"])
    assert "has not learnt to write topics" in found.reasons["topics"]
    plain.model.learnt = frozenset()
    (found,) = plain.tags([Note("bread")], topics=2)
    assert found == Tags(reasons=found.reasons)
    assert found.not_learnt == ["category", "topics"]


def test_a_model_without_known_notes_writes_topics_freely(plain):
    rows = [Note("coffee at a lake"), Note("a planet")]
    assert plain.model.tagger is None
    assert not plain.model.settings.categories
    found = plain.tags(rows, topics=2)
    assert [[topic.name for topic in tags.topics] for tags in found] == plain.model.write_topics(rows, n=2)
    assert all(topic.probability is None and not topic.neighbours for tags in found for topic in tags.topics)
    assert [tags.category for tags in found] == [None, None]


# -------------------------------------------------------------------- opening


def test_what_cannot_be_opened(parts, tmp_path, opened):
    opened().close()
    store, model = tmp_path / "store", tmp_path / "model"
    other = parts.models["other"].fingerprint()
    with pytest.raises(DataError, match=f"has no vectors of the model {other}"):
        Engine.open(store, parts.folder / "other")
    with pytest.raises(StorageError, match="is not a store of notes"):
        Engine.open(tmp_path / "nowhere", model)
    with pytest.raises(ConfigError, match="the index is 'fast'; allowed are"):
        Engine.open(store, model, index="fast")
    with pytest.raises(ModelError, match="is not a ranker directory"):
        Engine.open(store, model, ranker=model)
    with pytest.raises(NotellmError):
        Engine.open(store, tmp_path / "no model")
    again = opened(again=True)  # nothing of these holds the store
    assert len(again.notes) == 120
    from filelock import FileLock, Timeout

    again.close()
    with FileLock(store / ".writer.lock", timeout=0):
        pass
    third = opened(again=True)
    with pytest.raises(Timeout):
        FileLock(store / ".writer.lock", timeout=0).acquire()
    third.close()


# -------------------------------------------------------------------- replacing


def in_the_middle(monkeypatch, *actions):
    """What happens right after a reload has read the store, and right before it builds the index."""
    read, build = NoteStore.read, IndexHome.build
    waiting = list(actions)

    def reading(self, *args):
        rows = read(self, *args)
        if len(waiting) == len(actions):
            waiting.pop()()
        return rows

    def building(self, *args, **kwargs):
        while waiting:
            waiting.pop()()
        return build(self, *args, **kwargs)

    monkeypatch.setattr(NoteStore, "read", reading)
    monkeypatch.setattr(IndexHome, "build", building)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "which"), [("exact", "one"), ("hnsw", "other"), ("milvus", "one")])
def test_what_is_written_during_a_reload_is_not_lost(opened, parts, tmp_path, monkeypatch, kind, which):
    engine = opened(kind)
    model = parts.models[which]
    parts.copy(which, tmp_path / "model")
    first = next(iter(engine.notes))
    seen = []

    def look():
        engine.apply([Publish(copy_of(engine, first))])
        seen.append(everywhere(engine, "new", near=first))
        assert engine.fingerprint == parts.models["one"].fingerprint()
        with pytest.raises(ConfigError, match="a reload is already running"):
            engine.reload()

    with monkeypatch.context() as patch:
        in_the_middle(patch, lambda: writes_of_all_kinds(engine, 1), look)
        engine.reload()
    assert seen == [ALL_WAYS]  # the old one answered meanwhile
    is_whole(engine, model)
    assert everywhere(engine, "new", near=first) == ALL_WAYS
    writes_of_all_kinds(engine, 2)
    is_whole(engine, model)
    before = answers(engine)
    engine.close()
    again = opened(kind, again=True)
    is_whole(again, model)
    alike(answers(again), before)
    assert len(list((tmp_path / "store").glob("notes_*.lance"))) == 1
    assert len(list((tmp_path / "store").glob("index_*"))) == (kind == "hnsw")


def test_a_reload_changes_the_kind_of_index(opened, parts):
    engine = opened("exact", ranker=False)
    before = related_to_all(engine)
    engine.reload(index="hnsw")
    assert engine.index.kind == "hnsw"
    alike(related_to_all(engine), before)
    engine.reload()
    assert engine.index.kind == "hnsw"
    with pytest.raises(ConfigError, match="the index is 'fast'"):
        engine.reload(index="fast")
    engine.reload()
    assert engine.index.kind == "hnsw"
    is_whole(engine, parts.models["one"])


def test_a_reload_reads_the_ranker_again(opened, tmp_path, parts):
    engine = opened()
    before = engine.ranker
    engine.reload()
    assert engine.ranker is not before
    (tmp_path / "ranker" / "ranker.json").unlink()
    with pytest.raises(ModelError, match="is not a ranker directory"):
        engine.reload()
    parts.copy("ranker", tmp_path / "ranker")
    engine.reload()


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", ["model", "half a model", "a backbone", "ranker", "index", "table", "vectors"]
)
def test_a_reload_that_fails_leaves_the_old_one_answering(opened, parts, tmp_path, monkeypatch, broken):
    engine = opened("hnsw", ranker=broken == "ranker")
    one = parts.models["one"]
    first = next(iter(engine.notes))
    before = related_to_all(engine)
    parts.copy("other", tmp_path / "model")

    def full(*_, **__):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        if broken == "model":
            (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
        elif broken == "half a model":
            (tmp_path / "model" / "notellm.json").unlink()
        elif broken == "a backbone":  # all that tells it from one is missing
            for path in (tmp_path / "model").iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif not path.name.startswith(("config.json", "model.", "tokenizer", "generation_config")):
                    path.unlink()
        elif broken == "vectors":
            prove = NoteStore.prove
            patch.setattr(NoteStore, "prove", lambda self, count, encode: prove(self, count + 1, encode))
        elif broken == "ranker":
            (tmp_path / "ranker" / "ranker.json").unlink()
        elif broken == "index":
            patch.setattr(IndexHome, "build", full)
        else:
            create = NoteStore.create

            def create_and_fail(*args, **kwargs):
                create(*args, **kwargs).close()
                full()

            patch.setattr(NoteStore, "create", create_and_fail)
        with pytest.raises(NotellmError):
            engine.reload()
    alike(related_to_all(engine), before)
    is_whole(engine, one)  # no table of the other model that would miss what comes now
    engine.apply([Publish(copy_of(engine, first))])
    assert "new" in ask(engine, note_id=first, k=500)[0]
    # What was wrong is put right, and the next reload brings the other model, with what came meanwhile.
    parts.copy("other", tmp_path / "model")
    parts.copy("ranker", tmp_path / "ranker")
    engine.reload()
    is_whole(engine, parts.models["other"])
    assert "new" in ask(engine, note_id=first, k=500)[0]
    engine.close()
    from filelock import FileLock

    with FileLock(tmp_path / "store" / ".writer.lock", timeout=0):  # nor is a lock left behind
        pass


def test_a_ranker_blended_with_vectors_of_another_model_is_refused(opened, parts, tmp_path, encoded):
    """When it is opened, and by a reload before any note is embedded."""
    one, other = (parts.models[name].fingerprint() for name in ("one", "other"))
    ranker = Ranker.from_pretrained(parts.folder / "ranker")
    ranker.blend, ranker.blend_model = Blend(1, 1, 1, 1), one
    engine = opened("exact")
    ranker.save_pretrained(tmp_path / "ranker")
    engine.reload()
    assert engine.ranker.blend_model == one
    assert list(engine.doubts) == []
    before = related_to_all(engine)
    parts.copy("other", tmp_path / "model")
    encoded.clear()
    with pytest.raises(DataError, match=f"fitted to vectors of the model {one}, .* whose model is {other}"):
        engine.reload()
    assert encoded == []
    alike(related_to_all(engine), before)
    engine.close()
    parts.copy("one", tmp_path / "model")
    ranker.blend_model = other
    ranker.save_pretrained(tmp_path / "ranker")
    with pytest.raises(DataError) as caught:
        opened("exact", again=True)
    assert str(tmp_path / "ranker") in str(caught.value)
    assert str(tmp_path / "model") in str(caught.value)
    ranker.blend_model = None  # made by hand, or with vectors that did not say it
    ranker.save_pretrained(tmp_path / "ranker")
    (doubt,) = opened("exact", again=True).doubts
    assert doubt.startswith(f"the model behind {tmp_path / 'ranker'} is not known")


def test_readers_and_a_writer_go_on_while_it_reloads(opened, parts):
    engine = opened("hnsw")
    names = sorted(engine.notes)
    stay, go = names[:60], names[60:]
    stop = threading.Event()
    failures: list[BaseException] = []
    written: list[str] = []
    rounds = {"reads": 0}

    def guarded(work):
        def run():
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:  # noqa: BLE001 - it is told below
                failures.append(error)
                stop.set()

        return threading.Thread(target=run)

    def write():
        name = f"new {len(written)}"
        writes = [
            Publish(copy_of(engine, stay[len(written) % 60], name)),
            Change(stay[0], {"category": name}),
        ]
        done = engine.apply([*writes, Remove(go[len(written) % 60])])
        assert all(isinstance(outcome, Written) for outcome in done)
        written.append(name)
        assert name in ask(engine, note_id=stay[(len(written) - 1) % 60], k=2_000)[0]

    def read():
        rounds["reads"] += 1
        name = stay[rounds["reads"] % 60]
        for count, asked in (
            (10, lambda: ask(engine, note_id=name)[0]),
            (10, lambda: ask(engine, note=text_of(engine, name), diversity=0.2)[0]),
            (5, lambda: engine.recommend(history=[name], k=5, recall_k=20).note_ids),
        ):
            before, found = len(written), len(asked())
            # A note that is removed between the search and the answer is missing from it.
            assert count - (len(written) + 1 - before) <= found <= count
        (answer,) = engine.related([RelatedQuery(note_id=go[rounds["reads"] % 60])])
        assert isinstance(answer, Related | NotFoundError)
        assert engine.find("", limit=3)

    threads = [guarded(write), guarded(read)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            before = len(written), rounds["reads"]
            engine.reload()
            while not stop.is_set() and (len(written), rounds["reads"]) == before:
                stop.wait(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert written
    gone = {go[i % 60] for i in range(len(written))}
    assert engine.notes.keys() == {*stay, *go, *written} - gone
    assert engine.note(stay[0]).category == written[-1]
    is_whole(engine, parts.models["one"])
