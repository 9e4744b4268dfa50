"""Replacing the model, the ranker and the index of an engine while it goes on answering.

The new parts are built beside the ones that answer. Notes written meanwhile go to the old parts. At the end
writers wait while these notes are added to the new parts and `state.live` is replaced.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from notellm.engine.live import Live, Paths, State, keep_texts, recommender_of
from notellm.engine.tagging import prepare_tagger
from notellm.engine.unseen import Unseen
from notellm.engine.writing import replace_notes
from notellm.errors import ConfigError, StorageError
from notellm.rank.scorer import Ranker
from notellm.recall.model import NoteLLM
from notellm.store.index.base import Index
from notellm.store.index.home import IndexHome
from notellm.store.notes import NoteStore
from notellm.store.rows import notes_of, rows_of

_BATCH = 1_024  # notes that are embedded together


def reload_state(state: State, *, index: str | None, progress: bool) -> None:
    """Replace model, ranker and index; see ``Engine.reload``."""
    paths = state.paths if index is None else replace(state.paths, index=index)
    with state.write_lock:
        if state.touched is not None:
            raise ConfigError("a reload is already running; wait until it is done")
        state.touched = set()
        old = state.live
    try:
        model, ranker = paths.load_model(), paths.load_ranker()
        written_at, trained = paths.written_at(), paths.trained_notes()
        fingerprint = model.verified_fingerprint()
        paths.check_ranker(ranker, fingerprint)  # before the notes are embedded
        rows = old.store.read()
        if fingerprint != old.fingerprint:
            rows = _embedded(model, rows)
        notes = {note.note_id: note for note in notes_of(rows)}
        prepare_tagger(model, notes, progress=progress)
        unseen = Unseen(trained, notes.values())
        home = paths.home(fingerprint)
        new_index = home.build(rows, current=old.index, progress=progress)
        _exchange(state, paths, model, ranker, home, new_index, rows, unseen, written_at)
    finally:
        with state.write_lock:
            state.touched = None


def _exchange(
    state: State,
    paths: Paths,
    model: NoteLLM,
    ranker: Ranker | None,
    home: IndexHome,
    index: Index,
    rows: pa.Table,
    unseen: Unseen,
    written_at: datetime | None,
) -> None:
    """Add what was written while the new parts were built, and let them answer.

    Args:
        state: the state of the engine.
        paths: where the new parts come from.
        model: the new model.
        ranker: the new ranker.
        home: the place of the new index.
        index: an index of ``rows``.
        rows: the rows of the store when the reload began, with vectors of the new model.
        unseen: those of these notes that the new model was not trained on.
        written_at: time of the files of the new model.
    """
    with state.write_lock:
        old = state.live
        is_other_model = home.fingerprint != old.fingerprint
        # The store tells what became of failed writes, as of all that was written meanwhile.
        touched = sorted((state.touched or set()) | state.in_doubt)
        late_rows = old.store.get(touched)
        late_notes = {note.note_id: note for note in notes_of(late_rows)}
        missing = set(touched) - late_notes.keys()
        if is_other_model:
            late_rows = _embedded(model, late_rows)
        index.upsert(late_rows)
        index.remove(missing)
        notes = dict(old.notes)
        replace_notes(notes, late_notes, missing)
        exposure = state.shown.click_through.exposure
        recommender = recommender_of(
            ranker, index, notes, old.newest, exposure, state.users, home.fingerprint, paths
        )
        store = old.store
        # The new table comes last, when nothing else can fail: if it were left behind, it would miss writes.
        if is_other_model:
            pieces = [_without(rows, touched), late_rows]
            store = _replaced_store(old.store, model, home.fingerprint, pieces, len(notes), sync=paths.sync)
        lexical, newest = old.lexical, old.newest  # texts and times do not depend on the model
        keep_texts(lexical, late_notes.values())
        lexical.remove(missing)
        since = datetime.now(UTC) if is_other_model else old.since
        live = Live(
            model,
            home.fingerprint,
            store,
            home,
            index,
            notes,
            lexical,
            newest,
            unseen,
            recommender,
            written_at,
            since,
        )
        live.keep_lists(late_notes.values(), missing)
        state.live = live
        state.paths = paths
        state.hear(touched)
        state.in_doubt, state.failure = set(), None
        if store is not old.store:
            old.store.close()
        home.save(index)
        state.unsaved = 0
        home.drop_others()


def _replaced_store(
    old: NoteStore, model: NoteLLM, fingerprint: str, pieces: list[pa.Table], count: int, *, sync: bool
) -> NoteStore:
    """Write a table with vectors of another model, verify it, and drop the former one."""
    new: NoteStore | None = None
    try:
        new = NoteStore.create(old.uri, fingerprint, pieces, dim=model.settings.dim, sync=sync)
        new.prove(count, model.encode)
        new.drop_others()
    except BaseException:
        if new is not None:
            new.close()
        with suppress(StorageError):  # then it is dropped before the next write
            old.drop_others()
        raise
    return new


def _without(rows: pa.Table, note_ids: Collection[str]) -> pa.Table:
    excluded = set(note_ids)
    ids = rows.column("note_id").to_pylist()
    return rows.filter(pa.array([note_id not in excluded for note_id in ids]))


def _embedded(model: NoteLLM, rows: pa.Table) -> pa.Table:
    """Return the rows with vectors of another model, which no other thread uses yet."""
    notes = notes_of(rows)
    vectors = np.empty((len(notes), model.settings.dim), dtype=np.float32)
    for start in range(0, len(notes), _BATCH):
        vectors[start : start + _BATCH] = model.encode(notes[start : start + _BATCH])
    return rows_of(notes, vectors)
