"""Binary codes of users and items: the collaborative signal in a form that a prompt can hold.

A code is a row of booleans, True for +1 and False for -1 (its text form: ``rank/codes/text.py``). The score
of a user and an item is the inner product of their codes, h_u . h_i: the number of equal bits less the number
of different ones. ``fit.py`` makes codes from impressions, ``unknown.py`` those of unknown users and items.

    codes = fit_codes(train, valid)
    codes.scores(user_ids, note_ids)            # float32 (n,)
    codes.save("codes")
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from notellm.artifacts import check_whole, write_folder
from notellm.errors import DataError, ModelError
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.rank.codes.options import Unknown
from notellm.rank.codes.text import Bits, binary_text, parse_binary
from notellm.rank.codes.unknown import folded_codes, is_known
from notellm.rank.collaborative.base import CONFIG, ITEMS, USERS, Floats
from notellm.rank.collaborative.rows import Histories, IdIndex, Ids

_MAPS = "maps.safetensors"


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of users and items.

    Attributes:
        users: the user ids.
        items: the item ids.
        user_codes: bool (U, bits); the average one where unknown.
        item_codes: bool (I, bits); likewise.
        known_users: bool (U,), which had a training row.
        known_items: bool (I,), likewise.
        maps: the arrays that make the codes of others: "average_user" and "average_item" (bits,), bool; and
            for "folded" "weight" (bits, bits), "offset" (bits,) and "background" (bits,), float32.
        scale: s; a logit is s times the score.
        unknown: code of a user or item without training row; see the module.
        description: options and training, JSON values.
    """

    users: IdIndex
    items: IdIndex
    user_codes: Bits
    item_codes: Bits
    known_users: Bits
    known_items: Bits
    maps: Mapping[str, npt.NDArray[Any]]
    scale: float
    unknown: Unknown
    description: Mapping[str, Any]

    @property
    def bits(self) -> int:
        """Length of a code."""
        return int(self.user_codes.shape[1])

    def has_user(self, user_ids: Ids) -> Bits:
        """Which users have a code to write into a prompt, (n,): all of them unless unknown is "none"."""
        return is_known(self.users.rows(user_ids), self.known_users) | (self.unknown != "none")

    def has_item(self, note_ids: Ids) -> Bits:
        """Which items have a code to write into a prompt, (n,): all of them unless unknown is "none"."""
        return is_known(self.items.rows(note_ids), self.known_items) | (self.unknown != "none")

    def user_bits(self, user_ids: Ids, histories: Histories | None = None) -> Bits:
        """Codes of users, bool (n, bits).

        Args:
            user_ids: n ids.
            histories: notes that each liked before, for "folded"; None for nothing.
        """
        rows = self.users.rows(user_ids)
        known = is_known(rows, self.known_users)
        result = np.where(known[:, None], self.user_codes[rows], self.maps["average_user"])
        if self.unknown == "folded" and histories is not None and not known.all():
            folded = folded_codes(self.maps, self.items, histories, self.item_codes, self.known_items)
            result[~known] = folded[~known]
        return result

    def item_bits(self, note_ids: Ids) -> Bits:
        """Codes of items, bool (n, bits)."""
        rows = self.items.rows(note_ids)
        known = is_known(rows, self.known_items)
        return np.where(known[:, None], self.item_codes[rows], self.maps["average_item"])

    def scores(self, user_ids: Ids, note_ids: Ids, histories: Histories | None = None) -> Floats:
        """Score of each user for the item in the same place, float32 (n,): agreeing bits less the others."""
        return inner_product(self.user_bits(user_ids, histories), self.item_bits(note_ids))

    def save(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the codes as a folder of Parquet, safetensors and JSON, whole or not at all.

        ``users.parquet`` and ``items.parquet`` hold the ids, ``known``, and ``code`` as 0 and 1.

        Raises:
            StorageError: it cannot be written.
        """
        with write_folder(folder, "codes", force=force) as aside:
            for name, column, ids, known, codes in (
                (USERS, "user_id", self.users.ids, self.known_users, self.user_codes),
                (ITEMS, "note_id", self.items.ids, self.known_items, self.item_codes),
            ):
                table = pa.table({column: ids, "known": known, "code": binary_text(codes)})
                write_parquet(table, aside / name)
            save_file({name: np.ascontiguousarray(array) for name, array in self.maps.items()}, aside / _MAPS)
            values = {"scale": self.scale, "unknown": self.unknown, "description": dict(self.description)}
            write_json({"kind": "codes", **values}, aside / CONFIG)


def load_codes(folder: str | Path) -> Codes:
    """Codes that were saved.

    Raises:
        StorageError: there is no ``config.json``.
        DataError: a file cannot be read, or holds what is no code.
        ModelError: the folder holds something else, or a file is missing or is not the one that was saved.
    """
    source = Path(folder)
    values = read_json(source / CONFIG)
    kind = values.get("kind") if isinstance(values, dict) else values
    if kind != "codes":
        raise ModelError(f"{source / CONFIG} holds {str(kind)[:40]!r}: give a folder that Codes.save wrote")
    check_whole(source, besides=[CONFIG])
    users, known_users, user_codes = _read_side(source / USERS, "user_id")
    items, known_items, item_codes = _read_side(source / ITEMS, "note_id")
    try:
        maps = load_file(source / _MAPS)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{source} is not a whole folder of codes: {error}; save it again") from error
    if problem := _problem(values, maps, user_codes.shape[1], item_codes.shape[1]):
        raise ModelError(f"{source} is not a whole folder of codes: {problem}; save it again")
    return Codes(
        users=users,
        items=items,
        user_codes=user_codes,
        item_codes=item_codes,
        known_users=known_users,
        known_items=known_items,
        maps=maps,
        scale=values["scale"],
        unknown=values["unknown"],
        description=values["description"],
    )


def _read_side(path: Path, column: str) -> tuple[IdIndex, Bits, Bits]:
    """Ids, which of them are known, (n,), and codes, (n, bits), of one of the two tables."""
    table = read_parquet(path, [column, "known", "code"])
    for name, kind in ((column, pa.string()), ("known", pa.bool_()), ("code", pa.string())):
        if table[name].type != kind or table[name].null_count:
            raise DataError(
                f"{path}: the column {name} is {table[name].type} with {table[name].null_count} empty "
                f"values; it must be {kind} without any; save the codes again"
            )
    try:
        return IdIndex(table[column]), table["known"].to_numpy(), parse_binary(table["code"].to_pylist())
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _problem(
    values: Mapping[str, Any], maps: Mapping[str, npt.NDArray[Any]], user_bits: int, item_bits: int
) -> str | None:
    """What of a folder of codes does not fit together."""
    if user_bits != item_bits:
        return f"users have codes of {user_bits} bits, items of {item_bits}"
    scale, unknown = values.get("scale"), values.get("unknown")
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        return f"the scale in {CONFIG} is {scale!r}"
    if unknown not in get_args(Unknown):
        return f"unknown in {CONFIG} is {unknown!r}, not one of {', '.join(get_args(Unknown))}"
    if not isinstance(values.get("description"), dict):
        return f"{CONFIG} has no description"
    needed: dict[str, tuple[tuple[int, ...], type]] = dict.fromkeys(
        ("average_user", "average_item"), ((user_bits,), np.bool_)
    )
    if unknown == "folded":
        needed |= {"weight": ((user_bits, user_bits), np.float32)}
        needed |= dict.fromkeys(("offset", "background"), ((user_bits,), np.float32))
    for name, (shape, kind) in needed.items():
        if name not in maps or maps[name].shape != shape or maps[name].dtype != kind:
            return f"{_MAPS} has no {name} of shape {shape}"
    return None


def inner_product(users: Bits, items: Bits) -> Floats:
    """Scores of codes row by row, (n, bits) and (n, bits) to float32 (n,): from -bits to bits."""
    scores: Floats = (users.shape[1] - 2 * (users != items).sum(1)).astype(np.float32)
    return scores
