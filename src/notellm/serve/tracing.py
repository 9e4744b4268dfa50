"""Figures of recommended lists: counters for Prometheus, and the click-through of the last days."""

from collections.abc import Iterable, Sequence
from typing import Any

from notellm.engine.click_through import DAYS, Rate
from notellm.engine.tracing import ShownLists
from notellm.serve.metrics import Metrics


def add_metrics(metrics: Metrics, shown: ShownLists) -> None:
    """Add the counters of recommended lists, whose labels have few values, to those of a service."""
    through = shown.click_through
    by = ("source", "position")

    def shown_notes() -> Iterable[tuple[Sequence[str], float]]:
        return through.since_start()[0].items()

    def clicked_notes() -> Iterable[tuple[Sequence[str], float]]:
        return through.since_start()[1].items()

    metrics.counter(
        "notellm_recommended_notes",
        "Notes that were recommended",
        by,
        shown_notes,
    )
    metrics.counter(
        "notellm_clicked_notes",
        "Recommended notes that were opened by a click or a like that names their list",
        by,
        clicked_notes,
    )
    metrics.counter(
        "notellm_list_clicks",
        "Clicks and likes that name a list, by what became of them",
        ("outcome",),
        lambda: (((outcome,), count) for outcome, count in through.since_start()[2].items()),
    )
    metrics.counter(
        "notellm_list_write_failures",
        "Attempts to write recommended lists that failed",
        (),
        lambda: [((), shown.failures)],
    )
    metrics.counter(
        "notellm_lost_lists",
        "Recommended lists that were dropped since too many waited to be written",
        (),
        lambda: [((), shown.lost)],
    )
    metrics.gauge(
        "notellm_waiting_lists", "Recommended lists that are not written yet", lambda: shown.waiting
    )


def click_through(shown: ShownLists) -> dict[str, Any]:
    """Return how many notes were shown and opened in the last days: by source, by position and by day."""
    by_source, by_position = shown.click_through.last_days()
    return {
        "days": DAYS,
        "by_source": [{"source": key, **_json(rate)} for key, rate in by_source.items()],
        "by_position": [{"position": key, **_json(rate)} for key, rate in by_position.items()],
        "by_day": [
            {"day": day.isoformat(), **_json(rate)} for day, rate in shown.click_through.by_day().items()
        ],
    }


def _json(rate: Rate) -> dict[str, float]:
    share = rate.clicked / rate.shown if rate.shown else 0.0
    return {"shown": rate.shown, "clicked": rate.clicked, "rate": round(share, 6)}
