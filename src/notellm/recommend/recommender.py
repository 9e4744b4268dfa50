"""Recommend notes to a user: recall finds candidates near what the user opened, the ranker orders them.

    candidates  = nearest neighbours of the last notes that the user opened, highest similarity first,
                  without the notes that the user has seen and those that are excluded
    recommended = candidates by P(enjoy), or by the ranker's blend of P(enjoy) and similarity

Recall searches an index of NoteLLM vectors, so a new note can be recommended as soon as it is in the index. A
user without a history gets popular notes, and on every third place a fresh one where the recommender knows
which notes are fresh: the newest first. ``popular.py`` and ``fresh.py`` say more of these.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from notellm.errors import DataError, NotFoundError
from notellm.rank.scorer import Ranker
from notellm.recall.made_by import check_blend, maker_of
from notellm.recall.model import NoteLLM
from notellm.recommend.candidates import vectors_among
from notellm.recommend.fresh import EVERY, MOST, FreshNotes, nearest, with_fresh
from notellm.recommend.near import near_any
from notellm.recommend.options import RecommendOptions
from notellm.recommend.popular import PopularNotes
from notellm.store.index.base import Index
from notellm.store.index.exact import ExactIndex
from notellm.store.index.filters import Filter
from notellm.store.rows import StoredNote, rows_of
from notellm.vectors import read_vectors

#: Where a recommended note comes from: near an opened note, opened by most, or published lately.
Source = Literal["recall", "popular", "fresh"]


@dataclass(frozen=True)
class Recommendations:
    """Notes recommended to one user, best first.

    Attributes:
        note_ids: the notes.
        scores: float32 (n,). With ranking P(enjoy), or the score of the ranker's blend, of which only
            differences have a meaning. Without ranking the similarity to the opened note, or for popular
            notes the number of users who opened them.
        reasons: the opened note that led to each recommended note, or that an explored one is nearest to;
            None for notes that depend on no history.
        sources: where each note comes from: "recall", "popular" or "fresh".
        basis: what the answer is based on, such as "related to 3 opened notes, ranked by code and history".
        request_id: id of the list in the log of an engine, which clicks name; None if it is not recorded.
    """

    note_ids: list[str]
    scores: np.ndarray
    reasons: list[str | None]
    sources: list[Source]
    basis: str
    request_id: str | None = None


class Recommender:
    """Recall and rank together. Load it once and ask it many times; answering changes no state.

    Args:
        index: index that is searched for candidates; it may change while it is used.
        ranker: ranker that orders the candidates; it must know the notes of the index.
        made_by: fingerprint of the model that made the vectors of the index; None if unknown.
        names: what messages call the ranker and the vectors, such as their paths.
        fresh: which notes are fresh; None if that is not known.
        opened: how many users opened each note by a log beside the ranker, which may grow; None if there is
            no log.

    Attributes:
        doubts: what may be wrong with these parts, in sentences; usually empty.

    Raises:
        DataError: if the ranker has a blend that was fitted to similarities of another model.
    """

    def __init__(
        self,
        index: Index,
        ranker: Ranker,
        *,
        made_by: str | None = None,
        names: tuple[str, str] = ("the ranker", "these vectors"),
        fresh: FreshNotes | None = None,
        opened: Mapping[str, int] | None = None,
    ) -> None:
        self.index = index
        self.ranker = ranker
        self._fresh = fresh
        doubt = blend_doubt(ranker, made_by, names)
        self.doubts = [] if doubt is None else [doubt]
        self._popular = PopularNotes(ranker.histories.values(), opened)

    @classmethod
    def from_vectors(
        cls,
        ids: Sequence[str],
        vectors: np.ndarray,
        ranker: Ranker,
        *,
        made_by: str | None = None,
        names: tuple[str, str] = ("the ranker", "these vectors"),
    ) -> Self:
        """Make a recommender that searches vectors exactly.

        Args:
            ids: note ids of the vectors, each once.
            vectors: (n, d) float32 array of unit norm, from ``NoteLLM.encode``.
            ranker: ranker of the candidates. Notes that it does not know are no candidates.
            made_by: as for the class, ``NoteLLM.fingerprint()``.
            names: as for the class.

        Raises:
            DataError: if vectors and ids do not fit together, the ranker knows none of the notes, or its
                blend was fitted to similarities of another model.
        """
        known_ids, table = vectors_among((ids, vectors), ranker.texts)
        index = ExactIndex(table.shape[1])
        index.upsert(rows_of([StoredNote(note_id=note_id) for note_id in known_ids], table))
        return cls(index, ranker, made_by=made_by, names=names)

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
        """Load a recommender from disk.

        Args:
            recall: vectors that ``embed_to_parquet`` wrote, or a NoteLLM directory, whose model embeds the
                notes.
            ranker: a ranker directory.
            notes: notes table of what can be recommended, for example with newer notes; None takes the notes
                that the ranker was trained with.
            trust_remote_code: as in ``NoteLLM.from_pretrained``.
            progress: show a progress bar while notes are embedded.

        Raises:
            StorageError: if a file does not exist.
            ModelError: if the ranker or the model cannot be used.
            DataError: if the vectors cannot be read, are those of other notes, or are of another model than
                those that the ranker's blend was fitted to.
        """
        ranking = Ranker.from_pretrained(ranker, trust_remote_code=trust_remote_code)
        if notes is not None:
            ranking = ranking.with_notes(notes)
        names = str(ranker), str(recall)
        if NoteLLM.is_saved(recall):
            model = NoteLLM.from_saved(recall, trust_remote_code=trust_remote_code)
            made_by: str | None = model.verified_fingerprint()
            blend_doubt(ranking, made_by, names)  # before the long work
            vectors = model.encode(ranking.table, progress=progress)
            return cls.from_vectors(ranking.texts.ids, vectors, ranking, made_by=made_by, names=names)
        made_by = maker_of(recall)
        blend_doubt(ranking, made_by, names)
        return cls.from_vectors(*read_vectors(recall), ranking, made_by=made_by, names=names)

    def recommend(
        self,
        user_id: str | None = None,
        *,
        history: Sequence[str] | None = None,
        exclude: Collection[str] = (),
        where: Filter | None = None,
        **options: Any,
    ) -> Recommendations:
        """Recommend notes that the user has not seen.

        Args:
            user_id: the user; None where only a history is known, or nothing.
            history: notes that the user opened, oldest first; None takes those that the ranker remembers.
            exclude: further note ids that must not come back.
            where: filter that candidates must pass.
            options: the fields of `RecommendOptions`: k, recall_k, per_note, last, rerank.

        Raises:
            ConfigError: if an option is unknown or not allowed.
            NotFoundError: if the user, or a note of the history in the arguments, is unknown.
            DataError: if no candidate is left.
        """
        chosen = RecommendOptions.from_keywords(options)
        opened = self._opened(user_id, history)
        seen = {*opened, *exclude}
        sources = self._sources(opened, chosen.last)
        reasons: list[str | None]
        fresh: list[str] = []
        every = EVERY
        if sources:
            candidates, scores, reasons = near_any(self.index, sources, seen, chosen, where)
            origin = f"related to {len(sources)} opened note{'s' if len(sources) > 1 else ''}"
            places = 0 if self._fresh is None else self._fresh.places(chosen.k)
            fresh, near = self._explored(sources, seen, places, where)
            if fresh:
                every = chosen.k // places
                origin += f", and {len(fresh)} fresh"
                kept = [i for i, note_id in enumerate(candidates) if note_id not in near]
                candidates = [*(candidates[i] for i in kept), *fresh]
                cosines = [cosine for _, cosine in near.values()]
                scores = np.append(scores[kept], np.array(cosines, dtype=np.float32))
                reasons = [*(reasons[i] for i in kept), *(source for source, _ in near.values())]
        else:
            fresh = self._fresh_notes(seen, chosen.k // EVERY, where)
            popular = self._popular_notes({*seen, *fresh}, chosen.recall_k, where)
            candidates = [*popular, *fresh]
            scores = np.array([self._popular.count(note_id) for note_id in candidates], dtype=np.float32)
            reasons = [None] * len(candidates)
            origin = "popular and fresh notes" if fresh else "popular notes"
        if not candidates:
            raise DataError(
                f"nothing is left to recommend: all {len(self.index):,} notes within reach have been seen, "
                "are excluded or are filtered out; exclude fewer, or raise recall_k, per_note or last"
            )
        if not chosen.rerank:
            best = with_fresh(np.arange(len(candidates)), len(fresh), every=every)[: chosen.k]
            basis = f"{origin}, not ranked"
            return _recommended(best, candidates, scores, reasons, len(fresh), basis)
        scores, basis = self.ranker.scores(user_id, candidates, history=history)
        ranked = "for a typical user" if basis == "nothing" else f"by {basis}"
        if sources and self.ranker.blend is not None:
            similarities = self.index.vectors(sources) @ self.index.vectors(candidates).T
            scores = self.ranker.blend.scores(similarities, scores)
            ranked += ", blended with similarity"
        best = with_fresh(np.argsort(-scores, kind="stable"), len(fresh), every=every)[: chosen.k]
        return _recommended(best, candidates, scores, reasons, len(fresh), f"{origin}, ranked {ranked}")

    def candidates(
        self, history: Sequence[str], *, exclude: Collection[str] = (), **options: Any
    ) -> list[str]:
        """Return what recall offers for a history before anything is ranked, highest similarity first.

        Args:
            history: notes that the user opened, oldest first; none of them comes back.
            exclude: further note ids that must not come back.
            options: as in :meth:`recommend`; none changes the order.

        Returns:
            The candidates; none if the index holds no note of the history.

        Raises:
            ConfigError: if an option is unknown or not allowed.
        """
        chosen = RecommendOptions.from_keywords(options)
        sources = self._sources(history, chosen.last)
        if not sources:
            return []
        return near_any(self.index, sources, {*history, *exclude}, chosen, None)[0]

    def _sources(self, opened: Sequence[str], last: int) -> list[str]:
        """Return the last opened notes that the index holds, latest first, each once."""
        latest = list(dict.fromkeys(reversed(opened)))
        present = self.index.contains(latest)
        return [note_id for note_id, held in zip(latest, present, strict=True) if held][:last]

    def _popular_notes(self, seen: Collection[str], limit: int, where: Filter | None) -> list[str]:
        """Return the visible notes that most users opened.

        If fewer notes were opened than asked for, other notes follow in the order of the index.
        """
        popular = self._visible(
            (note_id for note_id in self._popular.order() if note_id not in seen), limit, where
        )
        if len(popular) >= limit:
            return popular
        ((others,), _) = self.index.search(
            self._any_query(), limit, where=where or Filter(), exclude=[{*seen, *popular}]
        )
        return popular + others[: limit - len(popular)]

    def _visible(self, note_ids: Iterable[str], limit: int, where: Filter | None) -> list[str]:
        """Return the first of some notes that are visible and pass a filter, in their order."""
        rule = where or Filter()
        allowed = [note_id for note_id in note_ids if rule.allow is None or note_id in rule.allow]
        found: list[str] = []
        for start in range(0, len(allowed), 2 * limit):
            piece = allowed[start : start + 2 * limit]
            ((visible,), _) = self.index.search(
                self._any_query(), len(piece), where=replace(rule, allow=frozenset(piece))
            )
            shown = set(visible)
            found += [note_id for note_id in piece if note_id in shown]
            if len(found) >= limit:
                break
        return found[:limit]

    def _any_query(self) -> np.ndarray:
        """Return a query, (1, d) float32, for searches whose order does not matter."""
        query = np.zeros((1, self.index.dim), dtype=np.float32)
        query[0, 0] = 1.0
        return query

    def _fresh_notes(self, seen: Collection[str], limit: int, where: Filter | None) -> list[str]:
        """Return the newest of the visible fresh notes that the user has not seen."""
        if self._fresh is None or not limit:
            return []
        allowed = (note_id for note_id in self._fresh.newest() if note_id not in seen)
        return self._visible(islice(allowed, MOST), limit, where)

    def _explored(
        self, sources: Sequence[str], seen: Collection[str], places: int, where: Filter | None
    ) -> tuple[list[str], dict[str, tuple[str, float]]]:
        """Return the fresh notes that get these places to be explored, nearest first.

        Each comes with the opened note that it is nearest to, and the cosine of the two.
        """
        if self._fresh is None or not places:
            return [], {}
        allowed = islice((note_id for note_id in self._fresh.explorable() if note_id not in seen), MOST)
        if not (found := self._visible(allowed, MOST, where)):
            return [], {}
        vectors, opened = self.index.vectors(found), self.index.vectors(sources)
        rows, of = nearest(vectors, opened, places)
        near = {
            found[row]: (sources[source], float(vectors[row] @ opened[source]))
            for row, source in zip(rows.tolist(), of.tolist(), strict=True)
        }
        return list(near), near

    def _opened(self, user_id: str | None, history: Sequence[str] | None) -> list[str]:
        """Return the notes that the user opened, oldest first."""
        if history is not None:
            for note_id in history:
                if note_id not in self.ranker.texts:
                    raise NotFoundError(
                        f"the note {note_id!r} of the history is not among the ranker's "
                        f"{len(self.ranker.texts):,} notes; leave it out, or give notes that include it"
                    )
            return list(history)
        if user_id is None:
            return []
        if not self.ranker.knows(user_id):
            raise NotFoundError(
                f"the user {user_id!r} is not among the {len(self.ranker.histories):,} users of the ranker; "
                "give a history, or no user for popular notes"
            )
        return list(self.ranker.histories.get(user_id, ()))


def _recommended(
    best: np.ndarray,
    candidates: Sequence[str],
    scores: np.ndarray,
    reasons: Sequence[str | None],
    fresh: int,
    basis: str,
) -> Recommendations:
    """Return the best candidates, of which the last ``fresh`` are fresh notes."""
    first_fresh = len(candidates) - fresh
    sources: list[Source] = [
        "fresh" if i >= first_fresh else "popular" if reasons[i] is None else "recall" for i in best
    ]
    chosen, why = [candidates[i] for i in best], [reasons[i] for i in best]
    return Recommendations(chosen, scores[best], why, sources, basis)


def blend_doubt(ranker: Ranker, made_by: str | None, names: tuple[str, str]) -> str | None:
    """Return what is doubtful about a ranker's blend beside some vectors; None if nothing is, or it has none.

    Args:
        ranker: the ranker.
        made_by: fingerprint of the model that made the vectors; None if unknown.
        names: what messages call the ranker and the vectors.

    Raises:
        DataError: if the blend was fitted to similarities of another model.
    """
    if ranker.blend is None:
        return None
    return check_blend(ranker.blend_model, made_by, ranker=names[0], vectors=names[1])
