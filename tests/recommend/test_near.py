"""Candidates near what a user opened, against every similarity computed plainly."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from notellm.recommend.near import merge_near
from notellm.vectors import search


def plainly(vectors, opened, barred, each, limit):
    """Rows, best similarities and sources: sort all of each opened note's, cut, merge by hand."""
    best: dict[int, tuple[float, int]] = {}
    for source, row in enumerate(opened):
        scores = vectors @ vectors[row]
        free = [i for i in np.argsort(-scores, kind="stable").tolist() if i not in barred][:each]
        for i in free:
            if i not in best or scores[i] > best[i][0]:
                best[i] = (float(scores[i]), source)
    order = sorted(best, key=lambda i: (-best[i][0], i))[:limit]
    return order, [best[i][0] for i in order], [best[i][1] for i in order]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_candidates_are_the_nearest_to_any_opened_note(data):
    count = data.draw(st.integers(2, 30))
    # Few different values, so that similarities are often equal; all products are exact.
    values = st.lists(st.integers(-2, 2), min_size=3, max_size=3)
    vectors = np.array(data.draw(st.lists(values, min_size=count, max_size=count)), np.float32)
    row = st.integers(0, count - 1)
    opened = data.draw(st.lists(row, min_size=1, max_size=5, unique=True))
    barred = {*opened, *data.draw(st.sets(row))}
    each, limit = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 20))
    neighbours = search(vectors, vectors[opened], each + len(barred))
    near = merge_near(*neighbours, barred, each=each, limit=limit)
    rows, scores, sources = plainly(vectors, opened, barred, each, limit)
    assert near.rows.tolist() == rows
    assert near.scores.tolist() == scores
    assert near.sources.tolist() == sources
