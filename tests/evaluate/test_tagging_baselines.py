import numpy as np
import pyarrow as pa
import pytest

from notellm.data.schema import NOTES
from notellm.errors import DataError
from notellm.evaluate import tagging_baselines
from notellm.evaluate.tagging_baselines import copy_topics, majority_category, vote_categories, vote_topics


def note_table(rows):
    names = ("note_id", "title", "content", "topics", "category")
    return pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) | {"published_at": None} for row in rows], NOTES
    )


def with_topics(notes, topics):
    """The same notes with other topics."""
    place = notes.schema.get_field_index("topics")
    return notes.set_column(place, notes.schema.field(place), pa.array(topics, pa.list_(pa.string())))


TRAIN = note_table(
    [
        ("a", "green tea", "", ["tea", "drinks"], "drinks"),
        ("b", "racing bikes", "", ["bikes"], "sport"),
        ("c", "green tea ceremony", "", [], ""),
        ("d", "cold green tea", "", ["Tea", "ice"], "drinks"),
    ]
)
NOTES_TO_TAG = note_table(
    [
        ("x", "a cup of green tea", "", ["bikes", "racing"], ""),
        ("y", "抹茶", "", ["tea"], ""),  # its text shares no term with train
    ]
)
BLANK = note_table([("a", "", "", [], "")])


def themed(per_theme=30, seed=0):
    """Notes of four themes with words of their own among common ones; two topics are those of the theme."""
    draw = np.random.default_rng(seed)
    rows: list[tuple[object, ...]] = []
    for theme in ("tea", "bikes", "chess", "gardens"):
        for i in range(per_theme):
            words = [*draw.choice([f"common{j}" for j in range(60)], 8)]
            words += [*draw.choice([f"{theme}{letter}" for letter in "abcdefghijkl"], 3)]
            topics = [theme, f"more {theme}", f"only of {theme} {i}"]
            rows.append((f"{theme}-{i}", " ".join(words), "", topics, theme))
    return note_table(rows)


def test_the_most_frequent_categories_have_their_shares():
    first, second = majority_category(TRAIN, NOTES_TO_TAG)
    assert first == second
    assert [name for name, _ in first] == ["drinks", "sport"]
    assert dict(first) == pytest.approx({"drinks": 2 / 3, "sport": 1 / 3})
    assert majority_category(TRAIN, NOTES_TO_TAG.slice(0, 0)) == []


def test_equally_frequent_categories_are_in_alphabetical_order():
    rows: list[tuple[object, ...]] = [(str(i), "text", "", [], name) for i, name in enumerate("gfedcba")]
    (ranking,) = majority_category(note_table(rows), BLANK)
    assert [name for name, _ in ranking] == ["a", "b", "c", "d", "e"]


def test_topics_are_copied_from_the_nearest_note():
    ranked, written = copy_topics(TRAIN, NOTES_TO_TAG, progress=False)
    assert [[topic for topic, _ in ranking] for ranking in ranked] == [["tea", "drinks"], []]
    assert written == [2, 0]
    assert len({score for _, score in ranked[0]}) == 1
    (same,), _ = copy_topics(TRAIN, TRAIN.slice(0, 1), progress=False)
    assert dict(same) == pytest.approx({"tea": 1, "drinks": 1})
    assert all(score <= 1 for _, score in same)


def test_topics_get_their_share_of_the_weight():
    """Notes a and d vote; "Tea" and "tea" are one topic, which both carry, in the spelling of the nearer."""
    ranked, written = vote_topics(TRAIN, NOTES_TO_TAG, progress=False)
    (first, one), *others = ranked[0]
    assert first == "tea"
    assert one == pytest.approx(1)
    assert {name for name, _ in others} == {"drinks", "ice"}
    assert sum(share for _, share in others) == pytest.approx(1)
    assert ranked[1] == []
    assert written[1] == 0


@pytest.mark.parametrize("method", [copy_topics, vote_topics])
def test_topics_of_the_notes_are_never_read(method):
    train, notes = themed(), themed(5, seed=1)
    others = with_topics(notes, [["chess", "tea"]] * notes.num_rows)
    none = with_topics(notes, [[]] * notes.num_rows)
    expected = method(train, notes, progress=False)
    assert expected == method(train, others, progress=False) == method(train, none, progress=False)


def test_the_number_of_topics_is_learnt_from_train():
    """Two topics are those of the theme, so a third one is always wrong; all of them are in the ranking."""
    ranked, written = vote_topics(themed(), themed(5, seed=1), progress=False)
    assert set(written) == {2}
    assert min(map(len, ranked)) > 2


