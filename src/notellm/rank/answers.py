"""Fitting the answer before tuning: a regression of the labels on the last hidden states of training prompts.

    logit of enjoying = w . state + b            one forward pass, where gradient steps take hundreds

The weights become the output head's rows of "Yes" and "No" (:func:`fit_answer_rows`: the tiny backbone, whose
head is its own), or a head beside the backbone (:func:`fit_answer_head`: pretrained backbones, whose output
head may be tied to the token embeddings).
"""

from collections.abc import Sequence

import numpy as np
import torch

from notellm.backbone.batch import length_batches
from notellm.backbone.load import evaluation_mode
from notellm.errors import DataError, ModelError
from notellm.progress import progress_bar
from notellm.rank.batch import RankRows
from notellm.rank.model import BinLLM

#: Inverse strength of the penalty for the tiny backbone, whose first weights give its states their scales.
_TINY_STRENGTH = 1e-3
#: Penalties of the answer head between which held-out users choose, in units of the mean eigenvalue of the
#: states' covariance.
_PENALTIES = 10.0 ** np.arange(-3, 3)
_FOLDS = 5


def fit_answer_rows(
    model: BinLLM,
    rows: RankRows,
    users: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Set the output head's rows of "Yes" and "No" of a tiny model, in place.

    The first weights of the tiny backbone write what they compute into its last state; the regression weighs
    the parts of that state. A row has the weight 1 / root(rows of its user), so that the few users with most
    rows do not dominate.

    Args:
        model: a model whose output head is not tied to its embeddings.
        rows: prompts and labels. Their codes must be out of fold, or the regression trusts them too much.
        users: the user of each row; None gives all rows the same weight.
        limit: largest number of rows used, drawn by the seed; None uses all.
        seed: seed of the draw.
        progress: show a progress bar while hidden states are computed.

    Raises:
        DataError: if the drawn rows have one label only.
        ModelError: if a hidden state is not finite.
    """
    states, labels, weights, _ = _drawn(model, rows, users, limit, seed, progress=progress)
    weight, intercept = _regression(states, labels, weights, _TINY_STRENGTH)
    # The head has no bias, so the intercept is added along the mean state.
    mean = states.mean(axis=0)
    half = torch.from_numpy((weight + intercept * mean / (mean @ mean)) / 2)
    half = half.to(model.device, torch.float32)
    head = model.backbone.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    head.data[model.prompt.yes_id] = half
    head.data[model.prompt.no_id] = -half


def fit_answer_head(
    model: BinLLM,
    rows: RankRows,
    users: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> None:
    """Give a model an answer head, or fit the one that it has; its backbone does not change.

    The direction is a ridge regression on standardised states, since single dimensions of a pretrained model
    are far larger than others. The penalty is the one with the best AUC on users who are held out in turn.
    The same held-out scores say how much the direction is to be trusted: a logistic regression of the labels
    on them gives scale and intercept.

    Args:
        model: any model; changed in place.
        rows: as in :func:`fit_answer_rows`.
        users: as in :func:`fit_answer_rows`; None takes every row for a user of its own.
        limit: as in :func:`fit_answer_rows`.
        seed: seed of the draw, and of which users are held out together.
        progress: as in :func:`fit_answer_rows`.

    Raises:
        DataError: if the drawn rows have one label only.
        ModelError: if a hidden state is not finite.
    """
    states, labels, weights, owners = _drawn(model, rows, users, limit, seed, progress=progress)
    mean, spread = states.mean(axis=0), states.std(axis=0)
    spread[spread < 1e-6 * spread.max()] = 1  # a constant dimension tells nothing
    states = (states - mean) / spread
    held_out = np.zeros((len(_PENALTIES), len(labels)))
    fold = np.random.default_rng(seed).permutation(owners.max() + 1)[owners] % _FOLDS
    for number in np.unique(fold):
        test = fold == number
        if not test.all():
            held_out[:, test] = _ridge(states[~test], labels[~test], weights[~test]) @ states[test].T
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - it takes a second, which a service need not wait

    best = int(np.argmax([roc_auc_score(labels, each, sample_weight=weights) for each in held_out]))
    scale, intercept = _regression(held_out[best][:, None], labels, weights, 1e6)
    # Without any signal the slope may be negative; a weight of 0 would leave tuning without a gradient.
    slope = float(scale[0]) if scale[0] > 0 else 1.0
    weight = slope * _ridge(states, labels, weights)[best] / spread
    model.set_answer_head(weight, intercept - float(weight @ mean))


@torch.inference_mode()
def _drawn(
    model: BinLLM,
    rows: RankRows,
    users: Sequence[str] | None,
    limit: int | None,
    seed: int,
    *,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the last hidden states, labels, weights and users' numbers of the drawn rows."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:limit]
    labels = rows.labels[chosen]
    if len(np.unique(labels)) < 2:
        raise DataError(f"the {len(chosen)} rows have one label only; there is nothing to tell apart")
    states = np.empty((len(chosen), model.config.get_text_config().hidden_size), dtype=np.float32)
    ids = [rows.ids[row] for row in chosen]
    with (
        evaluation_mode(model),
        progress_bar(total=len(ids), unit="prompt", desc="answers", disable=not progress) as bar,
    ):
        for part, batch in length_batches(ids, model.tokenizer, model.device):
            states[part] = model.last_states(**batch).float().cpu().numpy()
            bar.update(len(part))
    if not np.isfinite(states).all():
        raise ModelError(
            "the backbone gives hidden states that are not finite, to which no answer can be fitted; load it "
            "in a wider dtype (without bf16), or choose another backbone"
        )
    owner = range(len(rows)) if users is None else users
    number = {user: i for i, user in enumerate(dict.fromkeys(owner))}
    user = np.array([number[name] for name in owner])
    weights = np.bincount(user)[user][chosen] ** -0.5
    return states, labels, weights / weights.mean(), user[chosen]


def _regression(
    states: np.ndarray, labels: np.ndarray, weights: np.ndarray, strength: float
) -> tuple[np.ndarray, float]:
    """Return the weights, (hidden,), and the intercept of a logistic regression."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - it takes a second, which a service need not wait

    regression = LogisticRegression(C=strength, max_iter=1_000)
    regression.fit(states, labels, sample_weight=weights)
    return regression.coef_[0], float(regression.intercept_[0])


def _ridge(states: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weights, (penalties, hidden) float32, of ridge regressions with an intercept."""
    centred = states - np.average(states, axis=0, weights=weights)
    target = (labels - np.average(labels, weights=weights)) * weights
    values, vectors = np.linalg.eigh((centred.T * weights) @ centred)
    values = np.maximum(values, 0)
    target = vectors.T @ (centred.T @ target)
    penalties = _PENALTIES[:, None] * values.mean()
    result: np.ndarray = ((target / (values + penalties)) @ vectors.T).astype(np.float32)
    return result
