"""Train a NoteLLM: contrastive learning (GCL) together with the generation of topics and categories (CSFT).

:class:`NoteLLMTrainer` is transformers' ``Trainer`` with the losses of ``losses.py``, computed in one forward
pass. Logging, checkpoints, resuming, bf16, FSDP and DeepSpeed come from transformers.

With several processes, vectors are gathered with their gradients. Every sum is divided by its count over all
processes and multiplied by the number of processes, since gradients are averaged afterwards. So N processes
make the same update as one process with the whole batch. Batches larger than memory: ``chunk_notes`` and
``gradient_cache.py``.
"""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainingArguments

from notellm.backbone.frozen import SplitModel
from notellm.backbone.trainer import BackboneTrainer
from notellm.data.note import notes_from_table
from notellm.errors import ConfigError, DataError
from notellm.evaluate.retrieval import evaluate_related, targets_from_pairs, vector_scorer
from notellm.options import check, filled
from notellm.recall.batch import PairCollator, PairIndex, PairStream
from notellm.recall.config import LossOptions
from notellm.recall.distributed import (
    check_equal_sizes,
    gather,
    gather_with_gradients,
    sum_over_processes,
)
from notellm.recall.frozen_states import FOLDER, compute_states
from notellm.recall.gradient_cache import MODEL_INPUTS, STATES, GradientCache
from notellm.recall.learnt import taught_tasks
from notellm.recall.losses import blockwise_contrastive_loss, false_negatives, joint_loss, known_pairs
from notellm.recall.model import NoteLLM, NoteLLMOutput


@dataclass
class NoteLLMTrainingArguments(LossOptions, TrainingArguments):
    """transformers' ``TrainingArguments`` with the options of NoteLLM; the batch is counted in pairs.

    Attributes:
        per_device_train_batch_size: pairs in a batch, at least 2.
        only_head: train the output head alone, which only writing uses: vectors do not change. The head must
            not be tied to the token embeddings.
    """

    per_device_train_batch_size: int = 64
    weight_decay: float = 1e-3
    warmup_steps: float = 0.1
    report_to: str | list[str] | None = "none"
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    remove_unused_columns: bool = False
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)
    save_total_limit: int | None = 2
    only_head: bool = False
    logging_steps: float = 20

    def __post_init__(self) -> None:
        """Check what NoteLLM adds, all together.

        Raises:
            ConfigError: with every problem found.
        """
        size = self.per_device_train_batch_size
        few = f"per_device_train_batch_size is {size}; contrastive learning needs at least 2 pairs in a batch"
        check(self, *([few] if size < 2 else []))
        super().__post_init__()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Validation:
    """Held-out notes, whose Recall is measured during training to choose the best checkpoint.

    Attributes:
        notes: notes table; all of its notes are candidates.
        pairs: related pairs among these notes.
    """

    notes: pa.Table
    pairs: pa.Table


