"""Training NoteLLM: generative-contrastive learning and collaborative supervised fine-tuning at once.

:class:`NoteLLMTrainer` is transformers' ``Trainer`` with the two losses of ``losses.py`` from one
forward pass, so logging, checkpoints, resuming, bf16, FSDP and DeepSpeed come with it.

Several processes: vectors are gathered *with* their gradients, every sum is divided by its count over
all processes and multiplied by the number of processes (which averages the gradients afterwards), so
that N processes make the same update as one with the whole batch.

Large batches: with ``chunk_notes`` a batch outgrows memory by gradient caching (Gao et al. 2021, arXiv
2101.06983): vectors of all chunks without graph; the contrastive loss and its gradient with respect to
the vectors; then each chunk again with graph, where (vector . cached gradient) has the true gradient.
What bounds memory is one chunk's graph.
"""

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainingArguments

from notellm.backbone.trainer import BackboneTrainer
from notellm.data.note import notes_from_table
from notellm.errors import ConfigError, DataError
from notellm.evaluate.retrieval import evaluate_related, targets_from_pairs, vector_scorer
from notellm.recall.batch import PairCollator, PairIndex, PairStream
from notellm.recall.losses import contrastive_loss, false_negatives, joint_loss
from notellm.recall.model import NoteLLM, NoteLLMOutput

_CHUNK_KEYS = ("input_ids", "attention_mask", "position", "labels")


@dataclass
class NoteLLMTrainingArguments(TrainingArguments):
    """transformers' ``TrainingArguments`` with what NoteLLM adds; the batch is counted in pairs.

    Attributes:
        alpha: weight of the generation loss (paper: 0.01); 0 is contrastive only.
        topic_share: share r of notes that do the topics task (paper: 0.4).
        embedding_learning_rate: of the token embeddings; as the rest when None.
        head_learning_rate: of the projection, tau and the output head; as the rest when None.
        sampling_correction: correct for popular notes standing in more batches (``losses.py``); False is
            the paper's loss.
        tau: the temperature's starting value, log of its inverse (paper: 3); None keeps the model's.
        chunk_notes: notes a forward pass holds at most, by gradient caching; None holds the whole batch.
    """

    alpha: float = 0.01
    topic_share: float = 0.4
    embedding_learning_rate: float | None = None
    head_learning_rate: float | None = None
    sampling_correction: bool = True
    tau: float | None = None
    chunk_notes: int | None = None
    per_device_train_batch_size: int = 64
    weight_decay: float = 1e-3
    warmup_steps: float = 0.1
    report_to: str | list[str] | None = "none"
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    remove_unused_columns: bool = False
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)
    save_total_limit: int | None = 2
    logging_steps: float = 20

    def __post_init__(self) -> None:
        """Check the fields that NoteLLM adds, all together.

        Raises:
            ConfigError: with every problem found.
        """
        problems = []
        if not self.alpha >= 0:
            problems.append(f"alpha is {self.alpha}; it must be 0 or more")
        if not 0 <= self.topic_share <= 1:
            problems.append(f"topic_share is {self.topic_share}; it must lie in 0 to 1")
        if self.chunk_notes is not None and self.chunk_notes < 1:
            problems.append(f"chunk_notes is {self.chunk_notes}; it must be at least 1")
        if self.per_device_train_batch_size < 2:
            problems.append(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; contrastive learning "
                "needs at least 2 pairs in a batch"
            )
        if problems:
            raise ConfigError("; ".join(problems))
        super().__post_init__()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Validation:
    """Notes held out for choosing the best checkpoint: their Recall is measured during training.

    Attributes:
        notes: notes table; also the pool.
        pairs: related pairs among them.
    """

    notes: pa.Table
    pairs: pa.Table


