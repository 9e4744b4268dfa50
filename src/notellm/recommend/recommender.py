"""Recommending: recall of notes near what the user opened, then rank.

    candidates(user) = the notes nearest to any of the last notes the user opened, best similarity first,
                       less what the user has seen and what is excluded
    recommended      = the candidates by P(enjoy), or by the ranker's blend of it and the similarities

Recall searches an index of NoteLLM vectors, so a note published a minute ago is found as soon as it is in
there. Of a user without any history the candidates are the popular notes: those that most users liked.
A `Recommender` is loaded once and answers many times; it changes nothing of itself.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from notellm.errors import ConfigError, DataError, NotFoundError
from notellm.rank.scorer import Ranker
from notellm.recall.checkpoint import is_checkpoint
from notellm.recall.model import NoteLLM
from notellm.recommend.candidates import LAST, RECALLED, vectors_among
from notellm.recommend.near import merge_near
from notellm.store.index.base import Index
from notellm.store.index.exact import ExactIndex
from notellm.store.index.filters import Filter
from notellm.store.rows import StoredNote, rows_of
from notellm.vectors import read_vectors


@dataclass(frozen=True)
class Recommendations:
    """Notes for one user, best first.

    Attributes:
        note_ids: the notes.
        scores: float32 (n,): P(enjoy), or where the ranker has a blend its score, of which only differences
            mean something; without rank the similarity to the note opened, or for popular notes how many
            users liked each.
        reasons: for each the opened note that led to it; None for a popular note.
        basis: what the answer rests on, such as "related to 3 opened notes, ranked by code and history".
    """

    note_ids: list[str]
    scores: np.ndarray
    reasons: list[str | None]
    basis: str


class Recommender:
    """Recall and rank together.

    Args:
        index: searched for candidates; it may change while it is used.
        ranker: orders them; it has the notes of the index.
    """

    def __init__(self, index: Index, ranker: Ranker) -> None:
        self.index = index
        self.ranker = ranker
        self._likes = Counter(note_id for own in ranker.histories.values() for note_id in own)
        self._popular = [note_id for note_id, _ in self._likes.most_common()]

    @classmethod
    def from_vectors(cls, ids: Sequence[str], vectors: np.ndarray, ranker: Ranker) -> Self:
        """A recommender that searches vectors exactly.

        Args:
            ids: note ids of the vectors, each once.
            vectors: (n, d) float32, unit norm, from ``NoteLLM.encode``.
            ranker: whose notes can be recommended: candidates are notes that it has and that have a vector.

        Raises:
            DataError: vectors and ids do not fit together, or the ranker has none of these notes.
        """
        own, table = vectors_among((ids, vectors), ranker.texts)
        index = ExactIndex(table.shape[1])
        index.upsert(rows_of([StoredNote(note_id=note_id) for note_id in own], table))
        return cls(index, ranker)

    @classmethod
    def load(
        cls,
        recall: str | Path,
        ranker: str | Path,
        *,
        notes: pa.Table | None = None,
        trust_remote_code: bool = False,
        progress: bool = False,
    ) -> Self:
        """A recommender from disk.

        Args:
            recall: vectors that ``embed_to_parquet`` wrote, or a NoteLLM directory, which embeds the notes.
            ranker: a ranker directory.
            notes: what can be recommended, where it is not the notes that the ranker was made with: newer
                ones among them.
            trust_remote_code: as in ``NoteLLM.from_pretrained``.
            progress: show a bar while notes are embedded.

        Raises:
            StorageError: a file is not there.
            ModelError: the ranker or the model cannot be used.
            DataError: the vectors cannot be read, or are of other notes.
        """
        ranking = Ranker.from_pretrained(ranker, trust_remote_code=trust_remote_code)
        if notes is not None:
            ranking = ranking.with_notes(notes)
        if is_checkpoint(recall):
            model = NoteLLM.from_saved(recall, trust_remote_code=trust_remote_code)
            vectors = model.encode(ranking.table, progress=progress)
            return cls.from_vectors(ranking.texts.ids, vectors, ranking)
        return cls.from_vectors(*read_vectors(recall), ranking)

    def recommend(
        self,
        user_id: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 20,
        exclude: Collection[str] = (),
        recall_k: int = RECALLED,
        per_note: int | None = None,
        last: int = LAST,
        rerank: bool = True,
        where: Filter | None = None,
    ) -> Recommendations:
        """Notes for a user, none of which the user has seen.

        Args:
            user_id: the user; None where only a history is known, or nothing.
            history: notes the user opened, oldest first; the stored one when None.
            k: how many notes; fewer come back where fewer are left.
            exclude: further note ids that shall not come back.
            recall_k: candidates that are ranked; a blend is fitted for the default, as for that of ``last``.
            per_note: candidates that one opened note may bring, so that one topic does not take all
                places; as ``recall_k`` when None.
            last: how many of the last opened notes bring candidates, each counted once.
            rerank: order candidates by the ranker; False is recall alone, in the order of similarity.
            where: what candidates must fulfil.

        Raises:
            ConfigError: a number is not allowed.
            NotFoundError: the user or a note of the given history is unknown.
            DataError: nothing is left.
        """
        each = recall_k if per_note is None else per_note
        problems = [
            f"{name} is {value}; it must be at least 1"
            for name, value in (("k", k), ("per_note", each), ("last", last))
            if value < 1
        ]
        if recall_k < k:
            problems.append(f"recall_k is {recall_k}; it must be at least k ({k}), which are taken of them")
        if problems:
            raise ConfigError("; ".join(problems))
        opened = self._opened(user_id, history)
        seen = {*opened, *exclude}
        latest = list(dict.fromkeys(reversed(opened)))
        sources = [n for n, there in zip(latest, self.index.contains(latest), strict=True) if there][:last]
        reasons: list[str | None]
        if sources:
            near = _near_any(self.index, sources, seen, each=each, limit=recall_k, where=where)
            candidates, scores, reasons = near
            origin = f"related to {len(sources)} opened note{'s' if len(sources) > 1 else ''}"
        else:
            candidates = self._popular_notes(seen, recall_k, where)
            scores = np.array([self._likes[note_id] for note_id in candidates], dtype=np.float32)
            reasons = [None] * len(candidates)
            origin = "popular notes"
        if not candidates:
            raise DataError(
                f"nothing is left to recommend: all {len(self.index):,} notes within reach are seen or "
                "excluded, or a filter keeps them out; exclude fewer, or raise recall_k, per_note or last"
            )
        if not rerank:
            return Recommendations(candidates[:k], scores[:k], reasons[:k], f"{origin}, not ranked")
        scores, basis = self.ranker.scores(user_id, candidates, history=history)
        ranked = "for a typical user" if basis == "nothing" else f"by {basis}"
        if sources and self.ranker.blend is not None:
            similarities = self.index.vectors(sources) @ self.index.vectors(candidates).T
            scores = self.ranker.blend.scores(similarities, scores)
            ranked += ", blended with similarity"
        best = np.argsort(-scores, kind="stable")[:k]
        return Recommendations(
            [candidates[i] for i in best],
            scores[best],
            [reasons[i] for i in best],
            f"{origin}, ranked {ranked}",
        )

    def _popular_notes(self, seen: Collection[str], limit: int, where: Filter | None) -> list[str]:
        """What most users liked, as far as it may be shown; of equal likes, what the log names first.

        Where fewer notes are liked than asked for, others follow in the index's order.
        """
        rule = where or Filter()
        any_query = np.zeros((1, self.index.dim), dtype=np.float32)
        any_query[0, 0] = 1.0
        allowed = [n for n in self._popular if n not in seen and (rule.allow is None or n in rule.allow)]
        found: list[str] = []
        for start in range(0, len(allowed), 2 * limit):
            piece = allowed[start : start + 2 * limit]
            ((shown,), _) = self.index.search(
                any_query, len(piece), where=replace(rule, allow=frozenset(piece))
            )
            visible = set(shown)
            found += [note_id for note_id in piece if note_id in visible]
            if len(found) >= limit:
                return found[:limit]
        ((others,), _) = self.index.search(any_query, limit, where=rule, exclude=[{*seen, *found}])
        return found + others[: limit - len(found)]

    def _opened(self, user_id: str | None, history: Sequence[str] | None) -> list[str]:
        """What the user opened, oldest first."""
        if history is not None:
            for note_id in history:
                if note_id not in self.ranker.texts:
                    raise NotFoundError(
                        f"the note {note_id!r} of the history is not among the ranker's "
                        f"{len(self.ranker.texts):,} notes; leave it out, or give notes that hold it"
                    )
            return list(history)
        if user_id is None:
            return []
        codes = self.ranker.codes
        if user_id not in self.ranker.histories and (codes is None or codes.users.rows([user_id])[0] < 0):
            raise NotFoundError(
                f"the user {user_id!r} is not among the {len(self.ranker.histories):,} users of the ranker; "
                "give a history, or no user for popular notes"
            )
        return list(self.ranker.histories.get(user_id, ()))


def _near_any(
    index: Index,
    opened: Sequence[str],
    barred: Collection[str],
    *,
    each: int,
    limit: int,
    where: Filter | None,
) -> tuple[list[str], np.ndarray, list[str | None]]:
    """The notes nearest to any of the opened ones: ids, best similarities, and which opened note has it.

    The latest opened note comes first; of equal similarity the note that it brings.
    """
    ids, scores = index.search(index.vectors(opened), each, where=where, exclude=[barred] * len(opened))
    names = list(dict.fromkeys(note_id for own in ids for note_id in own))
    row = {note_id: i for i, note_id in enumerate(names)}
    width = max(map(len, ids))
    found = np.full((len(ids), width), -1, dtype=np.int64)
    cosines = np.full((len(ids), width), -np.inf, dtype=np.float32)
    for source, (own, values) in enumerate(zip(ids, scores, strict=True)):
        found[source, : len(own)] = [row[note_id] for note_id in own]
        cosines[source, : len(own)] = values
    near = merge_near(found, cosines, (), each=each, limit=limit)
    return [names[i] for i in near.rows], near.scores, [opened[i] for i in near.sources]
