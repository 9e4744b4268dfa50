import csv

import numpy as np
import pyarrow as pa
import pytest

from notellm.data.matrices import click_matrix
from notellm.data.schema import CLICKS, NOTES
from notellm.data.split import split_by_note
from notellm.errors import DataError
from notellm.evaluate.baselines import popularity, tfidf_matrix
from notellm.evaluate.retrieval import (
    constant_scorer,
    evaluate_related,
    paired_difference,
    sparse_cosine_scorer,
    targets_from_pairs,
)
from notellm.pairs.local import mine_pairs


def note_table(rows):
    names = ("note_id", "title", "content", "topics", "category")
    return pa.Table.from_pylist(
        [dict(zip(names, row, strict=True)) | {"published_at": None} for row in rows], NOTES
    )


def click_table(rows):
    """Clicks from (user, note) or (user, note, event), a second apart."""
    return pa.Table.from_pylist(
        [
            {
                "user_id": user,
                "note_id": note,
                "timestamp": 10**15 + second * 10**6,
                "event": event[0] if event else "click",
            }
            for second, (user, note, *event) in enumerate(rows)
        ],
        CLICKS,
    )


def themed(per_theme=30, seed=0):
    """Notes of four themes with words of their own among common ones; users stay in a theme."""
    draw = np.random.default_rng(seed)
    common = [f"common{i}" for i in range(60)]
    rows, clicks = [], []
    for theme in ("tea", "bikes", "chess", "gardens"):
        own = [f"{theme}{letter}" for letter in "abcdefghijkl"]
        for i in range(per_theme):
            words = [*draw.choice(common, 8), *draw.choice(own, 3)]
            rows.append((f"{theme}-{i}", " ".join(words[:4]), " ".join(words), [own[0]], theme))
        for user in range(12):
            seen = draw.permutation(per_theme)[:10]
            clicks += [(f"{theme}-user{user}", f"{theme}-{i}") for i in seen]
    return note_table(rows), click_table(clicks)


def test_popularity_counts_clicks_on_the_pool():
    clicks = click_table([("u", "b"), ("v", "b"), ("u", "a", "view"), ("u", "elsewhere")])
    assert popularity(["a", "b"], clicks).tolist() == [0, 2]


def test_click_matrix_cosine_is_co_occurrence():
    """a and b share one user; a has two users, b one: 1 / sqrt(2 x 1)."""
    clicks = click_table([("u", "a"), ("u", "a"), ("v", "a"), ("u", "b"), ("w", "c", "view")])
    matrix = click_matrix(["a", "b", "c"], clicks)
    assert matrix.sum(axis=1).tolist() == [2, 1, 0]
    scores = sparse_cosine_scorer(matrix)(np.arange(3))
    assert scores[0, 1] == pytest.approx(1 / np.sqrt(2))
    assert scores[2].tolist() == [0, 0, 0]


def test_tfidf_reads_title_topics_and_content():
    notes = note_table([("t", "mango", "", [], ""), ("c", "", "mango", [], ""), ("k", "", "", ["mango"], "")])
    assert tfidf_matrix(notes).toarray() @ tfidf_matrix(notes).toarray().T == pytest.approx(1)


def test_tfidf_counts_train_texts_too():
    """A word that is common in train weighs less."""
    notes = note_table([("a", "rare often", "", [], "")])
    train = note_table([(f"t{i}", "often", "", [], "") for i in range(20)])
    alone, together = tfidf_matrix(notes).data, tfidf_matrix(notes, train).data
    assert np.ptp(alone) < 1e-6
    assert np.ptp(together) > 0.1


def test_baselines_beat_random_on_cold_notes():
    notes, clicks = themed()
    test = split_by_note(notes, clicks, test=0.5).test
    pool = test.notes["note_id"]
    queries, targets = targets_from_pairs(mine_pairs(test.clicks, progress=False))
    assert len(queries) > 30
    draw = np.random.default_rng(0)

    def result(name, scorer):
        return evaluate_related(
            scorer, pool, queries, targets, ks=(15,), name=name, resamples=200, progress=False
        )

    tfidf = result("tf-idf", sparse_cosine_scorer(tfidf_matrix(test.notes)))
    random = result("random", constant_scorer(draw.random(len(pool))))
    assert paired_difference(tfidf, random)["R@15"].low > 0.2
    # No click of train is on a note of test: co-occurrence knows nothing, and is not rewarded.
    train = split_by_note(notes, clicks, test=0.5).train
    assert click_matrix(pool, train.clicks).nnz == 0
    assert popularity(pool, train.clicks).sum() == 0


def test_click_matrix_beats_popularity_on_known_notes():
    notes, clicks = themed()
    pool = notes["note_id"]
    queries, targets = targets_from_pairs(mine_pairs(clicks, progress=False))
    by_clicks, by_count = (
        evaluate_related(scorer, pool, queries, targets, ks=(10,), resamples=200, progress=False)
        for scorer in (
            sparse_cosine_scorer(click_matrix(pool, clicks)),
            constant_scorer(popularity(pool, clicks)),
        )
    )
    assert paired_difference(by_clicks, by_count)["R@10"].low > 0.2


def test_texts_without_words_are_named():
    with pytest.raises(DataError, match="none of 1 notes has a word"):
        tfidf_matrix(note_table([("a", "", "", [], "")]))


@pytest.mark.real
def test_tfidf_on_microlens(real_data):
    """Cold notes of MicroLens-50k: near the figures in the head of `baselines`."""
    folder = real_data("microlens-50k")
    with (folder / "MicroLens-50k_titles.csv").open(encoding="utf-8", newline="") as file:
        texts = [(row["item"], row["title"].split("#")) for row in csv.DictReader(file)]
    notes = note_table([(i, t, "", [tag.strip() for tag in tags], "") for i, (t, *tags) in texts])
    lines = (folder / "MicroLens-50k_pairs.tsv").read_text(encoding="utf-8").splitlines()
    users = [line.split("\t") for line in lines]
    clicks = click_table([(user, note) for user, seen in users for note in seen.split()])
    split = split_by_note(notes, clicks)
    queries, targets = targets_from_pairs(mine_pairs(split.test.clicks, progress=False))
    pool = split.test.notes["note_id"]
    assert (len(pool), len(queries) > 2_000) == (5_766, True)
    matrix = tfidf_matrix(split.test.notes, split.train.notes)
    scorer = sparse_cosine_scorer(matrix)
    figures = evaluate_related(scorer, pool, queries, targets, progress=False).figures
    assert 0.14 < figures["R@10"].mean < 0.19
    assert 0.28 < figures["R@100"].mean < 0.34
