"""Examples of what a method finds and misses, and its vectors in two dimensions."""

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from sklearn.manifold import TSNE

from notellm.data.note import notes_from_table
from notellm.evaluate.retrieval import RetrievalResult, Scorer
from notellm.experiment.results import Example, Neighbour, frame

_EXAMPLES, _NEIGHBOURS = 5, 6
_FOUND = 10  # a target up to this rank is found
_POINTS = 1_500  # of the map
_TITLE = 90  # characters


def examples_of(
    result: RetrievalResult, scorer: Scorer, notes: pa.Table, pairs: pa.Table, *, seed: int
) -> dict[str, list[Example]]:
    """Return queries whose target was found among the first ten, and queries whose target was not.

    Both are drawn by the seed; those that were missed come from the half with the worse ranks.

    Args:
        result: the result of the method.
        scorer: the method.
        notes: the pool.
        pairs: all related pairs of the pool.
        seed: seed of the draw.
    """
    ranks = 1.0 / result.per_query["MRR"]
    found = np.flatnonzero(ranks <= _FOUND)
    missed = np.flatnonzero(ranks > _FOUND)
    missed = missed[ranks[missed] >= np.median(ranks[missed])] if len(missed) else missed
    position = {note: row for row, note in enumerate(notes["note_id"].to_pylist())}
    titles = _titles(notes)
    related = (
        pl.DataFrame(pl.from_arrow(pairs))
        .sort("source", "score", "users", "target", descending=[False, True, True, False])
        .group_by("source", maintain_order=True)
        .agg("target")
    )
    targets: dict[str, list[str]] = dict(related.iter_rows())
    draw = np.random.default_rng(seed)

    def example(row: int) -> Example:
        query = result.query_ids[row]
        scores = scorer(np.array([position[query]]))[0].astype(np.float64)
        scores[position[query]] = -np.inf
        nearest = np.argsort(-scores, kind="stable")[:_NEIGHBOURS]
        known = {position[note] for note in targets[query]}
        return Example(
            query=titles[position[query]],
            target=titles[position[targets[query][0]]],
            rank=float(ranks[row]),
            neighbours=tuple(
                Neighbour(titles[note], float(scores[note]), note in known) for note in nearest.tolist()
            ),
        )

    def drawn(rows: npt.NDArray[np.int64]) -> list[Example]:
        chosen = draw.choice(rows, min(_EXAMPLES, len(rows)), replace=False) if len(rows) else rows
        return [example(int(row)) for row in np.sort(chosen)]

    return {"found": drawn(found), "missed": drawn(missed)}


def map_of(vectors: npt.NDArray[np.float32], notes: pa.Table, *, seed: int) -> pl.DataFrame:
    """Return at most 1,500 notes in two dimensions, by t-SNE of the cosine (``results.MAP``).

    Args:
        vectors: (n, dim) of the notes.
        notes: the notes.
        seed: seed of the draw and of t-SNE.
    """
    draw = np.random.default_rng(seed)
    rows = np.sort(draw.choice(len(vectors), min(_POINTS, len(vectors)), replace=False))
    if len(rows) < 4:
        return frame("map")
    flat = TSNE(
        metric="cosine", init="random", perplexity=min(30, (len(rows) - 1) / 3), random_state=seed
    ).fit_transform(vectors[rows])
    chosen = notes.take(pa.array(rows))
    return frame(
        "map",
        [
            {"note_id": note_id, "title": title, "category": category, "x": float(x), "y": float(y)}
            for note_id, title, category, (x, y) in zip(
                chosen["note_id"].to_pylist(),
                _titles(chosen),
                chosen["category"].to_pylist(),
                flat,
                strict=True,
            )
        ],
    )


def _titles(notes: pa.Table) -> list[str]:
    """Return what names each note to a reader, on one line."""
    return [" ".join(note.display_title.split())[:_TITLE] for note in notes_from_table(notes)]
