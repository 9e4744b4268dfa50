"""Binary codes of users and items: the collaborative signal in a form that a prompt can hold.

    h_u = sign(tanh(W e_u + b))        h_i = sign(tanh(V e_i + c))        logit = s (h_u . h_i)

The vectors e of a matrix factorisation and both layers are learnt together by binary cross-entropy; the sign
passes the gradient on as it is, "straight through" (BinLLM, arXiv 2406.03210). The scale s is learnt too,
where the paper has 1: with 32 bits and weight decay 1e-3 on the paper's MovieLens split, validation AUC
0.726 with it and 0.680 without. There most bits become the same for nearly all: with weight decay 5e-4 (17 /
33,891 rows) some 10 of 32 have a rarer value in 2 % of the users or more, with 1e-4 about 20 (validation AUC
0.722 instead of 0.725), with 1e-5 nearly all (0.715). How much is best depends on the log: of the penalties
17, 5 and 2 the first is best there by 0.004 or more, and of 50,000 users with 12 rows each (MicroLens, one
drawn note a click) the last: 0.681, against 0.579 and 0.5, where all codes are the same. So some are tried.

Near 0 a small step turns a sign, so a moving average of the weights is what is kept: AUC 0.740 instead of
0.736 on all of the validation part, means of 3 seeds (all other figures here are without it, on its smaller
half, but for those of the penalties).

A code is a row of booleans, True for +1 (as text: ``code_text.py``). Score = h_u . h_i = agreeing bits less
the others.

**Unknown users and items** have no training row, and never get the code of one that was not trained:

- "average": the code of the mean vector of the known ones.
- "folded": a user's code from the history. A ridge regression, fitted on the known users, maps the mean of
  the liked items' codes (less the mean over all training rows, shrunk as if 5 average items had been liked
  too) to the real-valued code. Without any history, and for items, as "average".
- "none": no code in the prompt (`has_user`, `has_item`), as "average" elsewhere.

Measured on the rows of users unknown to the codes in that split's validation part (1,843 rows, 61 users),
AUC / UAUC, means of 3 seeds: average 0.673 / 0.630, folded 0.663 / 0.623; without a code 0.5 by definition.
Hence the default. A map learnt end to end on the training rows came between 0.65 and 0.67 / 0.60 and 0.65,
a logistic fold-in at 0.60 / 0.61, both below average in the same runs.

**Out of fold**: a code has seen the labels of its own training rows (AUC 0.85 there, 0.77 for codes that
have not seen them), so an LLM tuned on these rows trusts codes more than it should. :func:`fit_out_of_fold`
gives every row the codes of a model that was fitted on the other folds alone. All models start from the same
first values, so most bits keep their meaning: 95 % are as in the codes of all rows, Cohen's kappa 0.6 over
the bits that vary; from other first values kappa is 0.05. Starting from finished weights, or fitting one
side anew against the finished other, agrees more (0.7 to 0.8) but knows the rows: on labels that are noise
(320 rows, chosen by these very rows) the latter had AUC 0.85 where this had 0.58 and no knowledge 0.5.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from torch import Tensor, nn

from notellm.artifacts.manifest import check_whole
from notellm.artifacts.write import write_folder
from notellm.errors import ConfigError, DataError, ModelError
from notellm.files import read_json, read_parquet, write_json, write_parquet
from notellm.rank.codes.text import Bits, binary_text, parse_binary
from notellm.rank.collaborative.base import CONFIG, ITEMS, USERS, Floats, inference, lookup, seeded
from notellm.rank.collaborative.mf import MatrixFactorization
from notellm.rank.collaborative.rows import Histories, IdIndex, Ids, Ints, Rows
from notellm.rank.collaborative.train import Training, TrainingOptions, fit

Unknown = Literal["average", "folded", "none"]

_MAPS = "maps.safetensors"
_AVERAGE_LIKES = 5  # average items that every history is taken to hold besides its own
_RIDGE = 1.0


@dataclass(frozen=True)
class CodeOptions:
    """How codes are made.

    Attributes:
        bits: of a code, a multiple of 8 (paper: 32).
        dimensions: of the vectors e.
        anneal_epochs: epochs in which the share of the bits that are signs, not tanh, rises from 0 to 1, as
            in the paper's code; no epoch before is kept. 0 takes signs from the start.
        unknown: code of a user or item without training row; see the module.
        penalties: of the training (`TrainingOptions`), which are tried in turn; the one of the best
            validation AUC is kept. Too much makes all codes the same, too little tells them apart by chance,
            and where that is differs from log to log.
        training: of the codes; its seed makes the first values too.
    """

    bits: int = 32
    dimensions: int = 32
    anneal_epochs: int = 0
    unknown: Unknown = "average"
    penalties: tuple[float, ...] = (17.0, 5.0, 2.0)
    training: TrainingOptions = field(
        default_factory=lambda: TrainingOptions(learning_rate=3e-3, weight_decay=0.0, averaging=0.995)
    )

    def __post_init__(self) -> None:
        """Check all of them together.

        Raises:
            ConfigError: with every problem found.
        """
        problems = []
        if self.bits < 8 or self.bits % 8:
            problems.append(f"bits is {self.bits}; it must be a multiple of 8")
        if self.dimensions < 1:
            problems.append(f"dimensions is {self.dimensions}; it must be 1 or more")
        if not 0 <= self.anneal_epochs < self.training.epochs:
            problems.append(
                f"anneal_epochs is {self.anneal_epochs}; it must be 0 or more, and below the "
                f"{self.training.epochs} epochs of the training"
            )
        if not self.penalties or not all(penalty >= 0 for penalty in self.penalties):
            problems.append(f"penalties is {self.penalties}; give one or more numbers of 0 or more")
        if self.unknown not in get_args(Unknown):
            problems.append(f"unknown is {self.unknown!r}; it must be one of {', '.join(get_args(Unknown))}")
        if problems:
            raise ConfigError("; ".join(problems))


class CodeModel(nn.Module):
    """The vectors, the two layers and the scale, which are trained together.

    Args:
        user_ids: the users.
        note_ids: the items.
        options: of the codes.

    Attributes:
        sign_share: share of the bits that are signs in training; the others are tanh.
    """

    def __init__(self, user_ids: Ids, note_ids: Ids, options: CodeOptions) -> None:
        super().__init__()
        seed = options.training.seed
        self.base = MatrixFactorization(
            user_ids, note_ids, dimensions=options.dimensions, biases=False, seed=seed
        )
        with seeded(seed + 1):
            self.user_layer = nn.Linear(options.dimensions, options.bits)
            self.item_layer = nn.Linear(options.dimensions, options.bits)
        self.scale = nn.Parameter(torch.tensor(options.bits**-0.5))
        self.sign_share = 1.0

    def forward(self, rows: Rows) -> Tensor:
        """Logits (n,)."""
        users, items = self.base.vectors(rows)
        products = self._code(self.user_layer(users)) * self._code(self.item_layer(items))  # n x bits
        return self.scale * products.sum(1)

    def _code(self, real: Tensor) -> Tensor:
        """Signs of real-valued codes, with the gradient of tanh."""
        soft = torch.tanh(real)
        hard = torch.where(soft >= 0, 1.0, -1.0)
        if self.training and self.sign_share < 1:
            hard = torch.where(torch.rand_like(soft) < self.sign_share, hard, soft)
        return soft + (hard - soft).detach()

    def real(self) -> tuple[Floats, Floats]:
        """Real-valued codes of users (U + 1, bits) and items (I + 1, bits).

        Unknown ones have the code of the mean vector, which is also the last row.
        """
        with inference(self):
            users, items = self.base.tables()
            return tuple(
                layer(lookup(table, torch.tensor([*range(len(table)), -1]), known)).numpy()
                for layer, table, known in (
                    (self.user_layer, users, self.base.known_users),
                    (self.item_layer, items, self.base.known_items),
                )
            )


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
        return _is_known(self.users.rows(user_ids), self.known_users) | (self.unknown != "none")

    def has_item(self, note_ids: Ids) -> Bits:
        """Which items have a code to write into a prompt, (n,): all of them unless unknown is "none"."""
        return _is_known(self.items.rows(note_ids), self.known_items) | (self.unknown != "none")

    def user_bits(self, user_ids: Ids, histories: Histories | None = None) -> Bits:
        """Codes of users, bool (n, bits).

        Args:
            user_ids: n ids.
            histories: notes that each liked before, for "folded"; None for nothing.
        """
        rows = self.users.rows(user_ids)
        known = _is_known(rows, self.known_users)
        result = np.where(known[:, None], self.user_codes[rows], self.maps["average_user"])
        if self.unknown == "folded" and histories is not None and not known.all():
            features = _likes(
                self.items, histories, self.item_codes, self.known_items, self.maps["background"]
            )
            folded = features @ self.maps["weight"] + self.maps["offset"] >= 0
            result[~known] = folded[~known]
        return result

    def item_bits(self, note_ids: Ids) -> Bits:
        """Codes of items, bool (n, bits)."""
        rows = self.items.rows(note_ids)
        known = _is_known(rows, self.known_items)
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


def fit_codes(train: pa.Table, valid: pa.Table, options: CodeOptions | None = None) -> Codes:
    """Codes of the users and items of the training impressions.

    Args:
        train: impressions to learn from: user_id, note_id, label and history.
        valid: impressions that choose the best epoch.
        options: how; the defaults when None.

    Raises:
        DataError: a table lacks a column or one of the labels.
    """
    return _fit_best(train, valid, options or CodeOptions())[0]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Codes for the training rows from models that have not seen them.

    Attributes:
        codes: fitted on all rows; what everything but these rows is scored with.
        fold: int64 (n,), which fold a row is in.
        user_bits: bool (n, bits), the user's code for the row.
        item_bits: bool (n, bits), the item's.
        has_user: bool (n,), as `Codes.has_user`: a user whose rows are all in one fold is unknown there.
        has_item: bool (n,), likewise.
    """

    codes: Codes
    fold: npt.NDArray[np.int64]
    user_bits: Bits
    item_bits: Bits
    has_user: Bits
    has_item: Bits


