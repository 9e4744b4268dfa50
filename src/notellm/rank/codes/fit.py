"""Fitting codes to impressions, and codes out of fold for the rows that a language model is tuned on.

The codes of a training row have seen its label, so a language model tuned on such rows would trust codes more
than it should. :func:`fit_out_of_fold` gives every row the codes of a model that was fitted on the other
folds. All models start from the same first weights, so that most bits keep their meaning from fold to fold.

What was tried, and the figures: ``benchmarks/README.md``, "Choices and their measurements".
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from notellm.data.ids import Ids
from notellm.errors import ConfigError, DataError
from notellm.rank.codes.codes import Codes
from notellm.rank.codes.model import CodeModel
from notellm.rank.codes.options import CodeOptions
from notellm.rank.codes.text import Bits
from notellm.rank.codes.unknown import fit_fold, longest_histories
from notellm.rank.collaborative.base import CollaborativeModel
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.collaborative.rows import Rows
from notellm.rank.collaborative.train import Training, fit


def fit_codes(train: pa.Table, valid: pa.Table, options: CodeOptions | None = None) -> Codes:
    """Fit the codes of the users and items of the training impressions.

    Args:
        train: impressions to learn from: user_id, note_id, label and history.
        valid: impressions that choose the best epoch.
        options: options of the codes; None uses the defaults.

    Raises:
        DataError: if a table lacks a column or one of the labels.
    """
    return _fit_best(train, valid, options or CodeOptions())[0]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Codes of the training rows from models that have not seen them.

    Attributes:
        codes: codes fitted on all rows, with which everything but these rows is scored.
        fold: int64 (n,), the fold of each row.
        user_bits: bool (n, bits), the user's code for each row.
        item_bits: bool (n, bits), the item's code for each row.
        has_user: bool (n,), as `Codes.has_user`: a user whose rows are all in one fold is unknown in that
            fold.
        has_item: bool (n,), as `Codes.has_item`.
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
    """Fit codes on all rows, and codes of every training row on the folds that do not contain it.

    Args:
        train: impressions to learn from, n rows.
        valid: impressions that choose the best epoch.
        options: options of the codes; None uses the defaults.
        folds: number of parts into which the rows are drawn at random; one more model is trained for each.

    Raises:
        ConfigError: if there are fewer than 2 folds.
        DataError: if a table lacks a column or one of the labels, or has fewer rows than folds.
    """
    options = options or CodeOptions()
    if folds < 2:
        raise ConfigError(f"folds is {folds}; it must be 2 or more")
    if len(train) < folds:
        raise DataError(
            f"there are {len(train)} training rows in {folds} folds; give more rows or fewer folds"
        )
    codes, training = _fit_best(train, valid, options)
    training = training.for_rows(len(train))  # the same penalty for a part of the rows
    fold = np.random.default_rng(training.seed).permutation(np.arange(len(train)) % folds)
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
        # All ids in the same order, also those without a row in these folds, so that the first weights are
        # equal.
        users, items = codes.users.ids, codes.items.ids
        name = f"codes, fold {number + 1} of {folds}"
        apart = _fit(users, items, others, valid, replace(options, training=training), name)
        result.user_bits[inside] = apart.user_bits(rows["user_id"], rows["history"])
        result.item_bits[inside] = apart.item_bits(rows["note_id"])
        result.has_user[inside] = apart.has_user(rows["user_id"], rows["history"])
        result.has_item[inside] = apart.has_item(rows["note_id"])
    return result


def _fit_best(train: pa.Table, valid: pa.Table, options: CodeOptions) -> tuple[Codes, TrainingOptions]:
    """Fit codes with each penalty; return the best by validation AUC, and the training options they had."""
    users, items = train["user_id"].unique(), train["note_id"].unique()
    best: tuple[float, Codes, TrainingOptions] | None = None
    for penalty in options.penalties or options.kind.penalties:
        training = replace(options.training_options(), penalty=penalty)
        name = f"codes, penalty {penalty:g}"
        codes = _fit(users, items, train, valid, replace(options, training=training), name)
        auc = codes.description["training"]["valid_auc"]
        if best is None or auc > best[0]:
            best = auc, codes, training
    if best is None:
        raise ConfigError("there are no penalties to try; give at least one")
    return best[1:]


def _fit(
    user_ids: Ids, note_ids: Ids, train: pa.Table, valid: pa.Table, options: CodeOptions, name: str
) -> Codes:
    """Fit the codes of some ids; those without a training row are unknown."""
    model = CodeModel.from_options(user_ids, note_ids, options)
    model.base.prepare(train)

    def before_epoch(epoch: int) -> None:
        if options.anneal_epochs:
            model.sign_share = min(1.0, (epoch - 1) / options.anneal_epochs)

    training = fit(
        model,
        model.base.rows_of_table(train, "train"),
        model.base.rows_of_table(valid, "valid"),
        options.training_options(),
        name=name,
        before_epoch=before_epoch,
        first_kept=options.anneal_epochs + 1,
    )
    return _codes(model, train, options, training)


def _codes(model: CodeModel, train: pa.Table, options: CodeOptions, training: Training) -> Codes:
    """Return the codes of a trained model, those of unknown users and items included."""
    base = model.base
    reads_histories = base.max_history > 0
    known_users, known_items = base.known_users.numpy(), base.known_items.numpy()
    real_users = model.real_users(_rows_of_all_users(base, train))
    item_codes = model.real_items() >= 0
    maps: dict[str, npt.NDArray[Any]] = {"average_user": real_users[-1] >= 0, "average_item": item_codes[-1]}
    if not reads_histories:  # otherwise every user's code is computed from the history
        maps |= fit_fold(base.items, base.users, train, real_users, item_codes[:-1], known_items)
    return Codes(
        users=base.users,
        items=base.items,
        user_codes=real_users[:-1] >= 0,
        item_codes=item_codes[:-1],
        known_users=known_users,
        known_items=known_items,
        maps=maps,
        scale=float(model.scale.detach()),
        unknown=options.unknown,
        description={"options": asdict(options.resolved()), "training": training.to_json()},
        encoder=model if reads_histories else None,
    )


def _rows_of_all_users(base: CollaborativeModel, train: pa.Table) -> Rows:
    """Return a row for each user, with the longest history in the training rows, and one for nobody."""
    count = len(base.users) + 1
    past = torch.full((count, base.max_history), -1)
    if base.max_history:
        users, histories = longest_histories(base.users.rows(train["user_id"]), train["history"])
        past[users] = torch.from_numpy(base.items.last(histories, base.max_history, base.known_items.numpy()))
    return Rows(
        users=torch.tensor([*range(count - 1), -1]),
        items=torch.full((count,), -1),
        histories=past,
        labels=torch.empty(count),
    )
