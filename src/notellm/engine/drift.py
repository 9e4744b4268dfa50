"""Drift: what says that the world has moved away from the models that serve, counted while it moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from notellm.engine.latest_recall import Offered, Origin
from notellm.engine.live import State
from notellm.engine.renewals import Renewal


@dataclass(frozen=True)
class Drift:
    """How far the serving models are behind.

    Attributes:
        written_at: time of the files of the serving model; None if it is not known.
        serves_since: since when this engine answers with the model.
        visible_notes: notes that are visible.
        unseen_notes: those of them that the model was not trained on; None if its directory does not say.
        active_users: users who did something in the last days.
        unknown_users: those of them whom the ranker does not know; None without a ranker.
        recall: what recall would have offered of the clicks of the last days, by day and origin.
        recall_total: the same, of all clicks since.
        recall_since: when the measuring of it began.
        renewal: the newest decision of a renewal beside the model; None if there is none.
    """

    written_at: datetime | None
    serves_since: datetime
    visible_notes: int
    unseen_notes: int | None
    active_users: int
    unknown_users: int | None
    recall: Mapping[date, Mapping[Origin, Offered]]
    recall_total: Mapping[Origin, Offered]
    recall_since: datetime
    renewal: Renewal | None


def drift_of(state: State) -> Drift:
    """Return how far the serving models are behind; see ``Engine.drift``."""
    live = state.live
    visible, unseen = live.unseen.counts()
    ranker = None if live.recommender is None else live.recommender.ranker
    active, unknown = state.active.counts(ranker)
    return Drift(
        written_at=live.written_at,
        serves_since=live.since,
        visible_notes=visible,
        unseen_notes=unseen,
        active_users=active,
        unknown_users=unknown,
        recall=state.latest_recall.by_day(),
        recall_total=state.latest_recall.since_start(),
        recall_since=state.latest_recall.since,
        renewal=state.renewals.newest(),
    )
