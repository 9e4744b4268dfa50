"""Related notes: the notes with the nearest vectors, and with words the best of both (``lexical/hybrid.py``).

The search of the vectors is exact (``notellm.vectors.search``). For millions of notes use an index of
``notellm.store`` instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from notellm.errors import DataError
from notellm.lexical.hybrid import brought, check_share, join
from notellm.lexical.index import LexicalIndex
from notellm.lexical.terms import texts_of
from notellm.vectors import search


@dataclass(frozen=True)
class Words:
    """The words of notes, which count beside their vectors.

    Attributes:
        index: the notes by their words.
        texts: the text of each note, in the order of the vectors.
        share: share of the words in the score, 0 to 1.
    """

    index: LexicalIndex
    texts: Sequence[str]
    share: float

    @classmethod
    def of(cls, ids: Sequence[str], notes: pa.Table, share: float) -> "Words":
        """Read the words of notes.

        Args:
            ids: ids of the vectors.
            notes: notes table with all of these notes.
            share: share of the words in the score, 0 to 1.

        Raises:
            ConfigError: if the share is not allowed.
            DataError: if a note is missing.
        """
        check_share(share)
        known = notes.column("note_id").combine_chunks()
        rows = pc.index_in(pa.array(ids, pa.string()), value_set=known)
        if rows.null_count:
            missing = next(note_id for note_id, row in zip(ids, rows.to_pylist(), strict=True) if row is None)
            raise DataError(
                f"{rows.null_count} of {len(ids)} notes that have a vector are not among the notes, such as "
                f"{missing!r}; give the notes that were embedded, or compare vectors only (a share of 0)"
            )
        texts = texts_of(notes.take(rows))
        return cls(LexicalIndex(ids, texts), texts, share)


def related_by_id(
    ids: Sequence[str],
    vectors: np.ndarray,
    note_ids: Sequence[str],
    *,
    k: int = 10,
    words: Words | None = None,
) -> list[list[tuple[str, float]]]:
    """Return the related notes of embedded notes.

    Args:
        ids: ids of all notes, in the order of the vectors.
        vectors: (n, d) float32 array of unit norm.
        note_ids: ids of the notes in question.
        k: largest number of related notes.
        words: the words of all notes; None compares vectors only.

    Returns:
        For each note in question up to k pairs (note_id, score), best first; a note is never related to
        itself. Without words the score is the cosine.

    Raises:
        DataError: if a note has no vector, or there are no vectors.
    """
    if not ids:
        raise DataError("there are no embedded notes to search among; embed the notes first")
    row = {note_id: i for i, note_id in enumerate(ids)}
    unknown = next((note_id for note_id in note_ids if note_id not in row), None)
    if unknown is not None:
        raise DataError(
            f"the note {unknown!r} is not among the {len(ids)} embedded notes (for example {ids[0]!r}); "
            "embed it first, or ask by its text"
        )
    rows = np.array([row[note_id] for note_id in note_ids], dtype=np.int64)
    texts = () if words is None else [words.texts[i] for i in rows]
    return _named(ids, *best_rows(ids, vectors, vectors[rows], k, words=words, texts=texts, exclude=rows))


def related_by_vector(
    ids: Sequence[str],
    vectors: np.ndarray,
    queries: np.ndarray,
    *,
    k: int = 10,
    words: Words | None = None,
    texts: Sequence[str] = (),
) -> list[list[tuple[str, float]]]:
    """Return the related notes of new notes, as :func:`related_by_id` does.

    Args:
        ids: ids of all notes, in the order of the vectors.
        vectors: (n, d) float32 array of unit norm.
        queries: (q, d) float32 vectors of the new notes, from ``NoteLLM.encode``.
        k: largest number of related notes.
        words: the words of all notes; None compares vectors only.
        texts: the texts of the new notes (``lexical.terms.text_of``), which are read with ``words`` only.
    """
    return _named(ids, *best_rows(ids, vectors, queries, k, words=words, texts=texts))


def best_rows(
    ids: Sequence[str],
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    *,
    words: Words | None,
    texts: Sequence[str] = (),
    exclude: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the k best notes of each query and their scores, as ``notellm.vectors.search`` does.

    Args:
        ids: ids of all notes, in the order of the vectors.
        vectors: (n, d) float32 array of unit norm.
        queries: (q, d) float32 array of unit norm.
        k: number of notes.
        words: the words of all notes; None compares vectors only.
        texts: the texts of the queries, which are read with ``words`` only.
        exclude: (q,) row that each query must not return; -1 for none.
    """
    if words is None or words.share == 0 or k < 1:
        return search(vectors, queries, k, exclude=exclude)
    row = {note_id: i for i, note_id in enumerate(ids)}
    near, cosines = search(vectors, queries, brought(k), exclude=exclude)
    found = [[ids[i] for i in rows if i >= 0] for rows in near.tolist()]
    own = [-1] * len(queries) if exclude is None else exclude.tolist()
    barred = [(ids[i],) if i >= 0 else () for i in own]
    worded = words.index.search(texts, brought(k), exclude=barred, others=found)
    rows, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
    for place, (query, near_ids, hits) in enumerate(zip(queries, found, worded, strict=True)):

        def cosines_of(some: list[str], query: np.ndarray = query) -> tuple[list[str], np.ndarray]:
            return some, vectors[[row[note_id] for note_id in some]] @ query

        best = join(near_ids, cosines[place, : len(near_ids)], hits, cosines_of, k, words.share)
        rows[place, : len(best.ids)] = [row[note_id] for note_id in best.ids]
        scores[place, : len(best.ids)] = best.scores
    return rows, scores


def _named(ids: Sequence[str], related: np.ndarray, scores: np.ndarray) -> list[list[tuple[str, float]]]:
    return [
        [(ids[row], float(score)) for row, score in zip(rows, values, strict=True) if row >= 0]
        for rows, values in zip(related, scores, strict=True)
    ]
