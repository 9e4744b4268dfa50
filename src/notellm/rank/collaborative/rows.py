"""From an impressions table to the integer rows that the models compute on.

An **impression** is one user having been shown one note: ``user_id``, ``note_id``, ``label`` (liked or
not) and ``history``, the notes liked before, oldest first. The models see rows of their tables instead of
ids; -1 stands for an id that the table does not have, and fills up short histories at their end.
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

from notellm.errors import DataError

Ints = npt.NDArray[np.int64]
Ids: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray
#: For each row the note ids liked before it, oldest first.
Histories: TypeAlias = Sequence[Sequence[str]] | pa.Array | pa.ChunkedArray


class IdIndex:
    """The ids of a table's rows, and the way back from ids to rows.

    Args:
        ids: one id a row, distinct.

    Raises:
        DataError: an id stands there twice, or there is none.
    """

    def __init__(self, ids: Ids) -> None:
        self.ids = _as_array(ids, pa.string())
        if len(self.ids) == 0 or len(self.ids) != pc.count_distinct(self.ids).as_py():
            raise DataError(f"{len(self.ids)} ids, not all distinct or none: give every id once, and some")

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Ids) -> Ints:
        """Row of each id, int64 (n,); -1 where it is not there."""
        found = pc.index_in(_as_array(ids, pa.string()), value_set=self.ids)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)

    def last(self, histories: Histories, length: int, allowed: npt.NDArray[np.bool_]) -> Ints:
        """Rows of the last ``length`` ids of every history, int64 (n, length), oldest first, -1 at the end.

        Args:
            histories: lists of ids; those that are not there or not allowed are passed over.
            length: columns of the result.
            allowed: (rows,) which of the ids count.
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
        """All allowed ids of all histories: their rows here, and the position of the history of each."""
        found: list[Ints] = [np.empty(0, np.int64)]
        owners: list[Ints] = [np.empty(0, np.int64)]
        start = 0
        # Chunk by chunk: all of a large table's histories are too long for one Arrow array of strings.
        for chunk in histories.chunks if isinstance(histories, pa.ChunkedArray) else [histories]:
            lists = _as_array(chunk, pa.list_(pa.string()))
            rows = self.rows(pc.list_flatten(lists))
            owner = np.asarray(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False), np.int64)
            kept = (rows >= 0) & allowed[rows]
            found.append(rows[kept])
            owners.append(owner[kept] + start)
            start += len(lists)
        return np.concatenate(found), np.concatenate(owners)


@dataclass(frozen=True)
class Rows:
    """Encoded impressions.

    Attributes:
        users: int64 (n,), -1 for an id that the model does not have.
        items: int64 (n,), likewise.
        histories: int64 (n, length) items liked before, oldest first, -1 at the end; (n, 0) for a model that
            reads no history.
        labels: float32 (n,), 1 for liked; empty where nothing is to be learnt.
    """

    users: Tensor
    items: Tensor
    histories: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: Any) -> "Rows":
        """Some of the rows."""
        return Rows(self.users[index], self.items[index], self.histories[index], self.labels[index])


def labels_of(table: pa.Table, name: str) -> Tensor:
    """The labels of an impressions table, float32 (n,).

    Args:
        table: the impressions.
        name: of the table, for the message.

    Raises:
        DataError: a column is missing, or not both labels occur.
    """
    missing = [c for c in ("user_id", "note_id", "label", "history") if c not in table.column_names]
    if missing:
        raise DataError(
            f"the {name} impressions have no column {missing[0]!r}; theirs are "
            f"{', '.join(table.column_names)}: give user_id, note_id, label and history"
        )
    labels = torch.from_numpy(table["label"].cast(pa.float32()).to_numpy().copy())
    if not 0 < labels.sum() < len(labels):
        raise DataError(
            f"the {name} impressions are {len(labels)} rows of which {int(labels.sum())} are liked: "
            "give rows of both labels"
        )
    return labels


def _as_array(values: Any, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(type_) if isinstance(values, pa.Array) else pa.array(values, type_)
