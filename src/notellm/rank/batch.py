"""From impressions to prompts: titles of the history, codes of user and note, the label.

Nothing here looks ahead: a row's history holds the notes that the user liked before it, and the codes are an
argument (out of fold for the rows that a model is tuned on, see ``codes/fit.py``).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from notellm.backbone.batch import pad
from notellm.data.note import Note, notes_from_table
from notellm.errors import NotFoundError
from notellm.rank.codes.codes import Codes
from notellm.rank.codes.fit import OutOfFold
from notellm.rank.codes.text import Bits
from notellm.rank.model import BinLLM, Question

_CUTTING = Lock()


class NoteTexts(Collection[str]):
    """The notes that prompts name, each cut at the budgets once.

    Args:
        model: the model whose prompt cuts the notes.
        notes: a notes table (schema ``data.schema.NOTES``), which is cut as a whole at the first use of any
            note; or a mapping from id to note, which may change while it is served: each of its notes is cut
            at its own first use.
    """

    def __init__(self, model: BinLLM, notes: pa.Table | Mapping[str, Note]) -> None:
        self._prompt = model.prompt
        self._notes: Mapping[str, Note] = (
            dict(zip(notes.column("note_id").to_pylist(), notes_from_table(notes), strict=True))
            if isinstance(notes, pa.Table)
            else notes
        )
        self._cut: dict[str, Note] = {}
        # Cutting waits for the first use: a service opens a ranker with its table and then replaces the
        # notes.
        self._all_together = isinstance(notes, pa.Table)

    @property
    def ids(self) -> list[str]:
        """Ids of all notes."""
        return list(self._notes)

    def __contains__(self, note_id: object) -> bool:
        return note_id in self._notes

    def __iter__(self) -> Iterator[str]:
        return iter(self._notes)

    def __len__(self) -> int:
        return len(self._notes)

    def note(self, note_id: str) -> Note:
        """Return a note by its id, cut.

        Raises:
            NotFoundError: if there is no such note.
        """
        if note_id not in self._notes:
            raise NotFoundError(f"there is no note {note_id!r} among the {len(self):,} notes; add it first")
        return self._cut_once([note_id])[0]

    def history(self, note_ids: Sequence[str], last: int | None = None) -> list[Note]:
        """Return the notes of a history, oldest first, without those that are no longer among the notes.

        Args:
            note_ids: the history, oldest first.
            last: largest number of notes, the latest ones; None returns all.
        """
        known = [note_id for note_id in note_ids if note_id in self._notes]
        named = known if last is None else known[max(0, len(known) - last) :]
        return self._cut_once(named)

    def forget(self, note_id: str) -> None:
        """Drop the cut text of a note that has changed, so that it is cut again at its next use."""
        self._cut.pop(note_id, None)

    def _cut_once(self, note_ids: Sequence[str]) -> list[Note]:
        """Return cut notes; another thread may forget some of them at the same time."""
        if self._all_together:
            with _CUTTING:  # a tokenizer is not thread-safe; waiting threads find all notes cut
                if self._all_together:
                    self._cut.update(
                        zip(self._notes, self._prompt.cut(list(self._notes.values())), strict=True)
                    )
                    self._all_together = False
        cut = {note_id: self._cut.get(note_id) for note_id in note_ids}
        new = [note_id for note_id, known in cut.items() if known is None]
        if new:
            fresh = dict(zip(new, self._prompt.cut([self._notes[note_id] for note_id in new]), strict=True))
            self._cut.update(fresh)
            cut.update(fresh)
        return [note for note in map(cut.__getitem__, note_ids) if note is not None]


def impression_codes(impressions: pa.Table, codes: Codes) -> "RowCodes":
    """Return the codes of the users and notes of impressions."""
    users, notes = impressions.column("user_id"), impressions.column("note_id")
    histories = impressions.column("history")
    return RowCodes(
        codes.user_bits(users, histories),
        codes.item_bits(notes),
        codes.has_user(users, histories) & codes.has_item(notes),
    )


@dataclass(frozen=True, eq=False)
class RowCodes:
    """The codes of n rows.

    Attributes:
        users: bool (n, bits).
        items: bool (n, bits).
        present: bool (n,), whether the prompt of each row holds the codes.
    """

    users: Bits
    items: Bits
    present: Bits

    @classmethod
    def out_of_fold(cls, fitted: OutOfFold) -> "RowCodes":
        """Return the codes of training rows, from models that have not seen these rows."""
        return cls(fitted.user_bits, fitted.item_bits, fitted.has_user & fitted.has_item)

    def filter(self, rows: np.ndarray) -> "RowCodes":
        """Return the rows that a mask, bool (n,), selects."""
        return RowCodes(self.users[rows], self.items[rows], self.present[rows])


def questions(
    model: BinLLM, texts: NoteTexts, impressions: pa.Table, codes: RowCodes | None
) -> list[Question]:
    """Return the contents of the prompts of impressions.

    Args:
        model: the model that will read them, which decides how codes are written.
        texts: the notes.
        impressions: n rows (schema ``data.schema.IMPRESSIONS``).
        codes: codes of these rows; None asks by text alone.

    Raises:
        NotFoundError: if an impression names an unknown note.
    """
    count = impressions.num_rows
    users: Sequence[str | None] = [None] * count
    items: Sequence[str | None] = [None] * count
    if codes is not None:
        users = [t if p else None for t, p in zip(model.code_texts(codes.users), codes.present, strict=True)]
        items = [t if p else None for t, p in zip(model.code_texts(codes.items), codes.present, strict=True)]
    last = model.settings.history
    histories = impressions.column("history").to_pylist()
    return [
        Question(texts.history(history, last), texts.note(note_id), user, item)
        for history, note_id, user, item in zip(
            histories, impressions.column("note_id").to_pylist(), users, items, strict=True
        )
    ]


@dataclass(frozen=True, eq=False)
class RankRows:
    """Prompts and labels, ready for training.

    Attributes:
        ids: token ids of n prompts.
        labels: float32 (n,), 1 where the user enjoyed the note.
    """

    ids: list[list[int]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"ids": self.ids[row], "label": float(self.labels[row])}


@dataclass(frozen=True)
class RankCollator:
    """Pads rows of a :class:`RankRows` to one batch."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``position`` and ``labels`` (n,) float32."""
        batch = pad([row["ids"] for row in rows], self.tokenizer)
        return {**batch, "labels": torch.tensor([row["label"] for row in rows], dtype=torch.float32)}
