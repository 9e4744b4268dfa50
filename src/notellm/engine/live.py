"""What an engine answers with at one time, and the state that its threads share.

:class:`Live` is replaced as a whole: a thread that has read ``state.live`` keeps a model, a store and an
index that belong together, even while a reload replaces them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock, RLock

import numpy as np

from notellm.data.note import Note
from notellm.engine.active_users import ActiveUsers
from notellm.engine.latest_recall import LatestRecall, was_offered
from notellm.engine.newest import Newest
from notellm.engine.renewals import Renewals
from notellm.engine.tracing import ShownLists
from notellm.engine.unseen import Unseen
from notellm.engine.users import LiveUsers
from notellm.errors import NotFoundError
from notellm.lexical.index import LexicalIndex
from notellm.lexical.terms import text_of
from notellm.rank.scorer import Ranker
from notellm.recall.checkpoint import CONFIG
from notellm.recall.model import NoteLLM
from notellm.recall.trained_notes import read_trained_notes
from notellm.recommend.fresh import FreshNotes
from notellm.recommend.recommender import Recommender, blend_doubt
from notellm.store.age import MAX_AGE
from notellm.store.clicks import Click, ClickLog
from notellm.store.index.base import Index
from notellm.store.index.home import IndexHome
from notellm.store.known_ids import KnownIds
from notellm.store.notes import NoteStore
from notellm.store.rows import StoredNote

#: How long after its publication a note is fresh, and shown to users of whom nothing is known.
FRESH_FOR = timedelta(days=7)


@dataclass(frozen=True)
class Paths:
    """Where the parts of an engine come from; the fields are the arguments of ``Engine.open``."""

    store: str
    model: str
    ranker: str | None
    index: str
    token: str
    sync: bool = True
    trust_remote_code: bool = False
    click_days: float | None = MAX_AGE.days
    explore: float = 0.0

    def home(self, fingerprint: str) -> IndexHome:
        """Return the place of the index for a model.

        Raises:
            ConfigError: if the kind of index is unknown.
        """
        return IndexHome(self.store, fingerprint, self.index, self.token)

    def load_model(self) -> NoteLLM:
        """Load the model.

        Raises:
            ModelError: if it is not a saved NoteLLM.
        """
        model = NoteLLM.from_saved(self.model, trust_remote_code=self.trust_remote_code)
        model.eval()
        return model

    def trained_notes(self) -> KnownIds | None:
        """Return the notes that the model was trained on; None if its directory does not say.

        Raises:
            ModelError: if the file that says it is damaged.
        """
        ids = read_trained_notes(self.model)
        return None if ids is None else KnownIds(ids.to_pylist())

    def written_at(self) -> datetime | None:
        """Return when the model's settings file was written, by the time of the file; None if unknown."""
        try:
            return datetime.fromtimestamp((Path(self.model) / CONFIG).stat().st_mtime, UTC)
        except OSError:
            return None

    def load_ranker(self) -> Ranker | None:
        """Load the ranker, if there is one.

        Raises:
            ModelError: if it cannot be used.
        """
        if self.ranker is None:
            return None
        return Ranker.from_pretrained(self.ranker, trust_remote_code=self.trust_remote_code)

    @property
    def names(self) -> tuple[str, str]:
        """What messages call the ranker, and the model as the maker of the vectors."""
        return str(self.ranker), self.model

    def check_ranker(self, ranker: Ranker | None, fingerprint: str) -> None:
        """Refuse a ranker whose blend was fitted to similarities of another model than the one given.

        Raises:
            DataError: if it is one.
        """
        if ranker is not None:
            blend_doubt(ranker, fingerprint, self.names)


