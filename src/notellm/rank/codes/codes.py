"""Binary codes of users and items: the collaborative signal in a form that a prompt can hold.

A code is a row of booleans, True for +1 and False for -1 (its text form: ``rank/codes/text.py``). The score
of a user and an item is the inner product of their codes, h_u . h_i: the number of equal bits less the number
of different ones. ``fit.py`` makes codes from impressions, ``unknown.py`` those of unknown users and items.

    codes = fit_codes(train, valid)
    codes.scores(user_ids, note_ids, histories)            # float32 (n,)
    codes.save_pretrained("codes")
    codes = Codes.from_pretrained("codes")
"""

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from notellm.artifacts.manifest import check_whole
from notellm.artifacts.write import write_folder
from notellm.data.ids import Ids
from notellm.errors import DataError, ModelError
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.rank.codes.model import CodeModel
from notellm.rank.codes.options import Unknown
from notellm.rank.codes.text import Bits, binary_text, parse_binary
from notellm.rank.codes.unknown import folded_codes, is_known
from notellm.rank.collaborative.base import CONFIG, ITEMS, USERS, WEIGHTS, Floats, build_saved
from notellm.rank.collaborative.kinds import KINDS
from notellm.rank.collaborative.rows import Histories, IdIndex
from notellm.record import fingerprint

_MAPS = "maps.safetensors"


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes of users and items.

    Attributes:
        users: ids of the users.
        items: ids of the items.
        user_codes: bool (U, bits). For a model that reads histories: the code of the user's longest history
            in the training rows.
        item_codes: bool (I, bits).
        known_users: bool (U,), which users had a training row; the others have the average code.
        known_items: bool (I,), which items had a training row; the others have the average code.
        maps: arrays that make the codes of unknown users and items: "average_user" and "average_item", bool
            (bits,); and for "folded" the arrays of ``unknown.fit_fold``.
        scale: s; a logit is s times the score.
        unknown: code of a user or item without training rows, see ``unknown.py``.
        description: "options" of the codes (``CodeOptions``) and the course of their "training", as JSON
            values.
        encoder: the trained model, if it computes users' codes from their histories (SASRec); None otherwise.
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
    encoder: CodeModel | None = None

    @property
    def bits(self) -> int:
        """Length of a code."""
        return int(self.user_codes.shape[1])

    @property
    def label(self) -> str:
        """Name of ranking by these codes alone, such as "BinMF"."""
        return KINDS[self.description["options"]["collaborative"]].label

    # ---------------------------------------------------------------- who is known

    def knows_user(self, user_ids: Ids, histories: Histories | None = None) -> Bits:
        """Return whose code is their own, bool (n,): from their training rows, or from their history.

        Args:
            user_ids: n ids.
            histories: notes that each user liked before. An encoder knows every user with a known item in the
                history, whether or not the user has training rows.
        """
        if self.encoder is not None and histories is not None:
            _, owner = self.items.flat(histories, self.known_items)
            return np.bincount(owner, minlength=len(histories)) > 0
        return is_known(self.users.rows(user_ids), self.known_users)

    def has_user(self, user_ids: Ids, histories: Histories | None = None) -> Bits:
        """Return which users have a code to write into a prompt, bool (n,): all unless unknown is "none"."""
        return self.knows_user(user_ids, histories) | (self.unknown != "none")

    def has_item(self, note_ids: Ids) -> Bits:
        """Return which items have a code to write into a prompt, bool (n,): all unless unknown is "none"."""
        return is_known(self.items.rows(note_ids), self.known_items) | (self.unknown != "none")

    # ---------------------------------------------------------------- codes

    def user_bits(self, user_ids: Ids, histories: Histories | None = None) -> Bits:
        """Return the codes of users, bool (n, bits).

        Args:
            user_ids: n ids.
            histories: notes that each user liked before, oldest first. An encoder computes every code from
                them, "folded" the codes of unknown users; otherwise they are not read. None uses stored
                codes.
        """
        if self.encoder is not None and histories is not None:
            return self.encoder.user_bits(user_ids, histories)
        rows = self.users.rows(user_ids)
        known = is_known(rows, self.known_users)
        result = np.where(known[:, None], self.user_codes[rows], self.maps["average_user"])
        if self.unknown == "folded" and histories is not None and not known.all():
            folded = folded_codes(self.maps, self.items, histories, self.item_codes, self.known_items)
            result[~known] = folded[~known]
        return result

    def item_bits(self, note_ids: Ids) -> Bits:
        """Return the codes of items, bool (n, bits)."""
        rows = self.items.rows(note_ids)
        known = is_known(rows, self.known_items)
        return np.where(known[:, None], self.item_codes[rows], self.maps["average_item"])

    def scores(self, user_ids: Ids, note_ids: Ids, histories: Histories | None = None) -> Floats:
        """Return the score of each user for the item in the same place, float32 (n,)."""
        return inner_product(self.user_bits(user_ids, histories), self.item_bits(note_ids))

    def without_users(self, user_ids: Collection[str]) -> "Codes":
        """Return codes that do not know some users: their rows have the average code and nobody's id.

        The number of rows stays, since an encoder has as many.
        """
        users = self.users.ids.to_pylist()
        gone = np.array([user_id in user_ids for user_id in users])
        # No user has an id with a control character.
        ids = [f"\0{row}" if gone[row] else user_id for row, user_id in enumerate(users)]
        return replace(
            self,
            users=IdIndex(ids),
            known_users=self.known_users & ~gone,
            user_codes=np.where(gone[:, None], self.maps["average_user"], self.user_codes),
        )

    # ---------------------------------------------------------------- disk

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything that decides who has which code, 16 hexadecimal digits."""
        digest = hashlib.sha256(self.unknown.encode())
        for ids, known, bits in (
            (self.users.ids, self.known_users, self.user_codes),
            (self.items.ids, self.known_items, self.item_codes),
        ):
            digest.update(fingerprint(pa.table({"id": ids, "known": known})).encode())
            digest.update(np.packbits(bits).tobytes())
        for name in sorted(self.maps):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(self.maps[name]).tobytes())
        if self.encoder is not None:
            digest.update(json.dumps(self.encoder.description(), sort_keys=True).encode())
            for name, tensor in sorted(self.encoder.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Write the codes as a folder of Parquet, safetensors and JSON, whole or not at all.

        ``users.parquet`` and ``items.parquet`` hold the ids, ``known``, and ``code`` as 0 and 1. The weights
        of an encoder are in ``model.safetensors``.

        Args:
            folder: where to write; codes in that place are replaced.
            force: as in ``artifacts.write_folder``.

        Raises:
            StorageError: if the folder cannot be written.
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
            if self.encoder is not None:
                values["encoder"] = self.encoder.description()
                tensors = {name: tensor.contiguous() for name, tensor in self.encoder.state_dict().items()}
                save_tensors(tensors, aside / WEIGHTS)
            write_json({"kind": "codes", **values}, aside / CONFIG)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Open codes that :meth:`save_pretrained` wrote.

        Raises:
            StorageError: if there is no ``config.json``.
            DataError: if a file cannot be read, or holds something else than codes.
            ModelError: if the folder is not one of codes, or a file is missing or damaged.
        """
        source = Path(folder)
        values = read_json(source / CONFIG)
        kind = values.get("kind") if isinstance(values, dict) else values
        if kind != "codes":
            raise ModelError(
                f"{source / CONFIG} holds {str(kind)[:40]!r}; give a folder that Codes.save_pretrained wrote"
            )
        check_whole(source, besides=[CONFIG])
        users, known_users, user_codes = _read_side(source / USERS, "user_id")
        items, known_items, item_codes = _read_side(source / ITEMS, "note_id")
        try:
            maps = load_file(source / _MAPS)
            _check_saved(values, maps, user_codes.shape[1], item_codes.shape[1])
            encoder = _read_encoder(source, values, users, items, user_codes.shape[1])
        except (SafetensorError, OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"{source} is not a whole folder of codes: {reason}; save it again") from error
        return cls(
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
            encoder=encoder,
        )


