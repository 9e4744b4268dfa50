"""The base of trainers of models with a backbone: learning rates by part, validation, and small checkpoints.

A checkpoint holds the weights that are trained: with LoRA the adapters and heads, not the frozen backbone.
Weights that share memory (tied embeddings) are written once.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from notellm.errors import ConfigError, StorageError

WEIGHTS = "model.safetensors"


class BackboneTrainer(Trainer):
    """transformers' ``Trainer`` for a module that holds a backbone; a subclass computes the loss.

    Args:
        model: the module.
        args: the options.
        trainer_options: further parameters of transformers' ``Trainer``.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, **trainer_options: Any) -> None:
        if args.n_gpu > 1:
            # Or transformers copies the model to all GPUs (nn.DataParallel) and splits each batch, whose
            # notes are each other's negatives. Several GPUs are used by several processes.
            args._n_gpu = 1  # noqa: SLF001 - as transformers does for models that lie on several GPUs
        super().__init__(model=model, args=args, **trainer_options)
        self.model_accepts_loss_kwargs = False  # the loss of a subclass is a mean already

    @property
    def bare(self) -> nn.Module:
        """The model without the wrapper of distributed training."""
        return cast("nn.Module", self.accelerator.unwrap_model(self.model))

    def learning_rates(self) -> dict[int, float | None]:
        """Return the learning rates of single parameters by ``id``; None takes that of the arguments."""
        return {}

    def measure(self) -> dict[str, float]:
        """Return the figures of the validation data by name, without a prefix; a subclass computes them."""
        raise NotImplementedError

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure the validation data, log the figures and return them, with a prefix in their names."""
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.measure().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW with the rates of :meth:`learning_rates`; vectors and scalars have no weight decay."""
        target = cast("nn.Module", self.model if model is None else model)
        default_rate, rates = self.args.learning_rate, self.learning_rates()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in target.parameters():
            if parameter.requires_grad:
                rate = rates.get(id(parameter))
                decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((default_rate if rate is None else rate, decay), []).append(parameter)
        optimizer, options = self.get_optimizer_cls_and_kwargs(self.args, target)  # type: ignore[arg-type]
        options.pop("lr", None)
        self.optimizer = optimizer(
            [
                {"params": params, "lr": rate, "weight_decay": decay}
                for (rate, decay), params in groups.items()
            ],
            lr=default_rate,
            **options,
        )
        return self.optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        if not self.args.should_save:
            return
        folder = Path(cast("str", output_dir or self.args.output_dir))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(trained_weights(self.bare), folder / WEIGHTS, metadata={"format": "pt"})
        except OSError as error:
            raise StorageError(f"cannot write the checkpoint {folder}: {error}") from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:  # noqa: ARG002
        load_trained(self.bare, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is not None:
            load_trained(self.bare, Path(best))


def last_checkpoint(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run, None if there is none; incomplete ones are removed.

    ``trainer_state.json`` is the last file of a checkpoint to be written. It is missing or damaged if the run
    was killed before.
    """
    complete = []
    for folder in run.glob("checkpoint-*"):
        try:
            step = int(json.loads((folder / "trainer_state.json").read_text())["global_step"])
            complete.append((step, folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(complete)[1] if complete else None


def load_trained(model: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into a model that was built with the same options.

    Raises:
        StorageError: if the checkpoint has no readable weights.
        ConfigError: if the weights belong to a model of another shape.
    """
    try:
        weights = load_file(checkpoint / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the checkpoint {checkpoint} has no readable {WEIGHTS}: {error}") from error
    parameters = dict(model.named_parameters())
    same_names = set(weights) == set(trained_weights(model))
    if not same_names or any(weights[name].shape != parameters[name].shape for name in weights):
        raise ConfigError(
            f"the checkpoint {checkpoint} belongs to another model; resume with the options that the run was "
            "started with, or start a new run in another folder"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable weights by name; weights that two names share appear once."""
    return {
        name: weight.detach().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
