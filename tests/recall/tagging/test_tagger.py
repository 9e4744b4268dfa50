"""What a tagger answers: calibrated and ordered, whoever is asked together, and blind to the answers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.special import expit

from notellm.backbone.load import evaluation_mode
from notellm.data.note import Note, notes_from_table
from notellm.data.sample_world import sample_world
from notellm.errors import ConfigError, ModelError
from notellm.recall.model import NoteLLM
from notellm.recall.tagging import tagger as module
from notellm.recall.tagging import voices as voices_module
from notellm.recall.tagging.names import Names, name_key
from notellm.recall.tagging.tagger import TOP, WEIGHTS, Tagger
from notellm.recall.tagging.tags import NoteTags, Tag
from notellm.recall.tagging.weights import DEFAULTS, MODEL_ALONE, Weights
from tests.conftest import SMALL, fresh


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return sample_world(notes=320, users=20, clicks=200, bots=0, seed=4).notes


@pytest.fixture(scope="module")
def known(table) -> pa.Table:
    return table.slice(0, 220)


@pytest.fixture(scope="module")
def asked(table) -> list[Note]:
    return notes_from_table(table.slice(300, 20))


@pytest.fixture(scope="module")
def model(table, known) -> NoteLLM:
    made = NoteLLM.from_corpus(known, tiny=SMALL, dim=16)
    made.fit_tagger(known, table.slice(220, 80))
    return made


@pytest.fixture(scope="module")
def tagger(model) -> Tagger:
    found: Tagger | None = model.tagger
    assert found is not None
    return found


def probabilities(tags: NoteTags) -> dict[str, float]:
    every = (*tags.categories, *tags.topics, *tags.more_topics)
    return {tag.name: tag.probability or 0 for tag in every}


def assert_alike(some: list[NoteTags], others: list[NoteTags], tolerance: float = 1e-4) -> None:
    """Equal but for rounding, which may exchange names of the same probability."""
    for one, other in zip(some, others, strict=True):
        ours, theirs = probabilities(one), probabilities(other)
        for name in ours.keys() & theirs.keys():
            assert ours[name] == pytest.approx(theirs[name], abs=tolerance)
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=tolerance)
        least = min(ours.values(), default=0)
        for name in ours.keys() ^ theirs.keys():
            assert (ours | theirs)[name] == pytest.approx(least, abs=tolerance)


# ---------------------------------------------------------------- answers


def test_answers_are_ordered_probabilities_of_known_names(tagger, asked, known):
    names = {name_key(topic) for topics in known["topics"].to_pylist() for topic in topics}
    for tags in tagger.tag(asked):
        topics = [*tags.topics, *tags.more_topics]
        assert len(topics) == TOP
        for ranked in (topics, tags.categories):
            values = [tag.probability for tag in ranked]
            assert values == sorted(values, reverse=True)
            assert all(0 <= value <= 1 for value in values)
        assert tags.category == tags.categories[0]
        assert {name_key(tag.name) for tag in topics} <= names
        assert len({name_key(tag.name) for tag in topics}) == len(topics)
        assert sum(tag.probability for tag in tags.categories) <= 1 + 1e-5


def test_the_tagger_has_learnt_something(tagger, asked):
    tags = tagger.tag(asked)
    right = [each.category.name == note.category for each, note in zip(tags, asked, strict=True)]
    assert np.mean(right) > 0.6
    hits = [
        bool({tag.name for tag in each.topics} & set(note.topics))
        for each, note in zip(tags, asked, strict=True)
        if note.topics
    ]
    assert np.mean(hits) > 0.4


@pytest.mark.parametrize("n", [1, 3, 15])
def test_as_many_topics_as_asked_for(tagger, asked, n):
    count = len(tagger.voices["topics"].names)
    assert count > 15
    for tags in tagger.tag(asked[:5], topics=n):
        assert len(tags.topics) == n
        assert len(tags.topics) + len(tags.more_topics) == max(n, TOP)
    assert [len(tags.topics) for tags in tagger.tag(asked[:2], topics=10_000)] == [count] * 2


@pytest.mark.parametrize("least", [0.0, 0.05, 0.3, 0.9, 1.0])
def test_nothing_below_the_least_probability_is_published(tagger, asked, least):
    everything = tagger.tag(asked, least=0.0)
    for tags, full in zip(tagger.tag(asked, least=least), everything, strict=True):
        assert all((tag.probability or 0) >= least for tag in tags.topics)
        assert (tags.category is None) == ((full.category.probability or 0) < least)
        assert tags.categories == full.categories


@pytest.mark.parametrize(
    ("topics", "least"), [(0, 0.1), (-1, 0.1), (None, 1.1), (None, -0.1), (None, np.nan)]
)
def test_a_request_that_makes_no_sense(tagger, asked, topics, least):
    with pytest.raises(ConfigError, match=r"n is|least is"):
        tagger.tag(asked[:1], topics=topics, least=least)


def test_the_number_of_topics_is_that_of_the_largest_expected_f1(tagger, asked):
    mean = tagger._mean_topics
    for tags in tagger.tag(asked):
        values = [tag.probability for tag in (*tags.topics, *tags.more_topics)]
        allowed = [k for k in range(1, tagger._most_topics + 1) if values[k - 1] >= module.LEAST]
        expected = {k: 2 * sum(values[:k]) / (k + mean) for k in allowed}
        assert len(tags.topics) == (max(expected, key=lambda k: expected[k]) if expected else 0)


def test_neighbours_carry_the_tag_and_are_known(tagger, asked, known):
    topics = dict(zip(known["note_id"].to_pylist(), known["topics"].to_pylist(), strict=True))
    categories = dict(zip(known["note_id"].to_pylist(), known["category"].to_pylist(), strict=True))
    found = 0
    for tags in tagger.tag(asked):
        for tag in (*tags.topics, *tags.more_topics):
            assert all(name_key(tag.name) in map(name_key, topics[each]) for each in tag.neighbours)
            found += len(tag.neighbours)
        for tag in tags.categories:
            assert all(categories[each] == tag.name for each in tag.neighbours)
            assert len(tag.neighbours) <= 3
    assert found > 0


# ---------------------------------------------------------------- what is not read


def test_a_notes_own_answers_are_not_read(tagger, asked):
    blind = [replace(note, category="") for note in asked]
    assert tagger.tag(asked) == tagger.tag(blind)
    other = [replace(note, category="Sky", topics=("sky", note.category)) for note in asked]
    bare = [replace(note, topics=()) for note in asked]
    topics = [tagger.tag(some, tasks=["topics"]) for some in (asked, other, bare)]
    assert topics[0] == topics[1] == topics[2]
    categories = [tagger.tag(some, tasks=["category"]) for some in (asked, other)]
    assert categories[0] != categories[1]  # topics are read for the category


def test_a_note_is_no_neighbour_of_itself(tagger, known):
    ids = known["note_id"].to_pylist()[:30]
    notes = notes_from_table(known.slice(0, 30))

    def speakers(tags: NoteTags) -> set[str]:
        return {each for tag in (*tags.topics, *tags.categories) for each in tag.neighbours}

    alone = tagger.tag(notes)
    assert any(note_id in speakers(tags) for note_id, tags in zip(ids, alone, strict=True))
    named = tagger.tag(notes, note_ids=ids)
    assert not any(note_id in speakers(tags) for note_id, tags in zip(ids, named, strict=True))
    assert_alike(tagger.tag(notes, note_ids=["unknown"] * 30), alone)


# ---------------------------------------------------------------- who is asked together


def test_tagging_one_by_one_is_tagging_together(tagger, asked):
    together = tagger.tag(asked)
    assert_alike([tagger.tag([note])[0] for note in asked], together)
    assert_alike(tagger.tag(asked[::-1])[::-1], together)


def test_small_batches_change_nothing(tagger, asked, monkeypatch):
    together = tagger.tag(asked)
    monkeypatch.setattr(module, "_CELLS", 3 * 4 * len(tagger.voices["topics"].names))
    assert_alike(tagger.tag(asked), together)


def test_threads_do_not_disturb_each_other(model, asked):
    alone = model.tag(asked)
    with ThreadPoolExecutor(4) as pool:
        for tags in pool.map(lambda _: model.tag(asked), range(8)):
            assert tags == alone


# ---------------------------------------------------------------- voices


def test_a_voice_of_weight_0_is_silent(tagger, asked, monkeypatch):
    """Neighbours alone: the share of the cosines of the nearest notes, computed here by hand."""
    weights = Weights((0.0, 1.0, 0.0, 0.0), bias=3.0)
    deaf = Tagger(tagger.reader, tagger.known, {"topics": weights, "category": weights})
    monkeypatch.setattr(
        voices_module, "name_likelihoods", lambda *_, **__: pytest.fail("the model was asked")
    )
    tags = deaf.tag(asked[:6], tasks=["topics"], topics=5)
    labelled = [row for row, topics in enumerate(tagger.known.topics) if topics]
    vectors = tagger.known.vectors["topics"][labelled]
    own = tagger.reader.vectors(asked[:6], "topics")
    for vector, each in zip(own, tags, strict=True):
        cosines = vectors @ vector
        nearest = np.argsort(-cosines, kind="stable")[: voices_module.NEIGHBOURS]
        total = np.maximum(cosines[nearest], 0).sum()
        for tag in each.topics:
            share = sum(
                max(cosines[row], 0) / total
                for row in nearest
                if name_key(tag.name) in map(name_key, tagger.known.topics[labelled[row]])
            )
            assert tag.probability == pytest.approx(expit(3 + np.log(1e-3 + share)), abs=1e-4)


def test_the_model_alone_does_not_hear_the_notes(tagger, asked):
    alone = tagger.model_alone()
    assert alone.weights == tagger.alone
    assert tagger.weights != tagger.alone
    nobody = Tagger(
        tagger.reader,
        tagger.known.take(np.zeros(0, dtype=np.int64)),
        tagger.alone,
        alone=tagger.alone,
        allowed={task: voices.names.names for task, voices in tagger.voices.items()},
    )
    for task in ("category", "topics"):
        for one, other in zip(
            alone.tag(asked, tasks=[task], topics=3), nobody.tag(asked, tasks=[task], topics=3), strict=True
        ):
            ours, theirs = probabilities(one), probabilities(other)
            assert max(ours.values()) == pytest.approx(max(theirs.values()), abs=1e-4)


# ---------------------------------------------------------------- allowed names


def test_restricted_names(model, tagger, asked, known):
    first, *_ = categories = Names(known["category"].to_pylist()).names
    for names in ([first], categories[:2], ["never seen", first], ["never seen"]):
        found = tagger.restricted("category", names).tag(asked)
        assert {tag.name for tags in found for tag in tags.categories} <= set(names)
        assert all(sum(tag.probability for tag in tags.categories) == pytest.approx(1) for tags in found)
        assert all(tags.topics == () for tags in found)
        assert set(model.categorize(asked, categories=names)) <= set(names)


def test_allowed_categories_leave_the_topics_as_they_are(model, asked, known):
    """Topics are chosen among known ones all the same."""
    plain = model.tag(asked)
    limited = model.tag(asked, categories=known["category"].to_pylist()[:1])
    assert [tags.topics for tags in limited] == [tags.topics for tags in plain]
    assert all(tag.probability is not None for tags in limited for tag in tags.topics)
    assert {tags.category.name for tags in limited if tags.category} <= set(known["category"].to_pylist()[:1])


# ---------------------------------------------------------------- fitting


def test_the_weights_are_fitted_on_the_held_out_notes(tagger, table):
    held_out = notes_from_table(table.slice(220, 80))
    categories = tagger.voices["category"].names
    assert tagger.weights["category"].fitted_on == len(
        [note for note in held_out if note.category and categories.number(note.category) is not None]
    )
    assert tagger.weights["topics"].fitted_on == sum(bool(note.topics) for note in held_out)
    assert min(tagger.weights["topics"].voices) >= 0


@pytest.mark.slow
def test_few_held_out_notes_leave_the_default_weights(known, table):
    other = NoteLLM.from_corpus(known, tiny=SMALL, dim=16)
    for held_out in (None, table.slice(220, 0), table.slice(220, 30)):
        other.fit_tagger(known, held_out)
        assert other.tagger is not None
        assert other.tagger.weights == DEFAULTS
        assert other.tagger.alone == MODEL_ALONE


@pytest.mark.slow
def test_held_out_notes_are_known_only_after_the_fit(known, monkeypatch):
    other = NoteLLM.from_corpus(known, tiny=SMALL, dim=16)
    seen = []
    fit = Tagger.fit

    def watched(self, notes, **options):
        seen.append(self.known_ids)
        return fit(self, notes, **options)

    monkeypatch.setattr(Tagger, "fit", watched)
    held_out = known.slice(0, 60)
    other.fit_tagger(known, held_out)
    assert other.tagger is not None
    assert seen[0].isdisjoint(held_out["note_id"].to_pylist())
    assert other.tagger.known_ids == set(known["note_id"].to_pylist())


# ---------------------------------------------------------------- files


def test_a_saved_model_gives_the_same_tags(model, asked, tmp_path):
    model.save_pretrained(tmp_path / "model")
    opened = NoteLLM.from_pretrained(tmp_path / "model")
    assert opened.tagger is not None
    assert opened.tagger.weights == model.tagger.weights
    assert opened.tagger.alone == model.tagger.alone
    assert_alike(opened.tag(asked), model.tag(asked), 2e-3)
    opened.save_pretrained(tmp_path / "again")
    assert NoteLLM.from_pretrained(tmp_path / "again").tag(asked) == opened.tag(asked)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1]", '{"topics": {}}', '{"topics": {"weights": 1}}', "gone"]
)
def test_a_damaged_file_is_refused(tagger, tmp_path, text):
    tagger.write(tmp_path)
    (tmp_path / WEIGHTS).write_text(text)
    if text == "gone":
        (tmp_path / WEIGHTS).unlink()
    if text == "[]":
        assert Tagger.read(tmp_path, tagger.reader).voices == {}
        return
    with pytest.raises(ModelError, match=r"tagger\.json"):
        Tagger.read(tmp_path, tagger.reader)


def test_a_weight_that_is_no_number_is_refused(tagger, tmp_path):
    tagger.write(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_text(path.read_text().replace('"bias": ', '"bias": NaN, "was": '))
    with pytest.raises(ModelError, match="not finite"):
        Tagger.read(tmp_path, tagger.reader)


# ---------------------------------------------------------------- models


@pytest.mark.slow
def test_a_model_without_a_tagger_writes_freely(known, asked):
    bare = NoteLLM.from_corpus(known, tiny=SMALL, dim=16)
    assert bare.tagger is None
    for tags in bare.tag(asked):
        assert tags.category is None or tags.category.probability is None
        assert all(tag == Tag(tag.name) for tag in tags.topics)
        assert (tags.categories, tags.more_topics) == ((), ())


def test_free_writing_of_a_model_with_a_tagger_has_no_probabilities(model, asked):
    every = [tag for tags in model.tag(asked, free=True) for tag in (*tags.topics, tags.category) if tag]
    assert every
    assert all(tag == Tag(tag.name) for tag in every)


def blank(table: pa.Table, name: str) -> pa.Table:
    field = table.schema.field(name)
    empty = pa.array([[] if name == "topics" else ""] * len(table), field.type)
    return table.set_column(table.schema.get_field_index(name), field, empty)


@pytest.mark.parametrize("missing", ["topics", "category"])
def test_what_is_not_learnt_stays_empty(known, asked, missing, tmp_path):
    made = NoteLLM.from_corpus(blank(known, missing), tiny=SMALL, dim=16)
    made.fit_tagger(blank(known, missing))
    made.save_pretrained(tmp_path / "model")
    for each in (made, NoteLLM.from_pretrained(tmp_path / "model")):
        for tags in each.tag(asked):
            if missing == "topics":
                assert tags.topics == tags.more_topics == ()
                assert tags.category is not None
            else:
                assert tags.category is None
                assert tags.categories == ()


def test_a_model_that_has_learnt_nothing_has_an_empty_tagger(known, asked, tmp_path):
    bare = blank(blank(known, "topics"), "category")
    made = NoteLLM.from_corpus(bare, tiny=SMALL, dim=16)
    made.fit_tagger(bare)
    made.save_pretrained(tmp_path / "model")
    for each in (made, NoteLLM.from_pretrained(tmp_path / "model")):
        assert each.tag(asked) == [NoteTags()] * len(asked)


@pytest.mark.parametrize(
    "rows",
    [
        [Note("one note", "", ("tea",), "Food")],
        [Note("one note", "", ("tea",), "Food"), Note("other", "", ("tea", "soup"), "Food")],
        [Note("text", "", ("!!!", "?"), "***"), Note("", "", ("🍰",), "—")],
        [Note("", "", ("tea",), "Food"), Note("text"), Note("", "", (), "Sky")],
        [Note("text", "", ("a" * 500, "a" * 501), "b" * 300)],
    ],
    ids=["one", "one-category", "signs", "no-text", "long"],
)
def test_few_and_odd_known_notes(rows, tmp_path):
    table = pa.table(
        {
            "note_id": [f"n{row}" for row in range(len(rows))],
            "title": [note.title for note in rows],
            "content": [note.content for note in rows],
            "topics": pa.array([list(note.topics) for note in rows], pa.list_(pa.string())),
            "category": [note.category for note in rows],
        }
    )
    made = NoteLLM.from_corpus(table, tiny=SMALL, dim=8)
    made.fit_tagger(table, table)
    queries = [*rows, Note("unknown words"), Note(), Note("", "🍰" * 50), Note("tea " * 300)]
    ids = [*table["note_id"].to_pylist(), "", "", "", ""]
    made.save_pretrained(tmp_path / "model")
    for each in (made, NoteLLM.from_pretrained(tmp_path / "model")):
        for tags in [*each.tag(queries), *each.tag(queries, note_ids=ids, topics=2)]:
            values = list(probabilities(tags).values())
            assert values
            assert np.isfinite(values).all()


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_model_in_bfloat16(checkpoints, known, asked, name):
    made = fresh(name, checkpoints, known, template="compact")
    exact = made.tag(asked[:6], tasks=["category"], categories=["Food", "Sky", "旅行"])
    for weight in made.backbone.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    made.fit_tagger(known.slice(0, 40))
    for tags in made.tag(asked[:6]):
        assert np.isfinite(list(probabilities(tags).values())).all()
    rough = made.tag(asked[:6], tasks=["category"], categories=["Food", "Sky", "旅行"])
    assert all(len(tags.categories) == 3 for tags in [*rough, *exact])


def test_the_mode_of_the_model_is_kept(model, asked):
    with evaluation_mode(model):
        wanted = model.tag(asked[:3])
    model.train()
    assert model.tag(asked[:3]) == wanted
    assert model.backbone.training
    model.eval()


# ---------------------------------------------------------------- notes that come and go


@pytest.fixture
def growing(tagger) -> Tagger:
    return Tagger(tagger.reader, tagger.known, tagger.weights, alone=tagger.alone)


def test_a_new_note_speaks_at_once_and_a_forgotten_one_no_longer(growing, asked):
    new = replace(asked[0], topics=("brand new",), category=asked[0].category)
    before = growing.tag(asked[:3])
    growing.learn(["new"], [new])
    assert "new" in growing.known_ids
    (tags,) = growing.tag([asked[0]], topics=10_000, tasks=["topics"])
    (found,) = [tag for tag in tags.topics if tag.name == "brand new"]
    assert found.neighbours == ("new",)
    growing.forget(["new", "unknown"])
    assert "new" not in growing.known_ids
    for tags in growing.tag(asked[:3], topics=10_000):
        assert not any("new" in tag.neighbours for tag in (*tags.topics, *tags.categories))
    for one, other in zip(growing.tag(asked[:3]), before, strict=True):
        assert one.category == other.category


def test_a_note_that_is_learnt_again_is_replaced(growing, asked, known):
    note_id = known["note_id"][0].as_py()
    count = len(growing.known_ids)
    for topic in ("first", "second"):
        growing.learn([note_id], [replace(asked[0], topics=(topic,))])
    assert len(growing.known_ids) == count
    (tags,) = growing.tag([asked[0]], tasks=["topics"], topics=10_000)
    carriers = {tag.name: tag.neighbours for tag in tags.topics}
    assert carriers["second"] == (note_id,)
    assert carriers["first"] == ()
    growing.learn([note_id], [Note("text alone")])
    assert note_id not in growing.known_ids


def test_many_new_notes_are_as_if_known_from_the_start(growing, tagger, table, asked):
    rest = table.slice(220, 80)
    many = notes_from_table(rest) * 3
    ids = [f"{note_id}-{copy}" for copy in range(3) for note_id in rest["note_id"].to_pylist()]
    growing.learn(ids[:30], many[:30])
    growing.learn(ids[30:], many[30:])
    assert growing._recent == []
    whole = tagger.known.joined([tagger.reader.known_notes(ids, many, list(tagger.known.vectors))])
    assert_alike(growing.tag(asked), Tagger(tagger.reader, whole, tagger.weights).tag(asked))


def test_restricted_names_know_the_notes_that_came_and_not_those_that_went(growing, asked, known):
    category = known["category"][0].as_py()
    growing.keep_only([])
    growing.learn(["new"], [replace(asked[0], category=category)])
    (tags,) = growing.restricted("category", [category, "other"]).tag(asked[:1])
    assert {tag.name: tag.neighbours for tag in tags.categories} == {category: ("new",), "other": ()}


def test_only_some_notes_are_kept(growing, asked):
    kept = sorted(growing.known_ids)[:5]
    growing.keep_only(kept)
    assert growing.known_ids == set(kept)
    for tags in growing.tag(asked):
        speakers = {each for tag in (*tags.topics, *tags.categories) for each in tag.neighbours}
        assert speakers <= set(kept)
    growing.keep_only([])
    assert growing.known_ids == set()
    for tags in growing.tag(asked):
        assert np.isfinite(list(probabilities(tags).values())).all()
        assert not any(tag.neighbours for tag in (*tags.topics, *tags.categories))
