"""Writes of an engine: embed notes, commit them to the store, then update the indexes and the notes held."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from notellm.data.ids import check_id
from notellm.engine.live import Live, State, keep_texts
from notellm.engine.requests import Publish, Remove, Write, Written
from notellm.engine.tagging import says_the_same
from notellm.errors import DataError, NotellmError, NotFoundError, StorageError
from notellm.store.rows import StoredNote, notes_of, rows_of

#: Changed notes after which the index is saved again, so that a restart has little to add.
_SAVED_EVERY = 5_000
_CHANGEABLE = ("title", "content", "topics", "category", "published_at", "hidden", "expires_at")


def apply_writes(state: State, writes: Sequence[Write]) -> list[Written | NotellmError]:
    """Carry out writes; see ``Engine.apply``."""
    with state.write_lock:
        settle(state)
        live = state.live
        outcomes: list[Written | NotellmError] = []
        drafts: dict[str, StoredNote | None] = {}  # each note after the writes; None if it is removed
        for write in writes:
            note_id = write.note_id
            before = drafts[note_id] if note_id in drafts else live.notes.get(note_id)
            try:
                drafts[note_id] = _after(write, before)
            except NotellmError as error:
                outcomes.append(error)
            else:
                outcomes.append(Written(note_id, before is not None))
        if state.touched is not None:
            state.touched.update(drafts)
        try:
            _commit(state, drafts)
        except BaseException as error:
            state.in_doubt.update(drafts)
            if isinstance(error, StorageError):
                state.failure, state.checked_at = str(error), time.monotonic()
            with suppress(Exception):  # the next write tries it again
                settle(state)
            raise
        return outcomes


def settle(state: State) -> None:
    """Update notes and index to what the store has of the notes whose write failed.

    Raises:
        StorageError: if the store or the index still cannot be used.
    """
    if not state.in_doubt:
        return
    live = state.live
    rows = live.store.get(state.in_doubt)
    stored = {note.note_id: note for note in notes_of(rows)}
    missing = state.in_doubt - stored.keys()
    if stored:
        live.index.upsert(rows)
    live.index.remove(missing)
    replace_notes(live.notes, stored, missing)
    keep_texts(live.lexical, stored.values())
    live.lexical.remove(missing)
    live.keep_lists(stored.values(), missing)
    _forget(live, state.in_doubt)
    state.hear(state.in_doubt)
    state.in_doubt = set()


def replace_notes(
    notes: dict[str, StoredNote], stored: Mapping[str, StoredNote], missing: Collection[str]
) -> None:
    """Make notes in memory what the store has: replace those that are stored, remove those that are not."""
    notes.update(stored)
    for note_id in missing:
        notes.pop(note_id, None)


def _commit(state: State, drafts: Mapping[str, StoredNote | None]) -> None:
    """Write notes to store, index and memory; a note that is None is removed."""
    live = state.live
    upserts = [note for note in drafts.values() if note is not None]
    removed = [note_id for note_id, note in drafts.items() if note is None and note_id in live.notes]
    unheard = [i for i, note in drafts.items() if not says_the_same(live.notes.get(i), note)]
    if upserts:
        rows = rows_of(upserts, _vectors(state, live, upserts))
        live.store.write(rows, new=not any(note.note_id in live.notes for note in upserts))
        live.index.upsert(rows)
        keep_texts(
            live.lexical,
            [note for note in upserts if not _is_same_text(live.notes.get(note.note_id), note)],
        )
        live.notes.update((note.note_id, note) for note in upserts)
    if removed:
        live.store.delete(removed)
        live.index.remove(removed)
        live.lexical.remove(removed)
        for note_id in removed:
            del live.notes[note_id]
    live.keep_lists(upserts, removed)
    if upserts or removed:  # removing a note that does not exist proves nothing about the disk
        state.failure = None
    _forget(live, drafts)
    state.hear(unheard)
    state.unsaved += len(drafts)
    if state.unsaved >= _SAVED_EVERY:
        live.home.save(live.index)
        state.unsaved = 0


def _forget(live: Live, note_ids: Collection[str]) -> None:
    """Make the ranker read these notes again."""
    if live.recommender is not None:
        for note_id in note_ids:
            live.recommender.ranker.forget(note_id)


def _vectors(state: State, live: Live, notes: Sequence[StoredNote]) -> np.ndarray:
    """Return the vectors of notes, (n, dim) float32; a note whose text has not changed keeps its vector."""
    same = np.array([_is_same_text(live.notes.get(note.note_id), note) for note in notes])
    vectors = np.empty((len(notes), live.index.dim), dtype=np.float32)
    if same.any():
        unchanged = [note.note_id for note, is_same in zip(notes, same, strict=True) if is_same]
        vectors[same] = live.index.vectors(unchanged)
    if not same.all():
        changed = [note for note, is_same in zip(notes, same, strict=True) if not is_same]
        vectors[~same] = state.encode(live.model, changed)
    return vectors


def _after(write: Write, before: StoredNote | None) -> StoredNote | None:
    """Return a note after a write; None if it is removed.

    Raises:
        NotFoundError: if a note to change does not exist.
        DataError: if the id is not allowed, a field cannot be changed, or the note would have no text.
    """
    if isinstance(write, Remove):
        return None
    check_id(write.note_id)
    if isinstance(write, Publish):
        after = write.note
    elif before is None:
        raise NotFoundError(f"there is no note {write.note_id!r} to change; publish it first")
    elif unknown := write.fields.keys() - _CHANGEABLE:
        raise DataError(
            f"a note has no field {min(unknown)!r} to change; the fields are {', '.join(_CHANGEABLE)}"
        )
    else:
        after = replace(before, **write.fields)
    if not (after.title.strip() or after.content.strip()):
        raise DataError(f"the note {write.note_id!r} has no text; give it a title or content")
    return after


def _is_same_text(before: StoredNote | None, after: StoredNote) -> bool:
    return before is not None and (
        (before.title, before.content, before.topics) == (after.title, after.content, after.topics)
    )
