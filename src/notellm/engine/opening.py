"""Opening an engine: load model and ranker, read the store, open or build the indexes, prepare the tagger."""

import gc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import perf_counter

from notellm.engine.click_through import ClickThrough
from notellm.engine.live import Live, Paths, State, keep_texts, recommender_of
from notellm.engine.newest import Newest
from notellm.engine.tagging import prepare_tagger
from notellm.engine.tracing import ShownLists
from notellm.engine.unseen import Unseen
from notellm.engine.users import LiveUsers
from notellm.lexical.index import LexicalIndex
from notellm.store.clicks import ClickLog
from notellm.store.notes import NoteStore
from notellm.store.rows import notes_of
from notellm.store.shown import ShownLog


def open_state(paths: Paths, *, progress: bool = False) -> tuple[State, Mapping[str, float]]:
    """Open all parts of an engine.

    Args:
        paths: where they are.
        progress: show progress bars.

    Returns:
        The state, and the seconds that "model", "ranker", "store", "index", "words", "tags" and "clicks"
        took.

    Raises:
        NotellmError: as ``Engine.open``.
    """
    timer = _Timer()
    model = paths.load_model()
    written_at, trained = paths.written_at(), paths.trained_notes()
    fingerprint = model.verified_fingerprint()
    timer.end("model")
    ranker = paths.load_ranker()
    paths.check_ranker(ranker, fingerprint)
    timer.end("ranker")
    store = NoteStore.open(paths.store, fingerprint, sync=paths.sync)
    try:
        with _garbage_collection_off(), ThreadPoolExecutor(1) as thread:
            rows = store.read()
            timer.end("store")
            notes_task = thread.submit(notes_of, rows)  # opening the index runs mostly outside of Python
            home = paths.home(fingerprint)
            index = home.open(rows, progress=progress)
            notes = {note.note_id: note for note in notes_task.result()}
        newest = Newest(notes.values())
        timer.end("index")
        age = None if paths.click_days is None else timedelta(days=paths.click_days)
        clicks = ClickLog.open(paths.store, sync=paths.sync, max_age=age)
        shown = ShownLog.open(paths.store, sync=paths.sync, max_age=age)
        with _garbage_collection_off():
            click_through = ClickThrough.from_logs(shown, clicks)
            users = LiveUsers.from_log(clicks)
        timer.end("clicks")
        recommender = recommender_of(
            ranker, index, notes, newest, click_through.exposure, users, fingerprint, paths
        )
        lexical = LexicalIndex()
        keep_texts(lexical, notes.values())
        timer.end("words")
        live = Live(
            model,
            fingerprint,
            store,
            home,
            index,
            notes,
            lexical,
            newest,
            Unseen(trained, notes.values()),
            recommender,
            written_at,
            datetime.now(UTC),
        )
        # Only now that all of this model's data was read may the data of other models go.
        store.drop_others()
        home.drop_others()
        prepare_tagger(model, notes, progress=progress)
        timer.end("tags")
        state = State(live, paths, clicks, users, ShownLists(shown, click_through))
        timer.end("clicks")
    except BaseException:
        store.close()
        raise
    return state, timer.seconds


class _Timer:
    """Measures the seconds of consecutive steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = perf_counter()

    def end(self, step: str) -> None:
        """End a step, or a further part of one, and start the next one."""
        now = perf_counter()
        self.seconds[step] = round(self.seconds.get(step, 0.0) + now - self._start, 2)
        self._start = now


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """Turn the garbage collector off while many objects are created that stay: it would scan them in vain."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
