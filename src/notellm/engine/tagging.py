"""Tags of texts, for which the notes of the store speak.

Of the notes that the tagger knows from training, those speak that the store has, visible and with the same
topics and category. At opening the tagger also learns other notes of the store that have topics or a
category: the newest LEARNT_AT_ONCE; older ones do not speak. A note that is written later is learnt before
the next answer, at most LEARNT_BEFORE_ANSWER at a time, newest first. So no write waits for the tagger, or
fails by it. What has expired since it was learnt still counts, but is never named.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from notellm.data.note import Note
from notellm.engine.live import Live, State
from notellm.engine.requests import ExplainedTag, Tags
from notellm.progress import progress_bar
from notellm.recall.learnt import TASKS
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.tagger import Tagger
from notellm.recall.tagging.tags import Tag
from notellm.store.rows import StoredNote, is_visible

log = logging.getLogger("notellm.engine")

LEARNT_AT_ONCE = 1_000
LEARNT_BEFORE_ANSWER = 64
_BATCH = 500  # notes that are learnt together


def prepare_tagger(model: NoteLLM, notes: Mapping[str, StoredNote], *, progress: bool = False) -> None:
    """Let the notes of a store speak for tags; no other thread uses the model yet.

    Args:
        model: a model; nothing is done if it has no tagger.
        notes: all notes of the store by id, oldest first.
        progress: show a progress bar while notes are learnt.
    """
    tagger = model.tagger
    if tagger is None:
        return
    known = tagger.known
    answers = zip(known.note_ids, known.topics, known.categories, strict=True)
    agreeing = {
        note_id
        for note_id, topics, category in answers
        if (note := notes.get(note_id)) is not None
        and speaks(note)
        and (note.topics, note.category) == (topics, category)
    }
    tagger.keep_only(agreeing)
    others = [note for note in notes.values() if speaks(note) and note.note_id not in agreeing]
    others.sort(key=_newest_last)
    newest = others[-LEARNT_AT_ONCE:]
    with progress_bar(total=len(newest), unit="note", desc="tags", disable=not (progress and newest)) as bar:
        for start in range(0, len(newest), _BATCH):
            batch = newest[start : start + _BATCH]
            _learn(tagger, batch)
            bar.update(len(batch))


def speaks(note: StoredNote | None) -> bool:
    """Return whether a note may speak for tags: it is visible, and has topics or a category."""
    return note is not None and bool(note.topics or note.category) and is_visible(note)


def says_the_same(before: StoredNote | None, after: StoredNote | None) -> bool:
    """Return whether a write leaves what a note says for tags; None is a note that is not there."""
    return _said(before) == _said(after)


def write_tags(
    state: State, notes: Sequence[Note], *, topics: int | None, least: float, note_ids: Sequence[str]
) -> list[Tags]:
    """Return categories and topics of texts; see ``Engine.tags``."""
    rows = list(notes)
    with state.model_lock:
        live = state.live
        if live.model.tagger is not None:
            _learn_unheard(live.model.tagger, live, state.unheard)
        unlearnt = {task: live.model.unlearnt(task) for task in TASKS}
        found = live.model.tag(rows, topics=topics, least=least, note_ids=note_ids)

    reasons = {str(task): reason for task, reason in unlearnt.items() if reason is not None}

    def explained(tags: Sequence[Tag]) -> list[ExplainedTag]:
        return [ExplainedTag(tag.name, tag.probability, _shown(live, tag.neighbours)) for tag in tags]

    return [
        Tags(
            explained([tags.category])[0] if tags.category else None,
            explained(tags.topics),
            explained(tags.categories),
            explained(tags.more_topics),
            reasons,
        )
        for tags in found
    ]


def _learn_unheard(tagger: Tagger, live: Live, unheard: dict[str, None]) -> None:
    """Bring the tagger up to date with the notes that were written since the last answer."""
    learnt: list[StoredNote] = []
    forgotten: list[str] = []
    for note_id in reversed(list(unheard)):
        if len(learnt) == LEARNT_BEFORE_ANSWER and speaks(live.notes.get(note_id)):
            forgotten.append(note_id)  # its turn comes later; what is known of it is out of date
            continue
        # First off the list, then read: a write that comes between puts it on the list again.
        unheard.pop(note_id, None)
        note = live.notes.get(note_id)
        if note is not None and speaks(note) and len(learnt) < LEARNT_BEFORE_ANSWER:
            learnt.append(note)
        else:
            forgotten.append(note_id)
    _forget(tagger, forgotten)
    _learn(tagger, learnt)


def _learn(tagger: Tagger, notes: Sequence[StoredNote]) -> None:
    """Add or replace known notes. If that fails, they do not speak, and the log says why."""
    if not notes:
        return
    note_ids = [note.note_id for note in notes]
    try:
        tagger.learn(note_ids, notes)
    except Exception:  # the notes are stored and found, whatever the tagger meets in them
        log.exception("%d notes were not learnt for tags, so they do not speak for any", len(notes))
        _forget(tagger, note_ids)


def _forget(tagger: Tagger, note_ids: Collection[str]) -> None:
    if not note_ids:
        return
    known = tagger.known_ids
    if forgotten := [note_id for note_id in note_ids if note_id in known]:
        tagger.forget(forgotten)


def _said(note: StoredNote | None) -> tuple[str, str, tuple[str, ...], str] | None:
    """Return what a note says for tags; None if it says nothing."""
    if note is None or not speaks(note):
        return None
    return note.title, note.content, note.topics, note.category


def _newest_last(note: StoredNote) -> float:
    """Sort by the time of publication. Notes without one keep their order and come first."""
    return 0.0 if note.published_at is None else note.published_at.timestamp()


def _shown(live: Live, note_ids: Sequence[str]) -> list[StoredNote]:
    """Return those of some notes that are visible now."""
    notes = map(live.notes.get, note_ids)
    return [note for note in notes if note is not None and is_visible(note)]