def fit_out_of_fold(
    train: pa.Table, valid: pa.Table, options: CodeOptions | None = None, folds: int = 5
) -> OutOfFold:
    """Codes as :func:`fit_codes`, and for the training rows those of models fitted on the other folds.

    Args:
        train: impressions to learn from, n rows.
        valid: impressions that choose the best epoch.
        options: how; the defaults when None.
        folds: parts of the rows, drawn at random; as many more models are trained.

    Raises:
        ConfigError: fewer than 2 folds.
        DataError: a table lacks a column or one of the labels, or has fewer rows than folds.
    """
    options = options or CodeOptions()
    if folds < 2:
        raise ConfigError(f"folds is {folds}: give 2 or more")
    if len(train) < folds:
        raise DataError(f"{len(train)} training rows in {folds} folds: give more rows or fewer folds")
    codes, training = _fit_best(train, valid, options)
    options = replace(options, training=training.for_rows(len(train)))  # as strict in a part of the rows
    fold = np.random.default_rng(options.training.seed).permutation(np.arange(len(train)) % folds)
    result = OutOfFold(
        codes=codes,
        fold=fold,
        user_bits=np.empty((len(train), options.bits), np.bool_),
        item_bits=np.empty((len(train), options.bits), np.bool_),
        has_user=np.empty(len(train), np.bool_),
        has_item=np.empty(len(train), np.bool_),
    )
    for number in range(folds):
        inside = fold == number
        others, rows = train.filter(pa.array(~inside)), train.filter(pa.array(inside))
        # All ids in the same order, also those without a row here: so their first values are the same too.
        apart = _fit(
            codes.users.ids, codes.items.ids, others, valid, options, f"codes, fold {number + 1} of {folds}"
        )
        result.user_bits[inside] = apart.user_bits(rows["user_id"], rows["history"])
        result.item_bits[inside] = apart.item_bits(rows["note_id"])
        result.has_user[inside] = apart.has_user(rows["user_id"])
        result.has_item[inside] = apart.has_item(rows["note_id"])
    return result


