"""Clicks of an engine: write them to the log, hold the latest in memory, count them, and forget users."""

from collections.abc import Sequence

from notellm.engine.live import State
from notellm.engine.requests import Clicked, Forgotten
from notellm.errors import NotellmError
from notellm.store.clicks import Click


def write_clicks(state: State, requests: Sequence[Sequence[Click]]) -> list[Clicked | NotellmError]:
    """Write clicks of several requests in one commit; see ``Engine.click``."""
    outcomes: list[Clicked | NotellmError] = []
    accepted: list[Click] = []
    counts: list[int] = []
    with state.click_lock:
        for clicks in requests:
            try:
                state.clicks.check(clicks)
            except NotellmError as error:
                outcomes.append(error)
                counts.append(0)
            else:
                notes = state.live.notes
                unknown = dict.fromkeys(each.note_id for each in clicks if each.note_id not in notes)
                outcomes.append(Clicked(len(clicks), 0, list(unknown)))
                counts.append(len(clicks))
                accepted += clicks
        written = state.clicks.append(accepted, checked=True) if accepted else []
        new = [click for click in written if click is not None]
        state.users.add(new)
        state.active.add(new)
        state.latest_recall.offer(new)
        state.shown.click_through.click(new)
    start = 0
    for i, (outcome, count) in enumerate(zip(outcomes, counts, strict=True)):
        if isinstance(outcome, Clicked):
            kept = sum(click is not None for click in written[start : start + count])
            outcomes[i] = Clicked(kept, count - kept, outcome.unknown_notes)
            start += count
    return outcomes


def forget_user(state: State, user_id: str) -> Forgotten:
    """Forget a user; see ``Engine.forget_user``."""
    with state.click_lock:
        count = state.clicks.forget(user_id)
        state.users.forget(user_id)
        state.active.forget(user_id)
    lists = state.shown.forget(user_id)
    recommender = state.live.recommender
    known = recommender is not None and recommender.ranker.knows(user_id)
    return Forgotten(count, lists, known)
