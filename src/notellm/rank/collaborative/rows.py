"""From an impressions table to the integer rows that the models compute on.

An **impression** means that a user was shown a note: ``user_id``, ``note_id``, ``label`` (liked or not) and
``history``, the notes liked before, oldest first. The models see row numbers of their tables instead of ids;
-1 stands for an id that the table does not have, and pads short histories at their end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from notellm.data.ids import Ids, as_array
from notellm.errors import DataError

Ints = npt.NDArray[np.int64]
#: For each row the note ids that were liked before it, oldest first.
Histories: TypeAlias = Sequence[Sequence[str]] | pa.Array | pa.ChunkedArray


class IdIndex:
    """The ids of a table's rows, and the row of each id.

    Args:
        ids: one id for each row, distinct.

    Raises:
        DataError: if an id occurs twice, or there is none.
    """

    def __init__(self, ids: Ids) -> None:
        self.ids = as_array(ids)
        if len(self.ids) == 0 or len(self.ids) != pc.count_distinct(self.ids).as_py():
            raise DataError(
                f"{len(self.ids)} ids, not all distinct or none at all; give at least one id, each once"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Ids) -> Ints:
        """Return the row of each id, int64 (n,); -1 for an id that the table does not have."""
        rows = pc.index_in(as_array(ids), value_set=self.ids)
        return np.asarray(rows.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def last(self, histories: Histories, length: int, allowed: npt.NDArray[np.bool_]) -> Ints:
        """Return the rows of the last ids of every history: int64 (n, length), oldest first, padded with -1.

        Args:
            histories: n lists of ids; ids that are missing or not allowed are skipped.
            length: columns of the result.
            allowed: bool (rows,), which of the ids count.
        """
        flat, owner = self.flat(histories, allowed)
        kept = np.bincount(owner, minlength=len(histories))
        place = np.arange(len(owner)) - np.repeat(np.cumsum(kept) - kept, kept)
        column = place - np.maximum(kept - length, 0)[owner]
        inside = column >= 0
        result = np.full((len(histories), length), -1, np.int64)
        result[owner[inside], column[inside]] = flat[inside]
        return result

    def flat(self, histories: Histories, allowed: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Return the rows of all allowed ids of all histories, and for each the position of its history."""
        row_parts: list[Ints] = [np.empty(0, np.int64)]
        owner_parts: list[Ints] = [np.empty(0, np.int64)]
        start = 0
        # Chunk by chunk: all histories of a large table are too long for one Arrow array of strings.
        for chunk in histories.chunks if isinstance(histories, pa.ChunkedArray) else [histories]:
            lists = _as_lists(chunk)
            rows = self.rows(pc.list_flatten(lists))
            owner = np.asarray(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False), np.int64)
            kept = (rows >= 0) & allowed[rows]
            row_parts.append(rows[kept])
            owner_parts.append(owner[kept] + start)
            start += len(lists)
        return np.concatenate(row_parts), np.concatenate(owner_parts)


@dataclass(frozen=True)
class Rows:
    """Impressions as row numbers.

    Attributes:
        users: int64 (n,), -1 for an id that the model does not have.
        items: int64 (n,), -1 for an id that the model does not have.
        histories: int64 (n, length), items liked before, oldest first, padded with -1; (n, 0) for a model
            that reads no history.
        labels: float32 (n,), 1 for liked; empty where nothing is to be learnt.
    """

    users: Tensor
    items: Tensor
    histories: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: Any) -> "Rows":
        """Return some of the rows."""
        return Rows(self.users[index], self.items[index], self.histories[index], self.labels[index])


def labels_of(table: pa.Table, name: str) -> Tensor:
    """Return the labels of an impressions table, float32 (n,).

    Args:
        table: the impressions.
        name: name of the table, for the error message.

    Raises:
        DataError: if a column is missing, or not both labels occur.
    """
    missing = [c for c in ("user_id", "note_id", "label", "history") if c not in table.column_names]
    if missing:
        raise DataError(
            f"the {name} impressions have no column {missing[0]!r}, only "
            f"{', '.join(table.column_names)}; give user_id, note_id, label and history"
        )
    labels = torch.from_numpy(table["label"].cast(pa.float32()).to_numpy().copy())
    if not 0 < labels.sum() < len(labels):
        raise DataError(
            f"{int(labels.sum())} of the {len(labels)} {name} impressions are liked; give rows of both labels"
        )
    return labels


def _as_lists(histories: Sequence[Sequence[str]] | pa.Array) -> pa.Array:
    """Return histories as one Arrow array of lists of strings."""
    kind = pa.list_(pa.string())
    return histories.cast(kind) if isinstance(histories, pa.Array) else pa.array(histories, kind)