def _read_encoder(
    source: Path, values: Mapping[str, Any], users: IdIndex, items: IdIndex, bits: int
) -> CodeModel | None:
    """Return the encoder of a folder of codes; None for codes without one."""
    if "encoder" not in values:
        return None
    described = values["encoder"]
    if not isinstance(described, dict) or described.keys() != {"kind", "config"}:
        raise ValueError(f"encoder in {CONFIG} is {str(described)[:40]!r}")
    model = CodeModel(build_saved(described["kind"], users.ids, items.ids, described["config"]), bits)
    model.load(load_tensors(source / WEIGHTS))
    return model


def _read_side(path: Path, column: str) -> tuple[IdIndex, Bits, Bits]:
    """Read one of the two tables: ids, which of them are known, bool (n,), and codes, bool (n, bits)."""
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


def _check_saved(
    values: Mapping[str, Any], maps: Mapping[str, npt.NDArray[Any]], user_bits: int, item_bits: int
) -> None:
    """Check that the parts of a folder of codes fit together.

    Raises:
        ValueError: if they do not.
    """
    if user_bits != item_bits:
        raise ValueError(f"users have codes of {user_bits} bits, items of {item_bits}")
    scale, unknown = values.get("scale"), values.get("unknown")
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"the scale in {CONFIG} is {scale!r}")
    if unknown not in get_args(Unknown):
        raise ValueError(f"unknown in {CONFIG} is {unknown!r}, not one of {', '.join(get_args(Unknown))}")
    description = values.get("description")
    options = description.get("options") if isinstance(description, dict) else None
    kind = options.get("collaborative") if isinstance(options, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"the collaborative model in {CONFIG} is {kind!r}, not one of {', '.join(KINDS)}")
    needed: dict[str, tuple[tuple[int, ...], type]] = dict.fromkeys(
        ("average_user", "average_item"), ((user_bits,), np.bool_)
    )
    if unknown == "folded" and "encoder" not in values:
        needed |= {"weight": ((user_bits, user_bits), np.float32)}
        needed |= dict.fromkeys(("offset", "background"), ((user_bits,), np.float32))
    for name, (shape, kind) in needed.items():
        if name not in maps or maps[name].shape != shape or maps[name].dtype != kind:
            raise ValueError(f"{_MAPS} has no {name} of shape {shape}")


def inner_product(users: Bits, items: Bits) -> Floats:
    """Return the scores float32 (n,) of codes (n, bits) and (n, bits), row by row: from -bits to bits."""
    scores: Floats = (users.shape[1] - 2 * (users != items).sum(1)).astype(np.float32)
    return scores
