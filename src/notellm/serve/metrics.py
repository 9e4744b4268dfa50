"""Counters and times: for Prometheus, and a few figures of the last requests for the page."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

#: Returns the values of the labels and the count of each of several counters.
Counts: TypeAlias = Callable[[], Iterable[tuple[Sequence[str], float]]]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LAST = 2_000  # requests from which the figures of the page are computed
_REFUSED = frozenset({401, 403, 408, 413, 429, 503})


class Metrics:
    """The counters of one service.

    Only the thread of the event loop may call these methods, except those that add figures.

    Attributes:
        in_flight: how many requests are worked on.
        arriving: of how many requests the body is being received.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = self.arriving = 0
        self._begin = time.monotonic()
        self._names: Counter[str] = Counter()
        self._refused = self._failed = 0
        self._last: deque[tuple[float, float]] = deque(maxlen=_LAST)  # times and durations
        self._seconds = Histogram(
            "notellm_request_seconds",
            "Time from a request to its answer",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = PrometheusCounter(
            "notellm_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._refusals = PrometheusCounter(
            "notellm_refused",
            "Requests refused before they were worked on",
            ["reason"],
            registry=self.registry,
        )
        self._batches = Histogram(
            "notellm_batch_size",
            "Requests computed together",
            ["what"],
            buckets=_BATCHES,
            registry=self.registry,
        )
        self._children: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self.gauge("notellm_in_flight", "Requests being worked on", lambda: self.in_flight)
        self.gauge("notellm_arriving", "Requests whose body is being received", lambda: self.arriving)

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a figure whose value is read whenever the metrics are asked for."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def gauges(self, name: str, text: str, labels: Sequence[str], counts: Counts) -> None:
        """Add figures as :meth:`counter` adds counters; one that is not returned is not known."""
        self.registry.register(_Counts(GaugeMetricFamily, name, text, labels, counts))

    def counter(self, name: str, text: str, labels: Sequence[str], counts: Counts) -> None:
        """Add counters that are kept elsewhere, and read whenever the metrics are asked for.

        Args:
            name: their name.
            text: what they count.
            labels: names of their labels.
            counts: returns the values of the labels and the count of each counter.
        """
        self.registry.register(_Counts(CounterMetricFamily, name, text, labels, counts))

    def request(self, method: str, route: str, status: int, seconds: float, refused: str | None) -> None:
        """Count an answered request; ``refused`` is the code if the guard refused it."""
        if method not in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
            method = "other"  # clients can invent methods, and each would stay in memory
        key = (method, route, str(status))
        children = self._children.get(key)
        if children is None:
            children = self._seconds.labels(method, route), self._requests.labels(*key)
            self._children[key] = children
        children[0].observe(seconds)
        children[1].inc()
        if refused is not None:
            self._refusals.labels(refused).inc()
        self._refused += status in _REFUSED
        self._failed += status >= 500 and status != 503
        if route.startswith("/v1/"):
            self._names[route.split("/")[2]] += 1
            self._last.append((time.monotonic(), seconds))

    def refused(self, reason: str) -> None:
        """Count the refusal of a connection, or of a request whose headers were not accepted."""
        self._refusals.labels(reason).inc()
        self._refused += 1

    def batch(self, what: str, size: int) -> None:
        """Count a batch of a queue."""
        self._batches.labels(what).observe(size)

    def text(self) -> bytes:
        """Return all counters in the format of Prometheus."""
        return generate_latest(self.registry)

    def traffic(self) -> dict[str, Any]:
        """Return the figures of the page; rate and times are of the last minute, at most 2,000 requests."""
        now = time.monotonic()
        recent = [(when, took) for when, took in self._last.copy() if when > now - 60]
        took = np.array([seconds for _, seconds in recent])
        span = max(1.0, min(60.0, now - self._begin, now - recent[0][0] if len(recent) == _LAST else 60.0))
        p50, p99 = np.percentile(took, [50, 99]) * 1e3 if len(took) else (None, None)
        return {
            "uptime_s": round(now - self._begin, 1),
            "requests": self._names.copy(),
            "per_second": round(len(recent) / span, 2),
            "p50_ms": None if p50 is None else round(float(p50), 2),
            "p99_ms": None if p99 is None else round(float(p99), 2),
            "refused": self._refused,
            "failed": self._failed,
            "in_flight": self.in_flight,
        }


_Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily


class _Counts(Collector):
    """Counters or gauges whose values are read when they are asked for."""

    def __init__(
        self, kind: type[_Family], name: str, text: str, labels: Sequence[str], counts: Counts
    ) -> None:
        self._kind = kind
        self._names = name, text, labels
        self._counts = counts

    def collect(self) -> Iterator[_Family]:
        name, text, labels = self._names
        family = self._kind(name, text, labels=labels)
        for values, count in self._counts():
            family.add_metric(values, count)
        yield family
