"""What training a model around a backbone has in common: learning rates by part, and small checkpoints.

A checkpoint holds what is trained: with LoRA the adapters and heads, not the frozen backbone. Weights that
share memory (tied embeddings) are written once.
"""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer

from notellm.errors import ConfigError, StorageError

WEIGHTS = "model.safetensors"


class BackboneTrainer(Trainer):
    """transformers' ``Trainer`` for a module that holds a backbone; a subclass supplies the loss."""

    @property
    def bare(self) -> nn.Module:
        """The model without what distributed training wraps it in."""
        return cast("nn.Module", self.accelerator.unwrap_model(self.model))

    def own_rates(self) -> dict[int, float | None]:
        """Learning rates of single parameters, by ``id``; None is that of the arguments."""
        return {}

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with :meth:`own_rates`; parameters of one dimension or none do not decay."""
        target = cast("nn.Module", self.model if model is None else model)
        rate, own = self.args.learning_rate, self.own_rates()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in target.parameters():
            if parameter.requires_grad:
                wanted = own.get(id(parameter))
                decay = self.args.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate if wanted is None else wanted, decay), []).append(parameter)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, target)  # type: ignore[arg-type]
        options.pop("lr", None)
        self.optimizer = kind(
            [{"params": params, "lr": lr, "weight_decay": wd} for (lr, wd), params in groups.items()],
            lr=rate,
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
    """The newest complete checkpoint of a run, None if there is none; incomplete ones are removed.

    ``trainer_state.json`` is the last file of a checkpoint that is written: a checkpoint that was cut
    off by a kill has none, or half of one.
    """
    found = []
    for folder in run.glob("checkpoint-*"):
        try:
            step = int(json.loads((folder / "trainer_state.json").read_text())["global_step"])
            found.append((step, folder))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
    return max(found)[1] if found else None


def load_trained(model: nn.Module, checkpoint: Path) -> None:
    """Load the trained weights of a checkpoint into a model made the same way.

    Raises:
        StorageError: the checkpoint has no weights.
        ConfigError: they belong to a model of another shape.
    """
    try:
        weights = load_file(checkpoint / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise StorageError(f"the checkpoint {checkpoint} has no readable {WEIGHTS}: {error}") from error
    own = dict(model.named_parameters())
    if set(weights) != set(trained_weights(model)) or any(weights[n].shape != own[n].shape for n in weights):
        raise ConfigError(
            f"the checkpoint {checkpoint} belongs to another model; resume with the options it was "
            "started with, or start anew in another folder"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(weight)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Trainable weights by name; weights shared between two names appear once."""
    return {
        name: weight.detach().contiguous()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
