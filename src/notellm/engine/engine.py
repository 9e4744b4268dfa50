"""The engine: store, index, NoteLLM and ranker together, while notes are published, changed and removed.

    engine = Engine.open("store", "model", ranker="ranker")
    engine.apply([Publish(StoredNote(note_id="n1", title="Cold brew at the camp site"))])
    engine.related([RelatedQuery(note_id="n1")])
    engine.recommend("user-7", k=10)

`requests.py` has the queries and answers, `live.py` the shared state. `users.py`, `active_users.py`,
`newest.py`, `unseen.py`, `tracing.py`, `click_through.py` and `latest_recall.py` count and hold what happens.
The work of the methods is in modules of their names.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from notellm.data.note import Note
from notellm.engine import reading, searching
from notellm.engine.clicking import forget_user, write_clicks
from notellm.engine.drift import Drift, drift_of
from notellm.engine.health import free_bytes, why_not_writable
from notellm.engine.live import Paths, State
from notellm.engine.opening import open_state
from notellm.engine.reloading import reload_state
from notellm.engine.requests import Clicked, Forgotten, Related, RelatedQuery, Tags, Write, Written
from notellm.engine.tagging import write_tags
from notellm.engine.tracing import ShownLists
from notellm.engine.writing import apply_writes
from notellm.errors import ConfigError, NotellmError
from notellm.rank.scorer import Ranker, Ranking
from notellm.recall.model import NoteLLM
from notellm.recall.tagging.tagger import LEAST
from notellm.recommend.recommender import Recommendations
from notellm.store.age import MAX_AGE
from notellm.store.clicks import Click
from notellm.store.index.base import Index
from notellm.store.rows import StoredNote


class Engine:
    """What a service asks; created by :meth:`open`. Threads may share it.

    Args:
        state: the parts of the engine.
        progress: show progress bars while a reload computes much.

    Attributes:
        progress: as above.
        seconds: how long :meth:`open` took for "model", "ranker", "store", "index", "words", "tags" and
            "clicks", with the import of the packages that each needs.
    """

    def __init__(self, state: State, *, progress: bool = False) -> None:
        self._state = state
        self.progress = progress
        self.seconds: Mapping[str, float] = {}

    # ---------------------------------------------------------------- opening and closing

    @classmethod
    def open(
        cls,
        store: str | Path,
        model: str | Path,
        *,
        ranker: str | Path | None = None,
        index: str = "exact",
        token: str = "",
        sync: bool = True,
        trust_remote_code: bool = False,
        click_days: float | None = MAX_AGE.days,
        explore: float = 0.0,
        progress: bool = False,
    ) -> Self:
        """Open a store together with the model that made its vectors.

        Args:
            store: a store, made by `notellm store build`.
            model: a NoteLLM directory.
            ranker: a ranker directory; without one `rank` and `recommend` are not available.
            index: "exact", "hnsw", or the URI of a Milvus server.
            token: token of that server.
            sync: flush every write to disk before it is answered. Without it a power failure loses the last
                writes.
            trust_remote_code: as in ``NoteLLM.from_pretrained``; it applies to reloads, too.
            click_days: days for which clicks and recommended lists are kept; None keeps all.
            explore: share of the places of a list, 0 to 1, that go to fresh notes which few users have been
                shown (``recommend/fresh.py``).
            progress: show progress bars while much is computed.

        Raises:
            StorageError: if a path does not exist, the store is damaged, or another process writes to it.
            ModelError: if the model is not a saved NoteLLM, or the ranker cannot be used.
            DataError: if the store's vectors come from another model, or the ranker's blend was fitted to
                vectors of another model.
            ConfigError: if the kind of index is unknown, or ``explore`` is no share.
        """
        if not 0 <= explore <= 1:
            raise ConfigError(f"explore is {explore}; it must be a share from 0 to 1")
        ranker_path = None if ranker is None else str(ranker)
        paths = Paths(
            str(store), str(model), ranker_path, index, token, sync, trust_remote_code, click_days, explore
        )
        state, seconds = open_state(paths, progress=progress)
        engine = cls(state, progress=progress)
        engine.seconds = seconds
        return engine

    def close(self) -> None:
        """Write the last recommended lists, save the index if it is one that is saved, and release the store.

        Without this nothing is lost but lists that were recommended in the last second.
        """
        state = self._state
        with state.write_lock:
            state.latest_recall.close()
            with state.click_lock:
                state.clicks.close()
            state.shown.close()
            if state.in_doubt:
                state.live.index.close()
            else:
                state.live.home.close(state.live.index)
            state.live.store.close()  # last, since it lets other processes write

    # ---------------------------------------------------------------- writing

    def apply(self, writes: Sequence[Write]) -> list[Written | NotellmError]:
        """Carry out writes in this order, with one pass of the model and one commit.

        When the method returns, the writes are durable and the next search sees them.

        Returns:
            The outcome of each write. A write that cannot be done has an error, and the others are done.

        Raises:
            StorageError: if the store or the index could not be written; repeat the same writes.
        """
        return apply_writes(self._state, writes)

    def click(self, requests: Sequence[Sequence[Click]]) -> list[Clicked | NotellmError]:
        """Write what users did, the clicks of all requests in one commit.

        When the method returns, the clicks are durable, and the next recommendation for their users counts
        them. A click that the log has already is not written again.

        Returns:
            The outcome of each request; one with a click that is not allowed has an error, and none of its
            clicks is written.

        Raises:
            StorageError: if the log could not be written; repeat the same requests.
        """
        return write_clicks(self._state, requests)

    def forget_user(self, user_id: str) -> Forgotten:
        """Remove all clicks of a user and all lists recommended to them, from files of earlier versions, too.

        Raises:
            StorageError: if this could not be completed; repeat it.
        """
        return forget_user(self._state, user_id)

    def writable(self) -> str | None:
        """Return why a write would fail now, as far as that is known; None if no reason is known.

        The reason is that the last write failed in the store or the index, or that the store's disk has less
        than 64 MiB left. If all is well this costs one system call. After a failed write a small file is
        written from time to time (at most every 5 seconds), so that the reason goes when its cause is gone.
        """
        return why_not_writable(self._state)

    def free_bytes(self) -> int | None:
        """Return the free bytes on the disk of the store; None in object storage.

        Raises:
            OSError: if the store cannot be found.
        """
        return free_bytes(self._state)

    # ---------------------------------------------------------------- reading

    def note(self, note_id: str) -> StoredNote:
        """Return a note, even if it is hidden or expired.

        Raises:
            NotFoundError: if it does not exist.
        """
        return reading.note_by_id(self._state.live, note_id)

    def find(self, text: str, *, limit: int = 20) -> list[StoredNote]:
        """Return notes whose title (or content, if there is no title) contains a text, newest first.

        Upper and lower case are the same. This is for people who manage notes: like :meth:`note`, and unlike
        all other methods, it returns hidden and expired notes, too.
        """
        return reading.find_notes(self._state.live, text, limit=limit)

    def related(self, queries: Sequence[RelatedQuery]) -> list[Related | NotellmError]:
        """Return related notes of stored notes and of texts, by vectors and words (``store/hybrid.py``).

        The model embeds all texts together.

        Returns:
            For each query its notes, or the reason why there are none.
        """
        return searching.related(self._state, queries)

    def tags(
        self,
        notes: Sequence[Note],
        *,
        topics: int | None = None,
        least: float = LEAST,
        note_ids: Sequence[str] = (),
    ) -> list[Tags]:
        """Return category and topics of texts, with probabilities and the stored notes that speak for them.

        A note that was published before this call speaks; one that was removed, hidden or has expired is not
        named. ``tagging.py`` says which notes of the store speak.

        Args:
            notes: the texts.
            topics: number of topics; None lets the probabilities decide.
            least: least probability of a category, and of topics if ``topics`` is None.
            note_ids: ids of the texts; a stored note then does not speak for itself. "" stands for none.

        Raises:
            ConfigError: if topics is not positive, or least is not a probability.
            DataError: if there are no texts.
        """
        return write_tags(self._state, notes, topics=topics, least=least, note_ids=note_ids)

    def rank(
        self, user_id: str | None, candidates: Sequence[str], *, history: Sequence[str] | None = None
    ) -> Ranking:
        """Order candidates for a user, as `Ranker.rank` does.

        Candidates that are hidden or expired are left out, so the result may be empty. Notes of the user's
        history count even if they are hidden now, since they are not shown.

        Raises:
            NotFoundError: if there is no ranker, or a candidate does not exist.
            DataError: if a candidate is given twice, or there are no candidates.
        """
        return reading.rank(self._state, user_id, candidates, history=history)

    def recommend(self, user_id: str | None = None, **options: Any) -> Recommendations:
        """Recommend notes to a user; the options are those of `Recommender.recommend`, and ``record``.

        The list gets a ``request_id``, by which clicks name it (``Click.request_id``), and is written to the
        store's log of shown lists about a second later (``tracing.py``). With ``record=False`` it is not, and
        does not count in the click-through: for lists that no user sees.

        Without a history in the arguments it is that of the ranker with the user's clicks since, and all
        notes that the user viewed, clicked, liked or disliked are left out (``users.py``). A user of whom
        nothing is known gets popular notes, and on every third place a fresh one.

        A hidden or expired note is neither recommended nor given as a reason; the reason is None then.

        Raises:
            ConfigError: if an option is not allowed.
            NotFoundError: if there is no ranker.
            DataError: if a note is unknown, or nothing is left to recommend.
        """
        return reading.recommend(self._state, user_id, **options)

    def users(self, text: str = "", *, limit: int = 20) -> list[tuple[str, int]]:
        """Return users whose id contains a text, each with the number of notes opened."""
        return reading.find_users(self._state, text, limit=limit)

    def opened(self, user_id: str, *, limit: int = 20) -> list[StoredNote]:
        """Return the visible notes that a user opened last, latest first.

        Raises:
            NotFoundError: if the user is unknown.
        """
        return reading.opened_notes(self._state, user_id, limit=limit)

    # ---------------------------------------------------------------- state

    @property
    def index(self) -> Index:
        """The index that answers now."""
        return self._state.live.index

    @property
    def model(self) -> NoteLLM:
        """The model that answers now."""
        return self._state.live.model

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model that answers now."""
        return self._state.live.fingerprint

    @property
    def ranker(self) -> Ranker | None:
        """The ranker that answers now."""
        recommender = self._state.live.recommender
        return None if recommender is None else recommender.ranker

    @property
    def notes(self) -> Mapping[str, StoredNote]:
        """All notes by id, as they are now."""
        return self._state.live.notes

    @property
    def report(self) -> Sequence[str]:
        """What was repaired when the store was opened, in sentences; usually empty."""
        state = self._state
        return [*state.live.store.report, *state.clicks.report, *state.shown.report]

    @property
    def shown(self) -> ShownLists:
        """The lists that were recommended, and their click-through."""
        return self._state.shown

    def drift(self) -> Drift:
        """Return how far the models that answer are behind what happens now.

        This looks at users who are new since it was asked last and at the names of files beside the model,
        and at no note. It may take some milliseconds.
        """
        return drift_of(self._state)

    @property
    def doubts(self) -> Sequence[str]:
        """What may be wrong with the ranker beside these vectors, in sentences; usually empty."""
        recommender = self._state.live.recommender
        return [] if recommender is None else recommender.doubts

    # ---------------------------------------------------------------- replacing

    def reload(self, *, index: str | None = None) -> None:
        """Load model and ranker again from their paths and build a new index, while the old parts answer.

        A model with other weights embeds every note. A note written meanwhile is embedded by the old model
        for the old index, and by the new model before the new parts take over. The former vectors are dropped
        only when the new ones have been read back from disk and verified.

        Args:
            index: another kind of index from now on; None keeps the present kind.

        Raises:
            ConfigError: if a reload is already running.
            NotellmError: as in :meth:`open`. The old parts go on answering.
        """
        reload_state(self._state, index=index, progress=self.progress)
