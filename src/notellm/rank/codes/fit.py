"""Fitting codes to impressions, and codes out of fold for the rows that a language model is tuned on.

The codes of a training row have seen its label, so a language model tuned on such rows would trust codes more
than it should. :func:`fit_out_of_fold` gives every row the codes of a model that was fitted on the other
folds. All models start from the same first weights, so that most bits keep their meaning from fold to fold.

What was tried, and the figures: ``benchmarks/README.md``, "Choices and their measurements".
"""

from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from notellm.errors import ConfigError, DataError
from notellm.rank.codes.codes import Codes
from notellm.rank.codes.model import CodeModel
from notellm.rank.codes.options import CodeOptions
from notellm.rank.codes.text import Bits
from notellm.rank.codes.unknown import fit_fold
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.collaborative.rows import Ids
from notellm.rank.collaborative.train import Training, fit


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
    base = model.base
    known_users, known_items = base.known_users.numpy(), base.known_items.numpy()
    real_users, real_items = model.real()
    item_codes = real_items >= 0
    fold_maps = fit_fold(base.items, base.users, train, real_users, item_codes[:-1], known_items)
    return Codes(
        users=base.users,
        items=base.items,
        user_codes=real_users[:-1] >= 0,
        item_codes=item_codes[:-1],
        known_users=known_users,
        known_items=known_items,
        maps={"average_user": real_users[-1] >= 0, "average_item": item_codes[-1], **fold_maps},
        scale=float(model.scale.detach()),
        unknown=options.unknown,
        description={"options": asdict(options), "training": training.to_json()},
    )
