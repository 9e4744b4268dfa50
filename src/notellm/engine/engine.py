"""Everything at once and alive: store, index, NoteLLM and ranker, while notes come, change and go.

    engine = Engine.open("store", "model", ranker="ranker")
    engine.apply([Publish(StoredNote(note_id="n1", title="Cold brew at the camp site"))])
    engine.related([RelatedQuery(note_id="n1")])
    engine.recommend("user-7", k=10)

A write is embedded, committed to the store, and put into the index, in this order; when `apply` returns it
is durable, and the next search finds it. Reads go on meanwhile, and while :meth:`Engine.reload` brings a new
model or builds the index anew: what answers is one object, exchanged at once when the new one is complete.
"""

import gc
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock, RLock
from time import perf_counter
from typing import Any, Self, TypeAlias

import numpy as np
import pyarrow as pa

from notellm.data.note import Note
from notellm.errors import ConfigError, DataError, NotellmError, NotFoundError, StorageError
from notellm.rank.scorer import Ranker, Ranking
from notellm.recall.model import NoteLLM
from notellm.recommend.recommender import Recommendations, Recommender
from notellm.store.index import base
from notellm.store.index.base import Index, vectors_there
from notellm.store.index.filters import Filter, microseconds
from notellm.store.index.home import IndexHome
from notellm.store.index.select import check_selection, select
from notellm.store.notes import NoteStore, StoredNote, notes_of, rows_of

#: Notes that are embedded together where there are many.
_TOGETHER = 1_024
#: Changed notes after which an HNSW index is saved again, so that a restart has little to add.
_SAVED_EVERY = 5_000
_FETCHED = 4  # times k are looked at where some of them may not be shown, and again as many
_MOST_FETCHED = 16_384  # candidates of one query, where the index has no lower limit
_CHANGEABLE = ("title", "content", "topics", "category", "published_at", "hidden", "expires_at")
#: Free bytes of the disk below which writes are likely to fail: room for a few commits and their tidying.
_RESERVE = 64 << 20
#: Seconds between two attempts to find out whether writes that failed are possible again.
_LOOKED_AGAIN = 5.0
_NO_RANKER = (
    "there is no ranker here; start with one (notellm serve --ranker), or make one: notellm rank train"
)


@dataclass(frozen=True)
class Publish:
    """Add a note, or replace it."""

    note: StoredNote

    @property
    def note_id(self) -> str:
        """The note's id."""
        return self.note.note_id


@dataclass(frozen=True)
class Change:
    """Change some fields of a note, by their names in :class:`StoredNote`."""

    note_id: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Remove:
    """Take a note out for good."""

    note_id: str


Write: TypeAlias = Publish | Change | Remove


@dataclass(frozen=True)
class Written:
    """What became of a write: whether the note was there before."""

    note_id: str
    existed: bool


@dataclass(frozen=True, kw_only=True)
class RelatedQuery:
    """One question for related notes.

    Attributes:
        note_id: of a known note, which is not among its own results; or
        note: a text, known or not.
        k: how many.
        where: what they must fulfil.
        near_duplicates, diversity: as in `store.index.select.select`.
    """

    note_id: str | None = None
    note: Note | None = None
    k: int = 10
    where: Filter = field(default_factory=Filter)
    near_duplicates: float | None = None
    diversity: float = 0.0


@dataclass(frozen=True)
class Related:
    """Related notes, best first, and their cosines."""

    notes: list[StoredNote]
    scores: list[float]


@dataclass(frozen=True)
class Tags:
    """What the model writes of a note; no category where it knows none."""

    category: str | None
    topics: list[str]


@dataclass(frozen=True)
class _Live:
    """What answers at one time; exchanged as a whole."""

    model: NoteLLM
    fingerprint: str
    store: NoteStore
    home: IndexHome
    index: Index
    notes: dict[str, StoredNote]
    recommender: Recommender | None


