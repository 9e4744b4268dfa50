"""Tags of an engine: the notes of its store speak for them, at once, and while they are visible."""

import time
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("lancedb")

from notellm.data.note import Note
from notellm.data.sample_world import sample_world
from notellm.engine import tagging
from notellm.engine.engine import Engine
from notellm.engine.requests import Change, Publish, Remove
from notellm.errors import ConfigError, StorageError
from notellm.jobs.build_store import build_store
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.tagger import Tagger
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote
from tests.conftest import SMALL

TEXT = Note("Zebras at the quiet lake", "Stripes, water and grass, seen from the camp.")
TRAINED, STORED = 80, 120  # the model knows the first notes, the store has all but the very first ones


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Notes, and a model that knows some of them."""
    folder = tmp_path_factory.mktemp("tags")
    notes = sample_world(notes=STORED, users=20, clicks=200, bots=0, seed=4).notes
    model = NoteLLM.from_corpus(notes, tiny=SMALL, dim=16)
    model.fit_tagger(notes.slice(0, TRAINED))
    model.save_pretrained(folder / "model")
    return notes, folder / "model"


@pytest.fixture
def opened(made, tmp_path):
    """A function that opens an engine on a store of notes, or once more on the same store."""
    notes, model = made
    engines: list[Engine] = []

    def new(first=10, *, again=False):
        if again:
            engines.pop().close()
        else:
            build_store(tmp_path / "store", NoteLLM.from_saved(model), notes.slice(first), progress=False)
        engines.append(Engine.open(tmp_path / "store", model))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


def zebra(note_id="zebra", **fields):
    given = {"title": TEXT.title, "content": TEXT.content, "topics": ("zebras",), "category": "Wild animals"}
    return StoredNote(note_id=note_id, **{**given, **fields})


def named(engine, text=TEXT, **options):
    """All names that an engine gives for a text, and for each the ids of its neighbours."""
    (tags,) = engine.tags([text], **options)
    every = [*tags.topics, *tags.more_topics, *tags.categories]
    return {tag.name: [note.note_id for note in tag.neighbours] for tag in every}


def speakers(engine, text=TEXT, **options):
    return {note_id for ids in named(engine, text, **options).values() for note_id in ids}


def test_probabilities_are_probabilities_in_order(opened):
    engine = opened()
    for tags in engine.tags([Note(note.title, note.content) for note in list(engine.notes.values())[:20]]):
        for ranked in ([*tags.topics, *tags.more_topics], tags.categories):
            values = [tag.probability for tag in ranked]
            assert values == sorted(values, reverse=True)
            assert all(0 <= value <= 1 for value in values)
        assert tags.category in (None, tags.categories[0])
        assert not tags.reasons
    (tags,) = engine.tags([TEXT], topics=3)
    assert len(tags.topics) == 3
    assert not engine.tags([TEXT], least=1.0)[0].topics
    for options in ({"topics": 0}, {"least": -0.1}):
        with pytest.raises(ConfigError):
            engine.tags([TEXT], **options)


def test_only_notes_of_the_store_speak_and_new_ones_were_learnt_at_opening(opened, made):
    notes, _ = made
    engine = opened(first=10)
    rows = notes.to_pylist()
    speaking = {row["note_id"] for row in rows[10:] if row["topics"] or row["category"]}
    assert engine.model.tagger.known_ids == speaking
    assert engine.seconds["tags"] >= 0
    for row in rows[:10] + rows[TRAINED : TRAINED + 10]:
        found = speakers(engine, Note(row["title"], row["content"]), topics=300)
        assert (row["note_id"] in found) == (row["note_id"] in speaking)


def test_the_newest_are_learnt_if_there_are_too_many(opened, made, monkeypatch):
    notes, _ = made
    monkeypatch.setattr(tagging, "LEARNT_AT_ONCE", 7)
    engine = opened()
    others = [row for row in notes.slice(TRAINED).to_pylist() if row["topics"] or row["category"]]
    newest = sorted(others, key=lambda row: row["published_at"])[-7:]
    learnt = {row["note_id"] for row in others} & engine.model.tagger.known_ids
    assert learnt == {row["note_id"] for row in newest}


def test_a_note_published_a_second_ago_speaks_and_a_removed_one_never(opened):
    engine = opened()
    assert "zebras" not in named(engine)
    engine.apply([Publish(zebra())])
    assert named(engine)["zebras"] == ["zebra"]
    assert named(engine)["Wild animals"] == ["zebra"]
    assert "zebra" not in speakers(engine, note_ids=["zebra"])  # not for itself
    engine.apply([Change("zebra", {"topics": ("stripes",)})])
    assert named(engine)["stripes"] == ["zebra"]
    assert named(engine).get("zebras", []) == []
    engine.apply([Remove("zebra")])
    assert "zebra" not in speakers(engine)
    assert "zebra" not in engine.model.tagger.known_ids
    engine = opened(again=True)
    assert "zebra" not in speakers(engine)
    engine.apply([Publish(zebra())])
    engine = opened(again=True)
    assert named(engine)["zebras"] == ["zebra"]


def test_a_hidden_or_expired_note_is_never_named(opened):
    engine = opened()
    engine.apply([Publish(zebra())])
    assert "zebra" in speakers(engine)
    engine.apply([Change("zebra", {"hidden": True})])
    assert "zebra" not in speakers(engine)
    engine = opened(again=True)
    assert "zebra" not in speakers(engine)
    engine.apply([Change("zebra", {"hidden": False})])
    assert "zebra" in speakers(engine)
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    engine.apply(
        [Publish(zebra("brief", expires_at=soon)), Publish(zebra("gone", expires_at=soon.replace(year=2020)))]
    )
    speakers(engine)  # learns it while it is visible
    time.sleep(0.6)
    assert not {"brief", "gone"} & speakers(engine)


def test_a_trained_note_that_lost_its_topics_does_not_speak_for_them(opened):
    engine = opened()
    note = next(note for note in engine.notes.values() if note.topics)
    text, topic = Note(note.title, note.content), note.topics[0]
    assert note.note_id in named(engine, text, topics=20)[topic]
    engine.apply([Change(note.note_id, {"topics": (), "category": ""})])
    assert note.note_id not in speakers(engine, text)
    engine = opened(again=True)
    assert note.note_id not in speakers(engine, text)


def test_writes_that_say_nothing_for_tags_are_not_learnt(opened, monkeypatch):
    engine = opened()
    engine.apply([Publish(zebra())])
    speakers(engine)
    learnt = []
    monkeypatch.setattr(Tagger, "learn", lambda _self, ids, _notes: learnt.extend(ids))
    engine.apply([Publish(zebra("plain", topics=(), category="")), Publish(zebra("secret", hidden=True))])
    engine.apply([Change("zebra", {"published_at": datetime.now(UTC)})])
    engine.apply([Remove("nobody")])
    speakers(engine)
    assert learnt == []


def test_after_many_writes_the_newest_are_learnt_first_and_all_in_the_end(opened, monkeypatch):
    monkeypatch.setattr(tagging, "LEARNT_BEFORE_ANSWER", 4)
    engine = opened()
    engine.apply([Publish(zebra("first"))])
    speakers(engine)
    ids = [f"z{i}" for i in range(9)]
    engine.apply([Publish(zebra("first", topics=("quagga",))), *(Publish(zebra(name)) for name in ids)])
    known = engine.model.tagger
    named(engine)
    assert known.known_ids & {"first", *ids} == {
        *ids[-4:]
    }  # what was known of the changed note is out of date
    named(engine)
    named(engine)
    assert known.known_ids >= {"first", *ids}


def test_a_failure_to_learn_fails_neither_the_write_nor_the_answer(opened, monkeypatch, caplog):
    engine = opened()

    def failing(*_):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Tagger, "learn", failing)
        (written,) = engine.apply([Publish(zebra())])
        assert not written.existed
        assert "zebra" not in speakers(engine)
    assert "1 notes were not learnt for tags" in caplog.text
    assert opened(again=True).note("zebra").topics == ("zebras",)


def test_a_failed_write_does_not_speak(opened, monkeypatch):
    engine = opened()

    def full(*_, **__):
        raise StorageError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(NoteStore, "write", full)
        with pytest.raises(StorageError):
            engine.apply([Publish(zebra())])
    assert "zebra" not in speakers(engine)
    engine.apply([Publish(zebra())])
    assert "zebra" in speakers(engine)


def test_a_reload_keeps_what_was_written(opened, monkeypatch):
    engine = opened()
    engine.apply([Publish(zebra()), Publish(zebra("other"))])
    speakers(engine)
    load = NoteLLM.from_saved

    def meanwhile(*args, **options):
        engine.apply([Remove("other"), Publish(zebra("late", topics=("savanna",)))])
        return load(*args, **options)

    monkeypatch.setattr(NoteLLM, "from_saved", meanwhile)
    before = engine.model
    engine.reload()
    assert engine.model is not before
    found = named(engine, topics=300)
    assert found["savanna"] == ["late"]
    assert found["zebras"] == ["zebra"]
