"""What a service needs around an engine: queues, counters, readiness, the map, and reloading.

Related notes, writes, tags, ranking and clicks each have a separate queue (`batching.py`), so that a long
ranking does not delay a search.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from notellm.engine.engine import Engine
from notellm.engine.requests import Clicked, Related, RelatedQuery, Tags, TagsQuery, Write, Written
from notellm.errors import NotellmError
from notellm.serve import drift, tracing
from notellm.serve.batching import Batcher, Gatherer
from notellm.serve.failures import without_paths
from notellm.serve.log import log
from notellm.serve.map import NoteMap
from notellm.serve.metrics import Metrics
from notellm.store.clicks import Click
from notellm.version import __version__

#: For each queue, the most questions that are computed together, and the most that may wait.
_RELATED, _WRITES, _TAGS, _RANKING = (64, 256), (64, 256), (16, 64), (8, 32)
_CLICKS = (256, 1024)
#: Seconds between two commits: a commit costs about as much for one write as for fifty (benchmarks.service).
_WRITE_PAUSE = 0.01
#: A quick index (`Index.is_quick`) answers requests for at most this many results in the event loop.
_FEW = 100
_READY_FOR = 1.0  # seconds for which readiness is remembered, since anybody may ask for it


class Service:
    """An engine with its queues, counters and map.

    Args:
        engine: answers the questions.
        keys: whether API keys are needed, which the page shows.
    """

    def __init__(self, engine: Engine, *, keys: bool) -> None:
        self.engine = engine
        self.keys = keys
        self.metrics = Metrics()
        self.map = NoteMap(engine)
        self.reload_error: str | None = None
        self._readiness: asyncio.Future[str | None] | None = None
        self._readiness_until = 0.0
        self._not_ready: str | None = None  # the reason that was logged last
        self.reloading: asyncio.Task[None] | None = None
        self.related: Batcher[RelatedQuery, Related] = self._batcher("related", engine.related, _RELATED)
        self._related_now: Gatherer[RelatedQuery, Related] = Gatherer(
            "related", engine.related, seen=self.metrics.batch
        )
        self.writes: Batcher[list[Write], list[Written | NotellmError]] = self._batcher(
            "writes", self._apply, _WRITES, pause=_WRITE_PAUSE
        )
        self.tags: Batcher[TagsQuery, Tags] = self._batcher("tags", self._tag, _TAGS)
        self.ranking: Batcher[Callable[[], Any], Any] = self._batcher("ranking", _each, _RANKING)
        self.clicks: Batcher[list[Click], Clicked] = self._batcher(
            "clicks", engine.click, _CLICKS, pause=_WRITE_PAUSE
        )
        self._batchers: list[Batcher[Any, Any]] = [
            self.related,
            self.writes,
            self.tags,
            self.ranking,
            self.clicks,
        ]
        for batcher in self._batchers:
            self.metrics.gauge(f"notellm_waiting_{batcher.name}", "Requests that wait", batcher.__len__)
        self.metrics.gauge("notellm_notes", "Notes in the store", lambda: len(engine.notes))
        tracing.add_metrics(self.metrics, engine.shown)
        self._drift = engine.drift()
        drift.add_metrics(self.metrics, lambda: self._drift)
        self._free_bytes: int | None = None
        self.metrics.gauge("notellm_ready", "Whether requests are taken", lambda: self._not_ready is None)
        self.metrics.gauges(
            "notellm_store_free_bytes",
            "Free space on the disk of the store",
            (),
            lambda: [] if self._free_bytes is None else [((), self._free_bytes)],
        )

    def _batcher(
        self, name: str, compute: Callable[[list[Any]], Any], size: tuple[int, int], **options: float
    ) -> Batcher[Any, Any]:
        most, waiting = size
        return Batcher(name, compute, most=most, waiting=waiting, seen=self.metrics.batch, **options)

    def _apply(self, requests: list[list[Write]]) -> list[list[Written | NotellmError]]:
        outcomes = iter(self.engine.apply([write for writes in requests for write in writes]))
        return [[next(outcomes) for _ in writes] for writes in requests]

    def _tag(self, questions: list[TagsQuery]) -> list[Tags]:
        answers: dict[int, Tags] = {}
        groups: dict[tuple[int | None, float], list[int]] = {}
        for i, query in enumerate(questions):
            groups.setdefault((query.topics, query.least), []).append(i)
        for (topics, least), rows in groups.items():
            texts, ids = [questions[i].note for i in rows], [questions[i].note_id for i in rows]
            written = self.engine.tags(texts, topics=topics, least=least, note_ids=ids)
            answers.update(zip(rows, written, strict=True))
        return [answers[i] for i in range(len(questions))]

    async def related_to(self, query: RelatedQuery) -> Related:
        """Return related notes; a quick search runs in this thread, any other in the thread of its queue."""
        selected = query.near_duplicates is not None or query.diversity > 0
        plain = query.note_id is not None and query.where.is_empty and not selected
        if plain and self.engine.index.is_quick and query.k <= _FEW:
            return await self._related_now.ask(query)
        return await self.related.ask(query)

    async def write(self, writes: list[Write]) -> list[Written]:
        """Carry out writes.

        Raises:
            NotellmError: if a write failed; the error of the first one that did.
        """
        outcomes = await self.writes.ask(writes)
        for outcome in outcomes:
            if isinstance(outcome, NotellmError):
                raise outcome
        return [outcome for outcome in outcomes if isinstance(outcome, Written)]

    async def close(self) -> None:
        """Wait until everything that was accepted is done."""
        if self.reloading is not None:
            await self.reloading
        for batcher in self._batchers:
            await batcher.close()

    async def reload(self, index: str | None, name: str = "reload") -> None:
        """Load model and ranker again and rebuild the index. An error is kept for :meth:`state`.

        Args:
            index: another kind of index; None keeps the kind.
            name: the id of the request, under which the log has the details that clients may not see.
        """
        try:
            await asyncio.to_thread(self.engine.reload, index=index)
        except NotellmError as error:
            self.reload_error = f"{without_paths(error)}; the log has more under {name}"
            log.error("reload failed", extra={"request": name, "error": f"{type(error).__name__}: {error}"})
        except Exception as error:  # noqa: BLE001 - the state must not say that it went well
            self.reload_error = f"this failed: {type(error).__name__}; the log has more under {name}"
            log.exception("reload failed", extra={"request": name, "error": type(error).__name__})
        else:
            self.reload_error = None
            log.info("reloaded", extra={"model": self.engine.fingerprint})

    async def not_ready(self) -> str | None:
        """Return why the service is not ready, without any path of this machine; None if it is ready.

        Readiness is determined at most once per second, however often it is asked for.
        """
        now = time.monotonic()
        if self._readiness is None or (self._readiness.done() and now >= self._readiness_until):
            self._readiness_until = now + _READY_FOR
            self._readiness = asyncio.ensure_future(asyncio.to_thread(self._find_readiness))
        return await asyncio.shield(self._readiness)

    async def metrics_text(self) -> bytes:
        """Return all metrics in the format of Prometheus, with those of files and users found out now."""
        await self.not_ready()
        await asyncio.to_thread(self._look)
        return self.metrics.text()

    def _look(self) -> None:
        self._drift = self.engine.drift()
        try:
            self._free_bytes = self.engine.free_bytes()
        except OSError:  # readiness says so
            self._free_bytes = None

    def _find_readiness(self) -> str | None:
        reason, details = None, None
        try:
            if not len(self.engine.index) and self.engine.notes:
                reason = details = "the index is empty though there are notes"
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing can be searched
            reason, details = "the index does not answer", f"{type(error).__name__}: {error}"
        refused = self.engine.writable() if reason is None else None
        if refused is not None:
            reason, details = "the store cannot be written, or its disk is nearly full", refused
        if details != self._not_ready:
            self._not_ready = details
            if details is None:
                log.info("ready again")
            else:
                log.error("not ready", extra={"error": details})
        return reason

    def state(self, traffic: dict[str, Any], not_ready: str | None) -> dict[str, Any]:
        """Describe the service, for the page. Any thread may call it.

        Args:
            traffic: the answer of `Metrics.traffic`, which the thread of the event loop has to call.
            not_ready: the answer of `not_ready`.
        """
        engine, index, ranker = self.engine, self.engine.index, self.engine.ranker
        notes = list(engine.notes.values())
        running = self.reloading is not None and not self.reloading.done()
        return {
            "version": __version__,
            "ready": not_ready is None,
            "not_ready": not_ready,
            "keys": self.keys,
            "model": {
                "fingerprint": engine.fingerprint,
                "dim": engine.model.settings.dim,
                "backbone": engine.model.backbone.config.model_type,
                "categories": list(engine.model.settings.categories),
            },
            "ranker": None if ranker is None else {"users": len(ranker.histories)},
            "store": {"notes": len(notes), "hidden": sum(note.hidden for note in notes)},
            "index": {
                "kind": index.kind,
                "notes": len(index),
                "recall": index.recall["recall"] if index.recall else None,
            },
            "click_through": tracing.click_through(engine.shown),
            "drift": drift.drift_json(engine.drift()),
            "reload": {"running": running, "error": self.reload_error},
            "traffic": traffic,
        }


def _each(questions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Answer one question after the other: rankings of different users share no work."""
    answers: list[Any] = []
    for question in questions:
        try:
            answers.append(question())
        except Exception as error:  # noqa: BLE001 - it is passed on to the one who asked
            answers.append(error)
    return answers
