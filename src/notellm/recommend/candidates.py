"""What recall offered before each click: rows to rank by, and lists to blend by.

Ranking after recall must tell the next click from the other notes near the user's history. Negatives drawn
from the whole log do not ask that, and a ranker that learnt from them makes recall's order worse. So here a
click counts where recall had it among its candidates, and the negatives are others of them. A click that
recall missed is left out: beside candidates it would teach that what is near is not clicked.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from notellm.data.convert import is_order_only
from notellm.data.impressions import positive_impressions
from notellm.errors import ConfigError, DataError
from notellm.rank.blend import Blend, blend_features, fit_blend
from notellm.rank.scorer import Ranker
from notellm.recommend.near import Near, merge_near
from notellm.vectors import search

#: Vectors with the ids of their notes, as `recall.embed.read_vectors` gives them.
Vectors = tuple[Sequence[str], np.ndarray]

#: Opened notes that bring candidates, and how many candidates are ranked.
LAST, RECALLED = 10, 100
_LISTS = 1_000  # to fit a blend's four weights to
_FEWEST = 20
_CHUNK_ROWS = 1 << 15


def vectors_among(vectors: Vectors, known: Collection[str]) -> Vectors:
    """The vectors of known notes.

    Raises:
        DataError: vectors and ids do not fit together, or none of the notes is known.
    """
    _check(vectors)
    ids, table = vectors
    rows = [row for row, note_id in enumerate(ids) if note_id in known]
    if not rows:
        raise DataError(
            f"the ranker has none of the {len(ids):,} notes with a vector; were both made from the "
            "same notes?"
        )
    return [ids[row] for row in rows], table if len(rows) == len(ids) else table[rows]


def impressions_from_candidates(
    clicks: pa.Table,
    vectors: Vectors,
    *,
    negatives: int = 4,
    recall_k: int = RECALLED,
    last: int = LAST,
    max_history: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> pa.Table:
    """Labelled impressions of a click log: clicks that recall had offered, beside others that it had.

    Positives, times and histories are those of ``impressions_from_clicks``; views are not used. A negative
    is drawn evenly from the candidates that recall has for the row's history, is never clicked by the user,
    and, where the log has times, was clicked by someone before.

    Args:
        clicks: table with the schema CLICKS.
        vectors: ids and vectors (n, d) float32, unit norm.
        negatives: drawn for each click, at most.
        recall_k: candidates of a user.
        last: opened notes that bring candidates.
        max_history: ids in a history, at most.
        seed: of the draw.
        progress: show a bar.

    Returns:
        Table with the schema IMPRESSIONS, ascending by time, a click before its negatives.

    Raises:
        ConfigError: a number is below 1.
        DataError: the table has not the schema CLICKS, vectors and ids do not fit together, or recall
            offers none of the clicks.
    """
    for name, value in (("negatives", negatives), ("recall_k", recall_k), ("last", last)):
        if value < 1:
            raise ConfigError(f"{name} is {value}: give 1 or more")
    _check(vectors)
    liked = positive_impressions(clicks, max_history=max_history)
    names = pa.array(vectors[0], pa.string())
    user = pc.index_in(liked["user_id"], value_set=liked["user_id"].unique()).to_numpy().astype(np.int64)
    note = _rows(liked["note_id"], names)
    time = liked["timestamp"].cast(pa.int64()).to_numpy()
    width = len(names) + 1  # a note without a vector is row -1, and has a place, too
    clicked = np.sort(user * width + note)
    known_since = np.full(len(names), np.iinfo(np.int64).max)
    if is_order_only(clicks):
        known_since[:] = np.iinfo(np.int64).min
    np.minimum.at(known_since, note[note >= 0], time[note >= 0])

    draw = np.random.default_rng(seed)
    taken: list[int] = []
    shown: list[int] = []
    offers = _offers(liked["history"], vectors, recall_k=recall_k, last=last)
    bar = tqdm(offers, total=len(liked), unit="click", desc="candidates", disable=not progress)
    for row, (_, near) in enumerate(bar):
        if note[row] not in near.rows:
            continue
        key = user[row] * width + near.rows
        own = clicked[np.minimum(np.searchsorted(clicked, key), len(clicked) - 1)] == key
        free = near.rows[~own & (known_since[near.rows] < time[row])]
        if len(free):
            some = draw.choice(free, min(negatives, len(free)), replace=False).tolist()
            taken += [row] * (1 + len(some))
            shown += [int(note[row]), *some]
    if not taken:
        raise DataError(
            f"recall offers none of the {len(liked):,} clicks among {recall_k} candidates: there is nothing "
            "to learn from them; are the vectors of these notes, and of a trained model?"
        )
    first = np.diff(np.array(taken), prepend=-1) > 0
    columns = {"note_id": names.take(pa.array(shown)), "label": pa.array(first)}
    # By parts: Arrow's offsets into the text of a chunk's histories are 32-bit.
    starts = range(0, len(taken), _CHUNK_ROWS)
    table = pa.concat_tables(liked.take(pa.array(taken[start : start + _CHUNK_ROWS])) for start in starts)
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


@dataclass(frozen=True)
class CandidateList:
    """What recall offers for a history before a click that is among it.

    Attributes:
        user_id: the user.
        history: notes that the user opened before, oldest first.
        note_ids: the n candidates.
        similarities: float32 (opened, n), as ``Blend.scores`` wants them.
        clicked: the place of the clicked one.
    """

    user_id: str
    history: list[str]
    note_ids: list[str]
    similarities: np.ndarray
    clicked: int


def candidate_lists(
    impressions: pa.Table, vectors: Vectors, *, recall_k: int = RECALLED, last: int = LAST, seed: int = 0
) -> list[CandidateList]:
    """Lists for some clicks of impressions, at most a thousand, drawn evenly from those that recall offers.

    Raises:
        DataError: recall offers too few of them to fit anything to.
    """
    ids, table = vectors
    clicks = np.flatnonzero(impressions["label"].to_numpy())
    drawn = np.random.default_rng(seed).permutation(clicks)[: 10 * _LISTS]
    some = impressions.take(pa.array(drawn))
    note = _rows(some["note_id"], pa.array(ids, pa.string()))
    found: list[CandidateList] = []
    for row, (opened, near) in enumerate(_offers(some["history"], vectors, recall_k=recall_k, last=last)):
        if note[row] in near.rows and len(found) < _LISTS:
            found.append(
                CandidateList(
                    some["user_id"][row].as_py(),
                    some["history"][row].as_py(),
                    [ids[i] for i in near.rows],
                    table[opened] @ table[near.rows].T,
                    int(np.flatnonzero(near.rows == note[row])[0]),
                )
            )
    if len(found) < _FEWEST:
        raise DataError(
            f"recall offers {len(found)} of {len(drawn):,} validation clicks among {recall_k} candidates, "
            f"and a blend needs {_FEWEST} or more; give more clicks, or fit the ranker without vectors"
        )
    return found


def blend_for(ranker: Ranker, lists: Sequence[CandidateList], *, progress: bool = False) -> Blend:
    """The blend of similarities and a ranker's P(enjoy) under which the clicks of lists are likeliest."""
    bar = tqdm(lists, unit="list", desc="blend", disable=not progress)
    features = []
    for own in bar:
        probabilities, _ = ranker.scores(own.user_id, own.note_ids, history=own.history)
        features.append(blend_features(own.similarities, probabilities))
    return fit_blend(features, [own.clicked for own in lists])