def test_a_train_note_does_not_vote_for_itself_when_the_number_is_chosen():
    """Copies of a text carry the same four topics; knowing them, four would be best, but others share one."""
    rows: list[tuple[object, ...]] = []
    for i in range(40):
        topics = ["all", *(f"{i} {j}" for j in range(3))]
        rows += [(f"{i}-{copy}", f"common words and number{i}", "", topics, "") for copy in "ab"]
    _, written = vote_topics(note_table(rows), note_table(rows[:1]), progress=False)
    assert written == [1]


def test_where_no_topic_is_ever_right_the_mean_number_is_published():
    rows: list[tuple[object, ...]] = [
        (str(i), "the same words", f"{i}", [f"a{i}", f"b{i}", f"c{i}"], "") for i in range(5)
    ]
    _, written = vote_topics(note_table(rows), note_table(rows[:1]), progress=False)
    assert written == [3]
    ranked, written = vote_topics(note_table(rows[:1]), note_table(rows), progress=False)
    assert written == [3] * 5
    assert [name for name, _ in ranked[4]] == ["a0", "b0", "c0"]


def test_categories_get_their_share_of_the_weight():
    """The topics of a note are read: they bring the note about bikes near, the text alone does not."""
    with_topics_of_bikes, with_topic_of_tea = vote_categories(TRAIN, NOTES_TO_TAG, progress=False)
    assert {name for name, _ in with_topics_of_bikes} == {"drinks", "sport"}
    assert sum(share for _, share in with_topics_of_bikes) == pytest.approx(1)
    assert dict(with_topic_of_tea) == pytest.approx({"drinks": 1})
    bare = with_topics(NOTES_TO_TAG, [[], []])
    text_alone, nothing = vote_categories(TRAIN, bare, progress=False)
    assert dict(text_alone) == pytest.approx({"drinks": 1})
    assert [nothing] == majority_category(TRAIN, bare.slice(1))


def test_shares_are_probabilities():
    train, notes = themed(), themed(10, seed=1)
    for ranking in vote_categories(train, notes, progress=False):
        scores = [score for _, score in ranking]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1)
    ranked, _ = vote_topics(train, notes, progress=False)
    for ranking in ranked:
        scores = [score for _, score in ranking]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score <= 1 for score in scores)
    best = [ranking[0][0] for ranking in vote_categories(train, notes, progress=False)]
    truth = notes["category"].to_pylist()
    assert sum(a == b for a, b in zip(best, truth, strict=True)) > 0.9 * len(truth)


def test_blocks_change_nothing(monkeypatch):
    train, notes = themed(), themed(5, seed=1)
    expected = (
        vote_topics(train, notes, progress=False),
        vote_categories(train, notes, progress=False),
        copy_topics(train, notes, progress=False),
    )
    monkeypatch.setattr(tagging_baselines, "_SIMILARITIES", 3 * train.num_rows)
    assert expected == (
        vote_topics(train, notes, progress=False),
        vote_categories(train, notes, progress=False),
        copy_topics(train, notes, progress=False),
    )


def test_of_equally_near_notes_the_first_ones_vote():
    rows: list[tuple[object, ...]] = [(str(i), "one text", "", [], f"c{i}") for i in range(30)]
    (ranking,) = vote_categories(note_table(rows), note_table(rows[:1]), progress=False)
    assert [name for name, _ in ranking] == [f"c{i}" for i in range(20)]


def test_no_notes_give_no_rankings():
    none = NOTES_TO_TAG.slice(0, 0)
    assert copy_topics(TRAIN, none, progress=False) == ([], [])
    assert vote_topics(TRAIN, none, progress=False) == ([], [])
    assert vote_categories(TRAIN, none, progress=False) == []


def test_nothing_to_learn_from_is_named():
    for method in (majority_category, vote_categories):
        with pytest.raises(DataError, match="none of 1 train notes has a category"):
            method(BLANK, BLANK)
    for of_topics in (copy_topics, vote_topics):
        with pytest.raises(DataError, match="none of 1 train notes has topics"):
            of_topics(BLANK, BLANK)
    wordless = note_table([("a", "", "", ["tea"], "drinks")])
    for of_topics in (copy_topics, vote_topics):
        with pytest.raises(DataError, match="none of 1 notes has a word"):
            of_topics(wordless, wordless)
