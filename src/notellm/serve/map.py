"""The notes in two dimensions: near notes are near (t-SNE of their vectors, van der Maaten and Hinton 2008).

Computed once in the background, for at most `MOST` notes, drawn where there are more. A note that is
published later is put between the mapped notes that are nearest to it. No answer has notes that are hidden or
expired at its time.
"""

import threading
from typing import Any

import numpy as np

from notellm.engine.engine import Engine
from notellm.store.index.base import vectors_there
from notellm.store.index.filters import Filter
from notellm.store.rows import is_visible

MOST = 2_000
_LATE = 200  # notes published since, at most
_NEAREST = 3


class NoteMap:
    """The map of an engine's notes.

    Args:
        engine: whose notes.
        seed: of the draw and of t-SNE.
    """

    def __init__(self, engine: Engine, *, seed: int = 0) -> None:
        self._engine = engine
        self._seed = seed
        self._places: dict[str, tuple[float, float]] = {}
        self._model = ""
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Compute it in a thread of its own, unless it is there or under way."""
        with self._lock:
            # A map of no notes is made anew once there are some.
            stale = self._model != self._engine.fingerprint or not (self._places or not self._engine.notes)
            if stale and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._compute, name="notellm-map", daemon=True)
                self._thread.start()

    def answer(self) -> dict[str, Any]:
        """Ids, titles, categories and places of visible notes; not ready where it is still computed.

        Notes may come, change and go meanwhile.
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
            "titles": [(note.title or note.content)[:120] for note in shown],
            "categories": [note.category for note in shown],
            "x": [places[note.note_id][0] for note in shown],
            "y": [places[note.note_id][1] for note in shown],
        }

    def _between(
        self, late: list[str], places: dict[str, tuple[float, float]]
    ) -> dict[str, tuple[float, float]]:
        """Places of notes that came after the map was made, between those of the nearest mapped notes."""
        index = self._engine.index
        known, vectors = vectors_there(index, late)
        if not len(vectors):
            return {}
        there = [note_id for note_id, kept in zip(late, known, strict=True) if kept]
        near, _ = index.search(vectors, _NEAREST, where=Filter(allow=frozenset(places)))
        found = {}
        for note_id, own in zip(there, near, strict=True):
            if own:
                x, y = np.mean([places[other] for other in own], axis=0)
                found[note_id] = (round(float(x), 4), round(float(y), 4))
        return found

    def _compute(self) -> None:
        from sklearn.manifold import TSNE  # noqa: PLC0415 - it takes seconds to import

        model = self._engine.fingerprint
        ids = [note.note_id for note in list(self._engine.notes.values()) if is_visible(note)]
        generator = np.random.default_rng(self._seed)
        if len(ids) > MOST:
            ids = [ids[i] for i in np.sort(generator.choice(len(ids), MOST, replace=False))]
        known, vectors = vectors_there(self._engine.index, ids)
        ids = [note_id for note_id, kept in zip(ids, known, strict=True) if kept]
        if len(ids) < 5:  # too few to say what is near
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
