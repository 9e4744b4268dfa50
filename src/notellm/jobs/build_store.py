"""Build a store from a dataset, or give the notes of a store the vectors of another model.

A new store becomes visible when it is complete, and it replaces the vectors of another model only after it
was read back and checked. Notes are added to an existing store in commits of a few thousand, so the next
build after a killed one embeds only the notes that are missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from notellm.data.ids import check_ids
from notellm.data.schema import NOTES
from notellm.errors import ConfigError, DataError
from notellm.jobs.folders import has_states
from notellm.progress import progress_bar
from notellm.recall.made_by import check_maker, maker_of
from notellm.recall.model import NoteLLM
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, notes_of, rows_of, rows_schema
from notellm.store.tables import versions
from notellm.vectors import read_vectors

_BATCH_NOTES = 4_096


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        notes: number of notes in the store after the build.
        embedded: number of vectors that were computed.
        kept: number of the notes to add that the store already held unchanged.
    """

    notes: int
    embedded: int
    kept: int


def build_store(
    uri: str | Path,
    model: NoteLLM,
    notes: pa.Table | None = None,
    *,
    vectors: str | Path | None = None,
    progress: bool = True,
) -> Built:
    """Make a store, add notes to it, or give all its notes the vectors of another model.

    Args:
        uri: the store.
        model: model whose vectors the store will hold.
        notes: notes table (schema ``data.schema.NOTES``). New notes are added, and notes whose text or
            attributes differ are replaced; hidden notes stay hidden and expiry times stay, unless the table
            has the columns ``hidden`` and ``expires_at``, as an export has. None takes the notes of the
            store.
        vectors: file of the vectors of these notes by this model, from ``recall.embed.embed_to_parquet``;
            None computes them here.
        progress: show a progress bar.

    Raises:
        ConfigError: if there are no notes, neither in the table nor in a store.
        DataError: if an id is not allowed (``data.ids``), or the vectors lack some of the notes, or are those
            of another model.
        StorageError: if the store cannot be written, is damaged, or does not return what was written; the
            earlier vectors are kept then.
    """
    fingerprint = model.fingerprint()
    models = versions(uri)
    if notes is None and not models:
        raise ConfigError(f"{uri} is not a store yet; give the notes that it is to hold")
    new_notes = [] if notes is None else _stored(notes)
    states = notes is not None and has_states(notes)
    ready = {} if vectors is None else _read_vectors(vectors, new_notes, fingerprint)
    if fingerprint in models:
        return _add(
            NoteStore.open(uri, fingerprint), model, new_notes, ready, states=states, progress=progress
        )
    before: dict[str, StoredNote] = {}
    if models:
        store = NoteStore.open(uri, models[-1])
        before = {note.note_id: note for note in notes_of(store.read())}
        store.close()
    if not states:
        new_notes = [_keeping_state(before.get(note.note_id), note) for note in new_notes]
    merged = before | {note.note_id: note for note in new_notes}
    rows = _embedded(model, list(merged.values()), ready, progress=progress)
    store = NoteStore.create(uri, fingerprint, rows, dim=model.settings.dim)
    try:
        store.prove(len(merged), model.encode)
    except BaseException:
        store.discard()
        raise
    store.drop_others()
    store.close()
    return Built(len(merged), len(merged) - len(ready), 0)


def _add(
    store: NoteStore,
    model: NoteLLM,
    notes: list[StoredNote],
    ready: dict[str, np.ndarray],
    *,
    states: bool,
    progress: bool,
) -> Built:
    """Add notes to the store of this model, and close it."""
    try:
        before = {note.note_id: note for note in notes_of(store.read())}
        if not states:
            notes = [_keeping_state(before.get(note.note_id), note) for note in notes]
        changed = [note for note in notes if before.get(note.note_id) != note]
        for rows in _embedded(model, changed, ready, progress=progress):
            store.write(rows)
        computed = sum(note.note_id not in ready for note in changed)
        return Built(len(store), computed, len(notes) - len(changed))
    finally:
        store.close()


def _embedded(
    model: NoteLLM, notes: list[StoredNote], ready: dict[str, np.ndarray], *, progress: bool
) -> Iterator[pa.Table]:
    """Yield the notes with their vectors in batches; if there are no notes, one empty batch."""
    if not notes:
        yield rows_schema(model.settings.dim).empty_table()
    with progress_bar(total=len(notes), unit="note", desc="store", disable=not progress) as bar:
        for start in range(0, len(notes), _BATCH_NOTES):
            piece = notes[start : start + _BATCH_NOTES]
            vectors = np.empty((len(piece), model.settings.dim), dtype=np.float32)
            missing = [i for i, note in enumerate(piece) if note.note_id not in ready]
            for i, note in enumerate(piece):
                if note.note_id in ready:
                    vectors[i] = ready[note.note_id]
            if missing:
                vectors[missing] = model.encode([piece[i] for i in missing])
            yield rows_of(piece, vectors)
            bar.update(len(piece))


def _stored(notes: pa.Table) -> list[StoredNote]:
    """Return the notes of a table as the store holds them: visible, unless the table says otherwise."""
    missing = [name for name in NOTES.names if name not in notes.column_names]
    if missing:
        raise DataError(f"the notes have no column {missing[0]!r}; validate() adds the optional columns")
    count = notes.num_rows
    check_ids(notes["note_id"])  # here, since notes are embedded before they are written
    if has_states(notes):
        return notes_of(notes)
    rows = notes.select(NOTES.names)
    rows = rows.append_column("hidden", pa.array([False] * count, pa.bool_()))
    return notes_of(rows.append_column("expires_at", pa.nulls(count, pa.timestamp("us", tz="UTC"))))


def _keeping_state(before: StoredNote | None, note: StoredNote) -> StoredNote:
    """Return a note of a table, hidden and expiring like the same note in the store."""
    if before is None or (not before.hidden and before.expires_at is None):
        return note
    return StoredNote(
        note.title,
        note.content,
        note.topics,
        note.category,
        note.note_id,
        note.published_at,
        before.hidden,
        before.expires_at,
    )


def _read_vectors(path: str | Path, notes: list[StoredNote], model: str) -> dict[str, np.ndarray]:
    """Return the vectors of some notes from a file.

    Args:
        path: file of vectors with its record.
        notes: notes that need a vector.
        model: fingerprint of the model that must have made the vectors.

    Raises:
        DataError: if a note has no vector, or another model made them.
    """
    made_by = maker_of(path)
    if made_by is None:  # a store lasts, and nobody could tell afterwards
        raise DataError(
            f"{path} carries no record of the model that made its vectors, so a store does not take them; "
            "embed the notes with this model, or leave the vectors out"
        )
    check_maker(path, made_by, "this model", model)
    ids, table = read_vectors(path)
    vectors = dict(zip(ids, table, strict=True))
    for note in notes:
        if note.note_id not in vectors:
            raise DataError(f"{path} has no vector of the note {note.note_id!r}; embed the same notes")
    return {note.note_id: vectors[note.note_id] for note in notes}
