"""Tuning BinLLM: binary cross-entropy on the answer (``losses.py``), the best checkpoint by validation AUC.

:class:`BinLLMTrainer` is transformers' ``Trainer``, which brings logging, checkpoints, resuming, bf16 and
several processes. **Intuitive** tuning uses prompts with codes from the start; **two-step** tuning first uses
text alone, so that the model does not rely on the codes as a shortcut, and then the codes (BinLLM, section
3.3). These are two runs of this trainer on the same model, see ``jobs/rank_tuning.py``.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, TrainingArguments

from notellm.backbone.trainer import BackboneTrainer
from notellm.errors import ConfigError, DataError
from notellm.rank.batch import RankCollator, RankRows
from notellm.rank.config import TuningOptions
from notellm.rank.losses import answer_loss
from notellm.rank.model import BinLLM

KEYS = ("input_ids", "attention_mask", "position")


@dataclass
class BinLLMTrainingArguments(TuningOptions, TrainingArguments):
    """transformers' ``TrainingArguments`` with the options and defaults of BinLLM."""

    learning_rate: float = 1e-4
    weight_decay: float = 1e-3
    warmup_steps: float = 0.05
    per_device_train_batch_size: int = 64
    report_to: str | list[str] | None = "none"
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    remove_unused_columns: bool = False
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)
    save_total_limit: int | None = 2
    metric_for_best_model: str | None = "eval_auc"
    logging_steps: float = 20


class BinLLMTrainer(BackboneTrainer):
    """Tunes a :class:`BinLLM` on prompts and labels.

    Args:
        model: the model, which is changed in place.
        args: options of the training.
        train: rows to learn from.
        valid: rows whose AUC, ``eval_auc``, is measured at every evaluation; with
            ``args.load_best_model_at_end`` it chooses the checkpoint. None keeps the last weights.

    Raises:
        DataError: if there are no rows, or all have the same label.
        ConfigError: if there is patience but no validation rows.
    """

    args: BinLLMTrainingArguments

    def __init__(
        self,
        model: BinLLM,
        args: BinLLMTrainingArguments,
        *,
        train: RankRows,
        valid: RankRows | None = None,
        **trainer_options: Any,
    ) -> None:
        for name, rows in (("training", train), ("validation", valid)):
            if rows is not None and len(set(rows.labels.tolist())) < 2:
                raise DataError(f"the {name} rows have one label only; there is nothing to tell apart")
        callbacks = list(trainer_options.pop("callbacks", []))
        if args.patience is not None:
            if valid is None:
                raise ConfigError("patience needs validation rows; give some, or leave patience out")
            callbacks.append(EarlyStoppingCallback(args.patience))
        self.valid = valid
        super().__init__(
            model=model,
            args=copy.copy(args),
            train_dataset=train,
            eval_dataset=valid,
            data_collator=RankCollator(model.tokenizer),
            callbacks=callbacks,
            **trainer_options,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 - a mean over rows
    ) -> Any:
        """Return the mean binary cross-entropy of the answers."""
        logits = model(*(inputs[key] for key in KEYS))
        loss = answer_loss(logits, inputs["labels"])
        return (loss, logits) if return_outputs else loss

    def learning_rates(self) -> dict[int, float | None]:
        """Return the learning rate of the embeddings, by parameter."""
        embeddings = cast("BinLLM", self.bare).backbone.get_input_embeddings()
        return dict.fromkeys(map(id, embeddings.parameters()), self.args.embedding_learning_rate)

    def measure(self) -> dict[str, float]:
        """Return the AUC of the validation rows."""
        if self.valid is None:
            raise ConfigError("this trainer has no validation rows; give valid=")
        logits = cast("BinLLM", self.bare).predict(self.valid.ids)
        if not np.isfinite(logits).all():
            raise ConfigError(
                f"the model answers NaN after {self.state.global_step} steps: lower the learning rate "
                f"({self.args.learning_rate:g})"
            )
        from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - it takes a second, which a service need not wait

        return {"auc": float(roc_auc_score(self.valid.labels, logits))}
