import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse
from tqdm.auto import tqdm

from notellm.data.schema import NOTES
from notellm.errors import DataError
from notellm.evaluate import tagging_classifier
from notellm.evaluate.tagging_categories import evaluate_categories
from notellm.evaluate.tagging_classifier import linear_categories


def note_table(rows):
    names = ("note_id", "title", "content", "topics", "category")
    return pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) | {"published_at": None} for row in rows], NOTES
    )


def themed(themes, per_theme, seed, noise=0.0):
    """Notes with words of their theme among common ones; a share of the categories is drawn."""
    draw = np.random.default_rng(seed)
    rows: list[tuple[object, ...]] = []
    for theme in themes:
        for i in range(per_theme):
            words = [*draw.choice([f"common{j}" for j in range(60)], 8)]
            words += [*draw.choice([f"{theme}{letter}" for letter in "abcdefghijkl"], 3)]
            category = str(draw.choice(themes)) if draw.random() < noise else theme
            rows.append((f"{theme}-{i}", " ".join(words), "", [], category))
    return note_table(rows)


THEMES = ("tea", "bikes", "chess", "gardens", "poems", "rain")


def measured(train, test, **options):
    truth = test["category"].to_pylist()
    return evaluate_categories(linear_categories(train, test, progress=False, **options), truth, set(truth))


def test_categories_are_learnt():
    result = measured(themed(THEMES, 20, 0), themed(THEMES, 20, 1))
    assert result.accuracy > 0.9
    assert result.top5 >= result.accuracy
    assert result.ill_formed == 0


def test_probabilities_are_those_of_being_right():
    """With 40 % of the categories drawn, two thirds of the first names are right at best."""
    result = measured(themed(THEMES, 100, 0, noise=0.4), themed(THEMES, 100, 1, noise=0.4))
    assert 0.5 < result.accuracy < 0.8
    assert result.calibration_error < 0.1


def test_rankings_are_five_names_with_falling_probabilities():
    for ranking in linear_categories(themed(THEMES, 20, 0), themed(THEMES, 3, 1), progress=False):
        scores = [score for _, score in ranking]
        assert len({name for name, _ in ranking}) == 5
        assert scores == sorted(scores, reverse=True)
        assert 0 < sum(scores) <= 1 + 1e-9


def test_the_same_seed_gives_the_same_rankings():
    train, test = themed(THEMES, 20, 0), themed(THEMES, 3, 1)
    first = linear_categories(train, test, seed=3, progress=False)
    assert first == linear_categories(train, test, seed=3, progress=False)


def test_weights_and_unseen_scores_are_those_of_ridge_regression():
    """Against dense normal equations with an intercept; leave-one-out against fits without the note."""
    draw = np.random.default_rng(0)
    dense = draw.random((12, 7)).astype(np.float32)
    labels, new = draw.integers(3, size=12), draw.random((4, 7)).astype(np.float32)
    labels[:3] = [0, 1, 2]
    penalty = 0.7

    def exact(rows, queries):
        x, y = dense[rows].astype(float), np.eye(3)[labels[rows]]
        centred = x - x.mean(0)
        weights = np.linalg.solve(centred.T @ centred + penalty * np.eye(7), centred.T @ (y - y.mean(0)))
        return (queries - x.mean(0)) @ weights + y.mean(0)

    train = tagging_classifier._train(
        sparse.csr_array(dense), [str(label) for label in labels], np.ones(12, bool)
    )
    # Enough signs that the estimate of the diagonal is close.
    signs = draw.choice(np.array([-1, 1], np.float32), (12, 20_000))
    rows = np.arange(12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tagging_classifier, "_CLOSE", 1e-6)
        scores, unseen = tagging_classifier._scores(
            train, sparse.csr_array(new), rows, signs, penalty, tqdm(disable=True)
        )
    assert scores == pytest.approx(exact(rows, new), abs=1e-3)
    left_out = np.stack([exact(rows[rows != row], dense[row]) for row in rows])
    assert unseen == pytest.approx(left_out, abs=0.03)


