"""Tags as commands and services ask for them: chosen among known names, and nothing where none is known.

A model with a tagger chooses among the names of its known notes. A model without one chooses a category among
those that its settings name, if they name any, and writes topics freely.
"""

import hashlib
from collections.abc import Sequence

from notellm.data.note import Notes
from notellm.recall.learnt import TASKS
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.tagger import LEAST
from notellm.recall.tagging.tags import NoteTags


def known_tags(
    model: NoteLLM,
    notes: Notes,
    *,
    topics: int | None = None,
    least: float = LEAST,
    note_ids: Sequence[str] = (),
) -> list[NoteTags]:
    """Return the tags of notes; a task that is not learnt, or has no known category, is left empty.

    Args:
        model: the model.
        notes: a notes table or a list of notes.
        topics: number of topics of each note; None lets the probabilities decide.
        least: least probability of a category, and of topics if ``topics`` is None.
        note_ids: ids of the notes; a known note then does not speak for itself.

    Raises:
        ConfigError: if topics is not positive, or least is not a probability.
        DataError: if there are no notes.
    """
    if model.tagger is not None:
        tasks = [task for task in TASKS if task in model.tagger.voices]
        return model.tag(notes, tasks=tasks, topics=topics, least=least, note_ids=note_ids)
    named = model.settings.categories or None
    tasks = [task for task in TASKS if task != "category" or named]
    return model.tag(notes, tasks=tasks, topics=topics, least=least, categories=named)


def tagger_digest(model: NoteLLM) -> str | None:
    """Return a hash of a model's tagger, which its fingerprint does not cover; None if it has none."""
    if model.tagger is None:
        return None
    known = model.tagger.known
    digest = hashlib.sha256(repr(model.tagger.to_json()).encode())
    for note in zip(known.note_ids, known.topics, known.categories, strict=True):
        digest.update(repr(note).encode())
    for values in (known.counts.indptr, known.counts.indices, known.counts.data):
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]
