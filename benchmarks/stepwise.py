"""A training of NoteLLM that a benchmark runs step by step, so that several can be timed in turn."""

import copy
import time
from pathlib import Path
from typing import cast

import torch

from notellm.backbone.load import LoraOptions, add_lora
from notellm.data.sample_world import SampleWorld
from notellm.data.split import Part
from notellm.pairs.local import mine_pairs
from notellm.recall.batch import PairCollator
from notellm.recall.model import NoteLLM
from notellm.recall.trainer import NoteLLMTrainer, NoteLLMTrainingArguments


class StepwiseTraining:
    """A training that is run step by step, beside others.

    Args:
        model: the model; it is copied.
        world: notes and clicks.
        folder: where stored states go.
        lora: train adapters, not every weight.
        upper: number of last layers that are trained; None trains all.
        stored: store the states of the frozen layers.
        pairs: pairs in a batch.
        steps: number of steps at most.
        chunk: notes that are computed at once, with cached gradients; None computes the batch at once.

    Attributes:
        losses: the loss of each step so far.
        storing_seconds: seconds in which the states of the frozen layers were stored, 0 without.
        sequences: number of stored sequences.
    """

    def __init__(
        self,
        model: NoteLLM,
        world: SampleWorld | Part,
        folder: Path,
        *,
        lora: bool,
        upper: int | None,
        stored: bool,
        pairs: int,
        steps: int,
        chunk: int | None = None,
    ) -> None:
        self.model = copy.deepcopy(model)
        torch.manual_seed(0)  # equal adapters
        if lora:
            add_lora(self.model.backbone, LoraOptions(last_layers=upper))
        options = NoteLLMTrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=pairs,
            train_layers=upper,
            chunk_notes=chunk,
            learning_rate=1e-4 if lora else 3e-6,
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
        )
        related = mine_pairs(world.clicks, progress=False)
        self.trainer = NoteLLMTrainer(self.model, options, notes=world.notes, pairs=related)
        self.storing_seconds, self.sequences = 0.0, 0
        self.losses: list[float] = []
        if stored and self.model.split is not None:
            start = time.perf_counter()
            self.trainer._store_states(self.model, self.model.split)  # noqa: SLF001 - `train` calls it
            self.storing_seconds = time.perf_counter() - start
            collator = cast("PairCollator", self.trainer.data_collator)
            self.sequences = len(collator._numbers)  # noqa: SLF001 - no one else asks
        self.trainer.current_gradient_accumulation_steps = 1  # else set by `train`
        self.optimizer = self.trainer.create_optimizer()
        self.batches = iter(self.trainer.get_train_dataloader())

    def step(self) -> float:
        """Do one step and return its loss."""
        torch.manual_seed(len(self.losses))  # equal dropout
        inputs = next(self.batches)
        self.losses.append(float(self.trainer.training_step(self.model, inputs)))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return self.losses[-1]