def test_blocks_of_categories_change_nothing(monkeypatch):
    train, test = themed(THEMES, 10, 0), themed(THEMES, 3, 1)
    expected = linear_categories(train, test, progress=False)
    monkeypatch.setattr(tagging_classifier, "_BLOCK", 1)
    for ranking, same in zip(linear_categories(train, test, progress=False), expected, strict=True):
        # Every block ends when it is close enough, so that the last digits differ.
        assert dict(ranking)[same[0][0]] == pytest.approx(same[0][1], abs=0.02)


def test_of_too_much_work_only_a_draw_is_done(monkeypatch):
    train = themed(THEMES, 40, 0)
    whole = tagging_classifier._train(
        sparse.csr_array(np.ones((240, 2), np.float32)),
        train["category"].to_pylist(),
        np.arange(240) % 2 == 0,
    )
    monkeypatch.setattr(tagging_classifier, "_WORK", whole.work // 4)
    part = tagging_classifier._affordable(whole, np.random.default_rng(0))
    assert part.work <= whole.work // 4
    assert len(part.labels) == len(part.alone) == part.vectors.shape[0] == 60
    assert set(part.names) <= set(whole.names)
    monkeypatch.setattr(tagging_classifier, "_WORK", 30_000)
    monkeypatch.setattr(tagging_classifier, "_WORK_OF_CHOICE", 0)
    monkeypatch.setattr(tagging_classifier, "_NOTES", 200)
    assert measured(train, themed(THEMES, 20, 1)).accuracy > 0.5


def test_notes_of_equal_text_do_not_choose_the_temperature():
    """Half of the notes have a twin of their category, and the others have drawn ones that nothing tells."""
    draw = np.random.default_rng(0)
    words = [" ".join(draw.choice([f"w{i}" for i in range(200)], 6)) for _ in range(300)]
    names = [f"c{draw.integers(4)}" for _ in range(300)]
    twins: list[tuple[object, ...]] = [
        (f"{i}{copy}", words[i], "", [], names[i]) for i in range(150) for copy in "ab"
    ]
    train = note_table([*twins, *((str(i), words[i], "", [], names[i]) for i in range(150, 250))])
    test = note_table([(str(i), words[i], "", [], names[i]) for i in range(250, 300)])
    sure = np.mean([ranking[0][1] for ranking in linear_categories(train, test, progress=False)])
    assert sure < 0.5


def test_one_category_needs_no_model():
    one = note_table([("a", "x", "", [], "only"), ("b", "y", "", [], "")])
    assert linear_categories(one, one, progress=False) == [[("only", 1.0)]] * 2


def test_degenerate_notes_are_ranked():
    train = note_table(
        [("a", "tea", "", [], "drinks"), ("b", "bikes", "", [], "sport"), ("c", "", "", [], "x")]
    )
    unknown = note_table([("y", "抹茶", "", [], ""), ("z", "", "", [], "")])
    rankings = linear_categories(train, unknown, progress=False)
    assert rankings[0] == rankings[1]
    assert {name for name, _ in rankings[0]} == {"drinks", "sport", "x"}
    same = note_table([(str(i), "one text", "", [], f"c{i % 2}") for i in range(6)])
    for ranking in linear_categories(same, same, progress=False):
        assert [score for _, score in ranking] == pytest.approx([0.5, 0.5], abs=0.05)
    assert linear_categories(train, train.slice(0, 0), progress=False) == []


def test_nothing_to_learn_from_is_named():
    blank = note_table([("a", "", "", [], "")])
    with pytest.raises(DataError, match="none of 1 train notes has a category"):
        linear_categories(blank, blank, progress=False)
    wordless = note_table([("a", "", "", [], "x"), ("b", "", "", [], "y")])
    with pytest.raises(DataError, match="none of 2 notes has a word"):
        linear_categories(wordless, wordless, progress=False)
