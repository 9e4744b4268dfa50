"""The map: notes in two dimensions, by t-SNE of their vectors (van der Maaten and Hinton 2008).

The map is computed once in the background, for at most `MOST` notes; if there are more, a random sample is
mapped. A note that is published later is placed between the mapped notes nearest to it. Notes that are hidden
or expired when the map is asked for are left out of the answer.
"""

import threading
from typing import Any

import numpy as np

from notellm.data.note import TITLE_LENGTH
from notellm.engine.engine import Engine
from notellm.store.index.base import vectors_there
from notellm.store.index.filters import Filter
from notellm.store.rows import is_visible

MOST = 2_000
_LATE = 200  # the newest notes that are looked at for notes published after the map was computed
_NEAREST = 3  # mapped notes between which such a note is placed


class NoteMap:
    """The map of an engine's notes.

    Args:
        engine: has the notes and their vectors.
        seed: seeds the sample and t-SNE.
    """

    def __init__(self, engine: Engine, *, seed: int = 0) -> None:
        self._engine = engine
        self._seed = seed
        self._places: dict[str, tuple[float, float]] = {}
        self._model = ""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Compute the map in a separate thread, unless it exists or is being computed."""
        with self._lock:
            # The map of an empty store is computed again once there are notes.
            stale = self._model != self._engine.fingerprint or not (self._places or not self._engine.notes)
            if stale and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._compute, name="notellm-map", daemon=True)
                self._thread.start()

    def answer(self) -> dict[str, Any]:
        """Return ids, titles, categories and positions of visible notes; not "ready" while they are computed.

        Notes may be written and removed at the same time.
        """
        self.start()
        places = self._places
        if not places:
            return {"ready": False, "note_ids": [], "titles": [], "categories": [], "x": [], "y": []}
        notes = self._engine.notes
        late = [note_id for note_id in list(notes)[-_LATE:] if note_id not in places]
        places = {**places, **self._between(late, places)}
        shown = [note for i in places if (note := notes.get(i)) is not None and is_visible(note)]
        return {
            "ready": True,
            "note_ids": [note.note_id for note in shown],
            "titles": [note.display_title[:TITLE_LENGTH] for note in shown],
            "categories": [note.category for note in shown],
            "x": [places[note.note_id][0] for note in shown],
            "y": [places[note.note_id][1] for note in shown],
        }

    def _between(
        self, late: list[str], places: dict[str, tuple[float, float]]
    ) -> dict[str, tuple[float, float]]:
        """Return positions of notes that the map lacks: the mean of the nearest mapped notes."""
        index = self._engine.index
        known, vectors = vectors_there(index, late)
        if not len(vectors):
            return {}
        indexed = [note_id for note_id, present in zip(late, known, strict=True) if present]
        neighbours, _ = index.search(vectors, _NEAREST, where=Filter(allow=frozenset(places)))
        between = {}
        for note_id, nearest in zip(indexed, neighbours, strict=True):
            if nearest:
                x, y = np.mean([places[neighbour] for neighbour in nearest], axis=0)
                between[note_id] = (round(float(x), 4), round(float(y), 4))
        return between

    def _compute(self) -> None:
        from sklearn.manifold import TSNE  # noqa: PLC0415 - takes seconds to import

        model = self._engine.fingerprint
        ids = [note.note_id for note in list(self._engine.notes.values()) if is_visible(note)]
        generator = np.random.default_rng(self._seed)
        if len(ids) > MOST:
            ids = [ids[i] for i in np.sort(generator.choice(len(ids), MOST, replace=False))]
        known, vectors = vectors_there(self._engine.index, ids)
        ids = [note_id for note_id, present in zip(ids, known, strict=True) if present]
        if len(ids) < 5:  # too few for t-SNE: they are put on a circle
            angles = np.arange(len(ids)) * 2.4
            flat = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        else:
            perplexity = min(30, (len(ids) - 1) / 3)
            maker = TSNE(
                perplexity=perplexity, init="pca", metric="cosine", random_state=self._seed, n_jobs=1
            )
            flat = maker.fit_transform(vectors)
        low, high = (flat.min(axis=0), flat.max(axis=0)) if len(flat) else (np.zeros(2), np.ones(2))
        flat = (flat - low) / np.maximum(high - low, 1e-9)
        self._places = {
            i: (round(float(x), 4), round(float(y), 4)) for i, (x, y) in zip(ids, flat, strict=True)
        }
        self._model = model