@dataclass(frozen=True)
class Live:
    """A model, a store, an index and a ranker that belong together.

    Attributes:
        model: NoteLLM.
        fingerprint: its fingerprint.
        store: the durable store.
        home: where the index is kept.
        index: the index of the store's vectors.
        notes: all notes of the store by id; writes change it.
        lexical: their texts, for hybrid search; writes change it.
        newest: their times of publication; writes change it.
        unseen: those that the model was not trained on; writes change it.
        recommender: index and ranker together; None without a ranker.
        written_at: time of the model's files when it was loaded; None if unknown.
        since: when the model began to answer.
    """

    model: NoteLLM
    fingerprint: str
    store: NoteStore
    home: IndexHome
    index: Index
    notes: dict[str, StoredNote]
    lexical: LexicalIndex
    newest: Newest
    unseen: Unseen
    recommender: Recommender | None
    written_at: datetime | None
    since: datetime

    def keep_lists(self, stored: Collection[StoredNote], missing: Collection[str]) -> None:
        """Bring ``newest`` and ``unseen`` up to date with notes that were written, and with removed ones."""
        for part in (self.newest, self.unseen):
            part.upsert(stored)
            part.remove(missing)

    def unknown_note(self, note_id: str) -> NotFoundError:
        """Return the error that a note does not exist."""
        return NotFoundError(
            f"there is no note {note_id!r} among the {len(self.notes):,} notes; publish it first"
        )


class State:
    """The state that the threads of an engine share.

    Args:
        live: what answers.
        paths: where its parts come from.
        clicks: the log of what users did.
        shown: the lists that were recommended.

    Attributes:
        users: the latest clicks of each user, as the log has them.
        active: the users of the last days.
        latest_recall: measures recall on the clicks that arrive.
        renewals: the decisions of renewals beside the model.
        click_lock: held while clicks are written.
        write_lock: held by every write, and by a reload while it replaces ``live``.
        touched: ids written since a reload began to build; None if no reload is running.
        in_doubt: ids of failed writes, which the store may have all the same.
        unsaved: number of notes changed since the index was saved.
        failure: why the last write failed in the store or the index; None if it did not.
        checked_at: when ``failure`` was checked last, by the monotonic clock.
        unheard: ids written since the tagger learnt from the store, oldest first (``tagging.py``).
    """

    def __init__(
        self, live: Live, paths: Paths, clicks: ClickLog, users: LiveUsers, shown: ShownLists
    ) -> None:
        self.live = live
        self.paths = paths
        self.clicks = clicks
        self.shown = shown
        self.users = users
        self.active = ActiveUsers(self.users.latest())
        self.latest_recall = LatestRecall(self._was_offered)
        self.renewals = Renewals(paths.model)
        self.click_lock = Lock()
        self.write_lock = RLock()
        self.touched: set[str] | None = None
        self.in_doubt: set[str] = set()
        self.unsaved = 0
        self.failure: str | None = None
        self.checked_at = 0.0
        self.unheard: dict[str, None] = {}
        self.model_lock = Lock()  # threads must not share a tokenizer

    def _was_offered(self, click: Click) -> bool | None:
        live = self.live
        return was_offered(live.recommender, self.users, live.notes, click)

    def hear(self, note_ids: Iterable[str]) -> None:
        """Let the tagger look at these notes, which were written, before its next answer."""
        for note_id in note_ids:
            self.unheard.pop(note_id, None)
            self.unheard[note_id] = None

    def encode(self, model: NoteLLM, notes: Sequence[Note]) -> np.ndarray:
        """Return the vectors of notes, (n, dim) float32; one thread at a time uses the model."""
        with self.model_lock:
            return model.encode(list(notes))


def keep_texts(lexical: LexicalIndex, notes: Iterable[StoredNote]) -> None:
    """Add the texts of notes to an index, or replace them."""
    some = list(notes)
    lexical.upsert([note.note_id for note in some], [text_of(note) for note in some])


def recommender_of(
    ranker: Ranker | None,
    index: Index,
    notes: Mapping[str, StoredNote],
    newest: Newest,
    exposure: Callable[[str], int],
    users: LiveUsers,
    fingerprint: str,
    paths: Paths,
) -> Recommender | None:
    """Return a recommender over live notes and the vectors of a model; None without a ranker.

    Args:
        ranker: the ranker.
        index: the vectors.
        notes: all notes by id.
        newest: their times of publication.
        exposure: returns how often a note was shown of late.
        users: what users opened, by the log.
        fingerprint: of the model.
        paths: names of the parts, and the share of places that explore.
    """
    if ranker is None:
        return None

    def fresh() -> Iterator[str]:
        now = datetime.now(UTC)
        return newest.between(now - FRESH_FOR, now)

    return Recommender(
        index,
        ranker.with_notes(notes),
        made_by=fingerprint,
        names=paths.names,
        fresh=FreshNotes(fresh, exposure, paths.explore),
        opened=users.opened,
    )