def inner_product(users: Bits, items: Bits) -> Floats:
    """Scores of codes row by row, (n, bits) and (n, bits) to float32 (n,): from -bits to bits."""
    scores: Floats = (users.shape[1] - 2 * (users != items).sum(1)).astype(np.float32)
    return scores


def _fit_best(train: pa.Table, valid: pa.Table, options: CodeOptions) -> tuple[Codes, TrainingOptions]:
    """Codes of the best of the penalties, and the training with it."""
    users, items = train["user_id"].unique(), train["note_id"].unique()
    found = []
    for penalty in options.penalties:
        chosen = replace(options, training=replace(options.training, penalty=penalty))
        codes = _fit(users, items, train, valid, chosen, f"codes, penalty {penalty:g}")
        found.append((codes.description["training"]["valid_auc"], codes, chosen.training))
    _, codes, training = max(found, key=lambda each: each[0])
    return codes, training


def _fit(
    user_ids: Ids, note_ids: Ids, train: pa.Table, valid: pa.Table, options: CodeOptions, name: str
) -> Codes:
    """Codes of some ids, of which those without a training row are unknown."""
    model = CodeModel(user_ids, note_ids, options)
    model.base.prepare(train)

    def before_epoch(epoch: int) -> None:
        if options.anneal_epochs:
            model.sign_share = min(1.0, (epoch - 1) / options.anneal_epochs)

    training = fit(
        model,
        model.base.encode_table(train, "train"),
        model.base.encode_table(valid, "valid"),
        options.training,
        name=name,
        before_epoch=before_epoch,
        first_kept=options.anneal_epochs + 1,
    )
    return _codes(model, train, options, training)