def _offers(
    histories: pa.ChunkedArray, vectors: Vectors, *, recall_k: int, last: int
) -> Iterator[tuple[np.ndarray, Near]]:
    """Of every history the rows of the opened notes, the latest first, and what recall offers for them."""
    names = pa.array(vectors[0], pa.string())
    flat = [_rows(pc.list_flatten(chunk), names) for chunk in histories.chunks]
    lengths = [pc.list_value_length(chunk).to_numpy() for chunk in histories.chunks]
    opened = np.unique(np.concatenate([np.empty(0, np.int64), *flat]))
    opened = opened[opened >= 0]
    longest = max((int(own.max(initial=0)) for own in lengths), default=0)
    # Of every note that anyone opened so many that none is missing where all of a history are barred.
    found, cosines = search(vectors[1], vectors[1][opened], recall_k + longest)
    for rows, sizes in zip(flat, lengths, strict=True):
        for own in np.split(rows, np.cumsum(sizes)[:-1]) if len(sizes) else []:
            known = own[own >= 0]
            sources = np.array([*dict.fromkeys(known[::-1].tolist())][:last], np.int64)
            places = np.searchsorted(opened, sources)
            barred = set(known.tolist())
            yield (
                sources,
                merge_near(found[places], cosines[places], barred, each=recall_k, limit=recall_k),
            )


def _check(vectors: Vectors) -> None:
    ids, table = vectors
    if len(ids) != len(table) or len(set(ids)) != len(ids):
        raise DataError(
            f"{len(ids)} note ids ({len(set(ids))} distinct) and {len(table)} vectors: "
            "give every note one vector"
        )


def _rows(note_ids: pa.ChunkedArray | pa.Array, names: pa.Array) -> np.ndarray:
    """Where notes stand among names, int64 (n,), -1 for nowhere."""
    rows: np.ndarray = pc.fill_null(pc.index_in(note_ids, value_set=names), -1).to_numpy().astype(np.int64)
    return rows
