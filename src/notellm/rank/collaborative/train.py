"""Training on labelled impressions: binary cross-entropy, Adam, and the epoch with the best validation AUC.

After every epoch the AUC of the validation rows is measured, those of unseen users and items included. When
it has not risen for ``patience`` epochs or ``patience_steps`` steps, training ends with the weights of the
best epoch. All random numbers follow from the seed.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from notellm.errors import ConfigError
from notellm.progress import progress_bar
from notellm.rank.collaborative.base import CollaborativeModel, predict, seeded
from notellm.rank.collaborative.kinds import REAL_VALUED, RealValued
from notellm.rank.collaborative.options import TrainingOptions
from notellm.rank.collaborative.rows import Rows


@dataclass(frozen=True)
class Training:
    """How a training went.

    Attributes:
        options: the options of the training.
        epochs: number of passes over the rows.
        best_epoch: the epoch whose weights were kept, counted from 1.
        valid_auc: AUC of that epoch on the validation rows.
    """

    options: TrainingOptions
    epochs: int
    best_epoch: int
    valid_auc: float

    def to_json(self) -> dict[str, object]:
        """Return the fields as JSON values."""
        return asdict(self)


def fit_real_valued(
    train: pa.Table,
    valid: pa.Table,
    name: RealValued = "mf",
    *,
    epochs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[CollaborativeModel, Training]:
    """Fit a model that ranks by its real-valued vectors, with its settings in ``kinds.REAL_VALUED``.

    Each penalty is tried, as for codes, and the model with the best validation AUC is returned. Its
    ``scores`` are logits of being liked.

    Args:
        train: impressions to learn from: user_id, note_id, label and history.
        valid: impressions of both labels that choose epoch and penalty.
        name: which model.
        epochs: most passes over the rows, where the model's own limit is higher; None for its own.
        seed: seed of the first weights, the order of the rows and dropout.
        progress: show a progress bar for each penalty.

    Returns:
        The model, and how its training went.

    Raises:
        ConfigError: if there is no such model, or ``epochs`` is below 1.
        DataError: if a table lacks a column or one of the labels.
    """
    if name not in REAL_VALUED:
        raise ConfigError(f"no real-valued model {name!r}: give one of {', '.join(REAL_VALUED)}")
    kind = REAL_VALUED[name]
    most = kind.training.epochs if epochs is None else min(epochs, kind.training.epochs)
    options = replace(kind.training, epochs=most, seed=seed, progress=progress)
    users, items = train["user_id"].unique(), train["note_id"].unique()

    def fitted(penalty: float) -> tuple[CollaborativeModel, Training]:
        model = kind.load()(users, items, dimensions=kind.dimensions, seed=seed, **kind.arguments)
        title = f"{kind.label}, penalty {penalty:g}"
        return model, train_collaborative(model, train, valid, replace(options, penalty=penalty), name=title)

    return max(map(fitted, kind.penalties), key=lambda found: found[1].valid_auc)


def train_collaborative(
    model: CollaborativeModel,
    train: pa.Table,
    valid: pa.Table,
    options: TrainingOptions | None = None,
    *,
    name: str = "training",
) -> Training:
    """Train a model in place, once; users and items without a row in ``train`` stay unknown.

    Args:
        model: an untrained model.
        train: impressions to learn from.
        valid: impressions of both labels that choose the best epoch.
        options: options of the training; None uses the defaults.
        name: name of the progress bar.

    Raises:
        DataError: if a table lacks a column or one of the labels.
    """
    model.prepare(train)
    rows = model.rows_of_table(train, "train"), model.rows_of_table(valid, "valid")
    return fit(model, *rows, options, name=name)


def fit(
    module: nn.Module,
    train: Rows,
    valid: Rows,
    options: TrainingOptions | None = None,
    *,
    name: str = "training",
    before_epoch: Callable[[int], None] | None = None,
    first_kept: int = 1,
) -> Training:
    """Train any module that turns rows into logits, in place; `train_collaborative` calls this.

    Args:
        module: a module whose ``forward`` takes `Rows` and returns logits (n,).
        train: rows to learn from.
        valid: rows that choose the best epoch.
        options: options of the training; None uses the defaults.
        name: name of the progress bar.
        before_epoch: called before each epoch with its number, counted from 1.
        first_kept: first epoch whose weights may be kept.
    """
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - it takes a second, which a service need not wait

    options = options or TrainingOptions()
    optimizer = torch.optim.Adam(
        module.parameters(),
        lr=options.learning_rate,
        weight_decay=options.for_rows(len(train)).weight_decay,
    )
    kept, average = module, None
    if options.averaging:
        average = AveragedModel(module, avg_fn=_moving_average(options.averaging))
        kept = average.module
    best, best_epoch, weights = -1.0, 0, copy.deepcopy(kept.state_dict())
    truth = valid.labels.numpy()
    steps = math.ceil(len(train) / options.batch)
    patience = min(options.patience, math.ceil(options.patience_steps / steps))
    with (
        seeded(options.seed),
        progress_bar(total=options.epochs, desc=name, unit="epoch", disable=not options.progress) as bar,
    ):
        for epoch in range(1, options.epochs + 1):
            if before_epoch is not None:
                before_epoch(epoch)
            module.train()
            for chosen in torch.split(torch.randperm(len(train)), options.batch):
                rows = train[chosen]
                loss = functional.binary_cross_entropy_with_logits(module(rows), rows.labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                if average is not None:
                    average.update_parameters(module)
            auc = float(roc_auc_score(truth, predict(kept, valid)))
            bar.update()
            bar.set_postfix(valid_auc=f"{auc:.4f}", best=f"{max(best, auc):.4f}")
            if epoch < first_kept:
                continue
            if auc > best:
                best, best_epoch, weights = auc, epoch, copy.deepcopy(kept.state_dict())
            elif epoch - best_epoch >= patience:
                break
    module.load_state_dict(weights)
    module.eval()
    return Training(options, epoch, best_epoch, best)


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Return the update rule for ``AveragedModel``; the first steps count less, because they are far off."""

    def update(mean: Tensor, now: Tensor, steps: Tensor | int) -> Tensor:
        return now.lerp(mean, min(decay, float((steps + 1) / (steps + 10))))

    return update