class Engine:
    """What a service asks; made by :meth:`open`. Threads may share it.

    Args:
        live: what answers.
        paths: where model, ranker and index come from, for :meth:`reload`.

    Attributes:
        progress: show bars while a reload computes much.
        seconds: how long :meth:`open` took for "model", "ranker", "store" and "index", each with the packages
            that it imports.
    """

    def __init__(self, live: _Live, paths: "Paths", *, progress: bool = False) -> None:
        self._live = live
        self._paths = paths
        self.progress = progress
        self._write_lock = RLock()
        self._model_lock = Lock()  # tokenizers are not to be shared between threads
        self.seconds: Mapping[str, float] = {}
        self._touched: set[str] | None = None  # ids written while something new is being built
        self._since_saved = 0
        self._in_doubt: set[str] = set()  # notes of failed writes that the store may have all the same
        self._refused: str | None = None  # why the last write failed in the store or the index
        self._looked_at = 0.0  # when that was looked at last

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(
        cls,
        store: str | Path,
        model: str | Path,
        *,
        ranker: str | Path | None = None,
        index: str = "exact",
        token: str = "",
        sync: bool = True,
        trust_remote_code: bool = False,
        progress: bool = False,
    ) -> Self:
        """Open a store with the model that made its vectors.

        Args:
            store: a store (`notellm store build`).
            model: a NoteLLM directory.
            ranker: a ranker directory; None leaves `rank` and `recommend` out.
            index: "exact", "hnsw", or the URI of a Milvus server.
            token: of that server.
            sync: flush every write to disk before it is answered; without it a power failure loses the last
                writes.
            trust_remote_code: as in ``NoteLLM.from_pretrained``; at reloads, too.
            progress: show bars while much is computed.

        Raises:
            StorageError: something is not there, the store is damaged, or another process writes to it.
            ModelError: model or ranker cannot be used; the model has to be a saved NoteLLM.
            DataError: the store's vectors are of another model.
            ConfigError: the index is unknown.
        """
        place = None if ranker is None else str(ranker)
        paths = Paths(str(store), str(model), place, index, token, sync, trust_remote_code)
        laps = _Laps()
        loaded = _load_model(paths)
        fingerprint = loaded.verified_fingerprint()
        laps.end("model")
        ranking = _load_ranker(paths)
        laps.end("ranker")
        opened = NoteStore.open(store, fingerprint, sync=sync)
        try:
            with _without_collecting(), ThreadPoolExecutor(1) as beside:
                rows = opened.read()
                laps.end("store")
                reading = beside.submit(notes_of, rows)  # while the index is read, mostly outside of Python
                home = IndexHome(paths.store, fingerprint, paths.index, paths.token)
                made = home.open(rows, progress=progress)
                notes = {note.note_id: note for note in reading.result()}
            live = _Live(loaded, fingerprint, opened, home, made, notes, _recommender(ranking, made, notes))
            opened.drop_others()  # only now, when everything of this one was read
            home.drop_others()
        except BaseException:
            opened.close()
            raise
        laps.end("index")
        engine = cls(live, paths, progress=progress)
        engine.seconds = laps.seconds
        return engine

    def close(self) -> None:
        """Save the index where it is saved, and let others use the store. Nothing is lost without it."""
        with self._write_lock:
            if self._in_doubt:
                self._live.index.close()
            else:
                self._live.home.close(self._live.index)
            self._live.store.close()

    # ---------------------------------------------------------------- writing

    def apply(self, writes: Sequence[Write]) -> list[Written | NotellmError]:
        """Carry out writes, in this order, together: one pass of the model, one commit.

        Returns:
            For each what became of it; an error where it could not be done, which concerns no other.

        Raises:
            StorageError: the store or the index could not be written; write the same again.
        """
        with self._write_lock:
            self._settle()
            live = self._live
            outcomes: list[Written | NotellmError] = []
            drafts: dict[str, StoredNote | None] = {}
            for write in writes:
                note_id = write.note_id
                before = drafts[note_id] if note_id in drafts else live.notes.get(note_id)
                try:
                    drafts[note_id] = _after(write, before)
                except NotellmError as error:
                    outcomes.append(error)
                else:
                    outcomes.append(Written(note_id, before is not None))
            if self._touched is not None:
                self._touched.update(drafts)
            try:
                self._commit(live, drafts)
            except BaseException as error:
                self._in_doubt.update(drafts)
                if isinstance(error, StorageError):
                    self._refused, self._looked_at = str(error), time.monotonic()
                with suppress(Exception):  # it is tried again before the next write
                    self._settle()
                raise
            return outcomes

    def _settle(self) -> None:
        """Bring notes and index to what the store has of notes whose write failed.

        Raises:
            StorageError: store or index cannot be used yet.
        """
        if not self._in_doubt:
            return
        live = self._live
        rows = live.store.get(self._in_doubt)
        found = {note.note_id: note for note in notes_of(rows)}
        gone = self._in_doubt - found.keys()
        if found:
            live.index.upsert(rows)
        live.index.remove(gone)
        _replace_notes(live.notes, found, gone)
        if live.recommender is not None:
            for note_id in self._in_doubt:
                live.recommender.ranker.forget(note_id)
        self._in_doubt = set()

    def writable(self) -> str | None:
        """Why a write would fail now, as far as that is known; None where nothing is known.

        A reason is that the last write failed in the store or the index, or that the disk of the store has
        less than 64 MiB left. While all is well this costs one system call. After a failed write a small file
        is written now and then (every 5 seconds at most), so that the reason goes when its cause is gone.
        """
        if self._refused is not None:
            self._look_again()
        if (refused := self._refused) is not None:
            return f"the last write failed: {refused}"
        place = self._paths.store
        if "://" in place:
            return None
        try:
            free = shutil.disk_usage(place).free
        except OSError as error:
            return f"the store {place} is not there: {error.strerror or error}"
        if free < _RESERVE:
            return (
                f"the disk of the store {place} has {free / 2**20:,.0f} MiB left; it needs "
                f"{_RESERVE / 2**20:,.0f} MiB: make room"
            )
        return None

    def _look_again(self) -> None:
        """Find out whether what let a write fail is over, unless somebody writes just now."""
        if time.monotonic() - self._looked_at < _LOOKED_AGAIN or not self._write_lock.acquire(blocking=False):
            return
        try:
            self._looked_at = time.monotonic()
            self._live.store.check_disk()
            self._settle()
            self._refused = None
        except Exception as error:  # noqa: BLE001 - whatever it is, a write would meet it
            self._refused = str(error)
        finally:
            self._write_lock.release()

    def _commit(self, live: _Live, drafts: Mapping[str, StoredNote | None]) -> None:
        """Bring store, index and notes to a state of some notes; None is removed."""
        upserts = [note for note in drafts.values() if note is not None]
        removed = [note_id for note_id, note in drafts.items() if note is None and note_id in live.notes]
        if upserts:
            rows = rows_of(upserts, self._vectors(live, upserts))
            live.store.write(rows, new=not any(note.note_id in live.notes for note in upserts))
            live.index.upsert(rows)
            live.notes.update((note.note_id, note) for note in upserts)
        if removed:
            live.store.delete(removed)
            live.index.remove(removed)
            for note_id in removed:
                del live.notes[note_id]
        if upserts or removed:  # to remove what is not there proves nothing
            self._refused = None
        if live.recommender is not None:
            for note_id in drafts:
                live.recommender.ranker.forget(note_id)
        self._since_saved += len(drafts)
        if self._since_saved >= _SAVED_EVERY:
            live.home.save(live.index)
            self._since_saved = 0

    def _vectors(self, live: _Live, notes: Sequence[StoredNote]) -> np.ndarray:
        """Vectors of notes; those whose text is as it was keep theirs."""
        same = np.array([_same_text(live.notes.get(note.note_id), note) for note in notes])
        vectors = np.empty((len(notes), live.index.dim), dtype=np.float32)
        if same.any():
            vectors[same] = live.index.vectors(
                [n.note_id for n, kept in zip(notes, same, strict=True) if kept]
            )
        if not same.all():
            changed = [note for note, kept in zip(notes, same, strict=True) if not kept]
            vectors[~same] = self._encode(live.model, changed)
        return vectors

    def _encode(self, model: NoteLLM, notes: Sequence[Note]) -> np.ndarray:
        with self._model_lock:
            return model.encode(list(notes))

    # ---------------------------------------------------------------- reading

    def note(self, note_id: str) -> StoredNote:
        """A note, hidden or expired ones among them.

        Raises:
            NotFoundError: there is none.
        """
        found = self._live.notes.get(note_id)
        if found is None:
            raise _unknown(note_id, self._live)
        return found

    def find(self, text: str, *, limit: int = 20) -> list[StoredNote]:
        """Notes whose title (where there is none, content) holds a text, in any case; newest first.

        This is for those who manage notes, so hidden and expired ones are among them, as in :meth:`note`. No
        other method has any in its answers.
        """
        wanted = text.casefold().strip()
        found = [n for n in list(self._live.notes.values()) if wanted in (n.title or n.content).casefold()]
        dated = [n for n in found if n.published_at is not None]
        dated.sort(key=lambda n: n.published_at or 0, reverse=True)
        undated = [n for n in reversed(found) if n.published_at is None]
        return (dated + undated)[:limit]

    def related(self, queries: Sequence[RelatedQuery]) -> list[Related | NotellmError]:
        """Related notes of known notes and of texts; texts pass the model together.

        Returns:
            For each query its notes, or why there are none.
        """
        live = self._live
        answers: list[Related | NotellmError] = [Related([], [])] * len(queries)
        vectors = np.zeros((len(queries), live.index.dim), dtype=np.float32)
        texts = [i for i, query in enumerate(queries) if query.note_id is None]
        if texts:
            vectors[texts] = self._encode(live.model, [queries[i].note or Note() for i in texts])
        named = [i for i, query in enumerate(queries) if query.note_id is not None]
        there, found_vectors = vectors_there(live.index, [queries[i].note_id or "" for i in named])
        for i in (i for i, known in zip(named, there, strict=True) if not known):
            answers[i] = _unknown(queries[i].note_id or "", live)
        known = [i for i, known in zip(named, there, strict=True) if known]
        vectors[known] = found_vectors
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i in (*texts, *known):
            query = queries[i]
            groups.setdefault((query.k, query.where, query.near_duplicates, query.diversity), []).append(i)
        for rows in groups.values():
            try:
                found = self._related(live, [queries[i] for i in rows], vectors[rows])
            except NotellmError as error:
                found = [error] * len(rows)
            for i, answer in zip(rows, found, strict=True):
                answers[i] = answer
        return answers

    def _related(
        self, live: _Live, queries: Sequence[RelatedQuery], vectors: np.ndarray
    ) -> list[Related | NotellmError]:
        """Answers to queries that differ in nothing but what they are about."""
        first = queries[0]
        check_selection(first.near_duplicates, first.diversity)
        exclude = [() if query.note_id is None else (query.note_id,) for query in queries]
        if first.near_duplicates is None and not first.diversity:
            ids, scores = live.index.search(vectors, first.k, where=first.where, exclude=exclude)
            return [_named(live, *answer) for answer in zip(ids, scores, strict=True)]
        answers: list[Related | NotellmError] = []
        most = min(_MOST_FETCHED, live.index.most_results or _MOST_FETCHED)
        for vector, own in zip(vectors, exclude, strict=True):
            fetched = max(first.k, min(_FETCHED * first.k, most))
            while True:
                (found,), (cosines,) = live.index.search(
                    vector[None], fetched, where=first.where, exclude=[own]
                )
                there, near_vectors = vectors_there(live.index, found)
                near = [note_id for note_id, kept in zip(found, there, strict=True) if kept]
                cosines = cosines[there]
                rows = select(
                    vector,
                    cosines,
                    near_vectors,
                    first.k,
                    near_duplicates=first.near_duplicates,
                    diversity=first.diversity,
                )
                if len(rows) >= first.k or len(found) < fetched or fetched >= most:
                    break
                fetched = min(_FETCHED * fetched, most)
            answers.append(_named(live, [near[row] for row in rows], cosines[rows]))
        return answers

    def tags(self, notes: Sequence[Note], *, topics: int | None = None) -> list[Tags]:
        """Category and topics of texts, written by the model.

        Args:
            notes: the texts.
            topics: how many at most; None lets the model end.
        """
        model = self._live.model
        rows = list(notes)
        with self._model_lock:
            names: list[str | None] = [None] * len(rows)
            if model.settings.categories:
                names = list(model.categorize(rows))
            return [Tags(*pair) for pair in zip(names, model.write_topics(rows, n=topics), strict=True)]

    def rank(
        self, user_id: str | None, candidates: Sequence[str], *, history: Sequence[str] | None = None
    ) -> Ranking:
        """Order candidates for a user, as `Ranker.rank` does.

        Candidates that are hidden or expired are left out of the answer, so it may be empty: a feed whose
        candidates are a moment old is answered all the same. What a user liked counts even where it is hidden
        now, since it is not shown.

        Raises:
            NotFoundError: there is no ranker, or a candidate is not there at all.
            DataError: a candidate is given twice, or there is none.
        """
        notes = self._live.notes
        ranker = self._recommending().ranker
        known = ((note_id, notes.get(note_id)) for note_id in candidates)
        shown = [note_id for note_id, note in known if note is None or is_visible(note)]
        if candidates and not shown:
            return Ranking([], np.empty(0, dtype=np.float32), "nothing")
        try:
            return ranker.rank(user_id, shown, history=history)
        except KeyError:
            with self._write_lock:  # a candidate was removed while it was ranked, which is told in order now
                return self._recommending().ranker.rank(user_id, shown, history=history)

    def recommend(self, user_id: str | None = None, **options: Any) -> Recommendations:
        """Notes for a user; the options are those of `Recommender.recommend`.

        Notes that are hidden or expired are neither recommended nor named as a reason, which is None then.

        Raises:
            ConfigError: an option is not allowed.
            NotFoundError: there is no ranker.
            DataError: the user or a note is unknown, or nothing is left.
        """
        try:
            found = self._recommending().recommend(user_id, **options)
        except (DataError, KeyError):
            with self._write_lock:  # a note may have been found, and removed before it was ranked
                found = self._recommending().recommend(user_id, **options)
        reasons = {reason: self._live.notes.get(reason or "") for reason in found.reasons}
        shown = {reason for reason, note in reasons.items() if note is not None and is_visible(note)}
        return replace(found, reasons=[reason if reason in shown else None for reason in found.reasons])

    def users(self, text: str = "", *, limit: int = 20) -> list[tuple[str, int]]:
        """Users whose id holds a text, and how many notes each opened."""
        histories = self._recommending().ranker.histories
        wanted = text.casefold().strip()
        found = ((user, len(own)) for user, own in histories.items() if wanted in user.casefold())
        return [pair for _, pair in zip(range(limit), found, strict=False)]

    def opened(self, user_id: str, *, limit: int = 20) -> list[StoredNote]:
        """What a user opened last, the latest first, without what is removed, hidden or expired now.

        Raises:
            NotFoundError: the user is unknown.
        """
        histories = self._recommending().ranker.histories
        if user_id not in histories:
            raise NotFoundError(
                f"the user {user_id!r} is not among the {len(histories):,} users of the ranker"
            )
        notes = self._live.notes
        latest = map(notes.get, dict.fromkeys(reversed(histories[user_id])))
        return [note for note in latest if note is not None and is_visible(note)][:limit]

    def _recommending(self) -> Recommender:
        found = self._live.recommender
        if found is None:
            raise NotFoundError(_NO_RANKER)
        return found

    # ---------------------------------------------------------------- state

    @property
    def index(self) -> Index:
        """The index that answers now."""
        return self._live.index

    @property
    def model(self) -> NoteLLM:
        """The model that answers now."""
        return self._live.model

    @property
    def fingerprint(self) -> str:
        """Of the model that answers now."""
        return self._live.fingerprint

    @property
    def ranker(self) -> Ranker | None:
        """The ranker that answers now."""
        return None if self._live.recommender is None else self._live.recommender.ranker

    @property
    def notes(self) -> Mapping[str, StoredNote]:
        """All notes by their ids, as they are now."""
        return self._live.notes

    @property
    def report(self) -> Sequence[str]:
        """What was found and mended when the store was opened, in sentences; mostly nothing."""
        return self._live.store.report

    # ---------------------------------------------------------------- replacing

    def reload(self, *, index: str | None = None) -> None:
        """Read model and ranker again from where they came, and build the index anew, while all goes on.

        A model with other weights embeds every note; what is written meanwhile is embedded by the old one for
        the old index, and by the new one before the new one takes over. The former vectors are dropped only
        when the new ones were read back from the disk and found right.

        Args:
            index: another kind of index from now on; None keeps it.

        Raises:
            NotellmError: what :meth:`open` raises, or a reload goes on already. What answered before goes on.
        """
        paths = self._paths if index is None else replace(self._paths, index=index)
        with self._write_lock:
            if self._touched is not None:
                raise ConfigError("a reload goes on already; wait until it is done")
            self._touched = set()
            old = self._live
        try:
            model, ranker = _load_model(paths), _load_ranker(paths)
            fingerprint = model.verified_fingerprint()
            rows = old.store.read()
            if fingerprint != old.fingerprint:
                rows = _embedded(model, rows)
            home = IndexHome(paths.store, fingerprint, paths.index, paths.token)
            built = home.build(rows, current=old.index, progress=self.progress)
            self._exchange(paths, model, ranker, home, built, rows)
        finally:
            with self._write_lock:
                self._touched = None

    def _exchange(
        self,
        paths: "Paths",
        model: NoteLLM,
        ranker: Ranker | None,
        home: IndexHome,
        index: Index,
        rows: pa.Table,
    ) -> None:
        """Bring what was built up to date, and let it answer from now on; writers wait meanwhile."""
        with self._write_lock:
            old = self._live
            # What a failed write left in the store is read from there, as what was written meanwhile.
            touched = sorted((self._touched or set()) | self._in_doubt)
            late = old.store.get(touched)
            found = {note.note_id: note for note in notes_of(late)}
            gone = set(touched) - found.keys()
            store = old.store
            if home.fingerprint != old.fingerprint:
                late = _embedded(model, late)
            index.upsert(late)
            index.remove(gone)
            notes = dict(old.notes)
            _replace_notes(notes, found, gone)
            recommender = _recommender(ranker, index, notes)
            # Last, when nothing else can fail: a table that stays behind would miss later writes.
            if home.fingerprint != old.fingerprint:
                pieces = [_without(rows, touched), late]
                try:
                    store = NoteStore.create(
                        old.store.uri, home.fingerprint, pieces, dim=index.dim, sync=paths.sync
                    )
                    store.prove(len(notes), model.encode)
                    store.drop_others()
                except BaseException:
                    if store is not old.store:
                        store.close()
                    with suppress(StorageError):  # then it is dropped before the next write
                        old.store.drop_others()
                    raise
            self._live = _Live(model, home.fingerprint, store, home, index, notes, recommender)
            self._paths = paths
            self._in_doubt, self._refused = set(), None
            if store is not old.store:
                old.store.close()
            home.save(index)
            self._since_saved = 0
            home.drop_others()


