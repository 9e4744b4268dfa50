"""Reads of an engine besides related notes: finding notes, ranking, recommending, and users."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np

from notellm.engine.live import Live, State
from notellm.engine.users import Known
from notellm.errors import DataError, NotFoundError
from notellm.rank.scorer import Ranking
from notellm.recommend.recommender import Recommendations, Recommender
from notellm.store.rows import StoredNote, is_visible

_NO_RANKER = (
    "there is no ranker here; start with one (notellm serve --ranker), or train one: notellm rank train"
)


def note_by_id(live: Live, note_id: str) -> StoredNote:
    """Return a note; see ``Engine.note``."""
    note = live.notes.get(note_id)
    if note is None:
        raise live.unknown_note(note_id)
    return note


def find_notes(live: Live, text: str, *, limit: int) -> list[StoredNote]:
    """Return notes whose title holds a text; see ``Engine.find``."""
    wanted = text.casefold().strip()
    notes = [n for n in list(live.notes.values()) if wanted in (n.title or n.content).casefold()]
    dated = [n for n in notes if n.published_at is not None]
    dated.sort(key=lambda n: n.published_at or 0, reverse=True)
    undated = [n for n in reversed(notes) if n.published_at is None]
    return (dated + undated)[:limit]


def rank(
    state: State, user_id: str | None, candidates: Sequence[str], *, history: Sequence[str] | None
) -> Ranking:
    """Order candidates for a user; see ``Engine.rank``."""
    notes = state.live.notes
    pairs = ((note_id, notes.get(note_id)) for note_id in candidates)
    shown = [note_id for note_id, note in pairs if note is None or is_visible(note)]
    if candidates and not shown:
        return Ranking([], np.empty(0, dtype=np.float32), "nothing")

    def ranked() -> Ranking:
        opened = _history(state, user_id) if history is None else history
        return recommender(state).ranker.rank(user_id, shown, history=opened)

    try:
        return ranked()
    except (DataError, KeyError):
        # A note was removed while it was ranked. No write runs now, so the ranker names what was asked for.
        with state.write_lock:
            return ranked()


def recommend(
    state: State,
    user_id: str | None,
    *,
    history: Sequence[str] | None = None,
    exclude: Collection[str] = (),
    record: bool = True,
    **options: Any,
) -> Recommendations:
    """Recommend notes to a user; see ``Engine.recommend``."""
    if user_id is not None and history is None:
        exclude = {*exclude, *state.users.known(user_id).seen}

    def recommended() -> Recommendations:
        opened = _history(state, user_id) if history is None else history
        return recommender(state).recommend(user_id, history=opened, exclude=exclude, **options)

    live = state.live
    try:
        result = recommended()
    except (DataError, KeyError):
        with state.write_lock:  # a candidate, or a note that the user opened, may have been removed meanwhile
            live = state.live
            result = recommended()
    request_id = state.shown.record(user_id, result, live.fingerprint) if record else None
    reasons = {reason: state.live.notes.get(reason or "") for reason in result.reasons}
    shown = {reason for reason, note in reasons.items() if note is not None and is_visible(note)}
    kept = [reason if reason in shown else None for reason in result.reasons]
    return replace(result, reasons=kept, request_id=request_id)


def find_users(state: State, text: str, *, limit: int) -> list[tuple[str, int]]:
    """Return users whose id holds a text; see ``Engine.users``."""
    wanted = text.casefold().strip()
    histories = recommender(state).ranker.histories
    users = chain(histories, (user for user in state.users if user not in histories))
    matches = (user for user in users if wanted in user.casefold())
    return [(user, len(known_user(state, user).history)) for user in islice(matches, limit)]


def opened_notes(state: State, user_id: str, *, limit: int) -> list[StoredNote]:
    """Return the notes that a user opened last; see ``Engine.opened``."""
    histories = recommender(state).ranker.histories
    if user_id not in histories and user_id not in state.users:
        raise NotFoundError(
            f"the user {user_id!r} is not among the {len(histories):,} users of the ranker, and has no click"
        )
    latest = map(state.live.notes.get, reversed(known_user(state, user_id).history))
    return [note for note in latest if note is not None and is_visible(note)][:limit]


def _history(state: State, user_id: str | None) -> list[str] | None:
    """Return the notes of the store that a user opened, oldest first; None if the ranker knows as much."""
    if user_id is None:
        return None
    if user_id in state.users:
        return [note_id for note_id in known_user(state, user_id).history if note_id in state.live.notes]
    return None if recommender(state).ranker.knows(user_id) else []


def known_user(state: State, user_id: str) -> Known:
    """Return what the ranker and the log know of a user, who may be unknown to both."""
    return state.users.known(user_id, recommender(state).ranker.histories.get(user_id, ()))


def recommender(state: State) -> Recommender:
    """Return the recommender that answers now.

    Raises:
        NotFoundError: if there is no ranker.
    """
    if state.live.recommender is None:
        raise NotFoundError(_NO_RANKER)
    return state.live.recommender
