"""Building a store: notes from a dataset, or those of the store itself, with the vectors of a model.

A new store is there when it is complete, and it replaces the vectors of another model only when it was read
back and found right. Notes that are added to one come in commits of a few thousand, so a killed build has
those that it had, and the next one embeds what is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from notellm.data.schema import NOTES
from notellm.errors import ConfigError, DataError
from notellm.recall.model import NoteLLM
from notellm.record import read_record
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote, notes_of, rows_of, rows_schema
from notellm.store.tables import versions
from notellm.vectors import read_vectors

_TOGETHER = 4_096


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        notes: in the store now.
        embedded: vectors that were computed.
        kept: given notes that were there already, as they are.
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
    """Make a store, add notes to one, or give all its notes the vectors of another model.

    Args:
        uri: the store.
        model: whose vectors it shall hold.
        notes: notes table (schema ``data.schema.NOTES``): added, or replaced where their text or attributes
            differ; what hides or expires notes stays. None: those that the store has.
        vectors: of these notes and this model, from ``recall.embed.embed_to_parquet``; None embeds here.
        progress: show a bar.

    Raises:
        ConfigError: there are no notes, neither given nor in the store.
        DataError: the vectors are not of these notes, or of another model.
        StorageError: the store cannot be written, is damaged, or does not hold what was written to it; the
            former vectors are there then.
    """
    fingerprint = model.fingerprint()
    known = versions(uri)
    if notes is None and not known:
        raise ConfigError(f"{uri} is not a store yet: give the notes that it shall hold")
    given = [] if notes is None else _stored(notes)
    ready = {} if vectors is None else _ready(vectors, given, fingerprint)
    if fingerprint in known:
        return _add(NoteStore.open(uri, fingerprint), model, given, ready, progress=progress)
    before: dict[str, StoredNote] = {}
    if known:
        store = NoteStore.open(uri, known[-1])
        before = {note.note_id: note for note in notes_of(store.read())}
        store.close()
    merged = before | {note.note_id: _keeping(before.get(note.note_id), note) for note in given}
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
    given: list[StoredNote],
    ready: dict[str, np.ndarray],
    *,
    progress: bool,
) -> Built:
    """Add notes to the store of this model."""
    try:
        before = {note.note_id: note for note in notes_of(store.read())}
        new = [_keeping(before.get(note.note_id), note) for note in given]
        changed = [note for note in new if before.get(note.note_id) != note]
        for rows in _embedded(model, changed, ready, progress=progress):
            store.write(rows)
        computed = sum(note.note_id not in ready for note in changed)
        return Built(len(store), computed, len(given) - len(changed))
    finally:
        store.close()


def _embedded(
    model: NoteLLM, notes: list[StoredNote], ready: dict[str, np.ndarray], *, progress: bool
) -> Iterator[pa.Table]:
    """The notes with their vectors, piece by piece; at least one piece."""
    if not notes:
        yield rows_schema(model.settings.dim).empty_table()
    with tqdm(total=len(notes), unit="note", desc="store", disable=not progress) as bar:
        for start in range(0, len(notes), _TOGETHER):
            piece = notes[start : start + _TOGETHER]
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
    """The notes of a table as the store has them."""
    missing = [name for name in NOTES.names if name not in notes.column_names]
    if missing:
        raise DataError(f"the notes have no column {missing[0]!r}; validate() fills in what is optional")
    count = notes.num_rows
    whole = notes.select(NOTES.names)
    whole = whole.append_column("hidden", pa.array([False] * count, pa.bool_()))
    return notes_of(whole.append_column("expires_at", pa.nulls(count, pa.timestamp("us", tz="UTC"))))


def _keeping(before: StoredNote | None, note: StoredNote) -> StoredNote:
    """A note of a table, hidden and expiring as it is in the store."""
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


def _ready(path: str | Path, given: list[StoredNote], model: str) -> dict[str, np.ndarray]:
    """Vectors from a file, of the notes that were given.

    Raises:
        DataError: a note has none, or they are of another model.
    """
    made_by = read_record(path)["data"].get("model", {}).get("fingerprint")
    if made_by != model:
        raise DataError(
            f"{path} was made by the model {made_by}, not by {model}; embed the notes with this model, or "
            "leave the vectors out"
        )
    ids, table = read_vectors(path)
    found = dict(zip(ids, table, strict=True))
    for note in given:
        if note.note_id not in found:
            raise DataError(f"{path} has no vector of the note {note.note_id!r}; embed the same notes")
    return {note.note_id: found[note.note_id] for note in given}
