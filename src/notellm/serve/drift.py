"""How far the serving models are behind, for Prometheus and for the page."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from notellm.engine.click_through import DAYS
from notellm.engine.drift import Drift
from notellm.engine.latest_recall import Offered
from notellm.engine.renewals import Renewal
from notellm.recommend.options import RecommendOptions
from notellm.serve.metrics import Metrics


def add_metrics(metrics: Metrics, latest: Callable[[], Drift]) -> None:
    """Add what is known of drift to the metrics of a service; what is unknown has no value.

    Args:
        metrics: the metrics.
        latest: returns what was found out last, without any work.
    """

    def known(value: Callable[[Drift], float | None]) -> Callable[[], Iterable[tuple[Sequence[str], float]]]:
        def samples() -> Iterable[tuple[Sequence[str], float]]:
            number = value(latest())
            return [] if number is None else [((), number)]

        return samples

    figures: dict[str, tuple[str, Callable[[Drift], float | None]]] = {
        "notellm_model_written_timestamp_seconds": (
            "Time of the files of the serving model",
            lambda drift: None if drift.written_at is None else drift.written_at.timestamp(),
        ),
        "notellm_model_serving_since_timestamp_seconds": (
            "Since when this process answers with the model",
            lambda drift: drift.serves_since.timestamp(),
        ),
        "notellm_visible_notes": ("Notes that are visible", lambda drift: drift.visible_notes),
        "notellm_unseen_notes": (
            "Visible notes that the serving model was not trained on",
            lambda drift: drift.unseen_notes,
        ),
        "notellm_active_users": (
            f"Users who did something in the last {DAYS} days",
            lambda drift: drift.active_users,
        ),
        "notellm_unknown_users": (
            "Active users whom the serving ranker does not know",
            lambda drift: drift.unknown_users,
        ),
        "notellm_renewal_decided_timestamp_seconds": (
            "Time of the newest decision of a renewal beside the model",
            lambda drift: None if drift.renewal is None else drift.renewal.at.timestamp(),
        ),
        "notellm_renewal_took_over": (
            "Whether the new models of that renewal took over",
            lambda drift: None if drift.renewal is None else float(drift.renewal.took_over),
        ),
    }
    for name, (text, value) in figures.items():
        metrics.gauges(name, text, (), known(value))
    metrics.counter(
        "notellm_recall_samples",
        "Clicks and likes on which recall was measured",
        ("origin",),
        lambda: (((origin,), each.samples) for origin, each in latest().recall_total.items()),
    )
    metrics.counter(
        "notellm_recall_found",
        f"Those of them whose note was among the {RecommendOptions.recall_k} candidates before the click",
        ("origin",),
        lambda: (((origin,), each.found) for origin, each in latest().recall_total.items()),
    )


def drift_json(drift: Drift) -> dict[str, Any]:
    """Return how far the serving models are behind as JSON values; times are in ISO 8601, UTC."""
    return {
        "days": DAYS,
        "model": {
            "written_at": None if drift.written_at is None else drift.written_at.isoformat(),
            "serves_since": drift.serves_since.isoformat(),
        },
        "notes": {
            "visible": drift.visible_notes,
            "unseen": drift.unseen_notes,
            "share": _share(drift.unseen_notes, drift.visible_notes),
        },
        "users": {
            "active": drift.active_users,
            "unknown": drift.unknown_users,
            "share": _share(drift.unknown_users, drift.active_users),
        },
        "recall": {
            "candidates": RecommendOptions.recall_k,
            "since": drift.recall_since.isoformat(),
            "by_day": [
                {"day": day.isoformat()} | {origin: _offered(each) for origin, each in offered.items()}
                for day, offered in drift.recall.items()
            ],
        },
        "renewal": None if drift.renewal is None else _renewal(drift.renewal),
    }


def _offered(each: Offered) -> dict[str, Any]:
    return {"samples": each.samples, "found": each.found, "rate": _share(each.found, each.samples)}


def _share(part: int | None, whole: int) -> float | None:
    """Return a share; None if it is unknown, or a share of nothing."""
    return None if part is None or not whole else round(part / whole, 6)


def _renewal(renewal: Renewal) -> dict[str, Any]:
    return {
        "at": renewal.at.isoformat(),
        "took_over": renewal.took_over,
        "reasons": list(renewal.reasons),
        "figures": [
            {"list": kind, "figure": name, **{part: round(mean, 6) for part, mean in means.items()}}
            for kind, figures in renewal.figures.items()
            for name, means in figures.items()
        ],
    }
