"""What recall offered before each click: training rows for the ranker, and lists to fit a blend to.

After recall, the ranker must tell the next click from the other notes near the user's history. Negatives
drawn from the whole log do not teach that, and a ranker trained on them makes recall's order worse. Here a
click is used only if it was among recall's candidates, and its negatives are other candidates. Clicks that
recall missed are left out, since beside candidates they would teach that near notes are not clicked.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.data.convert import is_order_only
from notellm.data.impressions import positive_impressions
from notellm.errors import ConfigError, DataError
from notellm.progress import progress_bar
from notellm.rank.blend import Blend, blend_features, fit_blend
from notellm.rank.scorer import Ranker
from notellm.recommend.near import Near, merge_near
from notellm.recommend.options import RecommendOptions
from notellm.vectors import search

#: Note ids and their vectors, as `notellm.vectors.read_vectors` returns them.
Vectors = tuple[Sequence[str], np.ndarray]

#: Most and fewest lists to fit the four weights of a blend to.
_MOST_LISTS, _FEWEST_LISTS = 1_000, 20
_CHUNK_ROWS = 1 << 15


def vectors_among(vectors: Vectors, known: Collection[str]) -> Vectors:
    """Return the vectors of the notes that are known.

    Args:
        vectors: note ids and their vectors.
        known: ids of the known notes.

    Raises:
        DataError: if vectors and ids do not fit together, or none of the notes is known.
    """
    _check(vectors)
    ids, table = vectors
    rows = [row for row, note_id in enumerate(ids) if note_id in known]
    if not rows:
        raise DataError(
            f"the ranker knows none of the {len(ids):,} notes that have a vector; make both from the same "
            "notes"
        )
    return [ids[row] for row in rows], table if len(rows) == len(ids) else table[rows]


def impressions_from_candidates(
    clicks: pa.Table,
    vectors: Vectors,
    *,
    negatives: int = 4,
    recall_k: int = RecommendOptions.recall_k,
    last: int = RecommendOptions.last,
    max_history: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> pa.Table:
    """Make labelled impressions of a click log from the candidates that recall offered before each click.

    Clicks that were among the candidates are the positives. Their times and histories are those of
    ``impressions_from_clicks``; views are not used. Negatives are drawn uniformly from the candidates for the
    row's history that the user never clicks and, where the log has times, that somebody clicked before.

    Args:
        clicks: table with the schema CLICKS.
        vectors: note ids, and their vectors (n, d) float32 of unit norm.
        negatives: most negatives of a click.
        recall_k: number of candidates of a user.
        last: number of the last opened notes that bring candidates.
        max_history: most notes in a history.
        seed: seed of the draw, and of the order of a log without order (``data.order``).
        progress: show a progress bar.

    Returns:
        Table with the schema IMPRESSIONS, ascending by time, each click before its negatives.

    Raises:
        ConfigError: if a number is below 1.
        DataError: if the table does not have the schema CLICKS, vectors and ids do not fit together, or
            recall offers none of the clicks.
    """
    for name, value in (("negatives", negatives), ("recall_k", recall_k), ("last", last)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; it must be at least 1")
    _check(vectors)
    positives = positive_impressions(clicks, max_history=max_history, seed=seed)
    vector_ids = pa.array(vectors[0], pa.string())
    user = pc.index_in(positives["user_id"], value_set=positives["user_id"].unique())
    user = user.to_numpy().astype(np.int64)
    note = _rows(positives["note_id"], vector_ids)
    time = positives["timestamp"].cast(pa.int64()).to_numpy()
    # A user and a note as one number: user * width + note row. Notes without a vector are row -1.
    width = len(vector_ids) + 1
    clicked = np.sort(user * width + note)
    first_click = np.full(len(vector_ids), np.iinfo(np.int64).max)
    if is_order_only(clicks):
        first_click[:] = np.iinfo(np.int64).min
    np.minimum.at(first_click, note[note >= 0], time[note >= 0])

    draw = np.random.default_rng(seed)
    source_rows: list[int] = []
    note_rows: list[int] = []
    found = offers(positives["history"], vectors, recall_k=recall_k, last=last)
    bar = progress_bar(found, total=len(positives), unit="click", desc="candidates", disable=not progress)
    for row, (_, near) in enumerate(bar):
        if note[row] not in near.rows:
            continue
        key = user[row] * width + near.rows
        clicked_by_user = clicked[np.minimum(np.searchsorted(clicked, key), len(clicked) - 1)] == key
        allowed = near.rows[~clicked_by_user & (first_click[near.rows] < time[row])]
        if len(allowed):
            drawn = draw.choice(allowed, min(negatives, len(allowed)), replace=False).tolist()
            source_rows += [row] * (1 + len(drawn))
            note_rows += [int(note[row]), *drawn]
    if not source_rows:
        raise DataError(
            f"recall offers none of the {len(positives):,} clicks among {recall_k} candidates, so there is "
            "nothing to learn from; check that the vectors are those of these notes, from a trained model"
        )
    is_click = np.diff(np.array(source_rows), prepend=-1) > 0
    columns = {"note_id": vector_ids.take(pa.array(note_rows)), "label": pa.array(is_click)}
    # In parts, since Arrow's offsets into the text of a chunk's histories have 32 bits.
    starts = range(0, len(source_rows), _CHUNK_ROWS)
    table = pa.concat_tables(
        positives.take(pa.array(source_rows[start : start + _CHUNK_ROWS])) for start in starts
    )
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


@dataclass(frozen=True)
class CandidateList:
    """The candidates that recall offers before a click, the clicked note among them.

    Attributes:
        user_id: the user.
        history: notes that the user opened before, oldest first.
        note_ids: the n candidates.
        similarities: float32 (opened, n), as ``Blend.scores`` expects them.
        clicked: position of the clicked note among the candidates.
    """

    user_id: str
    history: list[str]
    note_ids: list[str]
    similarities: np.ndarray
    clicked: int


def candidate_lists(
    impressions: pa.Table,
    vectors: Vectors,
    *,
    recall_k: int = RecommendOptions.recall_k,
    last: int = RecommendOptions.last,
    seed: int = 0,
) -> list[CandidateList]:
    """Return candidate lists of at most a thousand clicks, drawn uniformly from those that recall offers.

    Args:
        impressions: table with the schema IMPRESSIONS; rows with a positive label are the clicks.
        vectors: note ids, and their vectors (n, d) float32 of unit norm.
        recall_k: number of candidates of a user.
        last: number of the last opened notes that bring candidates.
        seed: seed of the draw.

    Raises:
        DataError: if recall offers too few of the clicks to fit a blend to.
    """
    ids, table = vectors
    clicks = np.flatnonzero(impressions["label"].to_numpy())
    drawn = np.random.default_rng(seed).permutation(clicks)[: 10 * _MOST_LISTS]
    rows = impressions.take(pa.array(drawn))
    note = _rows(rows["note_id"], pa.array(ids, pa.string()))
    lists: list[CandidateList] = []
    for row, (opened, near) in enumerate(offers(rows["history"], vectors, recall_k=recall_k, last=last)):
        if note[row] in near.rows and len(lists) < _MOST_LISTS:
            lists.append(
                CandidateList(
                    rows["user_id"][row].as_py(),
                    rows["history"][row].as_py(),
                    [ids[i] for i in near.rows],
                    table[opened] @ table[near.rows].T,
                    int(np.flatnonzero(near.rows == note[row])[0]),
                )
            )
    if len(lists) < _FEWEST_LISTS:
        raise DataError(
            f"recall offers {len(lists)} of {len(drawn):,} validation clicks among {recall_k} candidates, "
            f"and a blend needs {_FEWEST_LISTS} or more; give more clicks, or train the ranker without "
            "vectors"
        )
    return lists


def blend_for(ranker: Ranker, lists: Sequence[CandidateList], *, progress: bool = False) -> Blend:
    """Fit the blend of similarities and P(enjoy) that makes the clicks of the lists most likely."""
    bar = progress_bar(lists, unit="list", desc="blend", disable=not progress)
    features = []
    for candidates in bar:
        probabilities, _ = ranker.scores(candidates.user_id, candidates.note_ids, history=candidates.history)
        features.append(blend_features(candidates.similarities, probabilities))
    return fit_blend(features, [candidates.clicked for candidates in lists])


def offers(
    histories: pa.ChunkedArray, vectors: Vectors, *, recall_k: int, last: int
) -> Iterator[tuple[np.ndarray, Near]]:
    """Yield for each history the rows of its last notes, latest first, and the candidates they bring."""
    vector_ids = pa.array(vectors[0], pa.string())
    flat = [_rows(pc.list_flatten(chunk), vector_ids) for chunk in histories.chunks]
    lengths = [pc.list_value_length(chunk).to_numpy() for chunk in histories.chunks]
    opened = np.unique(np.concatenate([np.empty(0, np.int64), *flat]))
    opened = opened[opened >= 0]
    longest = max((int(counts.max(initial=0)) for counts in lengths), default=0)
    # So many neighbours of each note that recall_k are left when all notes of a history are barred.
    neighbours, cosines = search(vectors[1], vectors[1][opened], recall_k + longest)
    for rows, counts in zip(flat, lengths, strict=True):
        for history in np.split(rows, np.cumsum(counts)[:-1]) if len(counts) else []:
            known = history[history >= 0]
            sources = np.array([*dict.fromkeys(known[::-1].tolist())][:last], np.int64)
            places = np.searchsorted(opened, sources)
            barred = set(known.tolist())
            near = merge_near(neighbours[places], cosines[places], barred, each=recall_k, limit=recall_k)
            yield sources, near


def _check(vectors: Vectors) -> None:
    """Check that every note has one vector."""
    ids, table = vectors
    if len(ids) != len(table) or len(set(ids)) != len(ids):
        raise DataError(
            f"there are {len(ids)} note ids ({len(set(ids))} distinct) and {len(table)} vectors; "
            "give every note one vector"
        )


def _rows(note_ids: pa.ChunkedArray | pa.Array, vector_ids: pa.Array) -> np.ndarray:
    """Return the row of each note among the vectors, int64 (n,), -1 for a note without a vector."""
    rows = pc.fill_null(pc.index_in(note_ids, value_set=vector_ids), -1)
    result: np.ndarray = rows.to_numpy().astype(np.int64)
    return result
