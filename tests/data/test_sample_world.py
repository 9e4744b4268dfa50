import random
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from notellm.data.sample import clicks as clicks_module
from notellm.data.sample.truth import INTERESTS, LANGUAGES, user_id
from notellm.data.sample.words import WORDS_PER_CONCEPT, vocabulary
from notellm.data.sample_world import sample_log, sample_world
from notellm.data.schema import CLICKS, NOTES
from notellm.data.validate import validate
from notellm.errors import ConfigError
from notellm.record import fingerprint


@pytest.fixture(scope="module")
def world():
    return sample_world()


def codes(world):
    """User, note and second of every click, by user, then time."""
    user = np.array([int(name[1:]) for name in world.clicks.column("user_id").to_pylist()], int)
    note = np.array([int(name[1:]) for name in world.clicks.column("note_id").to_pylist()], int)
    time = world.clicks.column("timestamp").cast("int64").to_numpy() // 1_000_000
    order = np.lexsort((time, user))
    return user[order], note[order], time[order]


def test_tables_are_clean_but_for_the_bots(world):
    assert world.notes.schema.equals(NOTES)
    assert world.clicks.schema.equals(CLICKS)
    assert world.clicks.num_rows == 60_000 + 2 * 2 * 3_000
    notes, clicks, report = validate(world.notes, world.clicks)
    assert notes.equals(world.notes)
    assert clicks.num_rows == 60_000
    assert [problem.problem for problem in report.problems] == ["user with over 5,000 clicks"]
    bots = {user_id(int(bot)) for bot in np.flatnonzero(world.truth.bots)}
    assert len(bots) == 2
    assert not bots & set(clicks.column("user_id").to_pylist())
    times = world.clicks.column("timestamp").cast("int64").to_numpy()
    assert (np.diff(times) >= 0).all()


def test_the_seed_is_everything():
    np.random.seed(1)  # noqa: NPY002  global states must not matter
    random.seed(1)
    first = sample_world(200, 50, 1_000, seed=5)
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)
    again, other = sample_world(200, 50, 1_000, seed=5), sample_world(200, 50, 1_000, seed=6)
    assert fingerprint(first.notes) == fingerprint(again.notes)
    assert fingerprint(first.clicks) == fingerprint(again.clicks)
    assert (first.truth.complement == again.truth.complement).all()
    assert fingerprint(first.notes) != fingerprint(other.notes)
    assert (first.truth.complement != other.truth.complement).any()


def test_a_log_alone_is_that_of_the_world():
    world = sample_world(200, 50, 1_000, bots=1, weeks=2, chinese=0.5, seed=5)
    assert sample_log(200, 50, 1_000, bots=1, weeks=2, chinese=0.5, seed=5).equals(world.clicks)


def test_complements_are_a_matching_across_categories(world):
    complement, names = world.truth.complement, world.truth.concepts
    assert len(names) == len(set(names)) == len(complement) == 64
    assert (complement[complement] == np.arange(64)).all()
    assert all(names[a].split("/")[0] != names[b].split("/")[0] for a, b in enumerate(complement.tolist()))


def test_every_word_belongs_to_one_concept():
    concepts, sentences, generic = vocabulary()
    for language in LANGUAGES:
        shared = sentences[language]
        texts = [*shared.titles, *shared.with_words, *shared.without_words, shared.list]
        assert len(set(texts)) == len(texts) > 50
        others = " ".join(re.sub(r"\{\w+\}", "", text) for text in texts).lower()
        words = [word for concept in concepts for word in concept.words[language]]
        assert len(words) == 64 * WORDS_PER_CONCEPT
        assert len({word.lower() for word in words}) == len(words)
        found = set(re.findall(r"\w+", others)) if language == "en" else others
        assert not [word for word in words if word.lower() in found]
        assert generic[language]


def test_notes_look_as_promised(world):
    rows = world.notes.to_pylist()
    concepts, _, _ = vocabulary()
    own = []
    for row, concept, language in zip(rows, world.truth.note_concept, world.truth.note_language, strict=True):
        if LANGUAGES[language] == "en":
            assert 3 <= len(row["title"].split()) <= 10
            assert 7 <= len(row["content"].split()) <= 60
            words = re.findall(r"\w+", f"{row['title']} {row['content']}".lower())
            own.append(len({w.lower() for w in concepts[concept].words["en"]} & set(words)))
            assert not {"{", "}"} & set(row["title"] + row["content"])
        assert row["category"] == concepts[concept].category[LANGUAGES[language]]
        assert len(set(row["topics"])) == len(row["topics"]) <= 6
    assert (min(own), max(own)) == (5, 10)
    assert 0.15 < np.mean(world.truth.note_language) < 0.25
    assert len({row["category"] for row in rows}) == 64