class NoteLLMTrainer(BackboneTrainer):
    """Trains a :class:`NoteLLM` on notes and their related pairs.

    Args:
        model: the model.
        args: options; ``num_train_epochs`` counts passes over the pairs.
        notes: notes table (schema ``data.schema.NOTES``).
        pairs: related pairs among them (schema ``data.schema.PAIRS``); None trains the generation
            alone, on single notes.
        validation: measured at every evaluation as ``eval_recall@10``, ``eval_recall@100``, ``eval_mrr``.

    Raises:
        DataError: the pairs are empty, or name other notes than these; or nothing can be learnt.
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
        teachable = np.array([i for i, n in enumerate(rows) if n.topics or n.category], dtype=np.int64)
        if pairs is None and (len(teachable) == 0 or args.alpha == 0):
            raise DataError(
                "without related pairs only the generation can be trained, and these notes have neither "
                "topics nor a category (or alpha is 0); give pairs, topics or categories"
            )
        items = len(teachable) if self.pair_index is None else len(self.pair_index.source)
        per_step = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        if args.max_steps <= 0:
            args.max_steps = max(1, round(args.num_train_epochs * items / per_step))
        stream = PairStream(self.pair_index, teachable, args.max_steps * per_step, args.seed)
        known = np.empty(0, dtype=np.int64) if self.pair_index is None else self.pair_index.known
        self._known = torch.from_numpy(known)
        self._log_frequency = None
        if self.pair_index is not None and args.sampling_correction:
            self._log_frequency = torch.from_numpy(self.pair_index.log_frequency())
        if args.tau is not None:
            model.tau.data.fill_(args.tau)
        # The generation alone says nothing about the vectors: what only they use must not decay.
        for parameter in (*model.projection.parameters(), model.tau):
            parameter.requires_grad_(pairs is not None)
        self._parts: list[Tensor] = []
        self.validation = validation
        super().__init__(
            model=model,
            args=args,
            train_dataset=stream,
            data_collator=PairCollator(model.prompt, rows, topic_share=args.topic_share, seed=args.seed),
            eval_dataset=None if validation is None else stream,
            **trainer_options,
        )
        self.model_accepts_loss_kwargs = False

    # ---------------------------------------------------------------- the losses

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,  # noqa: ARG002 - the counts here are our own
    ) -> Any:
        """The joint loss of a batch, from one forward pass."""
        output: NoteLLMOutput = model(*(inputs[key] for key in _CHUNK_KEYS))
        contrastive = self._contrastive(output.vectors, output.tau, inputs)
        generation = self._generation(output.generation_sum, inputs)
        loss = self._join(contrastive, generation)
        self._note_parts(contrastive, generation)
        return (loss, output) if return_outputs else loss

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One step; with ``chunk_notes`` by gradient caching."""
        if self.args.chunk_notes is None:
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        inputs = self._prepare_inputs(inputs)
        size = self.args.chunk_notes
        chunks = [
            {key: inputs[key][start : start + size] for key in _CHUNK_KEYS}
            for start in range(0, len(inputs["note"]), size)
        ]
        states, vectors = [], []
        with torch.no_grad(), self.compute_loss_context_manager():
            for chunk in chunks:
                states.append(_random_state(self.args.device))
                output = model(chunk["input_ids"], chunk["attention_mask"], chunk["position"])
                vectors.append(output.vectors)
        leaf, tau = torch.cat(vectors).requires_grad_(), output.tau.requires_grad_()
        contrastive = self._contrastive(leaf, tau, inputs)
        leaf.grad, tau.grad = torch.zeros_like(leaf), torch.zeros_like(tau)
        if self.pair_index is not None:
            contrastive.backward()  # type: ignore[no-untyped-call]
        generation = leaf.new_zeros(())
        count = _total(_label_count(inputs))
        for i, (chunk, state) in enumerate(zip(chunks, states, strict=True)):
            last = i == len(chunks) - 1
            _set_random_state(state, self.args.device)
            sync = nullcontext() if last else self.accelerator.no_sync(model)
            with sync:
                with self.compute_loss_context_manager():
                    output = model(*(chunk[key] for key in _CHUNK_KEYS))
                part = self.args.world_size * output.generation_sum / count.clamp(min=1)
                generation = generation + part.detach()
                surrogate = (output.vectors * leaf.grad[i * size : (i + 1) * size]).sum()
                surrogate = surrogate + output.tau * tau.grad / len(chunks)
                loss = self._join(surrogate, part) / self.current_gradient_accumulation_steps
                self.accelerator.backward(loss)
        self._note_parts(contrastive, generation)
        return self._join(contrastive.detach(), generation) / self.current_gradient_accumulation_steps

    def _contrastive(self, vectors: Tensor, tau: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """This process's share of the GCL, times the number of processes."""
        if self.pair_index is None:
            return vectors.new_zeros(())
        note, text, partner = inputs["note"], inputs["text"], inputs["partner"]
        rank, world = self.args.process_index, self.args.world_size
        first = 0
        if world > 1:
            sizes = _gather(torch.tensor([len(note)], device=note.device))
            if len(set(sizes.tolist())) > 1:
                raise DataError("processes hold batches of different size; drop the last partial batch")
            first = rank * len(note)
            everything = torch.cat(tuple(all_gather(vectors)))  # type: ignore[no-untyped-call]
            all_notes, all_texts = _gather(note), _gather(text)
        else:
            everything, all_notes, all_texts = vectors, note, text
        positive = partner + first
        known = self._is_known(note, all_notes)
        excluded = false_negatives(note, text, positive, all_notes, all_texts, known)
        own = torch.arange(len(note), device=note.device)
        excluded[own, own + first] = True
        frequency = self._log_frequency
        if frequency is not None:
            frequency = frequency.to(all_notes.device)[all_notes]
        total = contrastive_loss(vectors, everything, positive, excluded, tau, frequency)
        loss: Tensor = world * total / len(all_notes)
        return loss

    def _generation(self, total: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """This process's share of the CSFT, times the number of processes."""
        loss: Tensor = self.args.world_size * total / _total(_label_count(inputs)).clamp(min=1)
        return loss

    def _join(self, contrastive: Tensor, generation: Tensor) -> Tensor:
        if self.pair_index is None:
            return generation
        return joint_loss(contrastive, generation, self.args.alpha)

    def _note_parts(self, contrastive: Tensor, generation: Tensor) -> None:
        self._parts.append(torch.stack([contrastive.detach(), generation.detach()]).cpu())

    def _is_known(self, note: Tensor, others: Tensor) -> Tensor:
        """(n, N) bool: is (note, other) a related pair of the log, in either direction?"""
        keys = note[:, None] * self.pair_index.count + others[None, :]  # type: ignore[union-attr]
        known = self._known.to(keys.device)
        at = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        return known[at] == keys

    # ---------------------------------------------------------------- the loop

    def own_rates(self) -> dict[int, float | None]:
        """Embeddings have their own rate; projection, tau and output head share another."""
        bare = cast("NoteLLM", self.bare)
        parts: tuple[tuple[nn.Module, float | None], ...] = (
            (bare.projection, self.args.head_learning_rate),
            (bare.backbone.get_output_embeddings(), self.args.head_learning_rate),  # type: ignore[no-untyped-call]
            # Last, since an output head may be tied to the token embeddings.
            (bare.backbone.get_input_embeddings(), self.args.embedding_learning_rate),
        )
        rates = {id(parameter): rate for part, rate in parts for parameter in part.parameters()}
        return rates | {id(bare.tau): self.args.head_learning_rate}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """The stream is in order already, and the same for any number of processes."""
        return SequentialSampler(cast("PairStream", train_dataset or self.train_dataset))

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Recall and MRR of the validation notes, over a pool of all of them."""
        if self.validation is None:
            raise ConfigError("this trainer has no validation notes; give Validation(notes, pairs)")
        model = self.accelerator.unwrap_model(self.model)
        metrics = {
            f"{metric_key_prefix}_{name}": value
            for name, value in validation_metrics(model, self.validation).items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the two losses, averaged since the last time, to what is logged."""
        if "loss" in logs and self._parts:
            contrastive, generation = torch.stack(self._parts).mean(dim=0).tolist()
            self._parts.clear()
            tau = float(self.accelerator.unwrap_model(self.model).tau.detach())
            logs |= {"contrastive": contrastive, "generation": generation, "tau": tau}
        super().log(logs, start_time)

    # ---------------------------------------------------------------- checkpoints


def validation_metrics(model: NoteLLM, validation: Validation) -> dict[str, float]:
    """Recall@10, Recall@100, MRR and their mean; the target of a validation note is its best related one."""
    ids = validation.notes.column("note_id")
    queries, targets = targets_from_pairs(validation.pairs, min_users=1)
    result = evaluate_related(
        vector_scorer(model.encode(validation.notes)),
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
    # One of them alone is a poor judge of checkpoints: Recall@100 of a hundred notes is always 1, MRR of a
    # hundred queries is noise.
    return figures | {"mean": sum(figures.values()) / len(figures)}


def _label_count(inputs: Mapping[str, Tensor]) -> Tensor:
    return (inputs["labels"][:, 1:] >= 0).sum().float()


def _total(value: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def _gather(value: Tensor) -> Tensor:
    pieces = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, value.contiguous())
    return torch.cat(pieces)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Dropout of the second pass must be that of the first."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