@dataclass(frozen=True)
class Paths:
    """Where an engine's parts come from; as in :meth:`Engine.open`."""

    store: str
    model: str
    ranker: str | None
    index: str
    token: str
    sync: bool = True
    trust_remote_code: bool = False


def _after(write: Write, before: StoredNote | None) -> StoredNote | None:
    """A note after a write.

    Raises:
        NotFoundError: a note that is to be changed is not there.
        DataError: the note would have no text.
    """
    if isinstance(write, Remove):
        return None
    if isinstance(write, Publish):
        after = write.note
    elif before is None:
        raise NotFoundError(f"there is no note {write.note_id!r} to change; publish it first")
    elif unknown := write.fields.keys() - _CHANGEABLE:
        raise DataError(f"a note has no field {min(unknown)!r} to change; it has {', '.join(_CHANGEABLE)}")
    else:
        after = replace(before, **write.fields)
    if not (after.title.strip() or after.content.strip()):
        raise DataError(f"the note {write.note_id!r} has no text; give it a title or content")
    return after


def _replace_notes(
    notes: dict[str, StoredNote], found: Mapping[str, StoredNote], gone: Collection[str]
) -> None:
    """Put notes as the store has them in their places, and take those away that it has not."""
    notes.update(found)
    for note_id in gone:
        notes.pop(note_id, None)