def test_nobody_clicks_before_publication_or_in_another_language(world):
    user, note, time = codes(world)
    published = world.notes.column("published_at").cast("int64").to_numpy() // 1_000_000
    assert (time >= published[note]).all()
    people = ~world.truth.bots[user]
    assert (world.truth.user_language[user[people]] == world.truth.note_language[note[people]]).all()
    begin = np.datetime64("2024-01-01").astype("datetime64[s]").astype(int)
    assert time.min() >= begin
    assert time.max() < begin + 29 * 86_400
    # Half of the notes come while the log runs.
    assert 0.4 < (published > begin).mean() < 0.6


def test_clickers_of_a_concept_go_on_to_its_complement(world):
    truth = world.truth
    user, note, _ = codes(world)
    follows = (user[1:] == user[:-1]) & ~truth.bots[user[1:]]
    before, after = truth.note_concept[note[:-1]][follows], truth.note_concept[note[1:]][follows]
    same, across = (before == after).mean(), (truth.complement[before] == after).mean()
    # 0.5 of the steps within interest clicks (0.9 squared) of one session (0.85), and chance.
    assert 0.3 < same < 0.45
    assert 0.3 < across < 0.45
    # By chance it would be one concept in 64.
    shuffled = np.random.default_rng(0).permutation(truth.complement)
    assert (shuffled[before] == after).mean() < 0.05
    wanted = truth.user_interests[user][:, :, None]
    wanted = np.concatenate([wanted, truth.complement[wanted]], axis=2).reshape(len(user), -1)
    people = ~truth.bots[user]
    liked = (wanted == truth.note_concept[note][:, None]).any(1)[people].mean()
    assert liked > 0.85
    assert truth.user_interests.shape == (2_000, INTERESTS)


def test_text_finds_the_concept_but_not_the_complement(world):
    truth = world.truth
    english = np.flatnonzero(truth.note_language == 0)
    title, content = (world.notes.column(name).to_pylist() for name in ("title", "content"))
    vectors = TfidfVectorizer().fit_transform([f"{title[i]} {content[i]}" for i in english])
    similarity = (vectors @ vectors.T).toarray()
    np.fill_diagonal(similarity, -1)
    concept = truth.note_concept[english]
    nearest = concept[np.argsort(-similarity, axis=1)[:, :10]]
    assert (nearest == concept[:, None]).mean() > 0.8
    assert (nearest == truth.complement[concept][:, None]).mean() < 0.03


def test_popularity_and_activity_have_heavy_tails(world):
    user, note, _ = codes(world)
    people = ~world.truth.bots[user]
    clicks = np.bincount(note[people], minlength=world.notes.num_rows)
    assert (clicks == 0).mean() > 0.03
    top = np.sort(clicks)[::-1]
    assert top[:30].sum() > 0.15 * clicks.sum()
    per_user = np.bincount(user[people], minlength=2_000)
    assert per_user.max() > 8 * np.median(per_user)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((1, 3, 10), {}),
        ((100, 20, 0), {"bots": 0}),
        ((100, 20, 500), {"chinese": 1.0}),
        ((100, 20, 500), {"chinese": 0.0, "weeks": 1}),
        ((500, 5, 20_000), {"bots": 0}),
    ],
)
def test_small_and_lopsided_worlds(sizes, options):
    world = sample_world(*sizes, **options)
    assert world.notes.num_rows == sizes[0]
    assert world.clicks.num_rows == sizes[2] + options.get("bots", 2) * 2 * sizes[0]
    published = world.notes.column("published_at").cast("int64").to_numpy()
    _, note, time = codes(world)
    assert (time * 1_000_000 >= published[note]).all()


def test_blocks_do_not_show(monkeypatch):
    monkeypatch.setattr(clicks_module, "_BLOCK", 64)
    world = sample_world(100, 50, 1_000, bots=0)
    assert world.clicks.num_rows == 1_000
    assert len(set(world.clicks.column("user_id").to_pylist())) > 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"notes": 0}, "notes is 0; it must be at least 1"),
        ({"users": 2}, "users is 2; it must be at least 3"),
        ({"clicks": -1}, "clicks is -1"),
        ({"chinese": 1.5}, "chinese is 1.5; it must be a share from 0 to 1"),
    ],
)
def test_impossible_worlds(options, message):
    with pytest.raises(ConfigError, match=message):
        sample_world(**options)