def _codes(model: CodeModel, train: pa.Table, options: CodeOptions, training: Training) -> Codes:
    """What a trained model says of all ids, and of those that it does not know."""
    known_users, known_items = model.base.known_users.numpy(), model.base.known_items.numpy()
    real_users, real_items = model.real()
    item_codes = real_items >= 0
    background = _signs(item_codes[model.base.items.rows(train["note_id"])]).mean(0)
    users, latest = _longest(model.base.users.rows(train["user_id"]), train["history"])
    likes = _likes(model.base.items, latest, item_codes[:-1], known_items, background)
    offset = real_users[-1]
    weight = np.linalg.solve(
        likes.T @ likes + _RIDGE * np.eye(options.bits, dtype=np.float32),
        likes.T @ (real_users[users] - offset),
    )
    return Codes(
        users=model.base.users,
        items=model.base.items,
        user_codes=real_users[:-1] >= 0,
        item_codes=item_codes[:-1],
        known_users=known_users,
        known_items=known_items,
        maps={
            "average_user": offset >= 0,
            "average_item": item_codes[-1],
            "weight": weight,
            "offset": offset,
            "background": background,
        },
        scale=float(model.scale.detach()),
        unknown=options.unknown,
        description={"options": asdict(options), "training": training.to_json()},
    )


def _is_known(rows: Ints, known: Bits) -> Bits:
    """Which rows are there and were trained, (n,)."""
    return (rows >= 0) & known[rows]


def _signs(codes: Bits) -> Floats:
    """+1 and -1."""
    return np.where(codes, np.float32(1), np.float32(-1))


def _longest(users: Ints, histories: pa.ChunkedArray) -> tuple[Ints, pa.ChunkedArray]:
    """The users of some rows, each once, and the longest history of each."""
    order = np.lexsort((pc.list_value_length(histories).to_numpy(), users))
    last = np.zeros(len(users), np.bool_)
    last[order[np.append(np.diff(users[order]) > 0, np.True_)]] = True
    # `take` would join all chunks, which may be too long for one.
    return users[last], histories.filter(pa.array(last))


def _likes(items: IdIndex, histories: Histories, item_codes: Bits, known: Bits, background: Floats) -> Floats:
    """Mean code of each history's items less the background, shrunk to 0, float32 (n, bits)."""
    rows, owner = items.flat(histories, known)
    shape = (len(histories), len(items))
    counts = sparse.csr_array((np.ones(len(rows), np.float32), (owner, rows)), shape=shape)
    sums: Floats = counts @ (_signs(item_codes) - background)
    means: Floats = sums / (counts.sum(1)[:, None] + np.float32(_AVERAGE_LIKES))
    return means