def _same_text(before: StoredNote | None, after: StoredNote) -> bool:
    return before is not None and (
        (before.title, before.content, before.topics) == (after.title, after.content, after.topics)
    )


def is_visible(note: StoredNote) -> bool:
    """Whether a note may be shown now: it is neither hidden nor expired, by the clock that searches use."""
    return not note.hidden and (note.expires_at is None or microseconds(note.expires_at) > base.now())


def _unknown(note_id: str, live: _Live) -> NotFoundError:
    return NotFoundError(
        f"there is no note {note_id!r} among the {len(live.notes):,} notes; publish it first"
    )


def _named(live: _Live, ids: Sequence[str], scores: np.ndarray) -> Related:
    """Notes by their ids; one that is removed at this moment is passed over."""
    notes, kept = [], []
    for note_id, score in zip(ids, scores.tolist(), strict=True):
        note = live.notes.get(note_id)
        if note is not None:
            notes.append(note)
            kept.append(score)
    return Related(notes, kept)


def _without(rows: pa.Table, note_ids: Collection[str]) -> pa.Table:
    barred = set(note_ids)
    return rows.filter(pa.array([note_id not in barred for note_id in rows.column("note_id").to_pylist()]))


def _embedded(model: NoteLLM, rows: pa.Table) -> pa.Table:
    """The rows with vectors of another model, which no other thread uses yet."""
    notes = notes_of(rows)
    vectors = np.empty((len(notes), model.settings.dim), dtype=np.float32)
    for start in range(0, len(notes), _TOGETHER):
        vectors[start : start + _TOGETHER] = model.encode(notes[start : start + _TOGETHER])
    return rows_of(notes, vectors)


class _Laps:
    """Seconds of one step after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begin = perf_counter()

    def end(self, step: str) -> None:
        """A step ends, and the next one begins."""
        now = perf_counter()
        self.seconds[step] = round(now - self._begin, 2)
        self._begin = now


@contextmanager
def _without_collecting() -> Iterator[None]:
    """Make hundreds of thousands of objects that stay, without the collector walking over them all again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _load_model(paths: Paths) -> NoteLLM:
    model = NoteLLM.from_saved(paths.model, trust_remote_code=paths.trust_remote_code)
    model.eval()
    return model


def _load_ranker(paths: Paths) -> Ranker | None:
    if paths.ranker is None:
        return None
    return Ranker.from_pretrained(paths.ranker, trust_remote_code=paths.trust_remote_code)


def _recommender(ranker: Ranker | None, index: Index, notes: Mapping[str, StoredNote]) -> Recommender | None:
    return None if ranker is None else Recommender(index, ranker.with_notes(notes))