class NoteLLMTrainer(BackboneTrainer):
    """Trains a :class:`NoteLLM` on notes and their related pairs.

    Args:
        model: the model.
        args: the options; ``num_train_epochs`` counts passes over the pairs.
        notes: notes table (schema ``data.schema.NOTES``).
        pairs: related pairs among the notes (schema ``data.schema.PAIRS``); None trains the generation alone,
            on single notes.
        validation: measured at every evaluation as ``eval_recall@10``, ``eval_recall@100``, ``eval_mrr`` and
            their mean ``eval_mean``.

    Raises:
        DataError: if the pairs are empty or name notes that are not in the table, or if there is nothing to
            learn.
    """

    args: NoteLLMTrainingArguments

    def __init__(
        self,
        model: NoteLLM,
        args: NoteLLMTrainingArguments,
        *,
        notes: pa.Table,
        pairs: pa.Table | None,
        validation: Validation | None = None,
        **trainer_options: Any,
    ) -> None:
        args = copy.copy(args)  # max_steps is set below, and the caller may use the arguments again
        rows = model.prompt.cut(notes_from_table(notes))
        self.pair_index = None
        if pairs is not None:
            self.pair_index = PairIndex.build(notes.column("note_id").to_pylist(), pairs)
        labelled = np.array([i for i, n in enumerate(rows) if n.topics or n.category], dtype=np.int64)
        if pairs is None and (len(labelled) == 0 or args.alpha == 0):
            raise DataError(
                "without related pairs only the generation can be trained, and these notes have neither "
                "topics nor a category (or alpha is 0); give pairs, topics or categories"
            )
        items = len(labelled) if self.pair_index is None else len(self.pair_index.source)
        per_step = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
        if args.max_steps <= 0:
            args.max_steps = max(1, round(args.num_train_epochs * items / per_step))
        stream = PairStream(self.pair_index, labelled, args.max_steps * per_step, args.seed)
        known = np.empty(0, dtype=np.int64) if self.pair_index is None else self.pair_index.known
        self._known = torch.from_numpy(known)
        self._log_frequency = None
        if self.pair_index is not None and args.sampling_correction:
            self._log_frequency = torch.from_numpy(self.pair_index.log_frequency())
        if args.tau is not None and pairs is not None:  # the writing leaves a learnt tau as it is
            model.tau.data.fill_(args.tau)
        # The generation loss gives no gradient to the projection and tau: weight decay must not shrink them.
        for parameter in (*model.projection.parameters(), model.tau):
            parameter.requires_grad_(pairs is not None)
        self._thawed = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not args.learn_tau:
            model.tau.requires_grad_(False)
        model.split = None
        if args.train_layers is not None:
            model.split = _split(model, args)
        if args.only_head:
            _freeze_all_but_the_head(model)
        self._logged_losses: list[Tensor] = []
        self.validation = validation
        self._taught = taught_tasks(
            rows, pairs=pairs is not None, alpha=args.alpha, topic_share=args.topic_share
        )
        super().__init__(
            model=model,
            args=args,
            train_dataset=stream,
            data_collator=PairCollator(
                model.prompt,
                rows,
                topic_share=args.topic_share,
                seed=args.seed,
                fixed=args.train_layers is not None,
            ),
            eval_dataset=None if validation is None else stream,
            **trainer_options,
        )

    def train(self, *args: Any, **options: Any) -> Any:
        """Train, then note in the model what it has been taught to write, besides what it could before.

        Where lower layers are frozen, their states are computed first, in a folder beside the checkpoints.
        What was frozen can be trained again afterwards.

        Raises:
            StorageError: if the states do not fit on the disk.
            ModelError: if they do not fit into float16.
        """
        bare = cast("NoteLLM", self.bare)
        if bare.split is not None:
            self._store_states(bare, bare.split)
        result = super().train(*args, **options)
        bare.split = None
        bare.learnt = self._taught | (bare.learnt or frozenset())
        for parameter in self._thawed:  # a later training may train the whole model
            parameter.requires_grad_()
        return result

    def _store_states(self, model: NoteLLM, split: SplitModel) -> None:
        """Compute what the frozen layers give for every sequence of the run; the collator reads it."""
        collator = cast("PairCollator", self.data_collator)
        stream = cast("PairStream", self.train_dataset)
        collator.store(
            compute_states(
                Path(cast("str", self.args.output_dir)) / FOLDER,
                split,
                model.tokenizer,
                collator.sequences(stream.rows(), single=self.pair_index is None),
                progress=not self.args.disable_tqdm,
            )
        )

    # ---------------------------------------------------------------- losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 - the losses count notes and labels
    ) -> Any:
        """Compute the joint loss of a batch in one forward pass."""
        output: NoteLLMOutput = model(*(inputs[name] for name in MODEL_INPUTS), states=inputs.get(STATES))
        contrastive = self._contrastive(output.vectors, output.tau, inputs)
        generation = self._generation(output.generation_sum, inputs)
        loss = self._join(contrastive, generation)
        self._remember(contrastive, generation)
        return (loss, output) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Compute the loss and the gradients of a batch, by gradient caching if ``chunk_notes`` is set."""
        if self.args.chunk_notes is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            cache = GradientCache(model, inputs, self.args.chunk_notes)
        contrastive = self._contrastive(cache.vectors, cache.tau, inputs)
        if self.pair_index is not None:
            contrastive.backward()  # type: ignore[no-untyped-call]
        generation = cache.vectors.new_zeros(())
        label_count = sum_over_processes(_label_count(inputs)).clamp(min=1)
        for number, chunk in cache.replay():
            is_last = number == len(cache.chunks) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    given = (chunk[name] for name in MODEL_INPUTS)
                    output: NoteLLMOutput = model(*given, states=chunk.get(STATES))
                part = self.args.world_size * output.generation_sum / label_count
                generation = generation + part.detach()
                loss = self._join(cache.surrogate_loss(number, output), part)
                self.accelerator.backward(loss / self.current_gradient_accumulation_steps)
        self._remember(contrastive, generation)
        return self._join(contrastive.detach(), generation) / self.current_gradient_accumulation_steps

    def _contrastive(self, vectors: Tensor, tau: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return this process's share of the GCL, times the number of processes."""
        if self.pair_index is None:
            return vectors.new_zeros(())
        note, text, partner = inputs["note"], inputs["text"], inputs["partner"]
        check_equal_sizes(len(note), note.device)
        first = self.args.process_index * len(note)
        all_vectors = gather_with_gradients(vectors)
        all_notes, all_texts = gather(note), gather(text)
        positive = partner + first
        keys, count = self._known.to(note.device), self.pair_index.count

        def excluded(rows: slice) -> Tensor:
            some = note[rows]
            found = torch.zeros(len(some), len(all_notes), dtype=torch.bool, device=note.device)
            if self.args.mask_false_negatives:
                known = known_pairs(some, all_notes, keys, count)
                found = false_negatives(some, text[rows], positive[rows], all_notes, all_texts, known)
            found.diagonal(first + (rows.start or 0)).fill_(True)  # a note is no candidate of itself
            return found

        frequency = self._log_frequency
        if frequency is not None:
            frequency = frequency.to(all_notes.device)[all_notes]
        total = blockwise_contrastive_loss(vectors, all_vectors, positive, excluded, tau, frequency)
        loss: Tensor = self.args.world_size * total / len(all_notes)
        return loss

    def _generation(self, total: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return this process's share of the CSFT, times the number of processes."""
        label_count = sum_over_processes(_label_count(inputs)).clamp(min=1)
        loss: Tensor = self.args.world_size * total / label_count
        return loss

    def _join(self, contrastive: Tensor, generation: Tensor) -> Tensor:
        if self.pair_index is None:
            return generation
        return joint_loss(contrastive, generation, self.args.alpha)

    def _remember(self, contrastive: Tensor, generation: Tensor) -> None:
        """Keep both losses for the next log entry."""
        self._logged_losses.append(torch.stack([contrastive.detach(), generation.detach()]).cpu())

    # ---------------------------------------------------------------- hooks of the Trainer

    def learning_rates(self) -> dict[int, float | None]:
        """Return the rate of the token embeddings, and that of the projection, tau and the output head."""
        bare = cast("NoteLLM", self.bare)
        parts: tuple[tuple[nn.Module, float | None], ...] = (
            (bare.projection, self.args.head_learning_rate),
            (bare.backbone.get_output_embeddings(), self.args.head_learning_rate),  # type: ignore[no-untyped-call]
            # Last: where the output head is tied to the token embeddings, their rate counts.
            (bare.backbone.get_input_embeddings(), self.args.embedding_learning_rate),
        )
        rates = {id(parameter): rate for part, rate in parts for parameter in part.parameters()}
        return rates | {id(bare.tau): self.args.head_learning_rate}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """Read the stream in its order, which is random and the same for any number of processes."""
        return SequentialSampler(cast("PairStream", train_dataset or self.train_dataset))

    def measure(self) -> dict[str, float]:
        """Measure Recall and MRR of the validation notes.

        Raises:
            ConfigError: if there are no validation notes.
        """
        if self.validation is None:
            raise ConfigError("this trainer has no validation notes; give Validation(notes, pairs)")
        return validation_metrics(cast("NoteLLM", self.bare), self.validation)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of both losses since the last log entry, and tau, to a log entry."""
        if "loss" in logs and self._logged_losses:
            contrastive, generation = torch.stack(self._logged_losses).mean(dim=0).tolist()
            self._logged_losses.clear()
            tau = float(cast("NoteLLM", self.bare).tau.detach())
            logs |= {"contrastive": contrastive, "generation": generation, "tau": tau}
        super().log(logs, start_time)


def validation_metrics(
    model: NoteLLM, validation: Validation, vectors: np.ndarray | None = None
) -> dict[str, float]:
    """Return Recall@10, Recall@100, MRR and their mean over held-out notes; None computes their vectors.

    The target of a query is its best related note; all held-out notes are candidates. The mean chooses
    checkpoints, since each figure alone is unreliable: with a hundred notes Recall@100 is always 1, and the
    MRR of a hundred queries varies too much.
    """
    ids = validation.notes.column("note_id")
    queries, targets = targets_from_pairs(validation.pairs, min_users=1)
    result = evaluate_related(
        vector_scorer(model.encode(validation.notes) if vectors is None else vectors),
        ids,
        queries,
        targets,
        ks=(10, 100),
        resamples=1,
        progress=False,
    )
    figures = {
        "recall@10": result.figures["R@10"].mean,
        "recall@100": result.figures["R@100"].mean,
        "mrr": result.figures["MRR"].mean,
    }
    return figures | {"mean": sum(figures.values()) / len(figures)}


def _freeze_all_but_the_head(model: NoteLLM) -> None:
    """Let only the output head be trained.

    Raises:
        ConfigError: if the head shares its weights with the token embeddings, which vectors depend on.
    """
    head: Any = model.backbone.get_output_embeddings()  # type: ignore[no-untyped-call]
    embedding: Any = model.backbone.get_input_embeddings()
    if head.weight is embedding.weight:
        raise ConfigError("the output head is tied to the token embeddings, so it cannot be trained alone")
    model.requires_grad_(False)
    head.requires_grad_(True)


def _split(model: NoteLLM, args: NoteLLMTrainingArguments) -> SplitModel:
    """Freeze the lower layers and return the model in two parts.

    Raises:
        ConfigError: if the number of layers is not allowed, or there are several processes.
        ModelError: if the layers cannot be computed apart.
    """
    if args.world_size > 1:
        raise ConfigError(
            f"train_layers is {args.train_layers} in a training of {args.world_size} processes; it is for "
            "one process: start one, or leave train_layers out"
        )
    split = SplitModel(model.backbone, filled(args.train_layers))
    split.freeze()
    return split


def _label_count(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the number of output tokens that are predicted; the first token of a sequence never is."""
    return (inputs["labels"][:, 1:] >= 0).sum().float()
