"""Ranking candidates for a user with a tuned BinLLM; the part that all prompts share is computed once.

Every candidate's prompt begins with the same tokens: instruction, history, user code. Their keys and values
are computed once, and only the rest of each prompt passes the backbone, in batches over that cache. Up to
rounding the scores equal those of whole prompts (``BinLLM.predict``).

    ranker = Ranker.from_pretrained("ranker")
    ranking = ranker.rank("user-7", ["note-1", "note-2"])      # or rank(history=[...], candidates=[...])
    ranking.note_ids, ranking.scores, ranking.basis
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Self, get_args

import numpy as np
import pyarrow as pa
import torch

from notellm.artifacts.write import write_folder
from notellm.backbone.batch import pad
from notellm.backbone.shared import can_share, end_states, read_beginning
from notellm.backbone.source import is_file
from notellm.data.note import Note
from notellm.data.schema import NOTES
from notellm.errors import DataError, ModelError
from notellm.files import json_text, read_json, read_parquet, write_parquet
from notellm.rank.batch import NoteTexts
from notellm.rank.blend import Blend
from notellm.rank.codes.codes import Codes
from notellm.rank.config import Form
from notellm.rank.model import BinLLM

#: Candidates that pass the backbone together; on a CPU the attention of more no longer fits the caches.
CANDIDATES = {"cpu": 100, "cuda": 256}

_CODES, _NOTES, _HISTORIES, _PARTS = "codes", "notes.parquet", "histories.parquet", "ranker.json"
_HISTORIES_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("history", pa.list_(pa.field("item", pa.string(), nullable=False)), nullable=False),
    ]
)


@dataclass(frozen=True)
class Ranking:
    """The candidates of one user, best first.

    Attributes:
        note_ids: ids of the candidates.
        scores: P(enjoy) of each, float32 (n,).
        basis: what is known about the user: "code and history", "code", "history" or "nothing" (then the
            order is that of a typical user).
    """

    note_ids: list[str]
    scores: np.ndarray
    basis: str


class Ranker:
    """A tuned model with the codes, notes and histories that its prompts are made from.

    Args:
        model: the tuned model.
        codes: codes of users and notes; None if the model was tuned on text alone.
        notes: the candidates and the notes of histories: a notes table (schema ``data.schema.NOTES``), or a
            mapping from id to note, whose notes may be added, changed (then call :meth:`forget`) and removed
            while the ranker is in use.
        histories: notes that each user liked, oldest first, for calls without a history.
        blend: weights that combine recall's similarities with these scores, for `Recommender`; None ranks by
            these scores alone.
        blend_model: fingerprint of the NoteLLM to whose similarities the blend was fitted; None if unknown.

    Raises:
        DataError: if the notes lack a column.

    Threads may share a ranker; they score one after the other.
    """

    def __init__(
        self,
        model: BinLLM,
        codes: Codes | None,
        notes: pa.Table | Mapping[str, Note],
        histories: Mapping[str, Sequence[str]] | None = None,
        blend: Blend | None = None,
        blend_model: str | None = None,
    ) -> None:
        self.model = model
        self.codes = codes
        self.blend = blend
        self.blend_model = blend_model
        self._table = whole_notes(notes) if isinstance(notes, pa.Table) else None
        self.texts = NoteTexts(model, notes)
        self.histories = dict(histories or {})
        self._ends: dict[tuple[str, Form], list[int]] = {}
        self._can_share = can_share(model.backbone)
        self._lock = Lock()  # sharing a beginning temporarily changes the attention of the model's layers

    def with_notes(self, notes: pa.Table | Mapping[str, Note]) -> "Ranker":
        """Return the same ranker with other notes; both share the model and score one after the other.

        Raises:
            DataError: if the notes lack a column.
        """
        ranker = Ranker(self.model, self.codes, notes, self.histories, self.blend, self.blend_model)
        ranker._lock = self._lock
        return ranker

    @property
    def table(self) -> pa.Table:
        """The notes as a table.

        Raises:
            DataError: if the ranker was made with a mapping of notes.
        """
        if self._table is None:
            raise DataError(
                "this ranker was made with a mapping of notes and has no table; make it with a notes table"
            )
        return self._table

    def knows(self, user_id: str) -> bool:
        """Return whether the ranker was trained with rows of a user: it has their history or their code."""
        return bool(self.knows_all([user_id])[0])

    def knows_all(self, user_ids: Sequence[str]) -> np.ndarray:
        """Return for each of several users what :meth:`knows` says, bool (n,); much faster for many."""
        known = np.array([user_id in self.histories for user_id in user_ids], dtype=bool)
        return known if self.codes is None else known | (self.codes.users.rows(user_ids) >= 0)

    def without_users(self, user_ids: Collection[str]) -> "Ranker":
        """Return the same ranker without the histories and the codes of some users."""
        histories = {user: notes for user, notes in self.histories.items() if user not in user_ids}
        codes = None if self.codes is None else self.codes.without_users(user_ids)
        return Ranker(self.model, codes, self.table, histories, self.blend, self.blend_model)

    def forget(self, note_id: str) -> None:
        """Drop what is kept of a note that has changed, so that it is read again at its next use."""
        self.texts.forget(note_id)
        for form in get_args(Form):
            self._ends.pop((note_id, form), None)

    # ---------------------------------------------------------------- ranking

    def rank(
        self,
        user_id: str | None = None,
        candidates: Sequence[str] = (),
        *,
        history: Sequence[str] | None = None,
    ) -> Ranking:
        """Order candidates by how likely the user is to enjoy them.

        Args:
            user_id: id of the user; None if only a history is known.
            candidates: distinct note ids.
            history: notes that the user liked, oldest first; None uses the stored history.

        Raises:
            DataError: if there is no candidate, a candidate is unknown or occurs twice, or a note of the
                given history is unknown.
        """
        scores, basis = self.scores(user_id, candidates, history=history)
        order = np.argsort(-scores, kind="stable")
        return Ranking([candidates[i] for i in order], scores[order], basis)

    @torch.inference_mode()
    def scores(
        self,
        user_id: str | None,
        candidates: Sequence[str],
        *,
        history: Sequence[str] | None = None,
        shared: bool = True,
    ) -> tuple[np.ndarray, str]:
        """Return P(enjoy) of candidates in the given order, float32 (n,), and the basis (see `Ranking`).

        Args:
            user_id: as in :meth:`rank`.
            candidates: as in :meth:`rank`.
            history: as in :meth:`rank`.
            shared: compute the part that the prompts share once; False computes every prompt whole.

        Raises:
            DataError: as in :meth:`rank`.
        """
        self._check(candidates, history)
        liked = list(self._history(user_id) if history is None else history)
        named = self.texts.history(liked, self.model.settings.history)
        user_code, knows_user = self._user_code(user_id, liked)
        item_codes = self._item_codes(candidates, user_code)
        logits = np.empty(len(candidates), dtype=np.float32)
        # A candidate without a code is asked about by text alone.
        forms = [self.model.settings.form if code is not None else "text_only" for code in item_codes]
        for form in dict.fromkeys(forms):
            rows = [i for i, candidate_form in enumerate(forms) if candidate_form == form]
            start = self.model.prompt.shared_ids(named, user_code, form)
            ends = [self._end(candidates[row], item_codes[row], form, len(start)) for row in rows]
            with self._lock:
                if shared and self._can_share:
                    logits[rows] = self._shared_logits(start, ends)
                else:
                    logits[rows] = self.model.predict([start + end for end in ends])
        scores: np.ndarray = (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
        basis = [word for word, present in (("code", knows_user), ("history", bool(named))) if present]
        return scores, " and ".join(basis) or "nothing"

    def _end(self, note_id: str, code: str | None, form: Form, start: int) -> list[int]:
        """Return the token ids of a candidate's part, which are kept if they are the same for all users."""
        prompt, length = self.model.prompt, self.model.settings.max_length
        whole = self._ends.get((note_id, form))
        if whole is None:
            whole = prompt.candidate_ids(self.texts.note(note_id), code, form, length)
            self._ends[note_id, form] = whole
        # A part that is shortened because of one user's long history must not be kept for others.
        return (
            whole
            if len(whole) <= length - start
            else prompt.candidate_ids(self.texts.note(note_id), code, form, length - start)
        )

    def _shared_logits(self, start: list[int], ends: Sequence[list[int]]) -> np.ndarray:
        """Return the logits (n,) of n prompts that all begin with ``start``."""
        model = self.model
        training = model.training
        model.eval()
        beginning = read_beginning(model.backbone, start)
        result = np.empty(len(ends), dtype=np.float32)
        order = np.argsort([-len(end) for end in ends], kind="stable")
        size = CANDIDATES.get(model.device.type, CANDIDATES["cuda"])
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            batch = pad([ends[row] for row in rows], model.tokenizer, model.device)
            states = end_states(model.backbone, beginning, batch["input_ids"], batch["attention_mask"])
            result[rows] = model.answer(states).cpu().numpy()
        model.train(training)
        return result

    def _user_code(self, user_id: str | None, liked: Sequence[str]) -> tuple[str | None, bool]:
        """Return the text of the user's code, and whether it is their own and not that of unknown users."""
        users, histories = pa.array([user_id], pa.string()), [list(liked)]
        if self.codes is None or not self.codes.has_user(users, histories)[0]:
            return None, False
        bits = self.codes.user_bits(users, histories)
        return self.model.code_texts(bits)[0], bool(self.codes.knows_user(users, histories)[0])

    def _history(self, user_id: str | None) -> Sequence[str]:
        return () if user_id is None else self.histories.get(user_id, ())

    def _item_codes(self, candidates: Sequence[str], user_code: str | None) -> list[str | None]:
        if self.codes is None or user_code is None:
            return [None] * len(candidates)
        texts = self.model.code_texts(self.codes.item_bits(candidates))
        return [t if has else None for t, has in zip(texts, self.codes.has_item(candidates), strict=True)]

    def _check(self, candidates: Sequence[str], history: Sequence[str] | None) -> None:
        if not len(candidates):
            raise DataError("there are no candidates to rank; give at least one note id")
        seen: set[str] = set()
        for note_id in candidates:
            self.texts.note(note_id)
            if note_id in seen:
                raise DataError(f"the candidate {note_id!r} occurs twice; give each note once")
            seen.add(note_id)
        for note_id in history or ():
            self.texts.note(note_id)

    # ---------------------------------------------------------------- disk

    def save_pretrained(
        self, folder: str | Path, *, extra: Mapping[str, str] | None = None, force: bool = False
    ) -> None:
        """Write model, codes, notes and histories as one directory, whole or not at all.

        The model's files are at its top level, so ``AutoModelForCausalLM`` and :class:`BinLLM` open it, too.

        Args:
            folder: where to write; a ranker in that place is replaced.
            extra: further text files by name (the record, the model card).
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: if the folder cannot be written.
        """
        with write_folder(folder, "ranker", force=force) as aside:
            self.model.write(aside)
            if self.codes is not None:
                self.codes.save_pretrained(aside / _CODES)
            write_parquet(self.table, aside / _NOTES)
            users = pa.table(
                {
                    "user_id": pa.array(list(self.histories), pa.string()),
                    "history": pa.array([list(h) for h in self.histories.values()], pa.list_(pa.string())),
                }
            )
            write_parquet(users, aside / _HISTORIES)
            parts = {
                "model": self.model.fingerprint(),
                "codes": None if self.codes is None else self.codes.fingerprint(),
                "blend": None if self.blend is None else self.blend.to_json(),
                "blend_model": None if self.blend is None else self.blend_model,
            }
            for name, text in {_PARTS: json_text(parts), **(extra or {})}.items():
                (aside / name).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, trust_remote_code: bool = False) -> Self:
        """Open a ranker that :meth:`save_pretrained` wrote.

        Args:
            folder: the ranker's directory.
            trust_remote_code: as in :meth:`BinLLM.from_saved`.

        Raises:
            ModelError: if the folder is not a ranker, its model and codes do not belong together, or a file
                is missing or damaged.
            DataError: if a table cannot be read.
        """
        path = Path(folder)
        if not is_file(path / _PARTS):
            raise ModelError(
                f"{path} is not a ranker directory (it has no {_PARTS}); make one: notellm rank train"
            )
        parts = read_json(path / _PARTS)
        if not isinstance(parts, dict):
            raise ModelError(
                f"{path / _PARTS} is not what Ranker.save_pretrained writes; fit the ranker again"
            )
        model = BinLLM.from_saved(path, trust_remote_code=trust_remote_code)
        codes = Codes.from_pretrained(path / _CODES) if (path / _CODES).is_dir() else None
        fingerprints = {
            "model": model.verified_fingerprint(),
            "codes": None if codes is None else codes.fingerprint(),
        }
        for name, actual in fingerprints.items():
            if actual != parts.get(name):
                raise ModelError(
                    f"the {name} in {path} ({actual}) and {_PARTS} ({parts.get(name)}) do not belong "
                    "together: a model reads only the codes it was tuned with; fit the ranker again"
                )
        users = _read_typed(path / _HISTORIES, _HISTORIES_SCHEMA)
        histories = dict(zip(users["user_id"].to_pylist(), users["history"].to_pylist(), strict=True))
        try:
            blend = None if parts.get("blend") is None else Blend.from_json(parts["blend"])
        except ModelError as error:
            raise ModelError(f"{path / _PARTS}: {error}") from error
        blend_model = parts.get("blend_model")
        if not isinstance(blend_model, str | None):
            raise ModelError(f"{path / _PARTS}: blend_model is {blend_model!r}; fit the ranker again")
        return cls(model, codes, _read_typed(path / _NOTES, NOTES), histories, blend, blend_model)


def _read_typed(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a table of a schema.

    Raises:
        DataError: if a column is missing or of another type, or has empty values where none are allowed.
    """
    try:
        return read_parquet(path, schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} is not what Ranker.save_pretrained writes: {error}; fit the ranker again"
        ) from error


def whole_notes(notes: pa.Table) -> pa.Table:
    """Return the columns of the schema NOTES.

    Raises:
        DataError: if one is missing.
    """
    missing = [name for name in NOTES.names if name not in notes.column_names]
    if missing:
        raise DataError(
            f"the notes have no column {missing[0]!r} (they have {', '.join(notes.column_names)}); "
            "validate() adds the optional ones"
        )
    return notes.select(NOTES.names)
